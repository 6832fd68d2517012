//! The cluster: reads and writes as raw requests, so that bulk work costs a request and no more.
//!
//! Reading and writing are different capabilities. [`ClusterReader`] discovers, lists, gets, watches and asks for access
//! rights; what plans is handed only this. [`ClusterWriter`] creates, replaces, patches and deletes; the executor makes it
//! from [`Cluster`], and fences it with a [`LeaseGuard`]. Nothing here keeps the text of an API server's message: it may
//! quote a secret (see [`ApiFailure`]).

mod access;
mod client;
mod connect;
mod discovery;
mod events;
mod failure;
mod lease;
mod list;
mod log;
mod proxy;
mod request;
mod watch;
mod workload;
mod write;

pub use access::Access;
pub use connect::{Limits, connect};
pub use discovery::{ApiResource, Catalog, GroupVersion};
pub use events::{Event, Events, Regarding};
pub use failure::{ApiFailure, FailureKind, JsonFault};
pub use lease::{
    Acquired, Candidate, Fence, LeaseError, LeaseGuard, LeaseName, LeaseTimes, Sighting, acquire, holder_identity,
};
pub use list::{ListOptions, Listed};
pub use proxy::{Proxied, ServicePort};
pub use request::Lost;
pub use watch::{Awaited, Present, Waited, Watched};
pub use workload::{ReplicasAnnotation, crd_is_established, rollout_is_ready, selector_text};
pub use write::{Answer, ClusterWriter, Identity, Impersonate, Preconditions, Propagation, Target, WriteError};

use std::time::Duration;

use crate::clock::Clock;
use crate::object::Resource;
use request::{Call, Transport};

/// A connection to one cluster. Cloning it is cheap and shares connections and pace.
#[derive(Clone)]
pub struct Cluster {
    transport: Transport,
}

/// The half that cannot change anything.
///
/// Access reviews are POSTs that store nothing, and so belong here.
#[derive(Clone)]
pub struct ClusterReader {
    transport: Transport,
}

impl Cluster {
    /// Where the API server is, without credentials.
    pub fn api_url(&self) -> &str {
        self.transport.api_url()
    }

    /// What time it is beside this cluster.
    pub fn clock(&self) -> Clock {
        self.transport.clock()
    }

    pub fn reader(&self) -> ClusterReader {
        ClusterReader { transport: self.transport.clone() }
    }

    /// A writer that no lease fences. Only what executes makes one.
    pub fn writer(&self) -> ClusterWriter {
        ClusterWriter::new(self.transport.clone())
    }
}

impl ClusterReader {
    pub fn api_url(&self) -> &str {
        self.transport.api_url()
    }

    /// What time it is beside this cluster.
    pub fn clock(&self) -> Clock {
        self.transport.clock()
    }

    /// A reader with its own time for one request, and for a request with all its repetitions.
    pub fn patient(&self, request_timeout: Duration, retry_for: Duration) -> Self {
        Self { transport: self.transport.patient(request_timeout, retry_for) }
    }

    /// A reader whose requests wait behind no others.
    fn unpaced(&self) -> Self {
        Self { transport: self.transport.unpaced() }
    }

    /// One object, or `None` when it does not exist (or its resource is not served).
    pub async fn get(&self, target: &Target<'_>) -> Result<Option<Answer>, ClusterError> {
        let what = || format!("get {target}");
        match self.transport.read(&Call::get(target.path()?), what).await? {
            Ok(reply) => Ok(Some(Answer::new(reply))),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(ClusterError::Api { what: what(), failure: Box::new(failure) }),
        }
    }

    /// The version of Kubernetes, as it says itself; `None` where it is not told.
    pub async fn kubernetes_version(&self) -> Result<Option<String>, ClusterError> {
        let what = || "read the version of Kubernetes".to_owned();
        match self.transport.read(&Call::get("/version".to_owned()), what).await? {
            Ok(reply) => {
                let version: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                Ok(version["gitVersion"].as_str().map(str::to_owned))
            }
            Err(_refused) => Ok(None),
        }
    }

    /// The UID of namespace `kube-system`, which names the cluster: rancher-backup puts it into file names.
    pub async fn cluster_uid(&self) -> Result<Option<String>, ClusterError> {
        let namespaces = Resource::new("", "v1", "namespaces");
        let Some(answer) = self.get(&Target::new(&namespaces, None, "kube-system")).await? else { return Ok(None) };
        let bad = |source| ClusterError::BadAnswer { what: "read the cluster's UID".to_owned(), source };
        Ok(answer.identity().map_err(bad)?.uid)
    }
}

/// Why the cluster could not be reached or read.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "cannot find out which cluster to use: {problem}; set KUBECONFIG, --context, or run in a pod with a service account"
    )]
    Config { problem: String },
    #[error("cannot use the credentials for {url}: {problem}")]
    Credentials { url: String, problem: &'static str },
    #[error("cannot set up a client for {url}: {problem}")]
    Client { url: String, problem: &'static str },
    #[error("cannot {what}: the API server at {url} does not answer")]
    Unreachable { what: String, url: String, source: Lost },
    #[error("cannot {what}: {failure}")]
    Api { what: String, failure: Box<ApiFailure> },
    #[error("cannot {what}: the resource is not served by this cluster")]
    NotServed { what: String },
    #[error("cannot {what}: the answer is larger than {limit_bytes} bytes")]
    TooLarge { what: String, limit_bytes: usize },
    #[error("cannot {what}: the list changed faster than it could be read, {restarts} times")]
    Expired { what: String, restarts: usize },
    #[error("cannot {what}: the answer is not what the API promises")]
    BadAnswer { what: String, source: JsonFault },
    #[error(
        "{what} {value:?} cannot stand in a request path: it must not be empty, `.`, `..`, longer than 1024 bytes, or contain `/`, `%` or control characters"
    )]
    BadName { what: &'static str, value: String },
}
