//! Gates about what is asked for, the backup, and what ran before.

use super::{View, count, listed, operator, version};
use crate::backup::CONFIGURATION_KEY;
use crate::object::ObjectKey;
use crate::observed::{BackupSeen, Closed, ClusterFacts, OpenEntries};
use crate::plan::gate::{Gate, GateCode};
use crate::plan::{is_same_cluster, printable};
use crate::rancher::{self, Version};

pub(super) fn backup_not_found(view: &View<'_>) -> Option<Gate> {
    let BackupSeen::Missing { place } = &view.observed.backup else { return operator::backup_not_found(view) };
    Some(Gate::new(
        GateCode::BackupNotFound,
        format!("there is no backup `{}` in {place}", view.plan.request.backup_name),
        "put the file there, or correct `backupFilename` or `storageLocation` in the manifest",
    ))
}

pub(super) fn backup_corrupt(view: &View<'_>) -> Option<Gate> {
    let BackupSeen::Corrupt { message } = &view.observed.backup else { return None };
    Some(Gate::new(
        GateCode::BackupCorrupt,
        format!("the backup `{}` is corrupt: {message}", view.plan.request.backup_name),
        "name another backup in the manifest, or put an undamaged copy of this one in its place",
    ))
}

pub(super) fn digest_mismatch(view: &View<'_>) -> Option<Gate> {
    let pinned = view.plan.request.backup_digest.as_ref()?;
    let Some(backup) = view.backup else { return operator::digest_unchecked(view, pinned) };
    (!pinned.eq_ignore_ascii_case(&backup.sha256)).then(|| {
        Gate::new(
            GateCode::DigestMismatch,
            format!("the backup `{}` is {}, and the manifest pins {pinned}", backup.name, backup.sha256),
            format!(
                "find out who changed the file; if it is the right one, write `reinback.io/backup-digest: {}`",
                backup.sha256
            ),
        )
    })
}

pub(super) fn decryption_failed(view: &View<'_>) -> Option<Gate> {
    let BackupSeen::Encrypted(closed) = &view.observed.backup else { return operator::no_encryption_secret(view) };
    let namespace = &view.observed.guarded.operator_namespace;
    let remedy = match closed {
        Closed::Configuration { .. } => format!(
            "put the configuration that the backup was written with into the key `{CONFIGURATION_KEY}` of that Secret"
        ),
        Closed::Entries { secret: None, .. } => format!(
            "name in `encryptionConfigSecretName` the Secret in the namespace {namespace} whose key `{CONFIGURATION_KEY}` holds \
             the configuration that the backup was written with"
        ),
        Closed::Entries { secret: Some(_), closed, of, .. } if closed == of => {
            "give the Secret the configuration that the backup was written with, former keys included".to_owned()
        }
        Closed::Entries { secret: Some(_), .. } => {
            "give the Secret the configuration that the backup was written with, former keys included; if it has that, somebody \
             changed those entries: take another copy of the backup"
                .to_owned()
        }
    };
    Some(Gate::new(GateCode::DecryptionFailed, closed.to_string(), remedy))
}

