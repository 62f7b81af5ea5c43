//! What a hub's answers say, checked before anything is done about them. Pure: no network, no files.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::address::Address;
use super::cache;
use super::names::{Etag, is_commit, is_plain};
use crate::error::{Error, Result};
use crate::file::limits::{HUB_FILES, HUB_LISTING};
use crate::words::secret;

/// Longest wait before another try, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Most characters of foreign text in a message.
const QUOTED: usize = 80;

/// Why there is no file.
#[derive(Debug)]
pub enum Fault {
    /// The hub has none of that name (404).
    Absent,
    /// The hub refuses it (401, 403).
    Refused,
    /// The hub, or what stands in its place, did not give it: why, in words.
    Failed(String),
    /// Something else than the hub is at fault: settings, the disk, a limit.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

/// Why a try came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Worth another try, after a wait where the server asks for one. A time-out costs more than a refusal.
    Again {
        why: String,
        wait: Option<Duration>,
        cost: u32,
    },
    /// No other try can mend it.
    Final(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

/// A failure in words that no other try can mend.
pub(super) fn failed(why: impl Into<String>) -> Trouble {
    Trouble::Final(Fault::Failed(why.into()))
}

/// Text of others in a message: without keys, escaped and cut.
pub(crate) fn quoted(text: &str) -> String {
    // Half of a key would not be known for one.
    let text = &secret::masked(text.to_string());
    let cut = text.char_indices().nth(QUOTED).map(|(at, _)| at);
    match cut {
        Some(at) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// What a hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The commit that the revision stands for.
    pub commit: String,
    /// The hash of its contents.
    pub etag: Etag,
    /// Bytes.
    pub size: Option<u64>,
    /// Where its contents are.
    pub location: Address,
}

/// How a file's metadata were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// By HEAD.
    Head,
    /// By GET for the first byte, of a server that knows no HEAD.
    FirstByte,
}

/// What an answer to a question about a file leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The file is there.
    File(Metadata),
    /// The same question is asked there.
    Follow(Address),
    /// There is no such file; in this commit, where the hub says so.
    Absent(Option<String>),
    /// The server knows no HEAD.
    NoHead,
}

/// The one value of a header.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Trouble> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|v| v != first) {
        return Err(failed(format!("the answer has several headers {name}")));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(failed(format!("the answer's header {name} is not plain text"))),
    }
}

/// A header that is a number of bytes.
fn length(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Trouble> {
    let Some(text) = header(headers, name)? else {
        return Ok(None);
    };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.map(Some).ok_or_else(|| {
        let text = quoted(text);
        failed(format!(
            "the answer's {name} is {text}, which is no size of a file"
        ))
    })
}

/// The first byte and the total of a Content-Range, as far as they are said.
type Range = (Option<u64>, Option<u64>);

fn content_range(headers: &HeaderMap) -> Result<Option<Range>, Trouble> {
    let Some(text) = header(headers, "content-range")? else {
        return Ok(None);
    };
    let refused = || {
        let text = quoted(text);
        failed(format!(
            "the answer's Content-Range is {text}, which is no range of a file"
        ))
    };
    let number = |text: &str| match text.parse::<u64>() {
        Ok(n) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => Err(refused()),
    };
    let (range, total) = text
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(refused)?;
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let first = match range.split_once('-') {
        None if range == "*" => None,
        None => return Err(refused()),
        Some((first, last)) => {
            number(last)?;
            Some(number(first)?)
        }
    };
    Ok(Some((first, total)))
}

/// Where a redirect leads, if the answer is one.
pub(super) fn redirect(status: u16, headers: &HeaderMap, at: &Address) -> Result<Option<Address>, Trouble> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = header(headers, "location")? else {
        return Err(failed(format!(
            "{} redirects (status {status}) without saying where to",
            at.origin
        )));
    };
    let to = at
        .join(location)
        .map_err(|why| failed(format!("{} redirects to an address that {why}", at.origin)))?;
    if !at.may_lead_to(&to) {
        return Err(failed(format!(
            "{} redirects to {}, from https to http, which is not followed",
            at.origin, to.origin
        )));
    }
    Ok(Some(to))
}

/// Sorts out the statuses that end a try, whatever was asked for.
pub(super) fn refusal(status: u16, headers: &HeaderMap, at: &Address) -> Trouble {
    match status {
        404 => Fault::Absent.into(),
        401 | 403 => Fault::Refused.into(),
        408 | 429 | 500..=599 => {
            let seconds = headers
                .get("retry-after")
                .and_then(|v| v.to_str().ok()?.trim().parse().ok());
            Trouble::Again {
                why: format!("{} answers with status {status}", at.origin),
                wait: seconds.map(|s| Duration::from_secs(s).min(LONGEST_WAIT)),
                cost: 1,
            }
        }
        _ => failed(format!("{} answers with status {status}", at.origin)),
    }
}

