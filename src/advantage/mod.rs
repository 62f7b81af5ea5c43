//! Advantage rules: one file a rule.
