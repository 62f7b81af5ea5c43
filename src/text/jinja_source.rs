//! A template's text, rewritten where Jinja2 and minijinja read it differently.

/// Rewrites a template for minijinja so that it means what it means to Jinja2.
///
/// Every line end becomes `\n`. `{% generation %}` … `{% endgeneration %}`, which mark the assistant's text for
/// transformers' loss masks, become scopes (`{% with %}` … `{% endwith %}`). Escapes in string literals become ones that
/// minijinja knows.
///
/// # Errors
/// An escape that needs Python's table of character names, with its line.
pub(super) fn rewrite(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Rewriter {
        rest: &source,
        out: String::with_capacity(source.len()),
    };
    match reader.data() {
        Ok(()) => Ok(reader.out),
        Err(what) => {
            let line = reader.out.matches('\n').count() + 1;
            Err(format!("line {line}: {what}"))
        }
    }
}

struct Rewriter<'a> {
    rest: &'a str,
    out: String,
}

impl<'a> Rewriter<'a> {
    /// Copies `n` bytes.
    fn copy(&mut self, n: usize) {
        let (head, tail) = self.rest.split_at(n);
        self.out.push_str(head);
        self.rest = tail;
    }

    /// Copies up to and with `end`, or everything where it is missing: the parser says what is not closed.
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
            if tag == "{%" {
                let word = self.copy_to_word();
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
                    _ => {}
                }
                self.expression("%}")?;
            } else {
                self.expression("}}")?;
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

    /// Copies an expression or a statement with what ends it. Strings are rewritten; the end does not count inside of
    /// brackets, where it is the end of a dict in a dict.
    fn expression(&mut self, end: &str) -> Result<(), String> {
        let mut depth = 0usize;
        while let Some(c) = self.rest.chars().next() {
            if depth == 0 && self.rest.starts_with(end) {
                self.copy(end.len());
                return Ok(());
            }
            match c {
                '"' | '\'' => {
                    self.string(c)?;
                    continue;
                }
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.copy(c.len_utf8());
        }
        Ok(())
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
                '\\' | '\'' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 'x' | 'u' => {
                    (2, self.rest[..2].to_owned())
                }
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
        same("{% raw %}{% generation %}'\\a'{% endraw %}");
        same("{# {% generation %} '\\a' #}");
        same("{{ '{% generation %}' }}");
        same("{% set generation = 1 %}{% if generation_x %}{% endif %}");
        same("don't {% generation");
        same("{{ {'a': {'b': '}}'}} }}it's \\a");
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
        assert!(error.starts_with("line 2: \\N{…}"), "{error}");
        same(r#"{{ "unclosed \"#);
    }
}
