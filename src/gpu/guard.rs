//! Panics inside wgpu and the drivers below it, caught and turned into their messages.
//!
//! wgpu's back ends panic where a driver breaks the rules, one that refuses a feature that it lists for instance. For
//! this program that is one bad adapter, not its end.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; where it panics, returns what the panic said, and prints nothing.
///
/// What `call` was working on may be left half done: drop it.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
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

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked and did not say why")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
