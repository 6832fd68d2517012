//! An agent as a process of its own, as far as one program can have two: a thread with a runtime of its own.
//!
//! Killing it drops that runtime with every task on it, wherever each stands: no lease is given back, nothing is told. What
//! the next one knows is in the cluster and in Git.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

use crate::agent::{Agent, Options, Parts};
use crate::cluster::Limits;
use crate::config::Config;
use crate::sim::Sim;

/// A push that is under way in a thread cannot be dropped; it is waited for, so that nobody writes to the folder later.
const LAST_PUSH_WITHIN: Duration = Duration::from_secs(5);

/// Killed when it is dropped.
pub struct Process {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Nobody asks it to stop.
    _stop: watch::Sender<bool>,
}

impl Process {
    /// Starts an agent. `seed` is where its names and pauses come from.
    ///
    /// # Errors
    ///
    /// When its folders cannot be opened, or no thread be started.
    pub fn start(sim: Sim, config: Config, options: Options, seed: u64) -> anyhow::Result<Self> {
        let parts = Parts::of(&config).context("cannot open the agent's folders")?;
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start an agent")?;
        let (kill, killed) = oneshot::channel();
        let (stop, stopping) = watch::channel(false);
        let live = move || {
            fastrand::seed(seed);
            runtime.block_on(async move {
                let cluster = sim.cluster(Limits::default());
                let mut agent = Agent::over(config, cluster, parts, options, stopping);
                tokio::select! {
                    biased;
                    // Whether it was sent or dropped.
                    _ = killed => {}
                    () = agent.watch() => {}
                }
            });
            runtime.shutdown_timeout(LAST_PUSH_WITHIN);
        };
        let thread =
            std::thread::Builder::new().name("agent".to_owned()).spawn(live).context("cannot start an agent")?;
        Ok(Self { kill: Some(kill), thread: Some(thread), _stop: stop })
    }

    /// Ends it at once, as SIGKILL would.
    pub fn kill(self) {
        drop(self);
    }

    /// It ended by itself, which only a defect does.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            // It may have ended already.
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic was told on stderr.
            let _ = thread.join();
        }
    }
}
