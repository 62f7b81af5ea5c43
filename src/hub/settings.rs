//! How to reach the hub: the environment variables that Python's client reads.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::Address;
use crate::error::{Error, Result};
use crate::file::limits::HUB_TOKEN;
use crate::file::open::read_text;
use crate::words::secret;

/// The public hub.
const PUBLIC: &str = "https://huggingface.co";
/// Seconds to wait for an answer, or for the next piece of one, as Python's client does.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that may be set.
const LONGEST: u64 = 24 * 60 * 60;

/// How to reach the hub; [`HubSettings::from_env`] reads the usual variables.
///
/// What the variables hold is checked when the hub is first asked: a model that is in the cache needs none of them.
#[derive(Clone, Default)]
pub struct HubSettings {
    /// The cache directory, `$HF_HOME/hub`.
    pub cache: PathBuf,
    /// The server's address; `None` for the public one.
    pub endpoint: Option<String>,
    /// The access token; `None` to use the one in `token_file`.
    pub token: Option<String>,
    /// Where `hf auth login` stores a token; `None` to use none.
    pub token_file: Option<PathBuf>,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// Seconds to wait for what is said of a file (HF_HUB_ETAG_TIMEOUT); `None` for 10.
    pub metadata_seconds: Option<String>,
    /// Seconds to wait for the next piece of a file (HF_HUB_DOWNLOAD_TIMEOUT); `None` for 10.
    pub download_seconds: Option<String>,
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubSettings {
    /// From HF_HUB_CACHE, HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE and the others of Python's client.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok(), std::env::home_dir().as_deref())
    }

