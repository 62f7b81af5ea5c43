//! HTTP as the hub and the judge use it: one kind of agent, whose time limits hold whatever a server
//! or a proxy sends.
//!
//! ureq passes a limit to each step of a connection as it was at the step's beginning, and a read of
//! a body returns when there is some of the body. A byte now and then (of a proxy's answer, of the
//! words between chunks) would keep either going without end. Here every read and write of a socket
//! looks at the time itself.

use std::cell::Cell;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    SocksConnector, TcpConnector, Transport, time,
};
use ureq::{Agent, Proxy};

use crate::error::{Error, Result};

/// Variables that name a proxy: the first one that is set counts, as in ureq.
const PROXIES: [&str; 6] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
];

thread_local! {
    /// When the agents of this thread give up.
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// An agent that hands on every status and every redirect, asks for nothing compressed, and goes
/// through the proxy that the environment names. `set` adds to that.
///
/// # Errors
/// A user error: the environment names a proxy by what is no address of one. Without this the
/// request would go out directly.
pub fn agent(set: impl FnOnce(ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope>) -> Result<Agent> {
    check_proxy(&|name| std::env::var_os(name))?;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // A few bytes can hold gigabytes.
        .accept_encoding("identity")
        .user_agent(concat!("tea-wgpu/", env!("CARGO_PKG_VERSION")));
    let connector = ()
        .chain(SocksConnector::default())
        .chain(ConnectProxyConnector::default())
        .chain(TcpConnector::default())
        // Below TLS, and below what is said to a proxy.
        .chain(Timer)
        .chain(RustlsConnector::default());
    let resolver = DefaultResolver::default();
    Ok(Agent::with_parts(
        set(config).build(),
        Punctual(connector),
        resolver,
    ))
}

/// While it lives, this thread's agents read and write until then and no longer.
pub struct Deadline {
    outer: Option<Instant>,
    /// It belongs to the thread that made it.
    here: PhantomData<*const ()>,
}

impl Deadline {
    /// From now. Within another one the earlier of the two counts.
    pub fn after(time: Duration) -> Self {
        let outer = END.get();
        let end = Instant::now().checked_add(time);
        END.set(outer.into_iter().chain(end).min());
        let here = PhantomData;
        Self { outer, here }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        END.set(self.outer);
    }
}

/// What is left of a limit, where the deadline is nearer.
fn shortened(mut timeout: NextTimeout) -> Result<NextTimeout, ureq::Error> {
    if let Some(end) = END.get() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(timeout.reason));
        }
        if left < *timeout.after {
            timeout.after = left.into();
        }
    }
    Ok(timeout)
}

/// Makes connections within the time for one, all steps together.
#[derive(Debug)]
struct Punctual<C>(C);