pub(super) fn not_encrypted(view: &View<'_>) -> Option<Gate> {
    let OpenEntries { count: open, first } = &view.backup?.open_entries;
    let more = open.saturating_sub(first.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (*open > 0).then(|| {
        view.acceptable(
            GateCode::NotEncrypted,
            format!(
                "the encryption configuration of the manifest encrypts every object of their types, and these lie open: \
                 {}{more}; whoever can write to the store can have put them there",
                first.join(", ")
            ),
            "name a backup that was encrypted whole",
            "takes them as they are",
        )
    })
}

pub(super) fn not_supported(view: &View<'_>) -> Option<Gate> {
    let mut asked = view.plan.request.not_supported.clone();
    let mut remedies = Vec::new();
    if !asked.is_empty() {
        remedies.push("take it out of the manifest, or install a version of reinback that can do it");
    }
    let refused = &view.plan.refused;
    if !refused.is_empty() {
        let named = refused.iter().map(|(key, why)| format!("{key} ({why})"));
        asked.push(format!("the API server would not take {}: {}", count(refused.len(), "object"), listed(named)));
        remedies.push(
            "delete these live objects where nothing hangs on them, so that they are made anew, or name another backup",
        );
    }
    for (sentence, remedy) in operator::not_supported(view) {
        asked.push(sentence);
        remedies.push(remedy);
    }
    if let Some((sentence, remedy)) = version::not_supported(view) {
        asked.push(sentence);
        remedies.push(remedy);
    }
    (!asked.is_empty()).then(|| Gate::new(GateCode::NotSupported, asked.join("; "), remedies.join("; ")))
}

pub(super) fn unsupported_version(view: &View<'_>) -> Option<Gate> {
    version::unsupported_version(view).or_else(|| old_rancher(view)).or_else(|| old_definitions(view))
}

fn old_rancher(view: &View<'_>) -> Option<Gate> {
    let version: Version = view.backup?.facts.rancher_version.as_ref()?.parse().ok()?;
    (version.numbers() < rancher::FIRST_WITH_BACKUPS).then(|| {
        Gate::new(
            GateCode::UnsupportedVersion,
            format!("the backup says it is of Rancher {version}, and rancher-backup exists since v2.5.0"),
            "name a backup that rancher-backup made of Rancher v2.5.0 or newer",
        )
    })
}

/// Passing over definitions would pass over all of their objects.
fn old_definitions(view: &View<'_>) -> Option<Gate> {
    let served = &view.observed.live.served.types;
    let old = |key: &&ObjectKey| key.resource.is_crd() && !served.contains_key(key.resource.as_ref());
    let old: Vec<&ObjectKey> = view.backup?.objects.iter().map(|object| &object.key).filter(old).collect();
    let first = old.first()?;
    Some(Gate::new(
        GateCode::UnsupportedVersion,
        format!(
            "{} of the backup are at {}, which this Kubernetes does not serve (v1beta1 ended with 1.22): {}",
            count(old.len(), "definition"),
            first.resource.api_version(),
            listed(&old)
        ),
        "upgrade the Kubernetes of the old cluster to 1.16 or later, and back it up again by a ResourceSet that asks for \
         apiextensions.k8s.io/v1",
    ))
}

pub(super) fn different_cluster(view: &View<'_>) -> Option<Gate> {
    let Some(backup) = view.backup else { return operator::different_cluster(view) };
    if is_same_cluster(backup, &view.observed.cluster) {
        return None;
    }
    let cluster = &view.observed.cluster;
    let unknown = |text: &Option<String>| text.as_deref().map_or("unknown".to_owned(), printable);
    let message = match backup.name.parts() {
        Some(parts) => format!(
            "the backup is of the cluster whose kube-system has the UID {}; here it is {}; prune is off",
            parts.cluster_uid, cluster.uid
        ),
        None => format!(
            "the backup's name does not say of which cluster it is; the install-uuid of its Rancher is {}; here it is {}; \
             prune is off",
            unknown(&backup.facts.install_uuid),
            unknown(&cluster.install_uuid)
        ),
    };
    Some(view.acceptable(
        GateCode::DifferentCluster,
        message,
        "name a backup of this cluster",
        "restores it here, without prune whatever the manifest says",
    ))
}

pub(super) fn different_server_url(view: &View<'_>) -> Option<Gate> {
    let backup = view.backup?.facts.server_url.as_ref()?;
    let cluster = &view.observed.cluster;
    let live = cluster.server_url.as_ref().or(view.plan.request.rancher_url.as_ref())?;
    (normal_url(backup) != normal_url(live)).then(|| {
        view.acceptable(
            GateCode::DifferentServerUrl,
            format!("the backup's server-url is {}; here it is {}", shown_url(backup), shown_url(live)),
            "name a backup of this Rancher",
            "the setting becomes the backup's, so its host must lead here, or agents of other clusters do not find Rancher",
        )
    })
}

/// Without what the same place may be written with or without.
pub fn normal_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(url) => url.as_str().trim_end_matches('/').to_owned(),
        Err(_) => text.trim_end_matches('/').to_owned(),
    }
}

/// A URL may hold a password, which no gate shows.
pub fn shown_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(url) => match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
            (Some(host), None) => format!("{}://{host}", url.scheme()),
            (None, _) => "no URL with a host".to_owned(),
        },
        Err(_) => "not a URL".to_owned(),
    }
}

