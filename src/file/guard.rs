//! Panics inside foreign crates, caught and turned into their messages.
//!
//! A crate that parses files may panic on a file that nobody has tried yet. For this program that is
//! one bad file. wgpu's back ends panic where a driver breaks the rules. That is one bad adapter.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; where it panics, returns what the panic said, and prints nothing.
///
/// What `call` was working on may be left half done: drop it.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // The hook is one of the process. It is put in place once and stays, because replacing it again would race with
    // other threads; all but the threads that are in here see the hook that was there before.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                before(info);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(outer);
    result.map_err(|payload| message(payload.as_ref()))
}

/// Runs `call`, which reads what stands in `place`; a panic is a fault of that file, exit code 2.
///
/// # Errors
/// What `call` returns, or the place and what the panic said, at most 300 characters of it.
pub fn guard<T>(place: impl Display, call: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(call).unwrap_or_else(|said| {
        let said: String = said.chars().take(300).collect();
        Err(Error::user(format!(
            "{place}: it cannot be processed ({said}). The file is damaged or was made to do harm: get it \
             from another source"
        )))
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked and did not say why")
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_panic_is_the_files_fault() {
        assert_eq!(guard("a.json", || Ok(3)).unwrap(), 3);
        let error = guard("a.json", || Err::<u8, _>(Error::internal("odd"))).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        let error = guard("a.json", || -> Result<u8> { panic!("at {}", "é".repeat(1000)) }).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(
            said.starts_with("a.json: ") && said.contains("(at éé") && said.len() < 800,
            "{said}"
        );
    }

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded(|| -> u8 { panic!("plain") }), Err("plain".into()));
        let size = 7;
        assert_eq!(guarded(|| -> u8 { panic!("size {size}") }), Err("size 7".into()));
        let odd = guarded(|| -> u8 { panic::panic_any(1.5f32) });
        assert!(odd.is_err_and(|e| e.contains("did not say why")));
        // One inside another: the outer one still holds afterwards.
        let nested = guarded(|| -> u8 {
            assert_eq!(guarded(|| -> u8 { panic!("inner") }), Err("inner".into()));
            assert!(INSIDE.get());
            panic!("outer")
        });
        assert_eq!(nested, Err("outer".into()));
        assert!(!INSIDE.get());
    }
}
