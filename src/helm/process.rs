//! A child process that ends: by itself, after its time, when it is told to stop, and when nobody waits for it any more.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// How long it may take to end after SIGTERM. The Lease of another may begin not long after ours is lost.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How much of what it prints is kept, in bytes, from the beginning; the rest is read and dropped.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;

/// A process that ended by itself. What it printed may hold secrets.
pub(super) struct Ended {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    NotStarted(ErrorKind),
    TimedOut,
    Stopped,
}

/// Runs a command in a process group of its own, with `input` as its standard input.
pub(super) async fn run(
    mut command: Command,
    input: Option<SecretString>,
    within: Duration,
    stop: impl Future<Output = ()>,
) -> Result<Ended, Broken> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    die_with_us(&mut command);
    let mut child = command.spawn().map_err(|error| Broken::NotStarted(error.kind()))?;
    let mut group = Group::of(&child);
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // One that does not read it says itself what it dislikes.
                let _closed = stdin.write_all(input.expose_secret().as_bytes()).await;
            }
        };
        let ((), stdout, stderr, status) = tokio::join!(feed, read(stdout), read(stderr), child.wait());
        (stdout, stderr, status.is_ok_and(|status| status.success()))
    };
    let why = tokio::select! {
        (stdout, stderr, success) = whole => {
            group.is_over();
            return Ok(Ended { success, stdout, stderr });
        }
        () = stop => Broken::Stopped,
        () = tokio::time::sleep(within) => Broken::TimedOut,
    };
    group.signal(Signal::TERM);
    if tokio::time::timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
        let _reaped = child.wait().await;
    }
    // Its own children may live on.
    group.signal(Signal::KILL);
    group.is_over();
    Err(why)
}

/// The child is killed when the thread that starts it ends, and so when we are killed: nothing would fence it then.
///
/// The threads of a runtime end with it, and with all that waits for the child.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "only the child itself can ask for it, between fork and exec")]
fn die_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before it asked.
        match rustix::process::getppid() == Some(us) {
            true => Ok(()),
            false => Err(std::io::Error::from(ErrorKind::BrokenPipe)),
        }
    };
    // SAFETY: the closure makes two system calls, and neither allocates nor takes a lock: an error of the system and one of
    // an `ErrorKind` are plain numbers.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_us(_command: &mut Command) {}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let _broken = (&mut stream).take(MAX_OUTPUT_BYTES).read_to_end(&mut kept).await;
    let _broken = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// The process and all that it has started, killed when it is dropped before its end.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may be gone by itself.
            let _gone = kill_process_group(group, signal);
        }
    }

    /// Its number may be another's from now on.
    fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_it_prints_is_read_to_a_limit_and_to_its_end() {
        let script = "cat; head -c 300000 /dev/zero | tr '\\0' x; echo told >&2; exit 3";
        let input = Some(SecretString::from("in"));
        let ended = run(shell(script), input, LONG, std::future::pending()).await.unwrap();
        assert!(!ended.success);
        assert_eq!(ended.stdout.len() as u64, MAX_OUTPUT_BYTES);
        assert!(ended.stdout.starts_with("inxx"));
        assert_eq!(ended.stderr, "told\n");
    }

    #[tokio::test]
    async fn one_that_reads_nothing_is_waited_for_all_the_same() {
        let input = Some(SecretString::from("x".repeat(1 << 20)));
        assert!(run(shell("exit 0"), input, LONG, std::future::pending()).await.unwrap().success);
    }

    /// Writes a file as long as it lives, and so does its child; neither hears of SIGTERM.
    async fn lives_on(stop: impl Future<Output = ()>, within: Duration) -> Broken {
        let folder = tempfile::tempdir().unwrap();
        let script =
            "trap '' TERM; (while :; do echo > child; sleep 0.05; done) & while :; do echo > own; sleep 0.05; done";
        let mut command = shell(script);
        command.current_dir(folder.path());
        let started = async {
            while !(folder.path().join("child").exists() && folder.path().join("own").exists()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stop.await;
        };
        let broken = run(command, None, within, started).await.err().unwrap();
        for name in ["child", "own"] {
            let _gone = std::fs::remove_file(folder.path().join(name));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "somebody still writes");
        broken
    }

    #[tokio::test]
    async fn it_ends_with_all_its_children_when_it_is_stopped_or_too_slow() {
        assert_eq!(lives_on(std::future::ready(()), LONG).await, Broken::Stopped);
        assert_eq!(lives_on(std::future::pending(), Duration::from_secs(1)).await, Broken::TimedOut);
    }

    #[tokio::test]
    async fn it_ends_when_nobody_waits_for_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = shell("(while :; do echo > child; sleep 0.05; done) & wait");
        command.current_dir(folder.path());
        let mut running = Box::pin(run(command, None, LONG, std::future::pending()));
        let end = Instant::now() + LONG;
        while !folder.path().join("child").exists() && Instant::now() < end {
            let _running = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
        }
        drop(running);
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::remove_file(folder.path().join("child")).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!folder.path().join("child").exists());
    }

    /// A process that dies ends all its threads, and none of them hears of it.
    #[cfg(target_os = "linux")]
    #[test]
    fn it_dies_with_who_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own");
        let mut command = shell("while :; do echo > own; sleep 0.05; done");
        command.current_dir(folder.path());
        let starter = std::thread::spawn({
            let file = file.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let mut running = Box::pin(run(command, None, LONG, std::future::pending()));
                while !file.exists() {
                    let wait = async { tokio::time::timeout(Duration::from_millis(20), &mut running).await.is_ok() };
                    assert!(!runtime.block_on(wait), "it ended by itself");
                }
                std::mem::forget((running, runtime));
            }
        });
        starter.join().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        std::fs::remove_file(&file).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn what_is_not_there_does_not_start() {
        let started = run(Command::new("/nowhere/helm"), None, LONG, std::future::pending()).await;
        assert_eq!(started.err(), Some(Broken::NotStarted(ErrorKind::NotFound)));
    }
}
