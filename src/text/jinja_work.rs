//! The work that one rendering of a chat template may do.
//!
//! Work is counted in steps. An operation of the template is a step, an item of a list is
//! [`ITEM`] steps, and text costs a step for every [`MADE`] bytes that are made or every [`READ`]
//! bytes that are read. One budget therefore bounds the time of a rendering and its memory. The
//! budget is the thread's: a rendering stays on the thread that began it.

use std::cell::Cell;
use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::jinja_filters::invalid;
use crate::file::limits::{self, Limit};

/// Steps of an item that a list or a map gets.
pub(super) const ITEM: u64 = 4;
/// Steps of a value inside of another that is gone through.
const NODE: u64 = 8;
/// Bytes of new text for a step.
const MADE: u64 = 8;
/// Bytes of text that is looked through for a step.
const READ: u64 = 16;
/// Steps that each byte of the conversation adds to the budget.
const STEPS_PER_BYTE: u64 = 16;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    /// The limit that ended this thread's rendering.
    static ENDED: Cell<Option<&'static Limit>> = const { Cell::new(None) };
}

/// Gives the thread's next rendering its budget; `input` is the size of the conversation.
pub(super) fn begin(input: u64) {
    let more = input.saturating_mul(STEPS_PER_BYTE);
    LEFT.set(limits::TEMPLATE_STEPS.most().saturating_add(more));
    ENDED.set(None);
}

/// The limit that ended the thread's last rendering, if one did.
pub(super) fn ended() -> Option<&'static Limit> {
    ENDED.get()
}

/// What ends a rendering that goes beyond a limit.
pub(super) fn end(limit: &'static Limit) -> Error {
    if ENDED.get().is_none() {
        ENDED.set(Some(limit));
    }
    // Whoever swallows the error gets no further.
    LEFT.set(0);
    Error::new(ErrorKind::InvalidOperation, limit.what)
}

/// Takes steps from the budget.
pub(super) fn spend(steps: u64) -> Result<(), Error> {
    match LEFT.get().checked_sub(steps) {
        Some(left) if ENDED.get().is_none() => {
            LEFT.set(left);
            Ok(())
        }
        _ => Err(end(&limits::TEMPLATE_STEPS)),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Pays for a text before it is made.
pub(super) fn make_text(bytes: usize) -> Result<(), Error> {
    if count(bytes) > limits::TEMPLATE_TEXT.most() {
        return Err(end(&limits::TEMPLATE_TEXT));
    }
    spend(1 + count(bytes) / MADE)
}

/// Pays for a text of `n` parts of at most `each` bytes before it is made.
pub(super) fn make_texts(n: usize, each: usize) -> Result<(), Error> {
    make_text(n.saturating_mul(each))
}

/// Pays for looking through a text.
pub(super) fn read_text(bytes: usize) -> Result<(), Error> {
    spend(1 + count(bytes) / READ)
}

/// Pays for a list of `n` items before it is made.
pub(super) fn make_items(n: usize) -> Result<(), Error> {
    spend(count(n).saturating_mul(ITEM))
}

/// Pays for work whose amount is the product of two sizes.
pub(super) fn read_texts(n: usize, each: usize) -> Result<(), Error> {
    read_text(n.saturating_mul(each))
}

/// Pays for looking at a value from the outside: a string's characters or a list's items.
pub(super) fn look_at(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => read_text(text.len()),
        None if is_container(value) => spend(1 + count(value.len().unwrap_or(0))),
        None => Ok(()),
    }
}

fn is_container(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
    )
}

/// Pays for going through all of a value. Returns its size in bytes, as far as it is counted.
///
/// # Errors
/// The budget does not suffice.
pub(super) fn go_through(value: &Value) -> Result<usize, Error> {
    visit(value, 0, &mut |value| match value.as_str() {
        Some(text) => read_text(text.len()).map(|()| text.len()),
        None => spend(NODE).map(|()| 8),
    })
}

/// Checks that a new list or map is nested no deeper than the limit, and holds no namespace and no
/// loop variable.
///
/// Dropping, printing and comparing use the stack level by level. What changes could end up inside
/// of itself: it would never be freed.
pub(super) fn check_nesting(value: &Value) -> Result<(), Error> {
    visit(value, 0, &mut |inside| {
        spend(NODE)?;
        if std::ptr::eq(inside, value) {
            return Ok(0);
        }
        check_stored(inside).map(|()| 0)
    })
    .map(|_| ())
}

/// Checks that a value may be part of another.
pub(super) fn check_stored(value: &Value) -> Result<(), Error> {
    let name = value.as_object().map_or("", |object| object.type_name());
    let what = match name.rsplit("::").next() {
        Some("Namespace") => "a namespace",
        Some("Loop") => "a loop variable",
        _ => return Ok(()),
    };
    Err(invalid(format!(
        "{what} cannot be put into a list, a dict or a namespace"
    )))
}

/// Calls `see` for a value and everything inside of it; the sum of what it returns.
fn visit(
    value: &Value,
    depth: u64,
    see: &mut impl FnMut(&Value) -> Result<usize, Error>,
) -> Result<usize, Error> {
    let mut sum = see(value)?;
    if !is_container(value) {
        return Ok(sum);
    }
    if depth >= limits::TEMPLATE_VALUES.most() {
        return Err(end(&limits::TEMPLATE_VALUES));
    }
    let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
    if let (ValueKind::Map, Some(pairs)) = (value.kind(), pairs) {
        for (key, item) in pairs {
            sum = sum.saturating_add(visit(&key, depth + 1, see)?);
            sum = sum.saturating_add(visit(&item, depth + 1, see)?);
        }
    } else {
        for item in value.try_iter()? {
            sum = sum.saturating_add(visit(&item, depth + 1, see)?);
        }
    }
    Ok(sum)
}

/// The size of what the caller gives, which no budget limits.
pub(super) fn size(value: &Value) -> u64 {
    let bytes = visit(value, 0, &mut |value| {
        Ok(value.as_str().map_or(0, str::len).saturating_add(32))
    });
    count(bytes.unwrap_or(0))
}

/// A writer that pays for what goes through it.
pub(super) struct Paid<W>(pub(super) W);

impl<W: fmt::Write> fmt::Write for Paid<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        make_text(text.len()).map_err(|_| fmt::Error)?;
        self.0.write_str(text)
    }
}

/// A text that is written piece by piece, each of which is paid for.
#[derive(Default)]
pub(super) struct PaidText(String);

impl PaidText {
    pub(super) fn push_str(&mut self, text: &str) -> Result<(), Error> {
        self.0.push_str(text);
        // Pieces are small or parts of values that exist: the sum is what must be told in time.
        spend_piece(text.len())?;
        if count(self.0.len()) > limits::TEMPLATE_TEXT.most() {
            return Err(end(&limits::TEMPLATE_TEXT));
        }
        Ok(())
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

fn spend_piece(bytes: usize) -> Result<(), Error> {
    spend(1 + count(bytes) / MADE)
}

impl fmt::Write for PaidText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|_| fmt::Error)
    }
}

/// A value's text as `str()` gives it, paid for.
pub(super) fn text_of(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        make_text(text.len())?;
        return Ok(text.to_owned());
    }
    let mut out = PaidText::default();
    write_value(&mut out, value)?;
    Ok(out.into_string())
}

/// Writes a value as `str()` gives it.
pub(super) fn write_value(out: &mut PaidText, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return out.push_str(text);
    }
    go_through(value)?;
    fmt::Write::write_fmt(out, format_args!("{value}")).map_err(Error::from)
}
