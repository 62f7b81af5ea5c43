//! Text of others within our own: on terminals, in messages, in Markdown and CSV.
//!
//! Names, answers, settings and templates come from files and servers that nobody vouches for. What is printed of them must
//! neither steer a terminal nor pass for a line, a link or a formula of ours, and must not be endless. Files of results keep
//! such text as it is where their format can hold it (JSON); [`secret`] keeps keys out of everything.

pub mod secret;

use std::borrow::Cow;
use std::fmt::Write;

/// Most bytes of one line of a message, and of a name in a table or plot.
pub const LINE: usize = 1 << 10;
/// Most bytes of a message.
pub const MESSAGE: usize = 8 << 10;

/// The text with everything that a terminal would act on or not show escaped as JSON escapes it (`\u001b`).
///
/// Control characters, marks that change the direction of writing, and other invisible characters are escaped; line ends
/// and tabs stay. JSON stays JSON of the same value: it has none of them outside its strings.
pub fn visible(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut before = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let after = chars.peek().map(|(_, c)| *c);
        // The line ends of a file from Windows.
        let ends_line = c == '\r' && after == Some('\n');
        if ends_line || is_hidden(before, c, after) {
            out.push_str(&text[kept..at]);
            kept = at + c.len_utf8();
            if !ends_line {
                escape(&mut out, c);
            }
        }
        before = Some(c);
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

fn escape(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// Whether a terminal acts on a character, or shows nothing of it.
fn is_hidden(before: Option<char>, c: char, after: Option<char>) -> bool {
    let foreign = |c: Option<char>| c.is_some_and(|c| !c.is_ascii());
    match c {
        '\n' | '\t' => false,
        _ if c.is_control() => true,
        _ if c.is_ascii() => false,
        // Joiners make one sign of several, in emoji and in Persian and Indic words; between ASCII they only hide.
        '\u{200c}' | '\u{200d}' => !(foreign(before) && foreign(after)),
        // A variation of the character before, of which there is one.
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => {
            !foreign(before) || before.is_some_and(is_variation)
        }
        // Marks of direction, their overrides and isolates.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Spaces without width, ends of lines that not every program counts, shapes that are not drawn.
        '\u{ad}' | '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{2028}' | '\u{2029}' => true,
        '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' => true,
        '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}' => true,
        '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => true,
        // Tags, which spell hidden words, and what XML has no characters for.
        '\u{e0000}'..='\u{e0fff}' | '\u{fdd0}'..='\u{fdef}' => true,
        _ => c as u32 & 0xfffe == 0xfffe,
    }
}

fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// The text, or its beginning and its end around the number of bytes left out, where it has more than `most`.
///
/// The end stays because messages say there what to do.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let (head, tail) = (most - most / 4, most / 4);
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=head).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - tail..text.len())
        .find(boundary)
        .unwrap_or(text.len());
    Cow::Owned(format!(
        "{} … {} more bytes … {}",
        &text[..head],
        thousands(tail - head),
        &text[tail..]
    ))
}

/// A message of bounded size: every line at most [`LINE`] bytes, the whole at most [`MESSAGE`].
pub fn bounded(text: String) -> String {
    lines(text, LINE)
}

/// As [`bounded`], of a message put together from such: a line has room for some of them, so that what a cut counts stays.
pub fn joined(text: String) -> String {
    lines(text, MESSAGE / 2)
}

fn lines(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(|line| cut(line, most)).collect();
    let text = lines.join("\n");
    // The words that tell of a cut are no part of the measure.
    match text.len() > MESSAGE + LINE {
        true => cut(&text, MESSAGE).into_owned(),
        false => text,
    }
}

/// A text of others as a piece of one line: as [`visible`], of one line, and of bounded size.
pub fn piece(text: &str) -> String {
    let text = cut(text, LINE);
    let text = visible(&text);
    text.replace('\n', "\\n").replace('\t', " ")
}

