//! Counter-based random numbers: a stream is a pure function of its key, so no order of work changes a draw.
