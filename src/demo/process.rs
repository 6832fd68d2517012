//! An agent as a process of its own, as far as one program can have two: a thread with a runtime of its own.
//!
//! Killing it drops that runtime with every task on it, wherever each stands: no lease is given back, nothing is told. What
//! the next one knows is in the cluster and in Git.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{self, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tower::Service;

use crate::agent::{Agent, Options, Parts};
use crate::cluster::{Cluster, Limits};
use crate::config::Config;
use crate::helm::Access;
use crate::sim::{API_URL, ResponseBody, Sim, SimService};

/// A push that is under way in a thread cannot be dropped; it is waited for, so that nobody writes to the folder later.
const LAST_PUSH_WITHIN: Duration = Duration::from_secs(5);

/// Where runs are written.
const OURS: &str = "/apis/reinback.io/";

/// Whether a process is to die, asked after each request by which it wrote to an object of ours.
pub type Fate = dyn Fn() -> bool + Send + Sync;

/// Killed when it is dropped.
pub struct Process {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Nobody asks it to stop.
    _stop: watch::Sender<bool>,
}

impl Process {
    /// Starts an agent. `seed` is where its names and pauses come from. It dies by itself as soon as `fate` says so, with the
    /// request carried out and before it hears of it.
    ///
    /// # Errors
    ///
    /// When its folders cannot be opened, or no thread be started.
    pub fn start(sim: Sim, config: Config, options: Options, seed: u64, fate: Arc<Fate>) -> anyhow::Result<Self> {
        let parts = Parts::of(&config, Access::default()).context("cannot open the agent's folders")?;
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start an agent")?;
        let (kill, killed) = oneshot::channel();
        let (stop, stopping) = watch::channel(false);
        let (died, mut dead) = watch::channel(false);
        let service = Mortal { inner: sim.service(), fate, died: Arc::new(died) };
        let live = move || {
            fastrand::seed(seed);
            runtime.block_on(async move {
                let client = kube::Client::new(service, "default");
                let cluster = Cluster::over(client, API_URL.to_owned(), Limits::default(), sim.clock());
                let mut agent = Agent::over(config, cluster, parts, options, stopping);
                tokio::select! {
                    biased;
                    // Whether it was sent or dropped.
                    _ = killed => {}
                    _ = dead.wait_for(|dead| *dead) => {}
                    () = agent.watch() => {}
                }
            });
            runtime.shutdown_timeout(LAST_PUSH_WITHIN);
        };
        let thread =
            std::thread::Builder::new().name("agent".to_owned()).spawn(live).context("cannot start an agent")?;
        Ok(Self { kill: Some(kill), thread: Some(thread), _stop: stop })
    }

    /// It died by its fate, or ended by itself, which only a defect does.
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

/// The cluster, as a process that may die at any request reaches it.
#[derive(Clone)]
struct Mortal {
    inner: SimService,
    fate: Arc<Fate>,
    died: Arc<watch::Sender<bool>>,
}

impl Service<Request<Body>> for Mortal {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { mut inner, fate, died } = self.clone();
        let is_asked = request.method() != Method::GET && request.uri().path().starts_with(OURS);
        Box::pin(async move {
            let answer = inner.call(request).await;
            if is_asked && fate() {
                died.send_replace(true);
            }
            if *died.borrow() {
                return std::future::pending().await;
            }
            answer
        })
    }
}
