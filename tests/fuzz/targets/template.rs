//! Chat templates, from a grammar of what they may say.

use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::json;
use tea_wgpu::error::Result;
use tea_wgpu::text::{ChatTemplate, TemplateDate};

use crate::make::{damage, text};

fn statement(u: &mut Unstructured<'_>, depth: usize, out: &mut String) -> Drawn<()> {
    if depth > 5 {
        return expression_out(u, depth, out);
    }
    match u.int_in_range(0..=9)? {
        0 => {
            out.push_str(&format!("{{% for x in {} %}}", expression(u, depth)?));
            block(u, depth, out)?;
            out.push_str("{% endfor %}");
        }
        1 => {
            out.push_str(&format!("{{%- if {} -%}}", expression(u, depth)?));
            block(u, depth, out)?;
            if u.ratio(1, 3)? {
                out.push_str("{% else %}");
                block(u, depth, out)?;
            }
            out.push_str("{%- endif -%}");
        }
        2 => out.push_str(&format!("{{% set x = {} %}}", expression(u, depth)?)),
        3 => out.push_str(&format!("{{% set ns.s = {} %}}", expression(u, depth)?)),
        4 => {
            out.push_str("{% macro f(x) %}");
            block(u, depth, out)?;
            out.push_str("{% endmacro %}{{ f(1) }}");
        }
        5 => {
            out.push_str("{% for m in messages %}{{ m.role }}");
            block(u, depth, out)?;
            out.push_str("{% endfor %}");
        }
        6 => out.push_str(&text(u)?),
        _ => expression_out(u, depth, out)?,
    }
    Ok(())
}

fn block(u: &mut Unstructured<'_>, depth: usize, out: &mut String) -> Drawn<()> {
    for _ in 0..u.int_in_range(0..=3)? {
        statement(u, depth + 1, out)?;
    }
    Ok(())
}

fn expression_out(u: &mut Unstructured<'_>, depth: usize, out: &mut String) -> Drawn<()> {
    out.push_str(&format!("{{{{ {} }}}}", expression(u, depth)?));
    Ok(())
}

fn literal(u: &mut Unstructured<'_>) -> Drawn<String> {
    const LITERALS: &[&str] = &[
        "1",
        "0",
        "-1",
        "9223372036854775807",
        "1000000",
        "100000000000",
        "1.5",
        "'a'",
        "'ab' * 1000",
        "\"\\n\"",
        "[]",
        "[1, 'b', none]",
        "{}",
        "{'a': 1}",
        "none",
        "true",
        "messages",
        "messages[0]",
        "messages[0].content",
        "ns",
        "ns.s",
        "x",
        "loop.index0",
        "range(1000)",
        "range(100000)",
        "bos_token",
        "tools",
        "add_generation_prompt",
        "namespace()",
        "dict(a=1)",
        "missing",
    ];
    Ok((*u.choose(LITERALS)?).to_owned())
}

fn expression(u: &mut Unstructured<'_>, depth: usize) -> Drawn<String> {
    if depth > 7 {
        return literal(u);
    }
    let d = depth + 1;
    const FILTERS: &[&str] = &[
        "length",
        "tojson",
        "tojson(indent=4)",
        "upper",
        "trim",
        "join(',')",
        "list",
        "string",
        "int",
        "items",
        "reverse",
        "sort",
        "unique",
        "first",
        "last",
        "default('x')",
        "replace('a', 'aaaa')",
        "indent(1000)",
        "batch(3, 'x')",
        "slice(5)",
        "safe",
        "map('upper')",
        "selectattr('role')",
        "dictsort",
        "format(1, 2)",
        "center(1000)",
        "abs",
        "round(3)",
        "sum",
        "e",
    ];
    const METHODS: &[&str] = &[
        "split('a')",
        "strip()",
        "replace('a', 'bb')",
        "startswith('a')",
        "items()",
        "get('a')",
        "upper()",
        "join(['a', 'b'])",
        "zfill(100)",
        "ljust(1000)",
        "format(1)",
        "splitlines()",
        "count('a')",
        "title()",
        "rsplit('a', 1)",
        "keys()",
        "expandtabs(80)",
    ];
    const BINARY: &[&str] = &[
        "+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "is not",
    ];
    Ok(match u.int_in_range(0..=8)? {
        0 | 1 => literal(u)?,
        2 => format!(
            "{} {} {}",
            expression(u, d)?,
            u.choose(BINARY)?,
            expression(u, d)?
        ),
        3 => format!("({})|{}", expression(u, d)?, u.choose(FILTERS)?),
        4 => format!("({}).{}", expression(u, d)?, u.choose(METHODS)?),
        5 => format!(
            "({})[{}:{}:{}]",
            expression(u, d)?,
            literal(u)?,
            literal(u)?,
            literal(u)?
        ),
        6 => format!(
            "({} if {} else {})",
            expression(u, d)?,
            expression(u, d)?,
            expression(u, d)?
        ),
        7 => format!("[{}, {}]", expression(u, d)?, expression(u, d)?),
        _ => format!(
            "({} is {})",
            expression(u, d)?,
            u.choose(&["defined", "none", "string", "iterable", "mapping", "number"])?
        ),
    })
}

/// A template of some statements, rendered for an ordinary conversation and for one that no dataset has.
pub(crate) fn template(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let mut source = "{% set ns = namespace(s='ab', l=[1]) %}".to_owned();
    for _ in 0..u.int_in_range(1..=5)? {
        statement(u, 0, &mut source)?;
    }
    if u.ratio(1, 10)? {
        let mut bytes = source.into_bytes();
        damage(u, &mut bytes)?;
        source = String::from_utf8_lossy(&bytes).into_owned();
    }
    let messages = json!([{"role": text(u)?, "content": text(u)?}, {"role": "user", "content": "hi\nthere"}]);
    let vars = vec![("bos_token".to_owned(), "<s>".to_owned())];
    Ok(ChatTemplate::new(&source, vars).and_then(|t| {
        t.render_json(&messages, &json!(null), true, TemplateDate::today())
            .map(drop)
    }))
}