/// A text of others within Markdown, in a table or outside, where it shows as it is.
///
/// It becomes no HTML, link, image, emphasis or code, and begins no other cell or line. GitHub links e-mail
/// addresses however they are escaped: those stay.
pub fn markdown(text: &str) -> String {
    let text = cut(text, LINE);
    let text = visible(&text);
    let mut out = String::with_capacity(text.len());
    let mut before: Option<char> = None;
    for (at, c) in text.char_indices() {
        let rest = &text[at + c.len_utf8()..];
        let after = rest.chars().next();
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        match c {
            '\n' | '\t' => out.push(' '),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' | '`' | '*' | '~' => out.extend(['\\', c]),
            // Within a word it emphasises nothing.
            '_' if !(word(before) && word(after)) => out.extend(['\\', c]),
            // GitHub makes links of `https://` and `www.` alone.
            ':' if rest.starts_with("//") => out.extend(['\\', c]),
            '.' if ends_www(&text[..at]) => out.extend(['\\', c]),
            // `](` makes a link or an image, `][` one by reference, `]:` the reference.
            ']' if matches!(after, Some('(' | '[' | ':')) => out.extend(['\\', c]),
            // It would take the meaning of what follows; of a path's separator there is nothing to take.
            '\\' if after.is_none_or(|c| c.is_ascii_punctuation()) => out.push_str("&#92;"),
            _ => out.push(c),
        }
        before = Some(c);
    }
    out
}

fn ends_www(text: &str) -> bool {
    text.len() >= 3 && text.as_bytes()[text.len() - 3..].eq_ignore_ascii_case(b"www")
}

/// A cell of CSV (RFC 4180), which no spreadsheet takes for a formula.
///
/// A text that begins like one gets `'` before it, as OWASP advises; numbers stay numbers. So does every part of it after
/// a semicolon, a tab or a line's end: spreadsheets of some countries split cells there, quoted or not.
pub fn csv_cell(text: &str) -> Cow<'_, str> {
    const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
    let splits = |c: char| matches!(c, ';' | '\t' | '\r' | '\n');
    let mut safe = String::with_capacity(text.len());
    for part in text.split_inclusive(splits) {
        let begins = part.trim_start_matches('"').starts_with(FORMULA);
        if (begins && part.trim_end_matches(splits).parse::<f64>().is_err())
            || (safe.is_empty() && part.starts_with(splits) && !part.starts_with(';'))
        {
            safe.push('\'');
        }
        safe.push_str(part);
    }
    let text = match safe == text {
        true => Cow::Borrowed(text),
        false => Cow::Owned(safe),
    };
    if text.contains([',', '"', '\n', '\r']) || text.starts_with('\'') {
        return Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")));
    }
    text
}

