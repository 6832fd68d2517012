//! One pass of reads over backup and cluster.
//!
//! Reads only: nothing here holds a writer. The backup says which lists are needed: a first pass over it brings the names of
//! its objects, and while a second one reads them the lists are made. What is listed before its end is judged after it.

mod ask;
mod backup;
mod dependents;
mod facts;
mod health;
mod lists;
mod opening;
mod operator;
mod stored;
mod version;
mod webhooks;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::backup::BackupName;
use crate::cluster::{self, Catalog, ClusterError, ClusterReader, FailureKind};
use crate::object::Resource;
use crate::object::binding::Identity;
use crate::object::protect::{Guarded, SecretRef};
use crate::observed::{Access, BackupSeen, ChartSeen, ClusterFacts, LedgerFacts, Live, Observed};
use crate::plan::{self, Plan, Request};
use crate::store::{Backups, Spool, SpoolLimits, StoreError};
use crate::webhook::ServiceRef;
use lists::{Asking, Bystanders, Ended};
use webhooks::Converters;

/// Largest backup that is fetched. The largest that is known of has some tens of MiB.
const MAX_BACKUP_BYTES: u64 = 8 << 30;

/// Where things are in this cluster, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub rancher_namespace: String,
    pub rancher_deployment: String,
    pub operator_namespace: String,
    /// Folder for the spooled backup.
    pub spool_dir: PathBuf,
}