pub(super) fn version_mismatch(view: &View<'_>) -> Option<Gate> {
    if let Some(declared) = &view.plan.request.version {
        return version::version_mismatch(view, &declared.to);
    }
    let backup = view.backup?;
    let running = running(&view.observed.cluster)?;
    let there = backup.facts.rancher_version.as_deref();
    let same = match (there.map(str::parse::<Version>), running.text.parse::<Version>()) {
        (Some(Ok(backup)), Ok(live)) => backup == live,
        (Some(_), _) => there == Some(running.text),
        (None, _) => false,
    };
    (!same).then(|| {
        view.acceptable(
            GateCode::VersionMismatch,
            format!(
                "the backup is of Rancher {}; here runs {} (by {})",
                there.map_or("of an unknown version".to_owned(), printable),
                printable(running.text),
                running.by
            ),
            "name a backup of the version that runs, or bring Rancher to the backup's version first",
            "Rancher starts on data of another version and may change it for good",
        )
    })
}

pub(super) fn version_boundary(view: &View<'_>) -> Option<Gate> {
    let declared = view.plan.request.version.as_ref().map(|declared| declared.to.as_str());
    let data = view.backup.and_then(|backup| backup.facts.rancher_version.as_deref());
    let goal: Version = data.or(declared)?.parse().ok()?;
    let live: Version = running(&view.observed.cluster)?.text.parse().ok()?;
    let boundary = rancher::crosses_boundary(&live, &goal)?;
    let (major, minor, patch) = boundary.first_newer;
    Some(view.acceptable(
        GateCode::VersionBoundary,
        format!("from Rancher {live} to data of {goal} lies a boundary at v{major}.{minor}.{patch}: {}", boundary.what),
        "restore into a cluster that was cleaned of Rancher (rancher-cleanup), as for a migration",
        "tries it in place, where objects of the newer form may be refused or mangled",
    ))
}

/// The version of Rancher that runs.
pub struct Running<'a> {
    pub text: &'a str,
    /// What says so.
    pub by: &'static str,
}

/// What runs: the first of image tag, release and setting that is a version, else the first that says anything.
pub fn running(cluster: &ClusterFacts) -> Option<Running<'_>> {
    let image = cluster.workloads.iter().find(|workload| workload.rancher).and_then(|rancher| rancher.image.as_deref());
    let said = [
        (image.and_then(rancher::image_tag), "the tag of its image"),
        (cluster.release_version.as_deref(), "its Helm release"),
        (cluster.server_version.as_deref(), "the setting server-version"),
    ];
    let mut known = said.into_iter().filter_map(|(text, by)| Some(Running { text: text?, by }));
    let first = known.next()?;
    match first.text.parse::<Version>() {
        Ok(_) => Some(first),
        Err(_) => Some(known.find(|running| running.text.parse::<Version>().is_ok()).unwrap_or(first)),
    }
}

pub(super) fn ambiguous(view: &View<'_>) -> Option<Gate> {
    let others = &view.observed.ledger.as_new;
    (!others.is_empty()).then(|| {
        Gate::new(
            GateCode::Ambiguous,
            format!("one commit brings several manifests that may run; beside this one: {}", listed(others)),
            "remove all but one of them, or change the one that shall run in a commit of its own",
        )
    })
}

pub(super) fn already_run(view: &View<'_>) -> Option<Gate> {
    let before = view.observed.ledger.same_content_ran_as.as_ref()?;
    Some(view.acceptable(
        GateCode::AlreadyRun,
        format!("the same content ran before, under the name {before}"),
        "if it shall run again, set `reinback.io/requested-at` to the time of now; if not, remove the manifest",
        "runs it once more, under this name",
    ))
}

pub(super) fn ledger_mismatch(view: &View<'_>) -> Option<Gate> {
    let (ledger, cluster) = (&view.observed.ledger, &view.observed.cluster);
    let (message, other_way) = match &ledger.branch_cluster_uid {
        Some(uid) if *uid != cluster.uid => (
            format!(
                "the status branch was written by the cluster whose kube-system has the UID {}; here it is {}",
                printable(uid),
                cluster.uid
            ),
            "give this cluster another name (`cluster`) or another branch (`status.branch`) in the configuration",
        ),
        None if !ledger.branch_exists && ledger.runs_in_cluster > 0 => (
            format!("the status branch is gone, and the cluster knows {} runs", ledger.runs_in_cluster),
            "push the status branch again from a clone that has it",
        ),
        Some(_) | None => return None,
    };
    Some(view.acceptable(
        GateCode::LedgerMismatch,
        message,
        other_way,
        "goes on with the branch as it is; what is recorded in it or in the cluster still never runs twice",
    ))
}
