//! A template's text, rewritten where Jinja2 and minijinja read it differently.

use crate::file::limits;

/// Rewrites a template for minijinja so that it means what it means to Jinja2.
///
/// Every line end becomes `\n`. `{% generation %}` … `{% endgeneration %}`, which mark the
/// assistant's text for transformers' loss masks, become scopes (`{% with %}` … `{% endwith %}`).
/// Escapes in string literals become ones that minijinja knows. A slice with a step becomes a
/// method call. What a loop runs over goes through a filter that refuses None, which minijinja
/// takes for an empty list.
///
/// Nesting is checked here, before a parser that takes stack for each level: see [`Depth`].
///
/// # Errors
/// An escape that needs Python's table of character names, with its line; or too deep a nesting.
pub(super) fn rewrite(source: &str) -> Result<String, Fault> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Rewriter {
        rest: &source,
        out: String::with_capacity(source.len()),
        depth: Depth::default(),
        branches: Vec::new(),
        too_deep: false,
    };
    let result = reader.data();
    let line = reader.out.matches('\n').count() + 1;
    match result {
        Ok(()) => Ok(reader.out),
        Err(_) if reader.too_deep => Err(Fault::Nesting(line)),
        Err(what) => Err(Fault::Syntax(format!("line {line}: {what}"))),
    }
}

/// What is wrong with a template.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It means nothing, with the line.
    Syntax(String),
    /// It is nested beyond [`limits::TEMPLATE_NESTING`], at this line.
    Nesting(usize),
}

/// How deep the syntax tree of an expression can become: chains of operators, filters and
/// attributes make it as deep as nested brackets do.
///
/// Each open bracket holds how many words and signs came since its last comma. The sum over all
/// open brackets bounds the depth.
#[derive(Default)]
struct Depth {
    open: Vec<usize>,
    sum: usize,
}

impl Depth {
    fn add(&mut self, n: usize) {
        self.sum += n;
        match self.open.last_mut() {
            Some(count) => *count += n,
            None => self.open.push(n),
        }
    }

    /// A comma: what comes next stands beside what was.
    fn next(&mut self) {
        if let Some(count) = self.open.last_mut() {
            self.sum -= std::mem::take(count);
        }
    }

    fn open(&mut self) {
        self.add(1);
        self.open.push(0);
    }

    fn close(&mut self) {
        if self.open.len() > 1 {
            self.next();
            self.open.pop();
        }
    }
}

/// The filter that loops go through.
pub(super) const ITERABLE: &str = "tea_iterable";

/// The method that slices with a step become.
pub(super) const SLICE: &str = "tea_slice";

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Rewriter<'a> {
    rest: &'a str,
    out: String,
    depth: Depth,
    /// The `elif`s of each open `if`.
    branches: Vec<usize>,
    too_deep: bool,
}

impl<'a> Rewriter<'a> {
    /// Copies `n` bytes.
    fn copy(&mut self, n: usize) {
        let (head, tail) = self.rest.split_at(n);
        self.out.push_str(head);
        self.rest = tail;
    }

    /// Copies up to and with `end`, or everything where it is missing: the parser says what is not
    /// closed.
    fn copy_past(&mut self, end: &str) {
        let n = self.rest.find(end).map_or(self.rest.len(), |at| at + end.len());
        self.copy(n);
    }

    fn data(&mut self) -> Result<(), String> {
        while let Some(at) = self.next_tag() {
            self.copy(at);
            let tag = &self.rest[..2];
            if tag == "{#" {
                self.copy_past("#}");
                continue;
            }
            self.copy(2);
            self.depth = Depth::default();
            if tag == "{%" {
                let word = self.copy_to_word();
                match word {
                    "if" => self.branches.push(0),
                    "elif" => {
                        if let Some(n) = self.branches.last_mut() {
                            *n += 1;
                            let n = *n;
                            self.check_depth(n)?;
                        }
                    }
                    "endif" => {
                        self.branches.pop();
                    }
                    _ => {}
                }
                match word {
                    "raw" => {
                        self.raw();
                        continue;
                    }
                    "generation" | "endgeneration" if self.closes_after(word) => {
                        self.rest = &self.rest[word.len()..];
                        let with = if word == "generation" { "with" } else { "endwith" };
                        self.out.push_str(with);
                    }
                    "for" => {
                        self.copy(word.len());
                        self.expression(&["in", "%}"])?;
                        if self.out.ends_with("in") {
                            self.out.push_str(" (");
                            let body = self.expression_before(&["if", "recursive", "-%}", "+%}", "%}"])?;
                            let blanks = body.len() - body.trim_end().len();
                            let at = self.out.len() - blanks;
                            self.out.insert_str(at, &format!(")|{ITERABLE}"));
                        }
                    }
                    _ => {}
                }
                self.expression(&["%}"])?;
            } else {
                self.expression(&["}}"])?;
            }
        }
        self.copy(self.rest.len());
        Ok(())
    }

