//! Gates about a restore that the rancher-backup operator carries out: whether it is there, free, and can read what it is to
//! restore.

use super::{View, count, listed};
use crate::object::protect::SecretRef;
use crate::observed::{OperatorDeployment, OperatorFacts};
use crate::operator::holder_of;
use crate::plan::gate::{Gate, GateCode};
use crate::plan::{Handover, printable};
use crate::rancher::BACKUP_OPERATOR;

/// The operator, where it is to write the objects.
fn operator<'a>(view: &View<'a>) -> Option<(&'a Handover, &'a OperatorFacts)> {
    view.plan.handover.as_ref().zip(view.observed.cluster.operator.as_ref())
}

/// An unread backup beside the operator that is to read it.
fn unread<'a>(view: &View<'a>) -> Option<&'a str> {
    view.plan.unreadable()
}

pub(super) fn operator_missing(view: &View<'_>) -> Option<Gate> {
    let (_, facts) = operator(view)?;
    let namespace = &view.observed.guarded.operator_namespace;
    let place = format!("{namespace}/{BACKUP_OPERATOR}");
    let OperatorFacts { served, deployment, .. } = facts;
    let (message, remedy) = match deployment {
        _ if !served => (
            "the cluster does not serve restores.resources.cattle.io: the rancher-backup operator is not installed".to_owned(),
            "install it (charts rancher-backup-crd and rancher-backup), or set `reinback.io/engine: native`".to_owned(),
        ),
        None => (
            format!("there is no Deployment {place}: the rancher-backup operator does not run"),
            "install it, say where it is (`operator.namespace` in the configuration), or set `reinback.io/engine: native`"
                .to_owned(),
        ),
        Some(OperatorDeployment { rolling: true, .. }) => (
            format!("{place} is being rolled out: operators of two versions would restore at once"),
            "wait until the rollout is done, then ask again".to_owned(),
        ),
        // Given back before it is handed anything.
        Some(OperatorDeployment { available: false, stopped_by_us: false, .. }) => (
            format!("{place} is not Available: the rancher-backup operator does not run"),
            format!("bring it up (`kubectl -n {namespace} describe deployment {BACKUP_OPERATOR}`), or set \
                     `reinback.io/engine: native`"),
        ),
        Some(OperatorDeployment { rolling: false, .. }) => return None,
    };
    Some(Gate::new(GateCode::OperatorMissing, message, remedy))
}

/// The operator would find no backup, whatever lies in the store.
pub(super) fn backup_not_found(view: &View<'_>) -> Option<Gate> {
    // One that is not there has no locations either, and the gate for that is another.
    let (_, facts) = operator(view).filter(|(_, facts)| facts.deployment.is_some())?;
    let spec = &view.plan.request.operator_spec;
    let missing = missing(facts, |name| spec["encryptionConfigSecretName"].as_str() != Some(name));
    let (message, remedy) = match spec.get("storageLocation") {
        None if !facts.has_default_store => (
            "the manifest does not say where the backup lies, and the operator has no default location".to_owned(),
            "add `storageLocation` to the manifest, or give the operator's chart a bucket or a volume",
        ),
        _ if missing.is_empty() => return None,
        _ => (
            format!("the operator is to read the backup with what is not there: Secret {}", listed(missing)),
            "make the Secret with the keys `accessKey` and `secretKey`, or correct `credentialSecretName` and \
             `credentialSecretNamespace`",
        ),
    };
    Some(Gate::new(GateCode::BackupNotFound, message, remedy))
}

pub(super) fn no_encryption_secret(view: &View<'_>) -> Option<Gate> {
    let (_, facts) = operator(view)?;
    let named = view.plan.request.operator_spec["encryptionConfigSecretName"].as_str();
    let missing = missing(facts, |name| named == Some(name));
    (!missing.is_empty()).then(|| {
        Gate::new(
            GateCode::DecryptionFailed,
            format!("the encryption configuration that the manifest names is not there: Secret {}", listed(missing)),
            "the operator looks for it in its own namespace: make it there, with the configuration that the backup was \
             written with",
        )
    })
}

