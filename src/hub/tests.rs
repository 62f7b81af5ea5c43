//! Tests of the client against a server in this process, one behaviour each.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../tests/common/hub.rs"]
pub(crate) mod server;