/// What an answer to a question about a file leads to. `at` is where it was asked, an address of the hub itself.
pub(super) fn metadata(
    asked: Asked,
    status: u16,
    headers: &HeaderMap,
    at: &Address,
) -> Result<Next, Trouble> {
    let to = redirect(status, headers, at)?;
    match status {
        405 | 501 if asked == Asked::Head => return Ok(Next::NoHead),
        404 => {
            let of_file = header(headers, "x-error-code")? == Some("EntryNotFound");
            let commit = header(headers, "x-repo-commit")?.filter(|c| of_file && is_commit(c));
            return Ok(Next::Absent(commit.map(str::to_ascii_lowercase)));
        }
        200 | 206 => {}
        // A file without bytes has no first one.
        416 if asked == Asked::FirstByte => {}
        _ if to.is_some() => {}
        _ => return Err(refusal(status, headers, at)),
    }
    let linked = header(headers, "x-linked-etag")?;
    if let Some(to) = &to
        && to.origin == at.origin
        && linked.is_none()
    {
        return Ok(Next::Follow(to.clone()));
    }
    let who = match &to {
        Some(to) => format!("{}, which redirects to {},", at.origin, to.origin),
        None => at.origin.to_string(),
    };
    let portal =
        "a proxy or the log-in page of a network may answer in the hub's place, or HF_ENDPOINT names no hub";
    let Some(commit) = header(headers, "x-repo-commit")? else {
        return Err(failed(format!(
            "{who} does not say of which commit the file is (X-Repo-Commit): {portal}"
        )));
    };
    if !is_commit(commit) {
        let commit = quoted(commit);
        return Err(failed(format!(
            "{who} names the commit {commit}, where 40 hexadecimal digits are needed"
        )));
    }
    let Some(text) = linked.map_or_else(|| header(headers, "etag"), |l| Ok(Some(l)))? else {
        return Err(failed(format!(
            "{who} does not say what the file's hash is (ETag): {portal}"
        )));
    };
    let Some(etag) = Etag::parse(text) else {
        let text = quoted(text);
        return Err(failed(format!(
            "{who} names the file's hash {text} (ETag), where 40 or 64 hexadecimal digits are needed"
        )));
    };
    let size = match (length(headers, "x-linked-size")?, asked) {
        (Some(size), _) => Some(size),
        (None, _) if to.is_some() || is_encoded(headers)? => None,
        (None, Asked::Head) => length(headers, "content-length")?,
        (None, Asked::FirstByte) => match content_range(headers)? {
            Some((_, total)) => total,
            None if status == 200 => length(headers, "content-length")?,
            None => None,
        },
    };
    Ok(Next::File(Metadata {
        commit: commit.to_ascii_lowercase(),
        etag,
        size,
        location: to.unwrap_or_else(|| at.clone()),
    }))
}

/// Whether the body is compressed on its way.
fn is_encoded(headers: &HeaderMap) -> Result<bool, Trouble> {
    let encoding = header(headers, "content-encoding")?;
    Ok(encoding.is_some_and(|e| !e.is_empty() && !e.eq_ignore_ascii_case("identity")))
}

/// Refuses a body that is compressed on its way, which was not asked for: its length and hash would say nothing.
pub(super) fn refuse_encoding(headers: &HeaderMap, at: &Address) -> Result<(), Trouble> {
    match is_encoded(headers)? {
        true => Err(failed(format!(
            "{} sends the answer compressed (Content-Encoding), which was not asked for",
            at.origin
        ))),
        false => Ok(()),
    }
}

/// What the head of an answer with a file's bytes says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The place of its first byte in the file.
    pub begin: u64,
    /// The file's bytes.
    pub total: u64,
}

