//! A chat-completions endpoint and everything that can go wrong with it.

use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::manner::{self, Manner, Parameter, Sent};
use super::question::{Answer, parse};
use crate::error::{Error, Result};
use crate::rng::{Stream, seed_for};
use crate::web;
use crate::words::secret;

/// Shorter keys are words, which addresses may hold.
const LEAST_KEY: usize = 8;
/// Most bytes of an answer.
const BODY_LIMIT: u64 = 4 << 20;
/// Longest wait between two tries, whatever the server asks for; it is also waited no longer than
/// for an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Purpose of the stream that draws jitter.
const JITTER: u32 = 0x7177_e500;

/// Where to ask and how patiently.
#[derive(Clone)]
pub struct Endpoint {
    /// The server's address: with or without `/v1` or `/v1/chat/completions`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The key, sent as a bearer token. Never logged, stored or shown.
    pub key: Option<String>,
    /// Where the key came from, for messages.
    pub key_env: String,
    /// Most time for one answer, connecting and reading included.
    pub timeout: Duration,
    /// Tries after the first one, while the server is down, slow, overloaded or broken.
    pub retries: u32,
    /// Wait before the first retry; it doubles with each, ± jitter.
    pub backoff: Duration,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// What that limit may be raised to for a model that spends all of it before it answers;
    /// `max_tokens` where it is fixed.
    pub most_tokens: u32,
}

/// What one question led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The text of the answer, and whether it was cut at the limit of its tokens.
    Text(String, bool),
    /// All of this many tokens were spent before the answer began.
    Spent(u32),
    /// The server refuses this question (status and its message): too long, say.
    Refused(u16, String),
}

/// Why a try failed.
enum Failure {
    /// Worth another try, after this many seconds (not negative, not infinite) if the server says
    /// so.
    Passing(String, Option<f64>),
    /// No other try can mend it.
    Final(Error),
    /// This request is refused.
    Refused(u16, String),
    /// Parameters of the request are refused, each with whether its replacement would be too; and
    /// what the server said.
    Parameters(Vec<(Parameter, bool)>, String),
    /// The answer's tokens were spent before it began.
    Spent,
}

/// A client for one endpoint; shared between threads.
pub struct Client {
    endpoint: Endpoint,
    url: String,
    agent: Agent,
    /// What the server has refused so far, for all questions after.
    manner: Mutex<Manner>,
}

