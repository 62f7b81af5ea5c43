//! The connection to a hub: who is asked, how patiently, and who is shown the access token.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::{Agent, Body};

use super::address::Address;
use super::answer::{self, Asked, Fault, Listing, Metadata, Next, Trouble, failed, quoted};
use super::settings::HubSettings;
use crate::error::{Error, Result};
use crate::file::limits::{HUB_HEADERS, HUB_LISTING};
use crate::report::progress::Progress;
use crate::web::{self, Deadline};

/// Most redirects from one question to its answer.
const REDIRECTS: usize = 10;
/// What tries may cost after the first: one each, two where the hub took its time to fail.
const TRIES: u32 = 2;
/// Wait before another try; it doubles with each.
const WAIT: Duration = Duration::from_millis(500);
/// Most time for a list of files.
const LISTING_TIME: Duration = Duration::from_secs(120);
/// How often a question and its redirects may take as long as one answer.
const PATIENT: u32 = 3;
/// How often a read of a body may take as long as one of the connection.
const READING: u32 = 2;
/// Bytes a second below which a server counts as one that does not answer.
const SLOWEST: f64 = 1024.0;

/// A client of one hub.
pub(super) struct Client {
    /// The hub's address. The token goes to its origin alone.
    base: Address,
    token: Option<String>,
    agent: Agent,
    metadata_patience: Duration,
    download_patience: Duration,
    /// Whether the server answers HEAD, as far as is known.
    heads: Cell<bool>,
}

/// What tries may still cost.
pub(super) struct Tries {
    left: u32,
    wait: Duration,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self {
            left: TRIES,
            wait: WAIT,
        }
    }

    /// Waits for another try, or says why there is none.
    pub(super) fn another(&mut self, trouble: Trouble) -> Result<(), Fault> {
        match trouble {
            Trouble::Final(fault) => Err(fault),
            Trouble::Again { why, cost, .. } if cost > self.left => Err(Fault::Failed(why)),
            Trouble::Again { why, wait, cost } => {
                self.left -= cost;
                let wait = wait.unwrap_or(self.wait);
                log::warn!("hub: {why}; trying again in {:.1} s", wait.as_secs_f64());
                std::thread::sleep(wait);
                self.wait = self.wait.saturating_mul(2);
                Ok(())
            }
        }
    }
}