/// A number with commas between its thousands.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(visible("\u{1b}]0;owned\u{7}x"), "\\u001b]0;owned\\u0007x");
        assert_eq!(visible("a\u{9b}31mb\u{7f}"), "a\\u009b31mb\\u007f");
        assert_eq!(visible("over\rwritten"), "over\\u000dwritten");
        assert_eq!(visible("user\u{202e}txt.exe"), "user\\u202etxt.exe");
        for c in "\0\u{8}\u{b}\u{c}\u{85}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2066}\u{2069}\u{feff}\u{ad}\u{3164}\u{fffe}\u{ffff}"
            .chars()
        {
            let text = format!("a{c}b");
            assert!(visible(&text).is_ascii() && visible(&text).len() == 8, "{c:?}");
        }
        // A hidden word in tags, two units each.
        assert_eq!(visible("a\u{e0041}"), "a\\udb40\\udc41");
    }

    #[test]
    fn readable_text_stays_as_it_is() {
        for text in [
            "",
            "plain\n\ttext",
            "Grüße, 你好, שלום",
            "👩\u{200d}💻 ❤\u{fe0f}",
            "می\u{200c}خواهم",
            "葛\u{e0100}",
            "é e\u{301}",
        ] {
            assert!(matches!(visible(text), Cow::Borrowed(_)), "{text:?}");
        }
        assert_eq!(visible("from\r\nWindows\r\n"), "from\nWindows\n");
        // Joiners that join nothing, and a second variation.
        assert_eq!(visible("pay\u{200d}pal"), "pay\\u200dpal");
        assert_eq!(visible("❤\u{fe0f}\u{fe0e}"), "❤\u{fe0f}\\ufe0e");
        assert_eq!(visible("a\u{e0101}"), "a\\udb40\\udd01");
    }

    #[test]
    fn json_stays_json_of_the_same_value() {
        let value = serde_json::json!({"a\u{9b}": ["\u{202e}\u{7f}", "\u{e0041}", "\u{1b}"]});
        for text in [value.to_string(), format!("{value:#}")] {
            let shown = visible(&text);
            assert!(shown.is_ascii(), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        assert_eq!(cut("short", 5), "short");
        let said = cut(&"x".repeat(100_000_000), 1000).into_owned();
        assert!(said.contains("x … 99,999,000 more bytes … x"), "{said}");
        // Between characters, of whatever width.
        for most in 8..40 {
            let text = "añ你👩".repeat(20);
            let said = cut(&text, most).into_owned();
            let kept: usize = said.split(" … ").step_by(2).map(str::len).sum();
            assert!(
                kept <= most && said.contains(&format!(" {} more bytes", text.len() - kept)),
                "{said}"
            );
        }
    }

    #[test]
    fn a_message_is_bounded_by_line_and_whole() {
        let said = bounded(format!("a.json: {}: delete it\nsecond", "x".repeat(1 << 20)));
        assert!(said.len() < LINE + 100, "{}", said.len());
        assert!(
            said.starts_with("a.json: xx") && said.ends_with("xx: delete it\nsecond"),
            "{said}"
        );
        let said = bounded("line\n".repeat(1 << 20));
        assert!(
            said.len() < MESSAGE + 100 && said.contains("more bytes"),
            "{}",
            said.len()
        );
        let two = "y".repeat(LINE) + "\n" + &"z".repeat(LINE);
        assert_eq!(bounded(two.clone()), two);
        // A message within another keeps its number.
        let said = joined(format!("{}: {}", "p".repeat(900), bounded("m".repeat(1 << 20))));
        assert!(said.contains(" … 1,047,552 more bytes … "), "{said}");
        assert!(joined("j".repeat(1 << 20)).len() < MESSAGE);
    }

    #[test]
    fn a_name_in_markdown_is_text() {
        assert_eq!(
            markdown("runs/eval_base-1 (m = 16) [95%]"),
            "runs/eval_base-1 (m = 16) [95%]"
        );
        assert_eq!(markdown("a|b`c`*d*"), "a\\|b\\`c\\`\\*d\\*");
        assert_eq!(
            markdown("<img src=x onerror=alert(1)>"),
            "&lt;img src=x onerror=alert(1)&gt;"
        );
        assert_eq!(markdown("&lt;b&gt;"), "&amp;lt;b&amp;gt;");
        assert_eq!(
            markdown("![x](http://a) [y][z] [q]: u"),
            "![x\\](http\\://a) [y\\][z] [q\\]: u"
        );
        assert_eq!(markdown("x\n# head\n| c"), "x # head \\| c");
        assert_eq!(markdown("\u{1b}[31m\u{202e}"), "\\u001b[31m\\u202e");
        // A backslash of the name does not undo one of ours.
        assert_eq!(markdown("a\\|b\\"), "a&#92;\\|b&#92;");
        assert_eq!(markdown("C:\\runs\\tea"), "C:\\runs\\tea");
        assert_eq!(markdown("~~x~~ ~s~ ~/runs"), "\\~\\~x\\~\\~ \\~s\\~ \\~/runs");
        assert_eq!(markdown("_it_ __b__ a_b"), "\\_it\\_ \\_\\_b\\_\\_ a_b");
        assert_eq!(
            markdown("https://a.b www.a.b WWW.c 1:2"),
            "https\\://a.b www\\.a.b WWW\\.c 1:2"
        );
        assert!(markdown(&"<".repeat(1 << 20)).len() < 5 * LINE);
    }

    #[test]
    fn a_cell_is_no_formula() {
        assert_eq!(csv_cell("=1+1"), "\"'=1+1\"");
        assert_eq!(csv_cell("=cmd|' /C calc'!A0"), "\"'=cmd|' /C calc'!A0\"");
        assert_eq!(csv_cell("=A1,\"x\""), "\"'=A1,\"\"x\"\"\"");
        for text in ["+1+1", "-1-1", "@SUM(A1)", "\tx", "\rx", "＝1"] {
            assert_eq!(csv_cell(text), format!("\"'{text}\""));
        }
        for text in ["-0.25", "+3", "-1e-3", "-inf", "a=b", "", "a-b"] {
            assert_eq!(csv_cell(text), text);
        }
        assert_eq!(csv_cell("a,b"), "\"a,b\"");
        assert_eq!(csv_cell("x;=cmd|' /C calc'!A0"), "x;'=cmd|' /C calc'!A0");
        assert_eq!(csv_cell("x;\"=1\""), "\"x;'\"\"=1\"\"\"");
        assert_eq!(csv_cell("x\t+1+1"), "x\t'+1+1");
        assert_eq!(csv_cell("a;-3;b - c"), "a;-3;b - c");
    }

    #[test]
    fn a_piece_is_one_line() {
        assert_eq!(piece("a\nerror: b\r\nc\td"), "a\\nerror: b\\nc d");
        assert!(piece(&"\u{1b}".repeat(1 << 20)).len() < 7 * LINE);
    }
}
