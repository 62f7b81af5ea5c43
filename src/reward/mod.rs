//! Scoring responses.
