//! Typed, validated run settings; no GPU types.
