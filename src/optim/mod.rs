//! Optimiser, clipping, schedule.