/// Reads the head of an answer with bytes of `name` from `from` on. `None` where the file must be asked for from its
/// beginning.
pub(super) fn part(
    name: &str,
    size: Option<u64>,
    from: u64,
    status: u16,
    headers: &HeaderMap,
    at: &Address,
) -> Result<Option<Part>, Trouble> {
    if !matches!(status, 200 | 206 | 416) {
        return Err(refusal(status, headers, at));
    }
    refuse_encoding(headers, at)?;
    if status == 416 {
        return match from {
            0 => Err(refusal(status, headers, at)),
            _ => Ok(None),
        };
    }
    let page =
        header(headers, "content-type")?.is_some_and(|t| t.to_ascii_lowercase().starts_with("text/html"));
    if page && !name.ends_with(".html") {
        return Err(failed(format!(
            "{} sends a web page (text/html) in the file's place: the log-in page of a network, perhaps",
            at.origin
        )));
    }
    let body = length(headers, "content-length")?;
    let (begin, range_total) = match content_range(headers)?.filter(|_| status == 206) {
        Some((Some(begin), total)) => (begin, total),
        // Bytes of no known place are of no use after others.
        _ if status == 206 && from > 0 => return Ok(None),
        _ => (0, None),
    };
    if begin != from && begin != 0 {
        return Ok(None);
    }
    let sent = body
        .map(|b| b.checked_add(begin))
        .map(|end| end.ok_or_else(|| failed("the answer's size is no size of a file")));
    let sent = sent.transpose()?;
    let Some(total) = size.or(range_total).or(sent) else {
        return Err(failed(format!("{} does not say how long the file is", at.origin)));
    };
    // An answer may end before the file does, and then the rest is asked for.
    if range_total.is_some_and(|t| t != total) || sent.is_some_and(|end| end > total) {
        let other = range_total.filter(|t| *t != total).or(sent).unwrap_or_default();
        return Err(failed(format!(
            "{} sends a file of {other} bytes, where the hub says {total}",
            at.origin
        )));
    }
    Ok(Some(Part { begin, total }))
}

/// A repository's commit and the names of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stands for.
    pub commit: String,
    /// The files' names, all of them plain.
    pub names: Vec<String>,
}

/// Reads what a hub says of a repository.
///
/// # Errors
/// It is no such answer, its commit is none, a name could lead out of a directory, or it is larger than a limit.
pub fn listing(body: &[u8]) -> Result<Listing> {
    #[derive(Deserialize)]
    struct Answer {
        sha: String,
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    const PLACE: &str = "the hub's list of files";
    HUB_LISTING.check(PLACE, body.len())?;
    let Answer { sha, siblings } = serde_json::from_slice(body).map_err(|e| {
        // Not its text, which may quote the answer.
        let (line, column) = (e.line(), e.column());
        Error::user(format!(
            "{PLACE} cannot be read (line {line}, column {column}): no such answer of a hub"
        ))
    })?;
    HUB_FILES.check(PLACE, siblings.len())?;
    if !is_commit(&sha) {
        let sha = quoted(&sha);
        return Err(Error::user(format!(
            "{PLACE} names the commit {sha}, where 40 hexadecimal digits are needed"
        )));
    }
    let names: Vec<String> = siblings.into_iter().map(|s| s.rfilename).collect();
    if let Some(bad) = names.iter().find(|n| !is_plain(n)) {
        let bad = quoted(bad);
        return Err(Error::user(format!(
            "{PLACE} names {bad}, which is no plain name below a directory"
        )));
    }
    Ok(Listing {
        commit: sha.to_ascii_lowercase(),
        names,
    })
}

/// What would be done about an answer: for tests that invent answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Deed {
    /// Where the client would ask next, and whether the access token would go there.
    pub asked: Option<(String, bool)>,
    /// What would be written, below the repository's folder in the cache.
    pub written: Vec<PathBuf>,
}

/// What would be done about the answer of the hub at `endpoint` to each of the questions that are asked of one: what a file
/// is, its bytes, and what files there are. Errors are what the user would read.
///
/// # Errors
/// `endpoint` is no address; the answer is refused as each of them.
pub fn deeds(endpoint: &str, status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Result<Vec<Deed>> {
    let at = Address::parse(endpoint).map_err(Error::user)?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::from_bytes(value)) {
            // Fails where there are more headers than can be counted.
            let _ = map.try_append(name, value);
        }
    }
    let mut done = Vec::new();
    let mut refused = String::new();
    let asks = |to: &Address| Some((to.full(), to.origin == at.origin));
    for asked in [Asked::Head, Asked::FirstByte] {
        match metadata(asked, status, &map, &at) {
            Ok(Next::File(m)) => done.push(Deed {
                asked: asks(&m.location),
                written: cache::paths(&m.commit, "config.json", &m.etag).into(),
            }),
            Ok(Next::Follow(to)) => done.push(Deed {
                asked: asks(&to),
                written: Vec::new(),
            }),
            Ok(Next::Absent(_) | Next::NoHead) => {}
            Err(e) => refused = format!("{e:?}"),
        }
    }
    if let Err(e) = part("config.json", None, 1, status, &map, &at) {
        refused = format!("{e:?}");
    }
    match listing(body) {
        Ok(list) => done.push(Deed {
            asked: None,
            written: list
                .names
                .iter()
                .map(|name| cache::pointer(&list.commit, name))
                .collect(),
        }),
        Err(e) => refused = e.to_string(),
    }
    match done.is_empty() {
        true => Err(Error::user(refused)),
        false => Ok(done),
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
