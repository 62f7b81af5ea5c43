//! The log, whose lines show text of others escaped, keys masked and messages of bounded size.

use env_logger::{Builder, Logger, Target, WriteStyle};
use log::{LevelFilter, Log, Metadata, Record};

use super::console;

/// Crates that speak HTTP and TLS. Their finer levels print whole requests, keys and signed addresses included.
const TRANSPORTS: [&str; 7] = [
    "ureq",
    "ureq_proto",
    "rustls",
    "rustls_platform_verifier",
    "webpki",
    "socks",
    "hf_hub",
];

/// Starts the log with these filters; a second call in one process (tests) keeps the first log.
///
/// Crates that speak HTTP and TLS log warnings and errors only, whatever the filters ask for.
pub fn start(filters: &str, style: WriteStyle) {
    let inner = Builder::new()
        .parse_filters(filters)
        .format_timestamp(None)
        .format_target(false)
        .target(Target::Pipe(Box::new(console::Log)))
        .write_style(style)
        .build();
    let most = inner.filter();
    if log::set_boxed_logger(Box::new(Plain(inner))).is_ok() {
        log::set_max_level(most);
    }
}

struct Plain(Logger);

impl Log for Plain {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= finest(metadata.target()) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = console::plain(record.args());
        self.0.log(
            &Record::builder()
                .metadata(record.metadata().clone())
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .args(format_args!("{text}"))
                .build(),
        );
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The finest level of a crate's lines.
fn finest(target: &str) -> LevelFilter {
    let of = target.split("::").next().unwrap_or(target);
    match TRANSPORTS.contains(&of) {
        true => LevelFilter::Warn,
        false => LevelFilter::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_in_no_log() {
        let inner = Builder::new().parse_filters("trace,ureq=trace").build();
        let log = Plain(inner);
        let shows =
            |target: &str, level| log.enabled(&Metadata::builder().target(target).level(level).build());
        for target in ["ureq", "ureq::run", "ureq_proto::client", "rustls::client::hs"] {
            assert!(
                !shows(target, log::Level::Info) && !shows(target, log::Level::Trace),
                "{target}"
            );
            assert!(shows(target, log::Level::Warn), "{target}");
        }
        assert!(shows("tea_wgpu::eval", log::Level::Trace) && shows("wgpu_core", log::Level::Debug));
    }
}