    /// As [`HubSettings::from_env`], with the variables given.
    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Self {
        let var = |name: &str| variable(name).filter(|v| !v.is_empty());
        let path = |text: String| expanded(&text, variable, home);
        let hf_home = match var("HF_HOME") {
            Some(dir) => path(dir),
            None => match var("XDG_CACHE_HOME") {
                Some(dir) => path(dir),
                None => home.unwrap_or(Path::new("")).join(".cache"),
            }
            .join("huggingface"),
        };
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let implicit = !is_true(var("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), path);
        Self {
            cache: cache.map_or_else(|| hf_home.join("hub"), path),
            endpoint: var("HF_ENDPOINT"),
            token: var("HF_TOKEN")
                .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
                .filter(|_| implicit),
            token_file: implicit.then_some(token_file),
            offline: is_true(var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE"))),
            metadata_seconds: var("HF_HUB_ETAG_TIMEOUT"),
            download_seconds: var("HF_HUB_DOWNLOAD_TIMEOUT"),
        }
    }

    /// The hub's address.
    ///
    /// # Errors
    /// HF_ENDPOINT is no http or https address, or holds a password. The message does not repeat it.
    pub(super) fn address(&self) -> Result<Address> {
        let text = self.endpoint.as_deref().unwrap_or(PUBLIC);
        let endpoint = match Address::parse(text) {
            Ok(_) if text.contains(['?', '#']) => Err("has a query or fragment"),
            parsed => parsed,
        };
        endpoint.map_err(|why| {
            Error::user(format!(
                "HF_ENDPOINT {why}. It is the address of a hub, such as {PUBLIC} or http://127.0.0.1:8080; a token goes into HF_TOKEN"
            ))
        })
    }

    /// The access token, if there is one.
    ///
    /// # Errors
    /// It is none: it holds spaces, line ends or what no header may hold. The message does not repeat it.
    pub(super) fn checked_token(&self) -> Result<Option<String>> {
        let (text, from) = match (&self.token, &self.token_file) {
            (Some(token), _) => (token.clone(), "HF_TOKEN".to_string()),
            (None, Some(file)) if file.exists() => {
                let from = file.display().to_string();
                (read_text(file, &HUB_TOKEN)?, from)
            }
            _ => return Ok(None),
        };
        let token = text.trim();
        secret::keep(token);
        if !token.bytes().all(|b| (0x21..0x7f).contains(&b)) {
            return Err(Error::user(format!(
                "the access token in {from} holds spaces, line ends or other characters that no token has; set it again"
            )));
        }
        Ok((!token.is_empty()).then(|| token.to_string()))
    }

    /// How long to wait for what is said of a file.
    ///
    /// # Errors
    /// HF_HUB_ETAG_TIMEOUT is no number of seconds.
    pub(super) fn metadata_patience(&self) -> Result<Duration> {
        seconds(self.metadata_seconds.as_deref(), "HF_HUB_ETAG_TIMEOUT")
    }

    /// How long to wait for the next piece of a file.
    ///
    /// # Errors
    /// HF_HUB_DOWNLOAD_TIMEOUT is no number of seconds.
    pub(super) fn download_patience(&self) -> Result<Duration> {
        seconds(self.download_seconds.as_deref(), "HF_HUB_DOWNLOAD_TIMEOUT")
    }
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// Zero stands for the default, as in Python's client.
fn seconds(text: Option<&str>, name: &str) -> Result<Duration> {
    match text.map(|t| t.trim().parse::<u64>()) {
        None | Some(Ok(0)) => Ok(PATIENCE),
        Some(Ok(n)) if n <= LONGEST => Ok(Duration::from_secs(n)),
        Some(_) => Err(Error::user(format!(
            "{name} must be a whole number of seconds, 1 to {LONGEST}"
        ))),
    }
}

/// A path with `~`, `$NAME` and `${NAME}` replaced, as Python's client does. Unknown names stay.
fn expanded(text: &str, variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|a| a.split_once('}'));
        let (name, next) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                out.push_str(&value);
                rest = next;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    match (out.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_path_buf(),
        (Some(below), Some(home)) if below.starts_with('/') => home.join(below.trim_start_matches('/')),
        _ => PathBuf::from(out),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn of(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_string())
        };
        HubSettings::from_variables(&find, Some(Path::new("/home/me")))
    }

    #[test]
    fn the_cache_is_where_pythons_client_has_it() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (&[("HF_HOME", "$D/hf"), ("D", "/d")], "/d/hf/hub"),
            (&[("HF_HOME", "${D}/$E/hf"), ("D", "/d")], "/d/$E/hf/hub"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], "/c"),
        ] {
            assert_eq!(of(variables).cache, Path::new(cache), "{variables:?}");
        }
    }

    #[test]
    fn offline_is_said_by_two_variables() {
        for (variables, offline) in [
            (&[][..], false),
            (&[("HF_HUB_OFFLINE", "1")], true),
            (&[("HF_HUB_OFFLINE", "Yes")], true),
            (&[("TRANSFORMERS_OFFLINE", "on")], true),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
            (&[("HF_HUB_OFFLINE", "")], false),
        ] {
            assert_eq!(of(variables).offline, offline, "{variables:?}");
        }
    }

    #[test]
    fn tokens_come_from_the_variable_then_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let path = file.to_str().unwrap();
        let token = |variables: &[(&str, &str)]| of(variables).checked_token();
        assert_eq!(token(&[("HF_TOKEN_PATH", path)]).unwrap(), None);
        std::fs::write(&file, "hf_stored\n").unwrap();
        let both = [("HF_TOKEN_PATH", path), ("HF_TOKEN", " hf_set\n")];
        assert_eq!(token(&both[..1]).unwrap().unwrap(), "hf_stored");
        assert_eq!(token(&both).unwrap().unwrap(), "hf_set");
        let old = [("HUGGING_FACE_HUB_TOKEN", "hf_old"), both[0]];
        assert_eq!(token(&old).unwrap().unwrap(), "hf_old");
        let refused = [both[0], both[1], ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(token(&refused).unwrap(), None);
        for bad in ["hf_x\r\nX-Evil: 1", "hf_x y", "hf_\u{e9}", "hf_\u{1b}[31m"] {
            let said = token(&[("HF_TOKEN", bad)]).unwrap_err();
            assert_eq!(said.exit_code(), 2);
            let said = said.to_string();
            assert!(said.contains("HF_TOKEN") && !said.contains("hf_"), "{said}");
        }
        std::fs::write(&file, "hf_a\nhf_b").unwrap();
        assert!(token(&both[..1]).unwrap_err().to_string().contains(path));
    }

    #[test]
    fn an_endpoint_is_checked_and_its_password_not_repeated() {
        assert_eq!(of(&[]).address().unwrap().origin.to_string(), PUBLIC);
        for bad in [
            "ftp://x",
            "not a url",
            "http://user:secret@127.0.0.1:1",
            "file:///tmp",
            "http://127.0.0.1:99999",
            "http://h/?secret",
            "http://h/\u{1b}[31m",
        ] {
            let said = of(&[("HF_ENDPOINT", bad)]).address().unwrap_err().to_string();
            assert!(
                said.starts_with("HF_ENDPOINT ") && !said.contains("secret"),
                "{said}"
            );
        }
    }

    #[test]
    fn time_outs_are_seconds() {
        let patience = |text: &str| of(&[("HF_HUB_ETAG_TIMEOUT", text)]).metadata_patience();
        assert_eq!(patience("30").unwrap(), Duration::from_secs(30));
        assert_eq!(patience("0").unwrap(), PATIENCE);
        for bad in ["-1", "1.5", "ten", "18446744073709551616", "9999999"] {
            let said = patience(bad).unwrap_err().to_string();
            assert!(said.contains("HF_HUB_ETAG_TIMEOUT"), "{said}");
        }
        let of = of(&[("HF_HUB_DOWNLOAD_TIMEOUT", "3")]);
        assert_eq!(of.download_patience().unwrap(), Duration::from_secs(3));
    }

    #[test]
    fn the_token_is_not_shown() {
        let shown = format!("{:?}", of(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }
}
