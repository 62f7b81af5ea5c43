//! Best-of-N statistics.
