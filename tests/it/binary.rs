//! The binary with a configuration of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::REINBACK;
use crate::world::Said;

pub struct Reinback {
    config: PathBuf,
    kubeconfig: PathBuf,
    /// Of the environment.
    rust_log: Option<&'static str>,
}

impl Reinback {
    /// Writes `config` into `folder`.
    pub fn new(folder: &Path, kubeconfig: &Path, config: &str) -> Self {
        let path = folder.join(format!("reinback-{:08x}.yaml", rand::random::<u32>()));
        std::fs::write(&path, config).expect("the folder is writable");
        Self { config: path, kubeconfig: kubeconfig.to_owned(), rust_log: None }
    }

    /// As verbose as the environment can make it.
    pub fn tracing(self) -> Self {
        Self { rust_log: Some("trace"), ..self }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(REINBACK);
        command.args(args).arg("--config").arg(&self.config).env("KUBECONFIG", &self.kubeconfig);
        command.env_remove("RUST_LOG").envs(self.rust_log.map(|level| ("RUST_LOG", level))).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Said {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends").expect("it starts");
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// One pass of the agent.
    pub async fn once(&self) -> Said {
        self.run(&["agent", "--once", "--install-crd"]).await
    }
}