/// `…/v1/chat/completions` of a server's address.
///
/// # Errors
/// It is no http or https address, or holds a user name or password.
pub fn completions_url(address: &str) -> Result<String> {
    let address = address.trim().trim_end_matches('/');
    let rest = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"))
        .unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let plain = address.bytes().all(|b| b.is_ascii_graphic());
    if host.is_empty() || !plain || address.contains(['?', '#']) {
        return Err(Error::user(
            "--endpoint must be the address of an OpenAI-compatible server, such as http://127.0.0.1:8080 or \
             https://api.openai.com/v1",
        ));
    }
    if host.contains('@') {
        return Err(Error::user(
            "--endpoint holds a user name or password, which would be stored with the results: put the key into an environment \
             variable and name it with --api-key-env",
        ));
    }
    if address.ends_with("/chat/completions") {
        return Ok(address.to_string());
    }
    if address.ends_with("/v1") {
        return Ok(format!("{address}/chat/completions"));
    }
    Ok(format!("{address}/v1/chat/completions"))
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// As [`completions_url`]; a timeout of zero; a key that cannot be a header, or that the endpoint
    /// or the model's name holds; a proxy that is none.
    pub fn new(endpoint: Endpoint) -> Result<Self> {
        let url = completions_url(&endpoint.url)?;
        if endpoint.timeout.is_zero() {
            return Err(Error::user("--timeout must be more than 0 seconds"));
        }
        if let Some(key) = &endpoint.key
            && !key.bytes().all(|b| (0x21..0x7f).contains(&b))
        {
            return Err(Error::user(format!(
                "the key in {} holds spaces, line ends or other characters that no key has; set it again",
                endpoint.key_env
            )));
        }
        if let Some(key) = &endpoint.key {
            secret::keep(key);
            for (flag, text) in [("--endpoint", &url), ("--model", &endpoint.model)] {
                if key.len() >= LEAST_KEY && secret::holds(text, key) {
                    return Err(Error::user(format!(
                        "{flag} holds the key in {}, which would be stored with the results: leave it out there",
                        endpoint.key_env
                    )));
                }
            }
        }
        let agent = web::agent(|builder| builder.timeout_global(Some(endpoint.timeout)))?;
        Ok(Self {
            endpoint,
            url,
            agent,
            manner: Mutex::default(),
        })
    }

    /// Where it asks.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How the server is asked now.
    pub fn manner(&self) -> Manner {
        self.shared().clone()
    }

    /// Asks from now on as was found out before.
    pub fn set_manner(&self, manner: Manner) {
        *self.shared() = manner;
    }

    fn shared(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the next turn of a conversation, trying again while that may help. A parameter that
    /// the server refuses is replaced or left out from then on. `ticket` numbers the question; it
    /// decides the jitter.
    ///
    /// # Errors
    /// A user error that says what to do: the endpoint cannot be reached, refuses the key, has no such page or model, or keeps
    /// failing.
    pub fn ask(&self, messages: &[Value], ticket: u64) -> Result<Reply> {
        let mut jitter = Stream::new(seed_for(0, 0, ticket, 0), JITTER);
        // A server that does not say what it refuses may refuse JSON mode; the prompt asks for JSON
        // in words too.
        let mut plain = false;
        let (mut failures, mut last) = (0, String::new());
        loop {
            let mut manner = self.manner();
            let before = manner.clone();
            if plain {
                manner.response_format = Sent::LeftOut;
            }
            match self.attempt(messages, &manner) {
                Ok((text, cut)) => {
                    if plain {
                        let why = "the server answers only without it";
                        self.give_up(&[(Parameter::ResponseFormat, true)], &before, why);
                    }
                    return Ok(Reply::Text(text, cut));
                }
                Err(Failure::Spent) => match self.raise(&manner) {
                    true => {}
                    false => return Ok(Reply::Spent(manner.limit(self.endpoint.max_tokens))),
                },
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Parameters(refused, why)) => self.give_up(&refused, &manner, &why),
                Err(Failure::Refused(status, why)) => {
                    let left_out = manner.response_format == Sent::LeftOut;
                    if left_out || manner::is_about_size(&why.to_lowercase()) {
                        return Ok(Reply::Refused(status, why));
                    }
                    plain = true;
                }
                Err(Failure::Passing(why, wait)) => {
                    if failures >= self.endpoint.retries {
                        return Err(self.gave_up(&why, failures + 1));
                    }
                    let doubled = self.endpoint.backoff.saturating_mul(1 << failures.min(16));
                    let own = doubled.min(LONGEST_WAIT).mul_f64(jitter.random_range(0.5..1.5));
                    let asked = wait.map(|seconds| (seconds, LONGEST_WAIT.min(self.endpoint.timeout)));
                    let wait = match asked {
                        Some((seconds, most)) => Duration::from_secs_f64(seconds.min(most.as_secs_f64())),
                        None => own.min(LONGEST_WAIT),
                    };
                    let longer = match asked {
                        Some((seconds, most)) if seconds > most.as_secs_f64() => {
                            format!(
                                " (the server asks for {seconds:.0} s; no wait is longer than --timeout or {LONGEST_WAIT:?})"
                            )
                        }
                        _ => String::new(),
                    };
                    if why != last {
                        log::warn!(
                            "judge: {why}; trying again in {:.1} s{longer}",
                            wait.as_secs_f64()
                        );
                    }
                    (failures, last) = (failures + 1, why);
                    std::thread::sleep(wait);
                }
            }
        }
    }

    /// Replaces or leaves out parameters for all questions after, and says so once. `asked` is the
    /// manner of the question that found it out.
    fn give_up(&self, refused: &[(Parameter, bool)], asked: &Manner, why: &str) {
        let mut shared = self.shared();
        for (parameter, whole) in refused {
            if let Some(done) = shared.give_up(*parameter, asked, *whole) {
                log::warn!("judge: {done} for the rest of the run: {why}");
            }
        }
    }

    /// Raises the limit of an answer's tokens for all questions after; false where it is as high as
    /// it may be.
    fn raise(&self, asked: &Manner) -> bool {
        let (usual, most) = (self.endpoint.max_tokens, self.endpoint.most_tokens);
        let mut shared = self.shared();
        let was = asked.limit(usual);
        if asked.max_tokens == Sent::LeftOut || (was >= most && shared.limit(usual) <= was) {
            return false;
        }
        if shared.limit(usual) <= was {
            let now = was.saturating_mul(4).min(most);
            shared.raised_to = Some(now);
            log::warn!(
                "judge: all {was} tokens of an answer were spent before it began, as by a model that thinks first; {now} are \
                 allowed for the rest of the run"
            );
        }
        true
    }

    fn gave_up(&self, why: &str, tries: u32) -> Error {
        Error::user(format!(
            "the judge at {} did not answer after {tries} tries: {why}. Check --endpoint, and that the server runs and serves {:?} (llama.cpp: \
             `llama-server -m MODEL.gguf --port 8080`), or raise --timeout and --retries",
            self.url, self.endpoint.model
        ))
    }

    fn attempt(&self, messages: &[Value], manner: &Manner) -> Result<(String, bool), Failure> {
        let mut body = json!({"model": self.endpoint.model, "messages": messages});
        manner.fill(&mut body, self.endpoint.max_tokens);
        let body = body.to_string();
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        if let Some(key) = &self.endpoint.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .send(body.as_bytes())
            .map_err(|e| Failure::Passing(self.clean(&self.fault(&e)), None))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let wait = header("retry-after")
            .and_then(|v| v.trim().parse::<f64>().ok())
            .filter(|s| s.is_finite() && *s >= 0.0);
        if (300..400).contains(&status) {
            let to = header("location").map_or_else(String::new, |to| format!(" to {}", self.clean(to)));
            return Err(Failure::Final(Error::user(format!(
                "{} sends on{to} (HTTP {status}). Questions and the key go to --endpoint alone: give it the new address, if you \
                 trust that",
                self.url
            ))));
        }
        let text = self
            .text_of(&mut response)
            .map_err(|why| Failure::Passing(self.clean(&why), None));
        if status == 200 {
            let text = text?;
            if let Some(status) = status_within(&text) {
                return Err(self.refusal(status, &text, wait, manner));
            }
            return match content(&text) {
                Ok((text, true)) if is_unanswered(&text) => Err(Failure::Spent),
                answer => answer.map_err(|why| Failure::Passing(self.clean(&why), None)),
            };
        }
        Err(self.refusal(status, &text.unwrap_or_default(), wait, manner))
    }

    fn refusal(&self, status: u16, body: &str, wait: Option<f64>, manner: &Manner) -> Failure {
        let said = self.clean(&said(body));
        // llama.cpp's server answers with 500, others with 501, where a parameter is unknown.
        if matches!(status, 400 | 422 | 500 | 501) {
            let words = manner::words(body);
            if status == 400 && manner::is_spent(&words.to_lowercase()) {
                return Failure::Spent;
            }
            let value: Value = serde_json::from_str(body).unwrap_or_default();
            let refused = manner.refused(&value, &words);
            if !refused.is_empty() {
                return Failure::Parameters(refused, format!("the server refuses it (HTTP {status}{said})"));
            }
        }
        let (url, env) = (&self.url, &self.endpoint.key_env);
        match status {
            401 | 403 if self.endpoint.key.is_none() => Failure::Final(Error::user(format!(
                "{url} wants a key (HTTP {status}{said}): put it into the environment variable {env}, or name another with \
                 --api-key-env"
            ))),
            401 | 403 => Failure::Final(Error::user(format!(
                "{url} refuses the key in {env} (HTTP {status}{said}): set a valid one, or name another variable with --api-key-env"
            ))),
            404 | 405 => Failure::Final(Error::user(format!(
                "{url} is no chat-completions page, or does not know the model {:?} (HTTP {status}{said}): check --endpoint and \
                 --model",
                self.endpoint.model
            ))),
            408 | 425 | 429 | 500..=599 => Failure::Passing(format!("HTTP {status}{said}"), wait),
            // What one question can be at fault for: too long, or of a form the server cannot read.
            400 | 413 | 422 => Failure::Refused(status, said.trim_start_matches(": ").to_string()),
            _ => Failure::Final(Error::user(format!(
                "{url} refuses to judge (HTTP {status}{said}): check --endpoint, --model, and what the key in {env} may do"
            ))),
        }
    }

    /// The body, as text; what is not UTF-8 is replaced.
    fn text_of(&self, response: &mut Response<Body>) -> Result<String, String> {
        let encoding = response.headers().get("content-encoding");
        let encoding = encoding.map(|e| e.to_str().unwrap_or("unreadable").trim());
        if let Some(encoding) = encoding.filter(|e| !e.is_empty() && !e.eq_ignore_ascii_case("identity")) {
            return Err(format!(
                "the answer is compressed ({encoding}), which was not asked for"
            ));
        }
        // ureq's own limit counts bytes before they are decompressed, should it do that after all.
        let mut bytes = Vec::new();
        let reader = response.body_mut().as_reader();
        reader
            .take(BODY_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("the answer broke off: {}", self.fault(&ureq::Error::from(e))))?;
        if bytes.len() as u64 > BODY_LIMIT {
            return Err(format!("the answer has more than {} MiB", BODY_LIMIT >> 20));
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// What a failed exchange is about.
    fn fault(&self, error: &ureq::Error) -> String {
        match error {
            ureq::Error::Timeout(_) => {
                format!(
                    "no whole answer within {} s (--timeout)",
                    self.endpoint.timeout.as_secs_f64()
                )
            }
            other => other.to_string(),
        }
    }

    /// A text without the key, should a server repeat it.
    pub(super) fn without_key(&self, text: String) -> String {
        let text = match &self.endpoint.key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "[key]"),
            _ => text,
        };
        secret::masked(text)
    }

    /// A message of a server or library without the key, and of bounded length.
    fn clean(&self, text: &str) -> String {
        let text = self.without_key(text.to_string());
        match text.char_indices().nth(300) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// ": message" of an error's body, or nothing.
fn said(body: &str) -> String {
    let words = manner::words(body);
    if words.is_empty() {
        words
    } else {
        format!(": {words}")
    }
}

/// The status of an error that a server between (OpenRouter, say) hands on as a success.
fn status_within(body: &str) -> Option<u16> {
    let value: Value = serde_json::from_str(body).ok()?;
    let code = value.pointer("/error/code")?.as_u64()?;
    let code = u16::try_from(code).ok().filter(|c| (400..600).contains(c))?;
    value.get("choices").is_none().then_some(code)
}

/// The verdict of a server's whole answer, which anybody may have written.
///
/// # Errors
/// What is wrong with it, or what it says is wrong with the question.
pub fn read_answer(body: &[u8]) -> Result<Answer, String> {
    let body = String::from_utf8_lossy(body);
    if let Some(status) = status_within(&body) {
        return Err(format!("HTTP {status}{}", said(&body)));
    }
    parse(&content(&body)?.0)
}

/// Whether an answer that was cut has not begun: it is empty, or still within the model's thoughts.
fn is_unanswered(text: &str) -> bool {
    let after = text.rsplit("</think>").next().unwrap_or(text);
    after.trim().is_empty() || after.trim_start().starts_with("<think>")
}

/// The text of the first choice, and whether it was cut short.
fn content(body: &str) -> Result<(String, bool), String> {
    let value: Value = serde_json::from_str(body).map_err(|e| {
        format!("the server's answer is not JSON ({e}); is --endpoint a chat-completions server?")
    })?;
    let message = value.pointer("/choices/0/message").ok_or_else(|| {
        format!(
            "the server's answer has no choices[0].message{}",
            said(&value.to_string())
        )
    })?;
    let cut = value.pointer("/choices/0/finish_reason").and_then(Value::as_str) == Some("length");
    let text = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(part).collect(),
        // An empty answer is the judge's, not the server's.
        Some(Value::Null) | None => String::new(),
        Some(_) => return Err("the server's choices[0].message.content is not a text".to_string()),
    };
    Ok((text, cut))
}

/// The text of one part of an answer; nothing for a thought or an image.
fn part(part: &Value) -> Option<&str> {
    match part.get("type").and_then(Value::as_str) {
        None | Some("text" | "output_text") => {
            part.as_str().or_else(|| part.get("text").and_then(Value::as_str))
        }
        Some(_) => None,
    }
}
