//! Addresses on the web: where one leads, and what may be sent there.

use std::fmt;

use ureq::http::Uri;

/// Scheme, host and port: who is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// An http or https address without user name and password.
///
/// It has no `Display`: what follows the path can be a key (signed addresses), so that messages show the [`Origin`].
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Who is talked to.
    pub origin: Origin,
    /// Path and query; begins with a slash.
    rest: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}/…)", self.origin)
    }
}

impl Address {
    /// Reads an address. Errors do not repeat it.
    ///
    /// # Errors
    /// In words, as the end of a sentence that begins with what it is the address of.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let other = text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https")
        });
        if other {
            return Err("is neither http nor https");
        }
        let uri: Uri = text.parse().map_err(|_| "is no web address")?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("is neither http nor https"),
        };
        let authority = uri.authority().map_or("", |a| a.as_str());
        if authority.contains('@') {
            return Err("holds a user name or password");
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err("names no host");
        }
        let port = match authority.strip_prefix(host) {
            Some("" | ":") => {
                if https {
                    443
                } else {
                    80
                }
            }
            _ => match uri.port_u16() {
                Some(port) if port > 0 => port,
                _ => return Err("has a port that is none (1 to 65535)"),
            },
        };
        let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
        Ok(Self {
            origin: Origin {
                https,
                host: host.to_ascii_lowercase(),
                port,
            },
            rest: if rest.starts_with('/') {
                rest.to_string()
            } else {
                format!("/{rest}")
            },
        })
    }

    /// Where a `Location` leads that was answered at this address.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn join(&self, location: &str) -> Result<Self, &'static str> {
        let end = location.find(['/', '?', '#']).unwrap_or(location.len());
        if location.is_empty() {
            Err("is empty")
        } else if location[..end].contains(':') {
            Self::parse(location)
        } else if location.starts_with("//") {
            let scheme = if self.origin.https { "https" } else { "http" };
            Self::parse(&format!("{scheme}:{location}"))
        } else {
            let path = self.rest.split(['?', '#']).next().unwrap_or("/");
            let base = match location.as_bytes()[0] {
                b'/' => "",
                b'?' | b'#' => path,
                _ => &path[..=path.rfind('/').unwrap_or(0)],
            };
            Self::parse(&format!("{}{base}{location}", self.origin))
        }
    }

    /// The address of something below this one; `path` begins without a slash and is escaped.
    pub fn below(&self, path: &str) -> Self {
        let base = self.rest.split('?').next().unwrap_or("/").trim_end_matches('/');
        Self {
            origin: self.origin.clone(),
            rest: format!("{base}/{path}"),
        }
    }

    /// Whether an answer at this address may send the client on to `to`: https stays https.
    pub fn may_lead_to(&self, to: &Self) -> bool {
        to.origin.https || !self.origin.https
    }

    /// The address in full, for the request itself. Not for messages.
    pub fn full(&self) -> String {
        format!("{}{}", self.origin, self.rest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn origin(text: &str) -> String {
        Address::parse(text).unwrap().origin.to_string()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example:443/a?b"), "https://hub.example");
        assert_eq!(origin("http://hub.example:8080"), "http://hub.example:8080");
        assert_eq!(origin("http://[::1]:80/"), "http://[::1]");
        let same = |a: &str, b: &str| Address::parse(a).unwrap().origin == Address::parse(b).unwrap().origin;
        assert!(same("https://h/a", "https://H:443/b"));
        for other in [
            "http://h/a",
            "https://h:444/a",
            "https://h./a",
            "https://h.evil/a",
            "https://x/h",
        ] {
            assert!(!same("https://h/a", other), "{other}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for (bad, why) in [
            ("ftp://h/x", "neither http"),
            ("file:///etc/passwd", "neither http"),
            ("h/x", "no web address"),
            ("not a url", "no web address"),
            ("http://", "no web address"),
            ("http://[::1", "no web address"),
            ("http://u:secret@h/", "user name"),
            ("http://secret@h/", "user name"),
            ("http://h:99999/", "port"),
            ("http://h:0/", "port"),
            ("http://h:1/\u{1b}[31m", "no web address"),
            ("", "no web address"),
        ] {
            let said = Address::parse(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn locations_are_taken_as_browsers_take_them() {
        let at = Address::parse("https://h:8443/a/b?key=1").unwrap();
        for (location, to) in [
            ("/x?y=1", "https://h:8443/x?y=1"),
            ("c", "https://h:8443/a/c"),
            ("?z=2", "https://h:8443/a/b?z=2"),
            ("//evil/x", "https://evil/x"),
            ("http://other/x", "http://other/x"),
            ("HTTPS://H:8443/x", "https://h:8443/x"),
            ("a/b:c", "https://h:8443/a/a/b:c"),
        ] {
            assert_eq!(at.join(location).unwrap().full(), to, "{location}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "javascript:x",
            "//",
            "x y",
            "http://[::1",
        ] {
            assert!(at.join(bad).is_err(), "{bad}");
        }
        let to = |location: &str| at.join(location).unwrap();
        assert!(at.may_lead_to(&to("https://cdn/x")) && !at.may_lead_to(&to("http://cdn/x")));
        let plain = Address::parse("http://h/").unwrap();
        assert!(plain.may_lead_to(&to("http://cdn/x")) && plain.may_lead_to(&to("https://cdn/x")));
    }

    #[test]
    fn an_endpoint_may_have_a_path() {
        let below = |endpoint: &str| Address::parse(endpoint).unwrap().below("api/x").full();
        assert_eq!(below("https://h"), "https://h/api/x");
        assert_eq!(below("https://h/hub/"), "https://h/hub/api/x");
    }
}
