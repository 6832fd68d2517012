//! The real parts that tests stand on, and what ends them: no server outlives the test process, however that ends.
//!
//! - [`Cluster`]: etcd, kube-apiserver, controller manager, scheduler and KWOK, with kubectl and helm.
//! - [`S3Server`]: an S3 server over HTTP or HTTPS.
//! - [`WebhookServer`]: an admission webhook.
//! - [`Bar`]: stops a write until whoever sent it is killed.
//! - [`chart`]: a chart with the shape of Rancher's.
//! - [`WebServer`]: an HTTP server that answers as a test says.
//! - [`rancher`]: fills a cluster with the objects of a backup, and disturbs them.
//!
//! The first use builds the binaries (`tests/control-plane/build`); later ones find them in the cache.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tempfile::TempDir;
use tokio::time::Instant;

mod audit;
mod authority;
mod bar;
pub mod chart;
mod cluster;
mod etcd;
pub mod rancher;
mod s3;
mod supervisor;
mod web;
mod webhook;

pub use audit::{AuditEvent, ObjectRef};
pub use bar::Bar;
pub use cluster::{Cluster, Image, Options, User};
pub use s3::S3Server;
pub use web::{Asked, Page, WebServer, own_address};
pub use webhook::WebhookServer;

/// The `reinback` binary under test.
pub const REINBACK: &str = env!("CARGO_BIN_EXE_reinback");

/// An empty folder that goes when its guard is dropped.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("reinback-test-").tempdir().expect("the temporary folder is writable")
}

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    assert!(path.exists(), "{} does not exist", path.display());
    path
}

/// Tries `check` until it succeeds, and gives what it gave: every 20 ms at first, and every 250 ms where it takes long.
///
/// # Panics
/// When `timeout` has passed, with the error of the last try.
pub async fn eventually<T, F>(timeout: Duration, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + timeout;
    let mut last = anyhow!("no try has ended");
    let mut wait = Duration::from_millis(20);
    loop {
        match tokio::time::timeout_at(deadline, check()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => last = error,
            Err(_elapsed) => {}
        }
        // A check that never waits is never timed out.
        assert!(Instant::now() < deadline, "still not so after {timeout:?}: {last:#}");
        tokio::time::sleep(wait).await;
        wait = (wait * 5 / 4).min(Duration::from_millis(250));
    }
}

/// Says that a test was skipped, and why: on stderr, and in the file from which `tests/run` counts them.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
    if let Some(path) = std::env::var_os("REINBACK_SKIPS") {
        let line = format!("skipped: {test}: {why}\n");
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
            .expect("REINBACK_SKIPS is writable");
    }
}

/// The folder of the built binaries; `REINBACK_CONTROL_PLANE` names it when `tests/run` has built them.
pub fn binaries() -> Result<&'static Path> {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BINARIES.get() {
        return Ok(path);
    }
    let built = match std::env::var_os("REINBACK_CONTROL_PLANE") {
        Some(path) => PathBuf::from(path),
        None => {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control-plane/build");
            let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
            let output = output.with_context(|| format!("cannot run {}", script.display()))?;
            ensure!(output.status.success(), "{} failed; its log is above", script.display());
            PathBuf::from(String::from_utf8(output.stdout)?.trim_end())
        }
    };
    Ok(BINARIES.get_or_init(|| built))
}

/// Runs a future to its end on a runtime of its own, from inside or outside of another.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(future)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `count` free ports of 127.0.0.1, below the range from which the system gives outgoing connections theirs: a port stays
/// free while its server is down between a kill and a restart.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::new();
    while held.len() < COUNT {
        let port = rand::random_range(10_000..32_000);
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    std::array::from_fn(|index| held[index].0)
}
