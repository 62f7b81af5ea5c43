//! Operators and filters that pay for what they do, which [`jinja_compile`](super::jinja_compile)
//! puts in place of minijinja's.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, functions};

use super::jinja_filters::invalid;
use super::jinja_work::{
    self as work, check_nesting, go_through, look_at, make_items, make_text, make_texts, read_text, spend,
};

/// The price of a piece of the template, and what to return.
pub(super) const STEPS: &str = "tea_steps";
/// A value whose items or characters are gone through.
pub(super) const LOOK: &str = "tea_look";
/// A value all of which is gone through.
pub(super) const READ: &str = "tea_read";
/// A value of which a number chooses an item.
pub(super) const CHARACTERS: &str = "tea_characters";
/// A new list or map.
pub(super) const NEST: &str = "tea_nest";
/// A value that becomes an attribute of a namespace.
pub(super) const STORE: &str = "tea_store";
/// A value that a loop keeps.
pub(super) const KEEP: &str = "tea_keep";
/// What may be a view of another list, as a list.
pub(super) const SOLID: &str = "tea_solid";
/// `+`
pub(super) const ADD: &str = "tea_add";
/// `*`
pub(super) const MUL: &str = "tea_mul";
/// `~`
pub(super) const CONCAT: &str = "tea_concat";
/// The filter that is named first.
pub(super) const FILTER: &str = "tea_filter";

/// Tests without arguments that ask for a value's type, whatever its size.
pub(super) const PLAIN_TESTS: &[&str] = &[
    "defined",
    "undefined",
    "none",
    "string",
    "number",
    "integer",
    "int",
    "float",
    "boolean",
    "true",
    "false",
    "mapping",
    "sequence",
    "iterable",
    "callable",
    "odd",
    "even",
];

/// Puts them into an environment.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter(STEPS, steps);
    environment.add_filter(LOOK, |value: &Value| look_at(value).map(|()| value.clone()));
    environment.add_filter(READ, |value: &Value| go_through(value).map(|_| value.clone()));
    environment.add_filter(CHARACTERS, characters);
    environment.add_filter(NEST, |value: &Value| check_nesting(value).map(|()| value.clone()));
    environment.add_filter(STORE, |value: &Value| {
        work::check_stored(value).map(|()| value.clone())
    });
    environment.add_filter(KEEP, |value: &Value| {
        work::check_stored(value)?;
        go_through(value)?;
        check_nesting(value).map(|()| value.clone())
    });
    environment.add_filter(SOLID, solid);
    environment.add_filter(ADD, plus);
    environment.add_filter(MUL, times);
    environment.add_filter(CONCAT, concat);
    environment.add_filter(FILTER, filter);
    environment.add_filter("pprint", pprint);
    // Jinja2 has neither. They would make values that are views of views.
    environment.remove_filter("chain");
    environment.remove_filter("zip");
    // Jinja2 has it as an extension only. It prints all there is.
    environment.remove_global("debug");
    environment.add_function("range", |lower, upper, step| {
        functions::range(lower, upper, step).and_then(solid)
    });
    environment.add_function("dict", |value: Option<Value>, kwargs: Kwargs| {
        if let Some(value) = &value {
            look_at(value)?;
        }
        let made = functions::dict(value, kwargs)?;
        check_nesting(&made).map(|()| made)
    });
    environment.add_function("namespace", |defaults: Option<ValueOrKwargs>| {
        let made = functions::namespace(defaults)?;
        check_nesting(&made).map(|()| made)
    });
}

fn steps(price: u64, result: Option<bool>) -> Result<bool, Error> {
    spend(price).map(|()| result.unwrap_or(false))
}

fn characters(value: &Value) -> Result<Value, Error> {
    if matches!(value.kind(), ValueKind::String | ValueKind::Iterable) {
        look_at(value)?;
    }
    Ok(value.clone())
}

