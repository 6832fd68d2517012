//! A stand-in for the rancher-backup operator: a small controller that does what the operator does to a cluster, its defects
//! included, and what tests tell it to do besides.
//!
//! It is written from the operator's source and knows nothing of reinback's engine; of the library it uses the reader of
//! backups and the selectors, which have suites of their own. `tests/it/operator_contract.rs` asks the same of it and of the real
//! operator. It runs on a real API server and on the simulated one: it waits by tokio's clock alone.
//!
//! - [`StandIn`] is a Deployment whose pods are operators: one process for each pod that is Ready and not being deleted.
//! - [`Process`] is one process: what it remembers is lost when it ends.
//! - [`Script`] makes it wait, fail, hang or die before any [`Phase`].
//! - [`Defects`] are its own, all on.

mod api;
mod backup;
mod controller;
mod definitions;
mod deployment;
mod graph;
mod script;
mod status;
mod trial;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use reinback::clock::Clock;

#[allow(unused_imports, reason = "each of the binaries that share this uses a part of it")]
pub use controller::Process;
pub use definitions::definitions;
#[allow(unused_imports, reason = "each of the binaries that share this uses a part of it")]
pub use deployment::{StandIn, Start};
#[allow(unused_imports, reason = "each of the binaries that share this uses a part of it")]
pub use script::{Gate, Phase, Script, Then};

/// What a process is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In which it runs: its Lease and the encryption Secrets are there.
    pub namespace: String,
    /// Where its default location lies: its volume.
    pub volume: Option<PathBuf>,
    /// Buckets that it reaches, and where each lies.
    pub buckets: BTreeMap<String, PathBuf>,
    pub clock: Clock,
    pub defects: Defects,
    /// Between two looks at a definition that is not served yet. The operator takes 500 ms before each, the first included.
    pub definition_poll: Duration,
}

impl Settings {
    pub fn new(volume: PathBuf) -> Self {
        Self {
            namespace: "cattle-resources-system".to_owned(),
            volume: Some(volume),
            buckets: BTreeMap::new(),
            clock: Clock::system(),
            defects: Defects::default(),
            definition_poll: Duration::from_millis(10),
        }
    }
}

/// What the operator does wrong, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defects {
    /// Owner references to GlobalRoles and RoleTemplates are dropped where there are no others.
    pub drops_role_owners: bool,
    /// What has an owner that is not in the backup is not written, and nobody hears of it.
    pub loses_dependents: bool,
    /// What has `filters` in its path is no object, and pruned.
    pub loses_filters: bool,
    /// Deployments of Rancher and its webhook are not written.
    pub skips_rancher: bool,
    /// Other Deployments come with the replicas of the backup, in the middle.
    pub starts_workloads: bool,
    /// Integers beyond 2^53 are rounded.
    pub rounds_integers: bool,
    /// A cluster of Rancher without annotations ends the process.
    pub dies_of_bare_clusters: bool,
}

impl Default for Defects {
    fn default() -> Self {
        Self {
            drops_role_owners: true,
            loses_dependents: true,
            loses_filters: true,
            skips_rancher: true,
            starts_workloads: true,
            rounds_integers: true,
            dies_of_bare_clusters: true,
        }
    }
}
