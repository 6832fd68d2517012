//! The heart: how objects are named, when two of them are equal, and what is written for one that is not.
//!
//! Equality goes by digest: the object of the backup and the live one are brought to the same normal form
//! ([`normal`]) and only 16 bytes of each are kept, so that comparing costs memory by the object and not by its size.
//! Left out of the normal form is what the server sets, what other controllers own, and what a restore itself
//! changes on purpose, so that a plan right after a success is empty.

pub mod binding;
pub mod chart;
pub mod crd;
mod defaults;
pub mod downstream;
pub mod fields;
pub mod fixed;
pub mod normal;
pub mod owner;
pub mod prepare;
pub mod protect;
pub mod shape;
pub mod unmanaged;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use binding::Binding;
use crd::CrdSummary;
use downstream::Downstream;
use fixed::Fixed;
use owner::Owner;

use crate::webhook::bundle::{self, Trusted};
use crate::webhook::silence;

/// A resource type at one version, as the paths of a backup and of the API name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// Lower-case plural, such as `clusterroles`.
    pub plural: String,
}

impl Resource {
    pub fn new(group: &str, version: &str, plural: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), plural: plural.to_owned() }
    }

    /// Of an `apiVersion` as objects write it: `v1`, `apps/v1`.
    pub fn at(api_version: &str, plural: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, plural)
    }

    /// `v1`, or `group/v1`: the `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `secrets` or `clusters.management.cattle.io`: the type whatever its version, as RBAC and kubectl name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The same type, whatever the version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub fn is_crd(&self) -> bool {
        self.is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    /// A configuration of admission webhooks.
    pub fn is_webhook_configuration(&self) -> bool {
        self.group == "admissionregistration.k8s.io"
            && matches!(self.plural.as_str(), "mutatingwebhookconfigurations" | "validatingwebhookconfigurations")
    }

    pub fn is_namespace(&self) -> bool {
        self.is("", "namespaces")
    }
}

/// `plural.group#version`, the folder of a backup: `secrets.#v1`, `clusters.management.cattle.io#v3`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}#{}", self.plural, self.group, self.version)
    }
}

/// Names one object of a cluster or of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Shared by all objects of a type, so that a key costs little.
    pub resource: Arc<Resource>,
    /// `None` for a cluster-scoped object.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// By type, namespace and name. Most that are compared are of one type, and share it.
impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let types = match Arc::ptr_eq(&self.resource, &other.resource) {
            true => Ordering::Equal,
            false => self.resource.cmp(&other.resource),
        };
        types.then_with(|| (&self.namespace, &self.name).cmp(&(&other.namespace, &other.name)))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ObjectKey {
    pub fn new(resource: &Arc<Resource>, namespace: Option<&str>, name: &str) -> Self {
        Self { resource: Arc::clone(resource), namespace: namespace.map(Arc::from), name: Arc::from(name) }
    }
}

/// The path of the object in a backup, without `.json`: `secrets.#v1/cattle-system/tls-rancher`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.resource, self.name),
            None => write!(f, "{}/{}", self.resource, self.name),
        }
    }
}

/// Makes equal strings share one allocation: a cluster has few namespaces, kinds and types, and many objects.
#[derive(Debug, Default)]
pub struct Interner {
    strings: HashSet<Arc<str>>,
    resources: HashSet<Arc<Resource>>,
}

impl Interner {
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.strings.get(text) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = Arc::from(text);
        self.strings.insert(Arc::clone(&shared));
        shared
    }

    pub fn resource(&mut self, resource: &Resource) -> Arc<Resource> {
        if let Some(shared) = self.resources.get(resource) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(resource.clone());
        self.resources.insert(Arc::clone(&shared));
        shared
    }
}

/// The first 16 bytes of a SHA-256: enough to tell the objects of one cluster apart, and half the memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Of the compact JSON of a value; maps are sorted by key.
    pub fn of(value: &Value) -> Self {
        let mut hasher = HashWriter(Sha256::new());
        serde_json::to_writer(&mut hasher, value).expect("a JSON value is written to a hasher without an error");
        let whole = hasher.0.finalize();
        let mut kept = [0; 16];
        kept.copy_from_slice(&whole[..16]);
        Self(kept)
    }
}

