//! The log: to stderr, for people or as JSON, and never more of other crates than can be told.
//!
//! HTTP, TLS and API clients print headers, bodies and tokens at their debug levels. Whatever level is asked for,
//! everything but reinback itself is capped, so that no `RUST_LOG` can make the log leak (invariant 7).

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::store;

/// Level when neither `--log-level` nor `RUST_LOG` says one.
pub const DEFAULT_LEVEL: &str = "info";

/// Targets that say nothing of use to an operator below a warning.
const QUIET: &[&str] = &["aws", "h2", "hyper", "hyper_util", "rustls"];

/// Tells every failed request as an error of its own. Ours say the same once, with what was asked for.
const REPEATS: &str = "kube_client::client::builder";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What the command line and the environment ask of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `--log-level`, else `RUST_LOG`: a level, or directives such as `info,reinback::git=debug`.
    pub level: Option<String>,
    pub format: LogFormat,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "log level {level:?} cannot be read; write error, warn, info, debug or trace, or `info,reinback::git=debug`"
    )]
    Level { level: String },
    #[error("the log is set up already")]
    Installed(#[source] TryInitError),
}

/// Sends the log of this process to stderr, in colours on a terminal only (and not when `NO_COLOR` is set).
///
/// # Errors
///
/// `Level` when the level cannot be read; `Installed` when the process has a log already.
pub fn init(options: &LogOptions) -> Result<(), TelemetryError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = layer(options, colours, io::stderr)?;
    tracing_subscriber::registry().with(layer).try_init().map_err(TelemetryError::Installed)
}

fn layer<S, W>(
    options: &LogOptions,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = env_filter(options.level.as_deref())?.and(filter_fn(may_be_told));
    // A closed stderr must not end a run: errors of the log itself are not reported, as that would panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours).log_internal_errors(false);
    Ok(match options.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

fn env_filter(level: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let level = level.map(str::trim).filter(|level| !level.is_empty()).unwrap_or(DEFAULT_LEVEL);
    // A lone word that is no level would be taken for a target, and silence everything else.
    let parsed = if level.contains(['=', ',', ':', '[']) {
        EnvFilter::builder().parse(level)
    } else {
        LevelFilter::from_str(level).map_err(ParseError::from).map(|level| EnvFilter::new(level.to_string()))
    };
    // The parser's own text says less, and says it twice.
    parsed.map_err(|_: ParseError| TelemetryError::Level { level: level.to_owned() })
}

/// Keeps other crates' debug and trace lines out, however specific the directive that asks for them.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    store::may_be_logged(metadata) && *metadata.level() <= most_told(metadata.target())
}

fn most_told(target: &str) -> LevelFilter {
    let root = target.split("::").next().unwrap_or(target);
    if root == env!("CARGO_CRATE_NAME") {
        LevelFilter::TRACE
    } else if target == REPEATS {
        LevelFilter::OFF
    } else if QUIET.contains(&root.split('_').next().unwrap_or(root)) || QUIET.contains(&root) {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nothing panics while writing").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of `say` at `level`.
    fn logged(level: &str, format: LogFormat, say: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let options = LogOptions { level: Some(level.to_owned()), format };
        let layer = layer(&options, false, move || writer.clone()).expect("the level is valid");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        let bytes = buffer.0.lock().expect("nothing panics while writing").clone();
        String::from_utf8(bytes).expect("the log is UTF-8")
    }

    fn everyone_speaks() {
        macro_rules! speak {
            ($($target:literal)+) => {$(
                tracing::trace!(target: $target, "token from {} at trace", $target);
                tracing::debug!(target: $target, "token from {} at debug", $target);
                tracing::info!(target: $target, "{} informs", $target);
                tracing::warn!(target: $target, "{} warns", $target);
                tracing::debug_span!(target: $target, "request", authorization = "token in a span").in_scope(|| {
                    tracing::warn!(target: $target, "{} warns in a span", $target);
                });
            )+};
        }
        speak!("aws_smithy_runtime::client" "aws_config" "aws_sdk_s3" "hyper::proto::h1" "hyper_util::client" "h2"
            "rustls::client" "kube_client::client" "tower::buffer" "a_crate_of_tomorrow");
    }

    #[test]
    fn no_directive_makes_another_crate_tell_its_requests() {
        for level in [
            "trace",
            "trace,aws_smithy_runtime=trace,hyper::proto=trace,kube_client::client=trace,a_crate_of_tomorrow=trace",
        ] {
            let log = logged(level, LogFormat::Text, everyone_speaks);
            assert!(!log.contains("token"), "{log}");
            assert!(log.contains("kube_client::client informs"), "{log}");
            assert!(!log.contains("hyper_util::client informs"), "{log}");
            assert!(log.contains("aws_sdk_s3 warns in a span"), "{log}");
        }
    }

    #[test]
    fn a_failed_request_is_told_once_by_us() {
        let log = logged("trace", LogFormat::Text, || tracing::error!(target: REPEATS, "failed with error"));
        assert_eq!(log, "");
    }

    #[test]
    fn our_own_lines_are_told_at_the_level_that_was_asked_for() {
        let say = || {
            tracing::trace!("a detail");
            tracing::info!("a fact");
        };
        assert!(logged("trace", LogFormat::Text, say).contains("a detail"));
        assert!(!logged("info", LogFormat::Text, say).contains("a detail"));
        assert!(logged("warn,reinback::telemetry=trace", LogFormat::Text, say).contains("a detail"));
        assert_eq!(logged("error", LogFormat::Text, say), "");
    }

    #[test]
    fn a_json_line_is_one_object_with_its_fields() {
        let log = logged("info", LogFormat::Json, || tracing::info!(run = "monday", "two\nlines"));
        let line: serde_json::Value = serde_json::from_str(&log).expect("one object");
        assert_eq!((line["run"].as_str(), line["message"].as_str()), (Some("monday"), Some("two\nlines")));
    }

    #[test]
    fn what_came_from_outside_cannot_steer_the_terminal() {
        let log = logged("info", LogFormat::Text, || tracing::info!("name \x1b[2J\x1b[1;1H cleared"));
        assert!(!log.contains('\x1b'), "{log:?}");
    }

    #[test]
    fn a_level_that_is_none_is_refused_with_what_to_write() {
        for level in ["verbose", "info,reinback=loud"] {
            let error = env_filter(Some(level)).expect_err("no level");
            assert_eq!(
                error.to_string(),
                format!(
                    "log level {level:?} cannot be read; write error, warn, info, debug or trace, or `info,reinback::git=debug`"
                )
            );
        }
        assert_eq!(env_filter(Some(" ")).expect("empty is the default").to_string(), "info");
    }
}
