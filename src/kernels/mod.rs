//! One file an op: parameters, record functions, float64 CPU twin, test cases.
pub mod quant;
