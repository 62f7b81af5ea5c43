//! Named shapes, under the name that the cases use.

pub use crate::model::shapes::{NAMED, Named, RANDOM};