fn missing(facts: &OperatorFacts, of: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = facts.missing_secrets.iter().filter(|secret| of(&secret.name));
    missing.map(|SecretRef { namespace, name }| format!("{namespace}/{name}")).collect()
}

pub(super) fn digest_unchecked(view: &View<'_>, pinned: &str) -> Option<Gate> {
    let reason = unread(view)?;
    Some(Gate::new(
        GateCode::DigestMismatch,
        format!("the manifest pins {pinned}, and the digest of the file is not known: {}", printable(reason)),
        "let reinback read the backup, or remove `reinback.io/backup-digest`",
    ))
}

pub(super) fn different_cluster(view: &View<'_>) -> Option<Gate> {
    unread(view)?;
    view.plan.other_cluster.then(|| {
        view.acceptable(
            GateCode::DifferentCluster,
            format!(
                "the name of the backup does not say that it is of this cluster, whose kube-system has the UID {}, and the \
                 backup cannot be read; prune is off",
                view.observed.cluster.uid
            ),
            "name a backup of this cluster, as the operator called it",
            "restores it here, without prune whatever the manifest says",
        )
    })
}

pub(super) fn prunes_unread(view: &View<'_>) -> Option<(String, &'static str, &'static str)> {
    let reason = unread(view)?;
    view.plan.prunes.then(|| {
        (
            format!("what is pruned is not known, since the backup cannot be read: {}", printable(reason)),
            "set `prune: false`, or let reinback read the backup",
            "lets the operator delete all that the backup's selectors match and the backup does not hold",
        )
    })
}

/// What is asked for and the operator would do wrong, each with the ways out.
pub(super) fn not_supported(view: &View<'_>) -> Vec<(String, &'static str)> {
    let Some(Handover { overwrites, stuck, .. }) = &view.plan.handover else { return Vec::new() };
    let mut asked = Vec::new();
    if !overwrites.is_empty() {
        let named = overwrites.iter().map(|(key, why)| format!("{key} ({why})"));
        asked.push((
            format!(
                "the operator would overwrite {} that nothing may: {}",
                count(overwrites.len(), "object"),
                listed(named)
            ),
            "set `reinback.io/engine: native`, or name a backup of a ResourceSet that does not hold them",
        ));
    }
    if !stuck.is_empty() {
        let named = stuck.iter().map(|(key, why)| format!("{key} ({why})"));
        asked.push((
            format!(
                "the operator cannot write {}, and would try for ever: {}",
                count(stuck.len(), "object"),
                listed(named)
            ),
            "set `reinback.io/engine: native`, or `ignoreErrors: true` together with `policy.repair`",
        ));
    }
    asked
}

/// A Restore by the name that ours will have, and not of this run.
pub(super) fn name_taken(view: &View<'_>) -> Option<Gate> {
    let (Handover { restore: name, .. }, _) = operator(view)?;
    let request = &view.plan.request;
    let is_other = |key: &Option<String>| key.as_ref() != Some(&request.key);
    let taken = view.observed.cluster.restores.iter().any(|other| other.name == *name && is_other(&other.key));
    taken.then(|| {
        Gate::new(
            GateCode::AppliedElsewhere,
            format!("the cluster has a Restore {name} already, and it is not of this run"),
            format!("once the operator is done with it, `kubectl delete restores.resources.cattle.io {name}`"),
        )
    })
}

/// The operator takes no Restore while its Lease is held for another, and nobody else gives it back.
pub(super) fn held_lease(view: &View<'_>) -> Option<Gate> {
    let (Handover { restore, .. }, facts) = operator(view)?;
    let holder = facts.holder.as_ref().filter(|holder| !holder.starts_with(&holder_of(restore, "")))?;
    let namespace = &view.observed.guarded.operator_namespace;
    Some(Gate::new(
        GateCode::RunInProgress,
        format!("the operator's Lease is held for a Restore that is gone or has ended: {}", printable(holder)),
        format!(
            "it begins when the Lease is given back; where the operator is at nothing any more, start it again: `kubectl -n \
             {namespace} rollout restart deployment {BACKUP_OPERATOR}`"
        ),
    ))
}
