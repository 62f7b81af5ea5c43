//! The pages for people hold: every link and anchor leads somewhere, every path of this repository that
//! a page names exists, lines fit in 100 columns, the two first pages are short, and every page below
//! `docs` is reached from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Pages at the top, with the most bytes each may have.
const FIRST: [(&str, usize); 4] = [
    ("README.md", 12 * 1024),
    ("ARCHITECTURE.md", 12 * 1024),
    ("CONTRIBUTING.md", 12 * 1024),
    ("CHANGELOG.md", usize::MAX),
];
/// Pages elsewhere.
const ELSEWHERE: [&str; 4] = [
    "benches/peers/README.md",
    "examples/README.md",
    "models/README.md",
    "tests/golden/README.md",
];
/// Diaries: what they say was true when it was written, so their lines and paths are not held to today.
const DIARIES: [&str; 2] = ["CHANGELOG.md", "docs/log.md"];
/// Columns of a line, outside tables and blocks of code.
const COLUMNS: usize = 100;
/// Where paths in backticks begin that must exist.
const ROOTS: [&str; 9] = [
    ".ci/",
    ".github/",
    "benches/",
    "docs/",
    "examples/",
    "models/",
    "shaders/",
    "src/",
    "tests/",
];

/// A page's lines with their numbers, without blocks of code.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// A line cut at backticks: even parts are text, odd parts are code.
fn parts(line: &str) -> Vec<&str> {
    line.split('`').collect()
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim().to_lowercase();
    let kept = words.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

/// Every anchor of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).into_iter().filter_map(|(_, line)| {
        let level = line.bytes().take_while(|b| *b == b'#').count();
        (level > 0).then(|| line[level..].strip_prefix(' ')).flatten()
    });
    headings
        .map(|heading| {
            let name = anchor(heading);
            let count = seen.entry(name.clone()).or_insert(0);
            *count += 1;
            match *count {
                1 => name,
                n => format!("{name}-{}", n - 1),
            }
        })
        .collect()
}

/// The targets of a line's links, code left out.
fn links(line: &str) -> Vec<String> {
    let text: String = parts(line)
        .iter()
        .enumerate()
        .map(|(i, part)| if i % 2 == 0 { *part } else { "" })
        .collect();
    let ends = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    ends.filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_string())
        .collect()
}