impl<C: Connector> Connector for Punctual<C> {
    type Out = C::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<C::Out>, ureq::Error> {
        let timeout = shortened(details.timeout)?;
        let _end = Deadline::after(*timeout.after);
        // A connection to a proxy begins after others of these steps.
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: time::Instant::now(),
            timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}

/// Puts the time before every read and write of a connection.
#[derive(Debug)]
struct Timer;

impl<In: Transport> Connector<In> for Timer {
    type Out = Timed<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Timed<In>>, ureq::Error> {
        Ok(chained.map(Timed))
    }
}

/// A connection that keeps to the deadline.
#[derive(Debug)]
struct Timed<T>(T);

impl<T: Transport> Transport for Timed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, shortened(timeout)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(shortened(timeout)?)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Refuses a proxy that ureq would leave out without a word. The message does not repeat it: it may
/// hold a password.
fn check_proxy(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<()> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let Some((name, value)) = PROXIES.iter().find_map(|name| Some((name, set(name)?))) else {
        return Ok(());
    };
    let proxy = value.to_str().and_then(|value| Proxy::new(value).ok());
    match proxy.is_some_and(|proxy| is_host_and_port(&proxy)) {
        true => Ok(()),
        false => Err(Error::user(format!(
            "{name} is no address of a proxy, such as http://127.0.0.1:3128 or socks5h://127.0.0.1:1080. \
             Give it one, or unset it to connect directly"
        ))),
    }
}

/// Whether a proxy's address has a host, and a port that is one where it has any.
fn is_host_and_port(proxy: &Proxy) -> bool {
    let Some(authority) = proxy.uri().authority() else {
        return false;
    };
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = authority.host();
    match place.strip_prefix(host).map(|rest| rest.strip_prefix(':')) {
        Some(None | Some("")) => !host.is_empty(),
        Some(Some(port)) => !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A server that says `begin` and then `more` every 30 ms.
    fn dripping(begin: &'static str, more: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || drip(stream, begin, more));
            }
        });
        address
    }

    fn drip(mut stream: TcpStream, begin: &str, more: &str) {
        let _ = stream.read(&mut [0; 4096]);
        let mut sent = stream.write_all(begin.as_bytes());
        for _ in 0..300 {
            if sent.is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
            sent = stream.write_all(more.as_bytes());
        }
    }

    const LIMIT: Duration = Duration::from_millis(300);

    #[track_caller]
    fn is_in_time(begun: Instant, error: &ureq::Error) {
        assert!(matches!(error, ureq::Error::Timeout(_)), "{error}");
        let waited = begun.elapsed();
        assert!(waited >= LIMIT / 2 && waited < LIMIT * 8, "{waited:?}");
    }

    #[test]
    fn a_proxy_that_drips_is_given_up_in_time() {
        let proxy = dripping("HTTP/1.1 200 OK\r\nX: ", "x");
        type Builder = ConfigBuilder<AgentScope>;
        for set in [
            (|b| b.timeout_global(Some(LIMIT))) as fn(Builder) -> Builder,
            |b| b.timeout_connect(Some(LIMIT)),
        ] {
            let proxy = Proxy::new(&proxy).unwrap();
            let agent = agent(|builder| set(builder.proxy(Some(proxy)))).unwrap();
            let begun = Instant::now();
            is_in_time(begun, &agent.get("https://judge.invalid/").call().unwrap_err());
        }
    }

    #[test]
    fn words_between_chunks_do_not_outlast_a_deadline() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let agent = agent(|builder| builder.proxy(None)).unwrap();
        for (begin, more) in [("5;a=", "x"), ("", "0"), ("2\r\nab\r\n0\r\nX: ", "x")] {
            let server = dripping(format!("{HEAD}{begin}").leak(), more);
            let response = agent.get(&server).call().unwrap();
            let (begun, _end) = (Instant::now(), Deadline::after(LIMIT));
            let read = response.into_body().read_to_vec();
            is_in_time(begun, &read.unwrap_err());
        }
    }

    #[test]
    fn the_earlier_deadline_counts_and_ends_with_its_guard() {
        assert_eq!(END.get(), None);
        let outer = Deadline::after(Duration::from_secs(60));
        let end = END.get();
        {
            let _later = Deadline::after(Duration::from_secs(600));
            assert_eq!(END.get(), end);
            let _earlier = Deadline::after(Duration::from_secs(6));
            assert!(END.get() < end);
        }
        assert_eq!(END.get(), end);
        drop(outer);
        assert!(END.get().is_none());
        let _none = Deadline::after(Duration::MAX);
        assert!(END.get().is_none());
    }

    #[test]
    fn a_proxy_that_is_none_is_refused_by_its_variable() {
        let check = |variables: &[(&str, &str)]| {
            check_proxy(&|name| {
                let found = variables.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).into())
            })
        };
        for good in [
            "",
            "127.0.0.1:3128",
            "localhost",
            "http://me:pass@host:3128",
            "socks5h://[::1]:1080",
            "https://host/",
        ] {
            assert!(check(&[("HTTPS_PROXY", good)]).is_ok(), "{good}");
        }
        for bad in [
            "junk PASSWORD9",
            "ftp://host:1",
            "http://",
            "http://u:PASSWORD9@[::1",
            "http://host:99999",
            "http://host:0",
            "http://u:%ff@host",
            "http://:3128",
        ] {
            for name in PROXIES {
                let said = check(&[(name, bad)]).unwrap_err();
                assert_eq!(said.exit_code(), 2);
                let said = said.to_string();
                assert!(
                    said.starts_with(name) && !said.contains("PASSWORD"),
                    "{bad}: {said}"
                );
            }
        }
        // The first one that is set counts.
        assert!(check(&[("HTTP_PROXY", "http://"), ("HTTPS_PROXY", "host:1")]).is_ok());
        assert!(check(&[("HTTP_PROXY", "host:1"), ("https_proxy", "http://")]).is_err());
    }
}
