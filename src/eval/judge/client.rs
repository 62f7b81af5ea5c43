//! A chat-completions endpoint and everything that can go wrong with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};
use ureq::Agent;

use crate::error::{Error, Result};
use crate::rng::{Stream, seed_for};

/// Most bytes of an answer.
const BODY_LIMIT: u64 = 4 << 20;
/// Longest wait between two tries, whatever the server asks for.
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
}

/// What one question led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The text of the answer, and whether it was cut at [`Endpoint::max_tokens`].
    Text(String, bool),
    /// The server refuses this question (status and its message): too long, say.
    Refused(u16, String),
}

/// Why a try failed.
enum Failure {
    /// Worth another try, after this long if the server says so.
    Passing(String, Option<Duration>),
    /// No other try can mend it.
    Final(Error),
    /// This request is refused.
    Refused(u16, String),
}

/// A client for one endpoint; shared between threads.
pub struct Client {
    endpoint: Endpoint,
    url: String,
    agent: Agent,
    /// Cleared once the server has answered only without `response_format`.
    json_mode: AtomicBool,
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
    if host.is_empty() || address.contains(['?', '#', ' ']) {
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
    /// As [`completions_url`]; a timeout of zero; a key that cannot be a header.
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
        let agent = Agent::config_builder()
            .timeout_global(Some(endpoint.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("tea-wgpu/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            endpoint,
            url,
            agent,
            json_mode: AtomicBool::new(true),
        })
    }

    /// Where it asks.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks for the next turn of a conversation, trying again while that may help. `ticket` numbers the question; it
    /// decides the jitter.
    ///
    /// # Errors
    /// A user error that says what to do: the endpoint cannot be reached, refuses the key, has no such page or model, or keeps
    /// failing.
    pub fn ask(&self, messages: &[Value], ticket: u64) -> Result<Reply> {
        let mut jitter = Stream::new(seed_for(0, 0, ticket, 0), JITTER);
        let mut json_mode = self.json_mode.load(Ordering::Relaxed);
        let (mut failures, mut last) = (0, String::new());
        loop {
            match self.attempt(messages, json_mode) {
                Ok((text, cut)) => {
                    self.json_mode.fetch_and(json_mode, Ordering::Relaxed);
                    return Ok(Reply::Text(text, cut));
                }
                Err(Failure::Final(error)) => return Err(error),
                // Some servers do not know response_format; the prompt asks for JSON in words too.
                Err(Failure::Refused(..)) if json_mode => {
                    json_mode = false;
                    continue;
                }
                Err(Failure::Refused(status, why)) => return Ok(Reply::Refused(status, why)),
                Err(Failure::Passing(why, wait)) => {
                    if failures >= self.endpoint.retries {
                        return Err(self.gave_up(&why, failures + 1));
                    }
                    let doubled = self.endpoint.backoff.saturating_mul(1 << failures.min(16));
                    let own = doubled.mul_f64(jitter.random_range(0.5..1.5));
                    let wait = wait.unwrap_or(own).min(LONGEST_WAIT);
                    if why != last {
                        log::warn!("judge: {why}; trying again in {:.1} s", wait.as_secs_f64());
                    }
                    (failures, last) = (failures + 1, why);
                    std::thread::sleep(wait);
                }
            }
        }
    }

    fn gave_up(&self, why: &str, tries: u32) -> Error {
        Error::user(format!(
            "the judge at {} did not answer after {tries} tries: {why}. Check --endpoint, and that the server runs and serves {:?} (llama.cpp: \
             `llama-server -m MODEL.gguf --port 8080`), or raise --timeout and --retries",
            self.url, self.endpoint.model
        ))
    }

    fn attempt(&self, messages: &[Value], json_mode: bool) -> Result<(String, bool), Failure> {
        let mut body = json!({
            "model": self.endpoint.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.endpoint.max_tokens,
            "stream": false,
        });
        if json_mode {
            body["response_format"] = json!({"type": "json_object"});
        }
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
            .map_err(|e| Failure::Passing(self.clean(&e.to_string()), None))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let wait = header("retry-after")
            .and_then(|v| v.trim().parse::<f64>().ok())
            .filter(|s| s.is_finite() && *s >= 0.0)
            .map(|s| Duration::from_secs_f64(s.min(LONGEST_WAIT.as_secs_f64())));
        let text = response
            .body_mut()
            .with_config()
            .limit(BODY_LIMIT)
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|e| {
                Failure::Passing(
                    format!("the answer broke off: {}", self.clean(&e.to_string())),
                    None,
                )
            });
        if status == 200 {
            return content(&text?).map_err(|why| Failure::Passing(self.clean(&why), None));
        }
        Err(self.refusal(status, &text.unwrap_or_default(), wait))
    }

    fn refusal(&self, status: u16, body: &str, wait: Option<Duration>) -> Failure {
        let said = self.clean(&said(body));
        let (url, env) = (&self.url, &self.endpoint.key_env);
        match status {
            401 | 403 if self.endpoint.key.is_none() => Failure::Final(Error::user(format!(
                "{url} wants a key (HTTP {status}{said}): put it into the environment variable {env}, or name another with \
                 --api-key-env"
            ))),
            401 | 403 => Failure::Final(Error::user(format!(
                "{url} refuses the key in {env} (HTTP {status}{said}): set a valid one, or name another variable with --api-key-env"
            ))),
            404 | 405 | 300..=399 => Failure::Final(Error::user(format!(
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

    /// A message without the key, should a server or library repeat it, and of bounded length.
    fn clean(&self, text: &str) -> String {
        let text = match &self.endpoint.key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "[key]"),
            _ => text.to_string(),
        };
        match text.char_indices().nth(300) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// ": message" of an error's body, or nothing.
fn said(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let message = value
        .pointer("/error/message")
        .or_else(|| value.get("error"))
        .or_else(|| value.get("message"))
        .and_then(Value::as_str)
        .map_or_else(|| body.trim().to_string(), str::to_string);
    if message.is_empty() {
        message
    } else {
        format!(": {message}")
    }
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
    match message.get("content") {
        Some(Value::String(text)) => Ok((text.clone(), cut)),
        // An empty answer is the judge's, not the server's.
        Some(Value::Null) | None => Ok((String::new(), cut)),
        Some(_) => Err("the server's choices[0].message.content is not a text".to_string()),
    }
}