/// Only for tests and logs of our own types: a digest of a Secret is never shown to a person (invariant 7).
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the status of a type is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusPlace {
    /// Controllers say it anew: built-in kinds, and CRDs, whose `storedVersions` a write can break.
    Nowhere,
    /// A custom resource with the subresource.
    Subresource,
    /// A custom resource without it, as most of `management.cattle.io`: the status is a field as any other, and a replace
    /// that leaves it out wipes it.
    Body,
}

/// What is kept of one object, of the backup or live: enough to compare and to order it.
#[derive(Debug, Clone)]
pub struct Summary {
    pub kind: Arc<str>,
    /// Of the normal form, status and owner references aside.
    pub spec: Digest,
    /// Of the status, where there is one.
    pub status: Option<Digest>,
    /// Compared apart ([`owner::lead_home`]): a reference may have to change, or to go, in an object that is equal.
    pub owners: Arc<[Owner]>,
    /// `None` where there is nothing in it, as in most objects.
    particulars: Option<Arc<Particulars>>,
}

impl Summary {
    pub fn particulars(&self) -> &Particulars {
        static NOTHING: LazyLock<Particulars> = LazyLock::new(Particulars::default);
        self.particulars.as_deref().unwrap_or(&NOTHING)
    }

    /// Takes what is equal from `other`, so that both share it.
    pub fn share(&mut self, other: &Self) {
        if self.owners == other.owners {
            self.owners = Arc::clone(&other.owners);
        }
        if self.particulars == other.particulars {
            self.particulars.clone_from(&other.particulars);
        }
    }
}

/// What only objects of some types have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Particulars {
    /// The fields that the API server never lets change (`roleRef`, a Secret's `type`).
    pub fixed: Option<Box<Fixed>>,
    /// Only for token Secrets of ServiceAccounts.
    pub token: Option<Box<Token>>,
    /// Only for RBAC bindings.
    pub binding: Option<Box<Binding>>,
    /// Services that a webhook configuration asks, by namespace and name.
    pub webhook_services: Box<[(Box<str>, Box<str>)]>,
    /// Only for CustomResourceDefinitions.
    pub crd: Option<Box<CrdSummary>>,
    /// The CA bundles by which it trusts Services; compared apart ([`bundle::equal`]).
    pub trusted: Trusted,
    /// Only for objects of downstream clusters.
    pub downstream: Option<Box<Downstream>>,
    pub traits: Traits,
}

/// What protection and ordering need to know of an object's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits {
    /// A GlobalRole or RoleTemplate that Rancher itself keeps (`builtin: true`).
    pub builtin: bool,
    /// Secret of type `helm.sh/release.v1`.
    pub helm_release: bool,
    /// Secret of type `kubernetes.io/service-account-token`.
    pub service_account_token: bool,
    /// Secret of type `fleet.cattle.io/cluster-registration-values`.
    pub cluster_registration: bool,
    /// Labelled `kubernetes.io/bootstrapping: rbac-defaults`.
    pub bootstrapping: bool,
    /// How often the agents of a cluster were asked to deploy anew (Fleet and provisioning clusters).
    pub redeploy_generation: Option<i64>,
    /// Of a Cluster API cluster: paused, but for what a run did to it.
    pub paused: Option<bool>,
    /// A cluster of `management.cattle.io` whose agent Rancher is asked to deploy anew.
    pub forced_deploy: bool,
    /// Wanted of a Deployment or StatefulSet; 1 where it does not say.
    pub replicas: Option<i32>,
}

/// What decides whether the token in a token Secret still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Name of the ServiceAccount beside the Secret.
    pub account: Box<str>,
    /// UID that the account had when the token was made.
    pub uid: Option<Box<str>>,
    pub data: Option<Digest>,
}

