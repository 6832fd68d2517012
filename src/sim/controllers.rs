//! What a cluster does by itself: small models of the controllers, the scheduler, the kubelet and the garbage collector.
//!
//! A change queues work; the work, when it is due, looks at what there is then and acts. So it does no harm to queue too
//! much, and what was overtaken does nothing.

mod accounts;
mod collect;
mod definitions;
mod deployments;
mod namespaces;
pub mod pods;
mod replicas;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::delete::{DeleteOptions, Propagation};
use super::kinds::Kind;
use super::meta;
use super::store::{Change, Key};
use super::world::World;
use super::write::{Place, Written};

pub use definitions::establish;

/// The one node.
pub const NODE: &str = "sim-0";
/// Who writes, in `managedFields`.
const MANAGER: &str = "sim-controllers";

/// Something to be done later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Fills a namespace with what every namespace has, or empties it.
    Namespace(String),
    /// Fills the Secret of a service account's token, or removes it.
    Token(Key),
    /// Accepts a definition and serves what it defines, or clears away what it defined.
    Definition(Key),
    /// Lets discovery tell of what a definition defines, or ends to serve it.
    Announce(Key),
    /// Judges whether the servers of aggregated APIs answer.
    ApiServices,
    /// Deletes an object whose owners are gone.
    Collect(Key),
    /// Lets go of an owner that waits for its dependents.
    Release(Key),
    Deployment(Key),
    /// A ReplicaSet, StatefulSet or DaemonSet.
    Replicas(Key),
    /// Gives a pod a node, then starts it, and stops it when it is deleted.
    Schedule(Key),
    Start(Key),
    Stop(Key),
}

/// Does what is due.
pub fn run(world: &mut World, work: &Work) {
    match work {
        Work::Namespace(name) => namespaces::tend(world, name),
        Work::Token(key) => accounts::tend_token(world, key),
        Work::Definition(key) => definitions::tend(world, key),
        Work::Announce(key) => definitions::announce(world, key),
        Work::ApiServices => definitions::judge_services(world),
        Work::Collect(key) => collect::collect(world, key),
        Work::Release(key) => collect::release(world, key),
        Work::Deployment(key) => deployments::tend(world, key),
        Work::Replicas(key) => replicas::tend(world, key),
        Work::Schedule(key) => pods::schedule(world, key),
        Work::Start(key) => pods::start(world, key),
        Work::Stop(key) => pods::stop(world, key),
    }
}

/// Queues what follows from a change.
pub fn react(world: &mut World, change: &Change) {
    let Change { revision: _, key, before, after } = change;
    react_by_kind(world, key, after.as_deref());
    collect::react(world, key, before.as_deref(), after.as_deref());
    let object = after.as_deref().or(before.as_deref());
    if let Some(work) = object.and_then(|object| deployments::owner_work(world, key, object)) {
        soon(world, work);
    }
    let Some(namespace) = key.namespace() else { return };
    if after.is_none() {
        // It may have been the last one in a namespace that goes, or what every namespace has.
        soon(world, Work::Namespace(namespace.to_owned()));
    }
}

fn react_by_kind(world: &mut World, key: &Key, after: Option<&Value>) {
    match &*key.of {
        "namespaces" => soon(world, Work::Namespace(key.name().to_owned())),
        "secrets" if after.is_some_and(accounts::is_token) => soon(world, Work::Token(key.clone())),
        "serviceaccounts" => accounts::react(world, key),
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let work = if after.is_some() { Work::Definition } else { Work::Announce };
            soon(world, work(key.clone()));
        }
        "apiservices.apiregistration.k8s.io" => soon(world, Work::ApiServices),
        "deployments.apps" => soon(world, Work::Deployment(key.clone())),
        "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps" => soon(world, Work::Replicas(key.clone())),
        "pods" => pods::react(world, key, after),
        of => definitions::react(world, of, after),
    }
}

/// Queues work for when a controller gets to it.
fn soon(world: &mut World, work: Work) {
    let longest = world.options.controller_delay;
    after(world, longest, work);
}

fn after(world: &mut World, longest: Duration, work: Work) {
    let delay = world.between(longest / 2, longest);
    world.queue(delay, work);
}

/// Deletes an object as a controller does. That it is gone already is as good.
fn delete(world: &mut World, key: &Key, propagation: Option<Propagation>) {
    let Some(kind) = world.kind_of(key) else { return };
    let uid = world.store.get(key).map(|object| meta::uid(object).to_owned());
    let options = DeleteOptions { uid, propagation, ..DeleteOptions::default() };
    let _gone_already = world.delete(&kind, key, &options);
}

/// Makes an object as a controller does; `None` where it exists, or its namespace is going.
fn create(world: &mut World, plural: (&str, &str), namespace: Option<&str>, object: Value) -> Option<Written> {
    let kind: Arc<Kind> = world.kinds.find(plural.0, plural.1)?.clone();
    let place = Place { kind: &kind, version: "v1", namespace, manager: MANAGER };
    world.create(&place, object).ok()
}

fn kind_key(world: &World, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Key> {
    Some(Key::new(&world.kinds.find(group, plural)?.stored, namespace, name))
}
