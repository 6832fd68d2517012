//! One run of the binary: what it took, by its own account, the kernel's and the API server's.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use reinback::run::{Counts, RunStatus};

use crate::harness::AuditEvent;
use crate::world::World;

/// Between looks at the process; its peak memory is kept by the kernel, so that only its last moments are missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of `utime` and `stime` in `/proc/<pid>/stat`, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one `agent --once` did and took.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From its start to its exit.
    pub wall: Duration,
    pub cpu: Duration,
    pub peak_bytes: u64,
    /// Of the backup.
    pub objects: usize,
    pub counts: Counts,
    /// From the first write of an object to the last, as the API server saw it.
    pub writing: Duration,
    pub requests: Requests,
    /// The first writes of objects, for the message about one that should not be.
    pub first_writes: Vec<String>,
    /// What the seconds went into, in order.
    pub time_line: Vec<(String, Duration)>,
}

/// Requests of one run, by the audit log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests {
    pub writes: usize,
    pub lists: usize,
    pub gets: usize,
    pub reviews: usize,
    /// Writes of the `Run`: its journal and progress.
    pub journal: usize,
}

impl Measured {
    /// Runs the agent once over what was merged, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it did not end for `reason`.
    pub async fn run(world: &World, manifest: &str, reason: &str) -> Result<Self> {
        let mark = world.cluster.audit_mark();
        let log = world.folder().join("measured.log");
        let command = command(world, &["agent", "--once"], &log)?;
        let began = Timestamp::now();
        let (status, usage) = tokio::task::spawn_blocking(move || watched(command)).await??;
        let ended = began.checked_add(usage.wall)?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(status.success(), "{manifest}: {status}\n{}", said());
        let run = crate::run_of(world, manifest).await?;
        let status: RunStatus = serde_json::from_value(run["status"].clone())?;
        ensure!(status.reason == reason, "{manifest}: {} {}\n{}", status.reason, status.message, said());
        let events: Vec<AuditEvent> = world.cluster.audit_since(mark);
        let (requests, writing) = requests(&events);
        Ok(Self {
            wall: usage.wall,
            cpu: usage.cpu,
            peak_bytes: usage.peak_bytes,
            objects: world.items.len(),
            counts: status.counts.unwrap_or_default(),
            writing,
            requests,
            first_writes: events.iter().filter(|event| is_object_write(event)).take(5).map(shown).collect(),
            time_line: time_line(&status, began, ended),
        })
    }
}

/// How long `plan` takes over what was merged, from its start to its exit.
///
/// # Errors
///
/// When it does not find changes.
pub async fn plan(world: &World) -> Result<Duration> {
    let log = world.folder().join("planned.log");
    let command = command(world, &["plan"], &log)?;
    let (status, usage) = tokio::task::spawn_blocking(move || watched(command)).await??;
    ensure!(status.code() == Some(2), "{status}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
    Ok(usage.wall)
}

fn command(world: &World, args: &[&str], log: &Path) -> Result<Command> {
    let plain = world.command(args);
    let mut command = match std::env::var("REINBACK_BENCH_WRAP") {
        Ok(wrap) => {
            let mut words = wrap.split_whitespace();
            let mut command = Command::new(words.next().context("REINBACK_BENCH_WRAP is empty")?);
            command.args(words).arg(plain.get_program()).args(plain.get_args());
            command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        }
        Err(_) => plain,
    };
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    wall: Duration,
    cpu: Duration,
    peak_bytes: u64,
}

/// Runs a command to its end. Its times are read when it has ended and is not yet waited for, so that they are whole.
fn watched(mut command: Command) -> Result<(ExitStatus, Usage)> {
    let began = Instant::now();
    let mut child: Child = command.spawn()?;
    let folder = format!("/proc/{}", child.id());
    let mut usage = Usage::default();
    loop {
        let stat = std::fs::read_to_string(format!("{folder}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat names no process")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        usage.peak_bytes = peak_bytes(&folder)?.unwrap_or(usage.peak_bytes);
        if fields.first() == Some(&"Z") {
            usage.wall = began.elapsed();
            let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
            usage.cpu = Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND);
            return Ok((child.wait()?, usage));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `None` once the process has given its memory back.
fn peak_bytes(folder: &str) -> Result<Option<u64>> {
    let status = std::fs::read_to_string(format!("{folder}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.map(|kib| kib * 1024))
}

fn requests(events: &[AuditEvent]) -> (Requests, Duration) {
    let mut requests = Requests::default();
    let mut written: Option<(Timestamp, Timestamp)> = None;
    for event in events.iter().filter(|event| is_ours(event)) {
        match (event.verb.as_str(), event.object_ref.api_group.as_str()) {
            ("get", _) => requests.gets += 1,
            ("list", _) => requests.lists += 1,
            _ if is_review(event) => requests.reviews += 1,
            (_, "reinback.io") => requests.journal += 1,
            _ if is_object_write(event) => {
                requests.writes += 1;
                let (from, to) = (event.request_received_timestamp, event.stage_timestamp);
                let (first, last) = written.unwrap_or((from, to));
                written = Some((first.min(from), last.max(to)));
            }
            _ => {}
        }
    }
    let writing = written.map(|(first, last)| between(first, last)).unwrap_or_default();
    (requests, writing)
}

fn is_ours(event: &AuditEvent) -> bool {
    event.user_agent.starts_with("reinback/")
}

/// Asks who we are, or what we may.
fn is_review(event: &AuditEvent) -> bool {
    ["authorization.k8s.io", "authentication.k8s.io"].contains(&event.object_ref.api_group.as_str())
}

/// A write of what is restored: not of the lease, the run, an event of ours or a workload's replicas.
fn is_object_write(event: &AuditEvent) -> bool {
    let object = &event.object_ref;
    let of_a_run = ["reinback.io", "coordination.k8s.io", "events.k8s.io"];
    let scales = event.verb == "patch" && object.api_group == "apps";
    is_ours(event)
        && event.writes()
        && !of_a_run.contains(&object.api_group.as_str())
        && !is_review(event)
        && !(scales || object.resource == "events")
}

fn shown(event: &AuditEvent) -> String {
    let uri = event.request_uri.split('?').next().unwrap_or_default();
    format!("{} {uri}: {}", event.verb, event.response_status.code)
}

/// What comes before the run's first step and after its last is named by us.
fn time_line(status: &RunStatus, began: Timestamp, ended: Timestamp) -> Vec<(String, Duration)> {
    let started = status.started_at.unwrap_or(began);
    let mut line = vec![("fetch and plan".to_owned(), between(began, started))];
    let mut last = started;
    for step in &status.steps {
        let finished = step.finished.or(step.failed).unwrap_or(step.started);
        line.push((step.step.as_str().to_owned(), between(last, finished)));
        last = finished;
    }
    line.push(("push and exit".to_owned(), between(last, ended)));
    line
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}