/// Does `what` until it succeeds or no other try is left.
fn patiently<T>(mut what: impl FnMut() -> Result<T, Trouble>) -> Result<T, Fault> {
    let mut tries = Tries::new();
    loop {
        match what() {
            Ok(done) => return Ok(done),
            Err(trouble) => tries.another(trouble)?,
        }
    }
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// The settings are no such, or the environment's proxy is none.
    pub(super) fn new(settings: &HubSettings) -> Result<Self> {
        let headers = usize::try_from(HUB_HEADERS.most()).unwrap_or(usize::MAX);
        let (metadata, download) = (settings.metadata_patience()?, settings.download_patience()?);
        // Redirects are followed here, where it is known who may see the token.
        let agent = web::agent(|builder| {
            builder
                .max_response_header_size(headers)
                .timeout_resolve(Some(metadata))
                .timeout_connect(Some(metadata))
                .timeout_send_request(Some(metadata))
        })?;
        Ok(Self {
            base: settings.address()?,
            token: settings.checked_token()?,
            agent,
            metadata_patience: metadata,
            download_patience: download,
            heads: Cell::new(true),
        })
    }

    /// How long to wait for the next piece of a file.
    pub(super) fn patience(&self) -> Duration {
        self.download_patience
    }

    /// The address of something on the hub; `path` is escaped.
    pub(super) fn address(&self, path: &str) -> Address {
        self.base.below(path)
    }

    /// Asks one question. The token goes along where it is `trusted` that `at` is an address of the hub.
    fn send(&self, asked: &Question, at: &Address, trusted: bool) -> Result<Response<Body>, Trouble> {
        let mut request = match asked {
            Question::Head => self.agent.head(at.full()),
            _ => self.agent.get(at.full()),
        };
        if let Some(token) = self
            .token
            .as_ref()
            .filter(|_| trusted && at.origin == self.base.origin)
        {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = asked.range() {
            request = request.header("Range", range);
        }
        let (patience, total) = match asked {
            Question::Head | Question::FirstByte => (self.metadata_patience, None),
            Question::Listing => (self.metadata_patience, Some(LISTING_TIME)),
            Question::Bytes(_) => (self.download_patience, None),
        };
        let request = request
            .config()
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_global(total)
            .build();
        request.call().map_err(|e| trouble(e, at))
    }

    /// As [`Client::send`], following redirects. Once a redirect has left the hub, the token stays behind.
    pub(super) fn get(&self, asked: &Question, at: &Address) -> Result<(Response<Body>, Address), Trouble> {
        let (mut at, mut trusted) = (at.clone(), true);
        let begun = Instant::now();
        for _ in 0..=REDIRECTS {
            in_time(begun, self.download_patience, &at)?;
            trusted &= at.origin == self.base.origin;
            let response = self.send(asked, &at, trusted)?;
            match answer::redirect(response.status().as_u16(), response.headers(), &at)? {
                None => return Ok((response, at)),
                Some(to) => at = to,
            }
        }
        Err(too_many(&at))
    }

    /// What the hub says of a file; or that there is none, and in which commit.
    pub(super) fn metadata(&self, at: &Address) -> Result<Result<Metadata, Option<String>>, Fault> {
        patiently(|| {
            let mut at = at.clone();
            let (mut redirects, begun) = (0, Instant::now());
            while redirects <= REDIRECTS {
                in_time(begun, self.metadata_patience, &at)?;
                let (asked, question) = match self.heads.get() {
                    true => (Asked::Head, Question::Head),
                    false => (Asked::FirstByte, Question::FirstByte),
                };
                let response = self.send(&question, &at, true)?;
                match answer::metadata(asked, response.status().as_u16(), response.headers(), &at)? {
                    Next::File(metadata) => return Ok(Ok(metadata)),
                    Next::Absent(commit) => return Ok(Err(commit)),
                    Next::NoHead => self.heads.set(false),
                    Next::Follow(to) => (at, redirects) = (to, redirects + 1),
                }
            }
            Err(too_many(&at))
        })
    }

    /// What files a repository has.
    pub(super) fn listing(&self, at: &Address) -> Result<Listing, Fault> {
        patiently(|| {
            let (response, at) = self.get(&Question::Listing, at)?;
            let status = response.status().as_u16();
            if status != 200 {
                return Err(answer::refusal(status, response.headers(), &at));
            }
            answer::refuse_encoding(response.headers(), &at)?;
            let most = HUB_LISTING.most();
            let mut pace = Pace::new(self.metadata_patience, LISTING_TIME);
            let (mut body, mut piece) = (Vec::new(), vec![0; 64 << 10]);
            let mut reader = response.into_body().into_reader();
            // The list is short for most, and its length is not always said.
            let _waiting = Progress::waiting("asking the hub for its list of files");
            loop {
                match pace.read(&mut reader, &mut piece, &at)? {
                    0 => break,
                    n => body.extend_from_slice(&piece[..n]),
                }
                if body.len() as u64 > most {
                    return Err(Fault::Other(HUB_LISTING.exceeded("the hub's list of files")).into());
                }
            }
            answer::listing(&body).map_err(|e| failed(e.to_string()))
        })
    }
}

/// What is asked of a server.
pub(super) enum Question {
    /// What a file is.
    Head,
    /// The same, of a server that does not know HEAD.
    FirstByte,
    /// What files there are.
    Listing,
    /// A file's bytes from this one on.
    Bytes(u64),
}

impl Question {
    fn range(&self) -> Option<String> {
        match self {
            Self::FirstByte => Some("bytes=0-0".into()),
            Self::Bytes(from) if *from > 0 => Some(format!("bytes={from}-")),
            _ => None,
        }
    }
}

/// Ends a chain of redirects each of which takes its time.
fn in_time(begun: Instant, patience: Duration, at: &Address) -> Result<(), Trouble> {
    match begun.elapsed() > patience.saturating_mul(PATIENT) {
        true => Err(failed(format!(
            "{} is too slow: it redirects and redirects",
            at.origin
        ))),
        false => Ok(()),
    }
}

fn too_many(at: &Address) -> Trouble {
    failed(format!(
        "more than {REDIRECTS} redirects, the last one to {}",
        at.origin
    ))
}

/// How fast a body comes. A server that sends a byte now and then is one that does not answer.
pub(super) struct Pace {
    patience: Duration,
    end: Instant,
    since: Instant,
    bytes: usize,
}

impl Pace {
    /// Begins now; the body must have come within `total`.
    pub(super) fn new(patience: Duration, total: Duration) -> Self {
        let now = Instant::now();
        Self {
            patience,
            end: now.checked_add(total).unwrap_or(now),
            since: now,
            bytes: 0,
        }
    }

    /// The next piece of a body that comes from `at`; 0 at its end.
    pub(super) fn read(
        &mut self,
        body: &mut impl Read,
        piece: &mut [u8],
        at: &Address,
    ) -> Result<usize, Trouble> {
        let n = {
            // It returns when some of the body is there, whatever else comes meanwhile. TLS has up to 16 KiB together.
            let left = self.end.saturating_duration_since(Instant::now());
            let _end = Deadline::after(left.min(self.patience.saturating_mul(READING)));
            body.read(piece).map_err(|e| cut(e, at))?
        };
        let (now, waited) = (Instant::now(), self.since.elapsed());
        self.bytes += n;
        if n > 0 && now > self.end {
            return Err(failed(format!(
                "{} is too slow: the time for the whole answer is over",
                at.origin
            )));
        }
        if n > 0 && waited >= self.patience {
            if (self.bytes as f64) < SLOWEST * waited.as_secs_f64() {
                return Err(failed(format!(
                    "{} is too slow: {} bytes came in {:.0} s",
                    at.origin,
                    self.bytes,
                    waited.as_secs_f64()
                )));
            }
            (self.since, self.bytes) = (now, 0);
        }
        Ok(n)
    }
}

/// What a failed request means.
fn trouble(e: ureq::Error, at: &Address) -> Trouble {
    use ureq::Error as E;
    match e {
        E::Timeout(_) => slow(at),
        E::Io(e) => cut(e, at),
        E::LargeResponseHeader(..) => Fault::Other(HUB_HEADERS.exceeded(&at.origin)).into(),
        E::HostNotFound => failed(format!("{}: no such host", at.origin)),
        e => failed(format!("{}: {}", at.origin, quoted(&e.to_string()))),
    }
}

fn slow(at: &Address) -> Trouble {
    Trouble::Again {
        why: format!("{} does not answer (time-out)", at.origin),
        wait: None,
        cost: TRIES,
    }
}

/// What it means that a connection failed or broke.
fn cut(e: io::Error, at: &Address) -> Trouble {
    use io::ErrorKind as K;
    if let Some(E::Timeout(_)) = e.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>()) {
        return slow(at);
    }
    use ureq::Error as E;
    let why = format!("{}: {}", at.origin, quoted(&e.to_string()));
    match e.kind() {
        K::TimedOut | K::WouldBlock => slow(at),
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof | K::Interrupted => {
            Trouble::Again {
                why,
                wait: None,
                cost: 1,
            }
        }
        _ => failed(why),
    }
}

/// An error of the disk.
pub(super) fn disk(path: &std::path::Path) -> impl Fn(io::Error) -> Fault + '_ {
    move |e| Fault::Other(Error::io(path)(e))
}