/// A view of a list becomes a list: views of views would take a stack frame each.
pub(super) fn solid(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Iterable => items_of(&value).map(Value::from),
        ValueKind::String => {
            make_text(value.as_str().map_or(0, str::len))?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

/// The items of a list, or characters of a string, paid for one by one.
pub(super) fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for item in value.try_iter()? {
        make_items(1)?;
        items.push(item);
    }
    Ok(items)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn like(model: &Value, items: Vec<Value>) -> Value {
    match model.is_tuple() {
        true => Tuple::from(items).into(),
        false => items.into(),
    }
}

fn plus(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        make_text(a.len().saturating_add(b.len()))?;
        return Ok([a, b].concat().into());
    }
    if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() {
        let mut items = items_of(left)?;
        items.append(&mut items_of(right)?);
        return Ok(like(left, items));
    }
    arithmetic("+", left, right, i128::checked_add, |a, b| a + b)
}

fn times(left: &Value, right: &Value) -> Result<Value, Error> {
    for (repeated, n) in [(left, right), (right, left)] {
        let number = |what: &str| {
            n.as_usize()
                .ok_or_else(|| invalid(format!("{what} can only be multiplied with integers")))
        };
        if let Some(text) = repeated.as_str() {
            let n = number("strings")?;
            make_texts(n, text.len())?;
            return Ok(text.repeat(n).into());
        }
        if is_list(repeated) {
            let n = number("sequences and iterables")?;
            let items = items_of(repeated)?;
            let all = n.saturating_mul(items.len());
            make_items(all)?;
            return Ok(like(repeated, items.iter().cycle().take(all).cloned().collect()));
        }
    }
    arithmetic("*", left, right, i128::checked_mul, |a, b| a * b)
}

fn concat(left: &Value, right: &Value) -> Result<String, Error> {
    let mut out = work::PaidText::default();
    work::write_value(&mut out, left)?;
    work::write_value(&mut out, right)?;
    Ok(out.into_string())
}

/// Truth values and numbers; a float makes the result one.
fn arithmetic(
    sign: &str,
    left: &Value,
    right: &Value,
    whole: impl Fn(i128, i128) -> Option<i128>,
    float: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let unsupported = || {
        invalid(format!(
            "tried to use {sign} operator on unsupported types {} and {}",
            left.kind(),
            right.kind()
        ))
    };
    let sides = [left, right];
    let is_number = |v: &&Value| matches!(v.kind(), ValueKind::Bool | ValueKind::Number);
    if !sides.iter().all(is_number) {
        return Err(unsupported());
    }
    if let [Some(a), Some(b)] = sides.map(whole_number) {
        return match whole(a, b) {
            Some(result) => Ok(i64::try_from(result).map_or_else(|_| result.into(), Value::from)),
            None => Err(invalid(format!("unable to calculate {left} {sign} {right}"))),
        };
    }
    match sides.map(|v| whole_number(v).map_or_else(|| f64::try_from(v.clone()).ok(), |n| Some(n as f64))) {
        [Some(a), Some(b)] => Ok(float(a, b).into()),
        _ => Err(unsupported()),
    }
}

fn whole_number(value: &Value) -> Option<i128> {
    let whole = value.kind() == ValueKind::Bool || value.is_integer();
    whole.then(|| i128::try_from(value.clone()).ok()).flatten()
}

fn pprint(value: &Value) -> Result<String, Error> {
    use std::fmt::Write as _;
    go_through(value)?;
    let mut out = work::PaidText::default();
    write!(out, "{value:#?}").map_err(Error::from)?;
    Ok(out.into_string())
}

/// Any filter, by its name.
fn filter(
    state: &mut State<'_, '_>,
    value: ValueOrKwargs,
    name: &str,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let name: String = name.split_ascii_whitespace().collect();
    let mut given = vec![value.into_value()];
    given.extend(args.into_values());
    apply(state, &name, given)
}

fn apply(state: &mut State<'_, '_>, name: &str, args: Vec<Value>) -> Result<Value, Error> {
    if let ("map", [list, _, ..]) = (name, &args[..])
        && !args[1].is_kwargs()
    {
        return map(state, list, &args[1..]);
    }
    pay(name, &args)?;
    let result = state.apply_filter(name, &args).map_err(|e| match e.kind() {
        // As where a template names a filter that is not there.
        ErrorKind::UnknownFilter if e.detail().is_none() => {
            Error::new(ErrorKind::UnknownFilter, format!("filter {name} is unknown"))
        }
        _ => e,
    })?;
    let result = settle(result)?;
    if matches!(name, "batch" | "slice" | "groupby" | "items" | "dictsort" | "map") {
        check_nesting(&result)?;
    }
    Ok(result)
}

/// `map` with a filter's name: the filter pays for each item.
fn map(state: &mut State<'_, '_>, list: &Value, args: &[Value]) -> Result<Value, Error> {
    let [name, rest @ ..] = args else {
        return Err(invalid("filter name is required"));
    };
    let name = name
        .as_str()
        .ok_or_else(|| invalid("filter name must be a string"))?;
    let mut mapped = Vec::new();
    for item in list.try_iter()? {
        make_items(1)?;
        let mut call = vec![item];
        call.extend_from_slice(rest);
        mapped.push(apply(state, name, call)?);
    }
    let mapped = Value::from(mapped);
    check_nesting(&mapped).map(|()| mapped)
}

/// Pays for a result that is there already: what made it was paid for by the size of its inputs.
pub(super) fn settle(result: Value) -> Result<Value, Error> {
    match result.kind() {
        ValueKind::Iterable | ValueKind::String => solid(result),
        ValueKind::Seq | ValueKind::Map => {
            make_items(result.len().unwrap_or(0))?;
            Ok(result)
        }
        _ => Ok(result),
    }
}

/// Pays for what a filter of minijinja's will do.
fn pay(name: &str, args: &[Value]) -> Result<(), Error> {
    let [value, options @ ..] = args else {
        return Ok(());
    };
    // Numbers among the arguments, those by name too.
    let numbers = || options.iter().map(largest_number).max().unwrap_or(0);
    match name {
        // These look at the outside only, or pay for themselves.
        "default" | "d" | "length" | "count" | "first" | "last" | "tojson" | "items" | "abs" | "round"
        | "bool" | "reverse" | "pprint" | "replace" | "indent" => look_at(value),
        "int" | "float" => {
            for arg in args {
                go_through(arg)?;
            }
            make_text(value.as_str().map_or(0, str::len))
        }
        "list" | "batch" | "slice" => {
            look_at(value)?;
            make_items(value.len().unwrap_or(0))?;
            match (name, options) {
                ("slice", _) | ("batch", [_, _, ..]) => make_items(numbers()),
                ("batch", [size]) if size.is_kwargs() => make_items(numbers()),
                _ => Ok(()),
            }
        }
        "lines" | "split" => {
            look_at(value)?;
            make_items(parts(value, options))
        }
        "select" | "reject" | "selectattr" | "rejectattr" | "map" | "attr" => {
            let mut each = 0;
            for option in options {
                each += go_through(option)?;
            }
            match name {
                "select" | "reject" if !options.is_empty() => go_through(value).map(drop)?,
                _ => look_at(value)?,
            }
            work::read_texts(value.len().unwrap_or(0), 64 + each)
        }
        "format" => format_work(value.as_str().unwrap_or_default(), options),
        "trim" => {
            let text = go_through(value)?;
            let set = options.iter().map(|o| o.as_str().map_or(0, str::len)).sum();
            work::read_texts(text, set)
        }
        _ => {
            let size = go_through(value)?;
            for option in options {
                go_through(option)?;
            }
            let n = value.len().unwrap_or(0);
            match name {
                "join" => make_texts(n, options.iter().map(longest_text).max().unwrap_or(0)),
                // Comparisons of all pairs of neighbours, about as often as there are bits in `n`.
                "sort" | "unique" | "groupby" | "dictsort" => {
                    work::read_texts(size, 2 * n.max(1).ilog2() as usize)
                }
                // Anything but numbers grows with each item.
                "sum" if !options.is_empty() => work::read_texts(n, size),
                _ => Ok(()),
            }
        }
    }
}

/// How many parts splitting a text can give.
fn parts(value: &Value, options: &[Value]) -> usize {
    let text = value.as_str().unwrap_or_default();
    match options.first().and_then(Value::as_str) {
        Some(separator) if !separator.is_empty() => text.matches(separator).count() + 1,
        _ => text.matches(char::is_whitespace).count() + 1,
    }
}

fn longest_text(option: &Value) -> usize {
    deepest(option, &|v| v.as_str().map_or(0, str::len))
}

fn largest_number(option: &Value) -> usize {
    deepest(option, &|v| v.as_usize().unwrap_or(0))
}

/// The largest measure of an argument, or of those by name.
fn deepest(option: &Value, measure: &dyn Fn(&Value) -> usize) -> usize {
    let pairs = option.as_object().and_then(|object| object.try_iter_pairs());
    match pairs {
        Some(pairs) if option.is_kwargs() => pairs.map(|(_, v)| measure(&v)).max().unwrap_or(0),
        _ => measure(option),
    }
}

/// Pays for `str.format` or the filter `format`: each number in the format is a width at most, and
/// each field may print every argument.
pub(super) fn format_work(format: &str, args: &[Value]) -> Result<(), Error> {
    read_text(format.len())?;
    let mut given = 0usize;
    for arg in args {
        given = given.saturating_add(go_through(arg)?).saturating_add(64);
    }
    let (mut fields, mut widths, mut by_argument) = (0usize, 0usize, false);
    let (mut field, mut number) = (None, 0usize);
    for c in format.chars() {
        if let Some(digit) = c.to_digit(10).filter(|_| field.is_some()) {
            number = number.saturating_mul(10).saturating_add(digit as usize);
            continue;
        }
        widths = widths.saturating_add(std::mem::take(&mut number));
        match c {
            '%' | '{' => {
                by_argument |= field == Some('{');
                fields += 1;
                field = Some(c);
            }
            '}' => field = None,
            '*' => by_argument |= field.is_some(),
            c if c.is_alphabetic() && field == Some('%') => field = None,
            _ => {}
        }
    }
    if by_argument {
        let numbers = args.iter().map(largest_number).max().unwrap_or(0);
        widths = widths.saturating_add(fields.saturating_mul(numbers));
    }
    make_text(widths)?;
    make_texts(fields, given)
}
