//! The procedural instruction set of the embedded demo.