    /// Where the next `{{`, `{%` or `{#` begins.
    fn next_tag(&self) -> Option<usize> {
        let bytes = self.rest.as_bytes();
        bytes
            .windows(2)
            .position(|w| w[0] == b'{' && matches!(w[1], b'{' | b'%' | b'#'))
    }

    /// Copies a tag's whitespace sign and blanks; the word that comes next is not copied.
    fn copy_to_word(&mut self) -> &'a str {
        let sign = usize::from(self.rest.starts_with(['-', '+']));
        let blanks = self.rest[sign..].len() - self.rest[sign..].trim_start().len();
        self.copy(sign + blanks);
        let end = self
            .rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    fn closes_after(&self, word: &str) -> bool {
        let after = self.rest[word.len()..].trim_start();
        after.strip_prefix(['-', '+']).unwrap_or(after).starts_with("%}")
    }

    /// Copies a `{% raw %}` block with its end tag: nothing in it is a tag or a string.
    fn raw(&mut self) {
        self.copy_past("%}");
        while let Some(at) = self.rest.find("{%") {
            self.copy(at + 2);
            if self.copy_to_word() == "endraw" {
                break;
            }
        }
        self.copy_past("%}");
    }

    /// Copies an expression or a statement with the first of `ends` that is not inside of brackets,
    /// where `}}` ends a dict in a dict. Strings are rewritten.
    fn expression(&mut self, ends: &[&str]) -> Result<(), String> {
        self.expression_before(ends)?;
        if let Some(end) = self.end_here(ends) {
            self.copy(end.len());
        }
        Ok(())
    }

    /// As [`Self::expression`] without what ends it; returns what was written.
    fn expression_before(&mut self, ends: &[&str]) -> Result<String, String> {
        let start = self.out.len();
        // Where each open bracket stands in what is written, and the colons right inside of it.
        let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
        while let Some(c) = self.rest.chars().next() {
            if open.is_empty() && self.end_here(ends).is_some() {
                break;
            }
            match c {
                ',' | ':' => self.depth.next(),
                '(' | '[' | '{' => self.depth.open(),
                ')' | ']' | '}' => self.depth.close(),
                // A word counts where it begins.
                c if c.is_whitespace() || (is_word(c) && self.out.ends_with(is_word)) => {}
                _ => self.depth.add(1),
            }
            self.check_depth(self.depth.sum)?;
            match c {
                '"' | '\'' => {
                    self.string(c)?;
                    continue;
                }
                '(' | '[' | '{' => open.push((self.out.len(), Vec::new())),
                ':' => {
                    if let Some((_, colons)) = open.last_mut() {
                        colons.push(self.out.len());
                    }
                }
                ')' | ']' | '}' => {
                    let inside = open.pop();
                    if c == ']'
                        && let Some((at, colons)) = inside
                        && let [first, second] = colons[..]
                    {
                        self.slice(at, first, second);
                        continue;
                    }
                }
                _ => {}
            }
            self.copy(c.len_utf8());
        }
        Ok(self.out[start..].to_owned())
    }

    fn check_depth(&mut self, depth: usize) -> Result<(), String> {
        self.too_deep |= depth as u64 > limits::TEMPLATE_NESTING.most();
        if self.too_deep { Err(String::new()) } else { Ok(()) }
    }

    /// Makes a method call of a slice with a step, `[a:b:c]` without its last bracket: minijinja's
    /// counts differ from Python's where the step is negative.
    fn slice(&mut self, at: usize, first: usize, second: usize) {
        let part = |text: &str| match text.trim() {
            "" => "none".to_owned(),
            given => given.to_owned(),
        };
        let [a, b, c] = [
            &self.out[at + 1..first],
            &self.out[first + 1..second],
            &self.out[second + 1..],
        ]
        .map(part);
        self.out.truncate(at);
        self.out.push_str(&format!(".{SLICE}({a}, {b}, {c})"));
        self.rest = &self.rest[1..];
    }