/// What only a live object has.
#[derive(Debug, Clone)]
pub struct LiveFacts {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub created: Timestamp,
    /// 0 where the resource does not count generations.
    pub generation: i64,
    /// It has a deletionTimestamp and waits for its finalizers.
    pub terminating: bool,
}

/// Why an object could not be summarised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("it is not a JSON object")]
    NotAnObject,
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {field} is not {expected}")]
    Malformed { field: &'static str, expected: &'static str },
}

/// Summarises an object; the value is used up, since its normal form is made in place.
///
/// # Errors
///
/// When `kind` or the parts of the metadata that are looked at have another type than Kubernetes gives them.
pub fn summarise(resource: &Resource, mut value: Value, interner: &mut Interner) -> Result<Summary, ObjectError> {
    // What a run did to it is no difference.
    silence::reveal(resource, &mut value);
    let object = value.as_object_mut().ok_or(ObjectError::NotAnObject)?;
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let kind = interner.text(kind);
    let owners = owner::read(object.get("metadata"), interner)?;
    let traits = normal::traits(resource, object);
    let status = object.remove("status").filter(|status| !normal::is_empty(status));
    let token = normal::token(resource, object);
    let binding = Binding::read(resource, object, interner);
    let webhook_services = normal::webhook_services(resource, object);
    let downstream = Downstream::read(resource, object);
    let crd = resource.is_crd().then(|| Box::new(CrdSummary::take(object, status.as_ref())));
    let trusted = bundle::take(resource, object);
    normal::normalise(resource, object);
    let fixed = fixed::read(resource, object);
    let particulars = Particulars { fixed, token, binding, webhook_services, crd, trusted, downstream, traits };
    Ok(Summary {
        kind,
        spec: Digest::of(&value),
        status: status.map(|mut status| {
            normal::strip_nulls(&mut status);
            normal::strip_observed_generation(&mut status);
            Digest::of(&status)
        }),
        owners,
        particulars: (particulars != Particulars::default()).then(|| Arc::new(particulars)),
    })
}

/// Reads what only a live object has.
///
/// # Errors
///
/// When the API server left one of them out, which no Kubernetes does.
pub fn live_facts(value: &Value) -> Result<LiveFacts, ObjectError> {
    let metadata = value.get("metadata").ok_or(ObjectError::Missing("metadata"))?;
    let text = |field: &'static str| metadata.get(field).and_then(Value::as_str).ok_or(ObjectError::Missing(field));
    let created = text("creationTimestamp")?;
    Ok(LiveFacts {
        uid: text("uid")?.into(),
        resource_version: text("resourceVersion")?.into(),
        created: created
            .parse()
            .map_err(|_| ObjectError::Malformed { field: "creationTimestamp", expected: "a time" })?,
        generation: metadata.get("generation").and_then(Value::as_i64).unwrap_or_default(),
        terminating: metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null()),
    })
}

/// Whether the object of the backup needs no write where the live one is, owner references aside.
pub fn equal(backup: &Summary, live: &Summary, status: StatusPlace) -> bool {
    spec_equal(backup, live, status) && status_equal(backup, live, status)
}

/// Whether a replace of the object would change nothing.
pub fn spec_equal(backup: &Summary, live: &Summary, status: StatusPlace) -> bool {
    let crd = match (&backup.particulars().crd, &live.particulars().crd) {
        (Some(backup), Some(live)) => backup.is_kept_by(live),
        _ => true,
    };
    let body = match status {
        StatusPlace::Body => backup.status == live.status,
        StatusPlace::Subresource | StatusPlace::Nowhere => true,
    };
    crd && body && backup.spec == live.spec
}

/// Whether a write of the status by its subresource would change nothing; a backup without a status asks for none.
pub fn status_equal(backup: &Summary, live: &Summary, status: StatusPlace) -> bool {
    match status {
        StatusPlace::Subresource => backup.status.is_none() || backup.status == live.status,
        StatusPlace::Body | StatusPlace::Nowhere => true,
    }
}

#[cfg(test)]
mod tests;