/// The path with its `..` taken away.
fn straight(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The paths of this repository that a line names in backticks. One with a placeholder is no path.
fn paths(line: &str) -> Vec<&str> {
    let code = parts(line).into_iter().skip(1).step_by(2);
    let words = code.flat_map(str::split_whitespace);
    words
        .filter(|word| ROOTS.iter().any(|root| word.starts_with(root)))
        .filter(|word| !word.contains(['<', '*', '{', '…', '$']))
        .map(|word| word.split([':', ',', '#']).next().unwrap_or(word))
        .collect()
}

struct Pages {
    root: PathBuf,
    text: BTreeMap<PathBuf, String>,
}

impl Pages {
    fn read() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut names: Vec<PathBuf> = FIRST.iter().map(|(name, _)| name.into()).collect();
        names.extend(ELSEWHERE.map(PathBuf::from));
        let mut directories = vec![PathBuf::from("docs")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(root.join(&directory)).unwrap() {
                let name = directory.join(entry.unwrap().file_name());
                if root.join(&name).is_dir() {
                    directories.push(name);
                } else if name.extension().is_some_and(|e| e == "md") {
                    names.push(name);
                }
            }
        }
        let text = names.into_iter().map(|name| {
            let text = fs::read_to_string(root.join(&name)).unwrap();
            (name, text)
        });
        Self {
            text: text.collect(),
            root,
        }
    }

    /// Where a link leads, as a page or file of this repository; `None` where it leads out of it.
    fn target(&self, page: &Path, link: &str) -> Option<(PathBuf, Option<String>)> {
        if link.contains("://") || link.starts_with("mailto:") {
            return None;
        }
        let (path, anchor) = match link.split_once('#') {
            Some((path, anchor)) => (path, Some(anchor.to_string())),
            None => (link, None),
        };
        let file = match path {
            "" => page.to_path_buf(),
            path => straight(&page.parent().unwrap_or(Path::new("")).join(path)),
        };
        Some((file, anchor))
    }

    fn leads(&self, page: &Path, link: &str) -> Result<(), String> {
        let Some((file, anchor)) = self.target(page, link) else {
            return Ok(());
        };
        if !self.text.contains_key(&file) && !self.root.join(&file).exists() {
            return Err(format!("{} does not exist", file.display()));
        }
        match (anchor, self.text.get(&file)) {
            (Some(anchor), Some(text)) if !anchors(text).contains(&anchor) => {
                Err(format!("{} has no heading #{anchor}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Everything that is wrong with a page, as `page:line: what`.
    fn faults(&self, page: &Path, text: &str) -> Vec<String> {
        let diary = DIARIES.iter().any(|d| page == Path::new(d));
        let mut bad = Vec::new();
        for (number, line) in prose(text) {
            let mut fault = |what: String| bad.push(format!("{}:{number}: {what}", page.display()));
            for link in links(line) {
                if let Err(why) = self.leads(page, &link) {
                    fault(format!("the link {link:?} leads nowhere: {why}"));
                }
            }
            let table = line.trim_start().starts_with('|');
            let columns = line.chars().count();
            if !diary && !table && columns > COLUMNS {
                fault(format!("{columns} columns; wrap at {COLUMNS}"));
            }
            for path in paths(line).into_iter().filter(|_| !diary) {
                if !self.root.join(path).exists() {
                    fault(format!("names `{path}`, which does not exist"));
                }
            }
        }
        bad
    }

    /// The pages that the first pages lead to, by any number of links.
    fn reached(&self) -> BTreeSet<PathBuf> {
        let mut reached: BTreeSet<PathBuf> = BTreeSet::new();
        let mut next: Vec<PathBuf> = FIRST.iter().map(|(name, _)| name.into()).collect();
        while let Some(page) = next.pop() {
            let Some(text) = self.text.get(&page).filter(|_| reached.insert(page.clone())) else {
                continue;
            };
            let all = prose(text).into_iter().flat_map(|(_, line)| links(line));
            next.extend(all.filter_map(|link| Some(self.target(&page, &link)?.0)));
        }
        reached
    }
}

#[test]
fn links_lead_somewhere_and_lines_fit() {
    let pages = Pages::read();
    let bad: Vec<String> = pages
        .text
        .iter()
        .flat_map(|(page, text)| pages.faults(page, text))
        .collect();
    assert!(bad.is_empty(), "{} faults:\n{}", bad.len(), bad.join("\n"));
}

#[test]
fn the_first_pages_are_short_and_lead_to_all_others() {
    let pages = Pages::read();
    for (name, most) in FIRST {
        let bytes = pages.text[Path::new(name)].len();
        assert!(
            bytes <= most,
            "{name} has {bytes} bytes; move details to docs/ ({most} at most)"
        );
    }
    let reached = pages.reached();
    let lost: Vec<&PathBuf> = pages
        .text
        .keys()
        .filter(|page| page.starts_with("docs") && !reached.contains(*page))
        .collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

#[test]
fn the_scanner_of_pages_sees_what_is_wrong() {
    let mut pages = Pages::read();
    let page = Path::new("docs/x.md");
    let faults = |text: &str| pages.faults(page, text);
    for good in [
        "[a](../README.md) [b](results.md) [c](https://example.org/x.md)",
        "```\n[a](nowhere.md) src/nowhere.rs\n```\n`[a](nowhere.md)`",
        "`src/lib.rs:3`, `src/<room>/x.rs`, `shaders/{a,b}.wgsl`, `nowhere.rs`, `cargo test`",
        &format!("| {} |", "x".repeat(200)),
    ] {
        assert_eq!(faults(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "[a](nowhere.md)",
        "[a](../README.md#nowhere)",
        "see `src/nowhere.rs`",
        &"x ".repeat(51),
    ] {
        assert_eq!(faults(bad).len(), 1, "{bad}");
    }
    pages
        .text
        .insert(page.to_path_buf(), "# Own\n## A `b` (c), d: e!\n## Own\n".into());
    assert_eq!(pages.leads(page, "#own"), Ok(()));
    assert_eq!(pages.leads(page, "#own-1"), Ok(()));
    assert_eq!(pages.leads(page, "#a-b-c-d-e"), Ok(()));
    assert!(pages.leads(page, "#b").is_err());
}