    /// Which of `ends` comes next; a word counts only where it stands alone.
    fn end_here<'e>(&self, ends: &[&'e str]) -> Option<&'e str> {
        let in_word = is_word;
        ends.iter().copied().find(|end| {
            let Some(after) = self.rest.strip_prefix(end) else {
                return false;
            };
            !end.starts_with(char::is_alphabetic)
                || !(self.out.ends_with(in_word) || self.out.ends_with('.') || after.starts_with(in_word))
        })
    }

    /// A string literal: Jinja2 decodes it as Python's `unicode-escape`.
    fn string(&mut self, quote: char) -> Result<(), String> {
        self.copy(1);
        while let Some(c) = self.rest.chars().next() {
            if c != '\\' {
                self.copy(c.len_utf8());
                if c == quote {
                    break;
                }
                continue;
            }
            let Some(escaped) = self.rest[1..].chars().next() else {
                break;
            };
            let digits = |radix: u32, most: usize| {
                let digits = self.rest[1..].chars().skip(usize::from(radix == 16));
                digits.take(most).take_while(|c| c.is_digit(radix)).count()
            };
            let code = |range: std::ops::Range<usize>, radix| {
                let text = self.rest.get(range).unwrap_or_default();
                u32::from_str_radix(text, radix).ok().and_then(char::from_u32)
            };
            // Bytes of the literal that are used, and what stands for them.
            let (used, text) = match escaped {
                '\n' => (2, String::new()),
                'a' => (2, "\\x07".to_owned()),
                'v' => (2, "\\x0b".to_owned()),
                '\\' | '\'' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 'x' | 'u' => (2, self.rest[..2].to_owned()),
                'U' if digits(16, 8) == 8 => match code(2..10, 16) {
                    Some(c) => (10, c.to_string()),
                    None => return Err(format!("{:?} is no character", &self.rest[..10])),
                },
                'N' if self.rest[2..].starts_with('{') => {
                    return Err(
                        "\\N{…} in a string names a character, which is not supported; write the character itself"
                            .to_owned(),
                    );
                }
                '0'..='7' => {
                    let n = digits(8, 3);
                    let code = code(1..1 + n, 8).map_or(0, u32::from);
                    (1 + n, format!("\\u{code:04x}"))
                }
                other => (1 + other.len_utf8(), format!("\\\\{other}")),
            };
            self.out.push_str(&text);
            self.rest = &self.rest[used..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn same(source: &str) {
        assert_eq!(rewrite(source).unwrap(), source);
    }

    #[test]
    fn line_ends_are_unified() {
        assert_eq!(rewrite("a\r\nb\rc\n\r\n").unwrap(), "a\nb\nc\n\n");
        assert_eq!(rewrite("{{ 'a\r\n' }}\r\n").unwrap(), "{{ 'a\n' }}\n");
    }

    #[test]
    fn generation_tags_become_scopes_only_where_they_are_tags() {
        assert_eq!(
            rewrite("{%- generation -%}x{% endgeneration %}").unwrap(),
            "{%- with -%}x{% endwith %}"
        );
        same("{% raw %}{% generation %}{% for x in y %}'\\a'{% endraw %}");
        same("{# {% generation %} '\\a' #}");
        same("{{ '{% generation %}' }}");
        same("{% set generation = 1 %}{% if generation_x %}{% endif %}");
        same("don't {% generation");
        same("{{ {'a': {'b': '}}'}} }}it's \\a");
    }

    #[test]
    fn loops_go_through_the_filter() {
        for (source, want) in [
            ("for x in y", "for x in ( y)|tea_iterable"),
            (
                "for in_x in a.in[' in '] if x is in y",
                "for in_x in ( a.in[' in '])|tea_iterable if x is in y",
            ),
            (
                "for k, v in (a if b else c).items() recursive",
                "for k, v in ( (a if b else c).items())|tea_iterable recursive",
            ),
        ] {
            for (open, close) in [("{% ", " %}"), ("{%- ", " -%}")] {
                assert_eq!(
                    rewrite(&format!("{open}{source}{close}")).unwrap(),
                    format!("{open}{want}{close}")
                );
            }
        }
        same("{% for x");
        same("{% if for in x %}{{ 'for x in y' }}");
    }

    #[test]
    fn slices_with_a_step_become_calls() {
        for (source, want) in [
            ("x[::-1][0]", "x.tea_slice(none, none, -1)[0]"),
            ("x[1 : y[2:3] :2]", "x.tea_slice(1, y[2:3], 2)"),
            (
                "x[a[::2][0]::{'k': 1}.k]",
                "x.tea_slice(a.tea_slice(none, none, 2)[0], none, {'k': 1}.k)",
            ),
            ("x[1:]", "x[1:]"),
            ("{'a': {'b': 1}, 'c': '[::]'}", "{'a': {'b': 1}, 'c': '[::]'}"),
        ] {
            assert_eq!(
                rewrite(&format!("{{{{ {source} }}}}")).unwrap(),
                format!("{{{{ {want} }}}}")
            );
        }
    }

    #[test]
    fn escapes_are_pythons() {
        let cases = [
            (r"\n\t\\\'\x41\u00e9", r"\n\t\\\'\x41\u00e9"),
            (r"\a\v", r"\x07\x0b"),
            (r"\/ \d \é", r"\\/ \\d \\é"),
            (r"\101\0\777", "\\u0041\\u0000\\u01ff"),
            (r"\U0001F600", "😀"),
            ("a\\\nb", "ab"),
        ];
        for (python, minijinja) in cases {
            assert_eq!(
                rewrite(&format!("{{{{ '{python}' }}}}")).unwrap(),
                format!("{{{{ '{minijinja}' }}}}")
            );
        }
        let error = rewrite("\n{{ '\\N{BULLET}' }}").unwrap_err();
        assert!(
            matches!(&error, Fault::Syntax(e) if e.starts_with("line 2: \\N{…}")),
            "{error:?}"
        );
        same(r#"{{ "unclosed \"#);
    }
}
