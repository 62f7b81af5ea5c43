//! Rust source as words and punctuation: as much of a lexer as finding paths needs.

/// A word or a punctuation mark of Rust source with the line it is on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Splits Rust source into words and punctuation, dropping comments, literals and lifetimes. `::` is one token.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let begin = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => i = block_comment_end(&chars, i),
            '"' => i = string_end(&chars, i),
            '\'' => i = quote_end(&chars, i),
            ':' if at(i + 1) == ':' => {
                out.push(Token {
                    text: "::".into(),
                    line,
                });
                i += 2;
            }
            c if word(c) => {
                while word(at(i)) {
                    i += 1;
                }
                let text: String = chars[begin..i].iter().collect();
                let prefix = ["r", "b", "br", "c", "cr"].contains(&text.as_str());
                let hashes = (i..).take_while(|&k| at(k) == '#').count();
                if prefix && text.ends_with('r') && at(i + hashes) == '"' {
                    i = raw_string_end(&chars, i, hashes);
                } else if prefix && at(i) == '"' {
                    i = string_end(&chars, i);
                } else if text == "b" && at(i) == '\'' {
                    i = quote_end(&chars, i);
                } else if text == "r" && at(i) == '#' {
                    i += 1; // a raw identifier: the word follows
                } else {
                    out.push(Token { text, line });
                }
            }
            c => {
                if !c.is_whitespace() {
                    out.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
                i += 1;
            }
        }
        let end = i.min(chars.len());
        line += chars[begin..end].iter().filter(|&&c| c == '\n').count();
    }
    out
}

/// The index after the (nesting) block comment that begins at `i`.
fn block_comment_end(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < chars.len() {
        match chars[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// The index after the string literal whose opening quote is at `i`.
fn string_end(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The index after the raw string literal whose first `#` or quote is at `i`.
fn raw_string_end(chars: &[char], i: usize, hashes: usize) -> usize {
    let mut k = i + hashes + 1;
    while k < chars.len() {
        if chars[k] == '"' && chars[k + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
            return k + 1 + hashes;
        }
        k += 1;
    }
    k
}

/// The index after the character literal or lifetime whose quote is at `i`.
fn quote_end(chars: &[char], i: usize) -> usize {
    match chars[i + 1..] {
        ['\\', ..] => {
            let mut k = i + 3;
            while k < chars.len() && chars[k] != '\'' {
                k += 1;
            }
            k + 1
        }
        [_, '\'', ..] => i + 3,
        _ => i + 1, // a lifetime: its name is read as a word, which does no harm
    }
}
