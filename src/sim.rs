//! An in-process Kubernetes API: for the demo, and for tests by the thousand.
//!
//! [`Sim`] is a tower service at the level of HTTP, on which an ordinary [`kube::Client`] sits. It does what reinback asks
//! of a cluster, in the API server's words, and no more; one suite of cases runs on it and on the real API server and
//! holds it to that (`tests/it/contract`). The crate kube-fake-client is not enough: it has no watches that last, pages,
//! garbage collection, namespaces that go, definitions that begin to serve, or controllers.
//!
//! ```text
//!  Request ─▶ http ─▶ body, access ─▶ write: strategy, validate ─┐
//!                  └▶ list, watch, discovery ◀─────────────────── store ─▶ changes ─▶ controllers ─▶ due work
//! ```
//!
//! - `store`: objects, revisions and history, pure. `kinds`: what is served. `world`: both, with time, chance and due work
//! - `http`: paths and verbs; `body`, `list`, `watch`, `discovery`, `failure`: what comes in and goes out
//! - `write`, `delete`: create, update, patch and delete for all kinds; `strategy` and `validate`: in what kinds differ
//! - `controllers`: what a cluster does by itself
//!
//! Time is tokio's alone, so that it is simulated on a paused runtime and real in the demo. Chance comes from one seed: the
//! same seed and the same requests at the same times give the same UIDs, versions and order. There are no tasks and no
//! threads: what was due is done before the next request is answered, or when a watch wakes up for it.

mod access;
mod body;
mod controllers;
mod delete;
mod discovery;
mod events;
mod failure;
mod http;
mod kinds;
mod list;
mod meta;
mod proxy;
mod seed;
mod selector;
mod service;
mod store;
mod strategy;
mod validate;
mod watch;
mod world;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

pub use seed::Unserved;
pub use service::{ResponseBody, SimService};

use crate::clock::Clock;
use crate::cluster::{Access, Cluster, Limits};
use store::Key;
use world::World;

/// Where the API server is said to be. Nothing resolves it (RFC 6761).
pub const API_URL: &str = "https://sim.invalid";

/// What a simulated cluster is made of. Of each duration something between its half and the whole is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOptions {
    /// From which all that is random comes.
    pub seed: u64,
    /// What time it is when the cluster is made.
    pub start: Timestamp,
    /// How long a request travels before it is carried out.
    pub latency: Duration,
    /// How long it takes until a controller acts on a change, and until a definition is served.
    pub controller_delay: Duration,
    /// From a pod's node to its being Ready.
    pub pod_start: Duration,
    /// From a pod's deletion to its end.
    pub pod_stop: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            start: Timestamp::from_second(1_767_225_600).expect("2026-01-01 is a time"),
            latency: Duration::from_millis(4),
            controller_delay: Duration::from_millis(50),
            pod_start: Duration::from_secs(3),
            pod_stop: Duration::from_secs(2),
        }
    }
}

/// A simulated cluster. Clones are the same cluster; with the last one, its services and clients, it ends, and watches
/// with it.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    world: Mutex<World>,
    /// When the world began, and what time it was then.
    origin: Instant,
    clock: Clock,
    /// Tells watches that something changed.
    changed: tokio::sync::watch::Sender<()>,
}

impl Sim {
    /// A cluster with its namespaces and one node. Make it on the runtime that it is used on: it counts that runtime's time.
    pub fn new(options: SimOptions) -> Self {
        let (changed, _) = tokio::sync::watch::channel(());
        let clock = Clock::simulated(options.start);
        let world = Mutex::new(World::new(options));
        Self { shared: Arc::new(Shared { world, origin: Instant::now(), clock, changed }) }
    }

    /// What answers requests. Wrap it to disturb or count them.
    pub fn service(&self) -> SimService {
        SimService::new(Arc::clone(&self.shared))
    }

    /// A client of it. Needs a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    /// Tells the time that it is in the cluster.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// A connection to it. Needs a tokio runtime.
    pub fn cluster(&self, limits: Limits) -> Cluster {
        Cluster::over(self.client(), API_URL.to_owned(), limits, self.clock())
    }

    /// Puts objects into the cluster as they are, statuses included, and serves what definitions among them define.
    ///
    /// Definitions come first and namespaces that are missing are made. UIDs are given anew; owner references follow by
    /// name, and those to owners that are not there go. What exists is replaced. Gives how many objects there were.
    ///
    /// # Errors
    ///
    /// At the first object whose kind is not served; those before it are in.
    pub fn seed(&self, objects: impl IntoIterator<Item = Value>) -> Result<usize, Unserved> {
        self.shared.with(|world| world.seed(objects.into_iter().collect()))
    }

    /// Everything that is stored, by `<type>/<path>` such as `secrets/cattle-system/tls` or
    /// `settings.management.cattle.io/server-url`, without a request.
    pub fn objects(&self) -> BTreeMap<String, Arc<Value>> {
        self.shared.with(|world| {
            let types: Vec<Arc<str>> = world.store.types().cloned().collect();
            let all = types.iter().flat_map(|of| world.store.all(of).map(move |(path, object)| (of, path, object)));
            all.map(|(of, path, object)| (format!("{of}/{path}"), Arc::clone(object))).collect()
        })
    }

    /// One object of [`Sim::objects`].
    pub fn object(&self, of: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.shared.with(|world| world.store.get(&Key::new(&of.into(), namespace, name)).cloned())
    }

    /// Takes a right away, or some: an empty namespace or name means all, `*` any verb, group or resource.
    pub fn deny(&self, access: Access) {
        self.shared.with(|world| world.denied.push(access));
    }

    /// Forgets what changed so far, as etcd does every few minutes: `continue` tokens and versions given out before expire.
    pub fn forget_history(&self) {
        self.shared.with(|world| world.store.forget(world.store.revision()));
    }
}

impl Shared {
    /// Brings the world to the present, does something with it, and wakes the watches where that changed anything.
    fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let (result, changed) = {
            let mut world: MutexGuard<'_, World> = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            let before = world.mark();
            world.advance(self.origin.elapsed());
            let result = act(&mut world);
            world.react();
            (result, world.mark() != before)
        };
        if changed {
            self.changed.send_replace(());
        }
        result
    }
}

#[cfg(test)]
mod tests;