/// Why looking at backup and cluster came to no end. What a gate judges is not among it.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot look at the cluster")]
    Cluster(#[from] ClusterError),
    #[error("cannot read the backup")]
    Store(#[from] StoreError),
    #[error("cannot read the spooled backup again")]
    Spool(#[source] std::io::Error),
    #[error("reading the backup was interrupted")]
    Interrupted,
}

/// A backup that was looked for, and its bytes when it is there.
pub struct Found {
    pub seen: BackupSeen,
    /// `None` when there is no such file.
    pub spool: Option<Spool>,
}

/// A backup that was looked for and is being read, and its bytes when it is there.
pub struct Opened {
    reading: Reading,
    pub spool: Option<Spool>,
}

enum Reading {
    Known(BackupSeen),
    Underway(backup::Underway),
}

impl Opened {
    /// One of which all is known.
    pub fn known(seen: BackupSeen) -> Self {
        Self { reading: Reading::Known(seen), spool: None }
    }

    /// Reads the backup to its end.
    ///
    /// # Errors
    ///
    /// `Spool` when the spooled backup cannot be read.
    pub async fn whole(self) -> Result<Found, ObserveError> {
        let seen = match self.reading {
            Reading::Known(seen) => seen,
            Reading::Underway(underway) => underway.index.await.map_err(|_| ObserveError::Interrupted)??,
        };
        Ok(Found { seen, spool: self.spool })
    }
}

/// Fetches the backup, and begins to check it whole, its encrypted entries with what `opening` has.
///
/// # Errors
///
/// `Store` when the store does not answer or refuses us; a file that is missing or not whole is data.
pub async fn open_backup(
    store: &dyn Backups,
    name: &BackupName,
    opening: &Opening,
    places: &Places,
) -> Result<Opened, ObserveError> {
    let limits = SpoolLimits { max_bytes: MAX_BACKUP_BYTES };
    match store.spool(name.as_str(), &places.spool_dir, limits).await {
        Ok(spool) => {
            let reading = Reading::Underway(backup::begin(&spool, name, opening));
            Ok(Opened { reading, spool: Some(spool) })
        }
        Err(StoreError::NotFound { .. }) => Ok(Opened::known(BackupSeen::Missing { place: store.describe() })),
        Err(error) => Err(error.into()),
    }
}

/// Fetches the backup and checks it whole.
///
/// # Errors
///
/// As [`open_backup`] and [`Opened::whole`].
pub async fn fetch_backup(
    store: &dyn Backups,
    name: &BackupName,
    opening: &Opening,
    places: &Places,
) -> Result<Found, ObserveError> {
    open_backup(store, name, opening, places).await?.whole().await
}

/// A packaged chart that was looked for, and its bytes when it is one.
#[derive(Debug, Clone)]
pub struct ChartFound {
    pub seen: ChartSeen,
    pub archive: Option<Arc<[u8]>>,
}

/// What of the world outside backup and cluster the plan needs.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub ledger: LedgerFacts,
    pub unfinished_runs: Vec<String>,
    /// Secrets that this manifest or the configuration names.
    pub own_secrets: Vec<SecretRef>,
    /// Of a run that is under way: whether the backup was of another cluster when it began. The run may have restored the
    /// `install-uuid` by which clusters are told apart.
    pub other_cluster_as_begun: Option<bool>,
    /// What opens the entries of its backup.
    pub opening: Opening,
    /// Version of the helm program, or why there is none that runs; only asked where a version is to be set.
    pub helm: Option<Result<String, String>>,
    /// The packaged chart that a Rollback names; only read where it may be installed.
    pub chart: Option<ChartFound>,
}

/// What of a cluster is asked whatever the backup holds, so that it is read beside it.
pub struct Glance {
    catalog: Arc<Catalog>,
    crds: lists::Crds,
    identity: Identity,
}

/// Asks what is served, by which definitions, and who we are.
///
/// # Errors
///
/// When the API server does not answer; what we may not see counts as not there.
pub async fn glance(reader: &ClusterReader) -> Result<Glance, ObserveError> {
    let (catalog, crds, identity) =
        tokio::try_join!(async { Ok(reader.discover().await?) }, lists::crds(reader), async {
            visible(reader.whoami().await)
        },)?;
    Ok(Glance { catalog: Arc::new(catalog), crds, identity })
}

/// What was seen of backup and cluster.
pub struct Sight {
    pub observed: Observed,
    /// The outline that said what to look at.
    pub outline: Plan,
    /// The bytes of the backup, when it is there.
    pub spool: Option<Spool>,
}

/// Looks at the cluster as far as the backup, its selectors and the gates ask for; while the backup is read as well.
///
/// # Errors
///
/// `Cluster` when the API server does not answer; a list that it refuses is data.
pub async fn observe(
    reader: &ClusterReader,
    glance: Glance,
    opened: Opened,
    request: &Request,
    places: &Places,
    known: Known,
    now: Timestamp,
) -> Result<Sight, ObserveError> {
    let catalog = Arc::clone(&glance.catalog);
    let Opened { reading, spool } = opened;
    let look_ahead = request.prune;
    let looked = look(reader, glance, reading, spool.as_ref(), places, known, now, look_ahead);
    let (mut observed, around) = Box::pin(looked).await?;
    if plan::operator::engine(request, &observed) == plan::operator::OPERATOR {
        observed.cluster.operator = Some(operator::facts(reader, &catalog, places, request).await?);
    }
    if request.version.is_some() {
        version::read(reader, &catalog, places, &mut observed.cluster).await?;
    }
    let outline = plan::outline(request, &observed);
    if let BackupSeen::Whole(_) | BackupSeen::Unreadable { .. } | BackupSeen::NotNamed = &observed.backup {
        let accesses = plan::accesses(&outline, &observed);
        let (reached, denied) = tokio::try_join!(
            dependents::of_deletions(reader, &catalog, &outline, &observed, &around.bystanders, around.ahead),
            denied(reader, &accesses),
        )?;
        if observed.guarded.other_cluster || request.version.is_some() {
            observed.cluster.kubernetes_version = reader.kubernetes_version().await?;
        }
        observed.cluster.occupied_namespaces = dependents::occupied(&reached.dependents);
        observed.live.dependents = reached.dependents;
        observed.live.unlisted.extend(reached.unlisted);
        observed.live.unconverted.extend(reached.unconverted);
        observed.denied.extend(reached.denied);
        observed.denied.extend(denied);
        observed.denied.sort();
        observed.denied.dedup();
    }
    Ok(Sight { observed, outline, spool })
}

/// Looks once more at what writes go by. What deletions take along and which rights there are is judged once, before the
/// run is begun (invariant 3), and costs a list of every type of the cluster.
///
/// # Errors
///
/// As [`observe`].
pub async fn observe_again(
    reader: &ClusterReader,
    seen: BackupSeen,
    spool: &Spool,
    places: &Places,
    known: Known,
    now: Timestamp,
) -> Result<Observed, ObserveError> {
    let reading = Reading::Known(seen);
    let looked = look(reader, glance(reader).await?, reading, Some(spool), places, known, now, false);
    let (observed, _) = Box::pin(looked).await?;
    Ok(observed)
}

/// What was listed and is not of the backup.
struct Around {
    bystanders: Bystanders,
    ahead: Option<dependents::Ahead>,
}

#[expect(clippy::too_many_arguments, reason = "what two looks differ in")]
async fn look(
    reader: &ClusterReader,
    glance: Glance,
    reading: Reading,
    spool: Option<&Spool>,
    places: &Places,
    known: Known,
    now: Timestamp,
    look_ahead: bool,
) -> Result<(Observed, Around), ObserveError> {
    let (catalog, identity) = (Arc::clone(&glance.catalog), glance.identity.clone());
    // What is held while facts and lists are under way is large, and would lie on the stack of who carries a run out.
    let looked = Box::pin(both(reader, glance, reading, places)).await?;
    let Looked { mut seen, mut cluster, live, denied, bystanders } = looked;
    let mut ahead = None;
    if let BackupSeen::Whole(backup) = &mut seen {
        backup.unserved_selectors = lists::unserved_selectors(backup, &catalog);
        backup.unlistable = lists::unlistable(backup, &catalog);
        let stored = async {
            match spool {
                Some(spool) => stored::as_stored(reader, spool, &known.opening, backup, &live).await,
                None => Ok(()),
            }
        };
        // One core reads the backup once more, while the API server lists.
        let looking = async {
            match look_ahead {
                true => dependents::ahead(reader, &catalog, &bystanders).await,
                false => Ok(None),
            }
        };
        ((), ahead) = tokio::try_join!(stored, looking)?;
    }
    cluster.unfinished_runs = known.unfinished_runs;
    cluster.helm = known.helm;
    let is_other = |backup: &crate::observed::Backup| !plan::is_same_cluster(backup, &cluster);
    let other_cluster = known.other_cluster_as_begun.or_else(|| seen.whole().map(is_other)).unwrap_or_default();
    if let Some(backup) = seen.whole() {
        cluster.services = facts::services_named(reader, backup).await?;
    }
    let guarded = Guarded { other_cluster, ..guarded(&cluster, &live, places, known.own_secrets, identity) };
    let chart = known.chart.map(|found| found.seen);
    let observed = Observed { at: now, backup: seen, chart, cluster, live, ledger: known.ledger, denied, guarded };
    Ok((observed, Around { bystanders, ahead }))
}

/// What of backup and cluster was read side by side.
struct Looked {
    seen: BackupSeen,
    cluster: ClusterFacts,
    live: Live,
    denied: Vec<Access>,
    bystanders: Bystanders,
}

/// Reads the backup, the facts and the lists; none waits for another longer than it must.
async fn both(
    reader: &ClusterReader,
    glance: Glance,
    reading: Reading,
    places: &Places,
) -> Result<Looked, ObserveError> {
    let Glance { catalog, crds, identity } = glance;
    let conversion = crds.conversion.clone();
    let (tell, told) = oneshot::channel();
    let whole = |seen| match seen {
        BackupSeen::Whole(backup) => {
            // The facts end with the look.
            let _ended = tell.send(coming(&backup));
            Ok(backup)
        }
        seen => Err(Ended::NotWhole(seen)),
    };
    let asking = match reading {
        Reading::Known(seen) => whole(seen).map(|backup| (backup.controllers.clone(), Asking::Whole(backup))),
        Reading::Underway(backup::Underway { names, index }) => {
            let names = names.await.ok().flatten();
            let index = async { index.await.map_err(|_| ObserveError::Interrupted)? };
            match names {
                Some(names) => {
                    let read = async { whole(index.await?) };
                    Ok((names.controllers.clone(), Asking::Names(names, read)))
                }
                None => whole(index.await?).map(|backup| (backup.controllers.clone(), Asking::Whole(backup))),
            }
        }
    };
    let looked = match asking {
        Err(ended) => Err(ended),
        Ok((controllers, asking)) => {
            let coming = async { told.await.unwrap_or_default() };
            let converters = Converters { live: conversion.clone(), coming };
            let facts = async { Ok(facts::cluster(reader, &catalog, places, converters, &controllers).await?) };
            // The facts are a score of small requests one after the other; the lists keep the API server busy meanwhile.
            tokio::try_join!(facts, lists::live(reader, &catalog, asking, crds, &identity))
        }
    };
    match looked {
        Ok((cluster, (backup, live, denied, bystanders))) => {
            Ok(Looked { seen: BackupSeen::Whole(backup), cluster, live, denied, bystanders })
        }
        Err(Ended::Failed(error)) => Err(error),
        Err(Ended::NotWhole(seen)) => {
            let converters = Converters { live: conversion, coming: std::future::ready(BTreeSet::new()) };
            let cluster = facts::cluster(reader, &catalog, places, converters, &[]).await?;
            Ok(Looked { seen, cluster, live: Live::default(), denied: Vec::new(), bystanders: Bystanders::default() })
        }
    }
}

/// What we are not allowed to see counts as not there: the rights that are missing are asked for by name
/// ([`plan::accesses`]) and hold the plan.
fn visible<T: Default>(read: Result<T, ClusterError>) -> Result<T, ObserveError> {
    match read {
        Ok(read) => Ok(read),
        Err(ClusterError::NotServed { .. }) => Ok(T::default()),
        Err(error) if is_forbidden(&error) => Ok(T::default()),
        Err(error) => Err(error.into()),
    }
}

fn is_forbidden(error: &ClusterError) -> bool {
    matches!(error, ClusterError::Api { failure, .. } if failure.kind == FailureKind::Forbidden)
}

/// Objects of the type are stored at a version that only a webhook can read, and none answers.
fn is_unconverted(error: &ClusterError) -> bool {
    matches!(error, ClusterError::Api { failure, .. } if failure.kind == FailureKind::WebhookUnavailable)
}

/// The right to list a type in all namespaces.
fn to_list(resource: &Resource) -> Access {
    Access {
        verb: "list",
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        namespace: None,
        name: None,
    }
}

/// Services that the backup's definitions name.
fn coming(backup: &crate::observed::Backup) -> BTreeSet<ServiceRef> {
    let crds = backup.objects.iter().filter_map(|object| object.summary.particulars().crd.as_deref());
    crds.filter_map(|crd| crd.conversion.as_ref()?.service.clone()).collect()
}

fn guarded(
    cluster: &ClusterFacts,
    live: &Live,
    places: &Places,
    own_secrets: Vec<SecretRef>,
    identity: Identity,
) -> Guarded {
    let bindings = live.objects.iter().filter_map(|object| object.summary.particulars().binding.as_deref());
    Guarded {
        rancher_namespace: places.rancher_namespace.clone(),
        rancher_deployment: places.rancher_deployment.clone(),
        operator_namespace: places.operator_namespace.clone(),
        operator_secrets: cluster.operator_secrets.iter().cloned().chain(own_secrets).collect(),
        serving: cluster.webhooks.serving.clone(),
        own_roles: bindings.filter(|binding| binding.binds(&identity)).map(|binding| binding.role.clone()).collect(),
        identity,
        stays_up: plan::quiesce::split(&cluster.workloads).1.into_iter().map(|workload| workload.reference).collect(),
        other_cluster: false,
    }
}

async fn denied(reader: &ClusterReader, wanted: &BTreeSet<Access>) -> Result<Vec<Access>, ObserveError> {
    let asked: Vec<cluster::Access> = wanted.iter().map(asked).collect();
    let answers = reader.allowed(&asked).await?;
    Ok(wanted.iter().zip(answers).filter(|(_, (_, allowed))| !allowed).map(|(access, _)| access.clone()).collect())
}

/// `<type>/<subresource>` is one word in a plan and two in a review.
fn asked(access: &Access) -> cluster::Access {
    let Access { verb, group, resource, namespace, name } = access;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    cluster::Access {
        subresource: subresource.to_owned(),
        namespace: namespace.clone().unwrap_or_default(),
        name: name.clone().unwrap_or_default(),
        ..cluster::Access::new(verb, group, resource)
    }
}

pub use ask::Asker;
/// Passes over the spooled backup once more, on a blocking thread.
pub use backup::{Brought, ObjectPass, index, pass};
pub use health::{Doctor, connected_clusters, settings_of_backup};
pub use opening::Opening;
pub use operator::is_installed as operator_is_installed;
pub use version::{releases, removed};
