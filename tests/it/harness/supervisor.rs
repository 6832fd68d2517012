//! Servers that end with the test process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};

/// Runs servers through `tests/control-plane/supervise`, which kills them and removes `folder` when its stdin ends.
///
/// The pipe's only writing end is in this process and is closed on `exec`: a panic, an exit without destructors and
/// SIGKILL all end it.
#[derive(Debug)]
pub struct Supervisor {
    folder: PathBuf,
    child: Child,
    /// `None` only while dropping.
    pipe: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Supervisor {
    /// Makes a folder of its own under the system's temporary folder.
    pub fn new(prefix: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control-plane/supervise");
        let mut child = Command::new(&script)
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Go's servers live for seconds here: a fifth of their time is spent on collecting garbage that would go with them.
            .env("GOGC", "400")
            // A group of its own, so that Ctrl-C in a terminal leaves it to do its work.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", script.display()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pipe = stdin.zip(stdout.map(BufReader::new));
        Ok(Self { folder, child, pipe: Mutex::new(pipe) })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts `program` under `name`; a second start of the same name runs it again, with its log going on.
    pub fn start<S: AsRef<str>>(&self, name: &str, program: &Path, args: &[S]) -> Result<()> {
        let mut command = program.display().to_string();
        for arg in args {
            command.push('\0');
            command.push_str(arg.as_ref());
        }
        command.push('\0');
        std::fs::write(self.folder.join(format!("{name}.args")), command)?;
        self.restart(name)
    }

    /// Starts `name` again with the arguments that it had.
    pub fn restart(&self, name: &str) -> Result<()> {
        let answer = self.ask(&format!("start {name}"))?;
        ensure!(answer.starts_with("started "), "cannot start {name}: {answer}");
        Ok(())
    }

    /// Kills `name` with SIGKILL and returns when it is gone.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.ask(&format!("kill {name}")).map(drop)
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str, signal: &str) -> Result<()> {
        let answer = self.ask(&format!("signal {name} {signal}"))?;
        ensure!(answer == "sent", "{answer}");
        Ok(())
    }

    /// An error with the end of its log when `name` is not running.
    pub fn check(&self, name: &str) -> Result<()> {
        self.signal(name, "0").with_context(|| format!("{name} ended; its log says:\n{}", self.log_end(name)))
    }

    /// The last 30 lines of the log of `name`.
    pub fn log_end(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn ask(&self, line: &str) -> Result<String> {
        let mut pipe = self.pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((stdin, stdout)) = pipe.as_mut() else { bail!("the supervisor is being dropped") };
        writeln!(stdin, "{line}").context("the supervisor is gone")?;
        let mut answer = String::new();
        stdout.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the supervisor is gone");
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Closes the pipe; then all is killed, the folder removed, and the supervisor ends.
        self.pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let _ended = self.child.wait();
    }
}
