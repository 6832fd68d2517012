//! What happens to a cluster between a backup and its restore.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Method;
use kube::Client;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{IN_FLIGHT, Item, OwnerKey, Place, create_or_replace, key_of, owner_keys, send};

/// How much to disturb. The same seed on the same backup disturbs the same objects in the same way.
#[derive(Debug, Clone, Copy)]
pub struct Disturbance {
    /// Of 100 objects, how many get other content; one in two of those with owners also loses its owner references.
    pub changed_percent: usize,
    /// Of 100 objects, how many are deleted. Definitions, namespaces and owners are left, for they would take others along.
    pub deleted_percent: usize,
    /// How many objects are added that the backup's selectors match, for prune to delete.
    pub added: usize,
    pub seed: u64,
}

/// What was disturbed.
#[derive(Debug, Clone, Default)]
pub struct Disturbed {
    pub changed: Vec<Place>,
    pub deleted: Vec<Place>,
    pub added: Vec<Place>,
}

/// Disturbs a cluster that holds the objects of a backup.
pub async fn disturb(client: &Client, items: &[Item], disturbance: Disturbance) -> Result<Disturbed> {
    let Disturbance { changed_percent, deleted_percent, added, seed } = disturbance;
    let mut random = StdRng::seed_from_u64(seed);
    let owners: HashSet<OwnerKey> = items.iter().flat_map(owners_of).collect();
    let mut items: Vec<&Item> = items.iter().filter(|item| may_change(&item.place)).collect();
    items.sort_by(|one, other| one.place.cmp(&other.place));
    items.shuffle(&mut random);

    let total = items.len();
    let (deletable, others): (Vec<&Item>, Vec<&Item>) = items.into_iter().partition(|item| may_go(item, &owners));
    let delete = total * deleted_percent / 100;
    let change = total * changed_percent / 100;
    ensure!(delete <= deletable.len() && delete + change <= total, "there are not so many objects to disturb");
    let (deleted, rest) = deletable.split_at(delete);
    let mut changed: Vec<&Item> = rest.iter().chain(&others).copied().collect();
    changed.shuffle(&mut random);
    changed.truncate(change);

    let deletions = deleted.iter().map(|item| Change::Delete(item.place.clone()));
    let changes = changed.iter().map(|item| Change::Patch(item.place.clone(), patch(item, &mut random)));
    let additions = (0..added).map(addition).map(|Item { place, object }| Change::Create(place, object));
    let all: Vec<Change> = deletions.chain(changes).chain(additions).collect();
    let added = all.iter().filter_map(Change::added).collect();
    stream::iter(all).map(|change| change.apply(client)).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;

    let places = |items: &[&Item]| items.iter().map(|item| item.place.clone()).collect();
    Ok(Disturbed { changed: places(&changed), deleted: places(deleted), added })
}

enum Change {
    Delete(Place),
    Patch(Place, Value),
    Create(Place, Value),
}

impl Change {
    fn added(&self) -> Option<Place> {
        match self {
            Self::Create(place, _) => Some(place.clone()),
            Self::Delete(_) | Self::Patch(..) => None,
        }
    }

    async fn apply(self, client: &Client) -> Result<()> {
        match self {
            Self::Delete(place) => {
                let request = http::Request::delete(place.url()).body(Vec::new())?;
                client.request_text(request).await.with_context(|| format!("cannot delete {place}"))?;
            }
            Self::Patch(place, patch) => {
                let written = send(client, Method::PATCH, &place.url(), &patch).await;
                written.with_context(|| format!("cannot change {place}"))?;
            }
            Self::Create(place, object) => {
                create_or_replace(client, &place, object).await?;
            }
        }
        Ok(())
    }
}

fn owners_of(item: &Item) -> Vec<OwnerKey> {
    let references = item.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    references.flat_map(|reference| owner_keys(&item.place, reference)).collect()
}

/// Definitions hold others' objects, and these settings say which Rancher it is.
fn may_change(place: &Place) -> bool {
    let identity = ["server-version", "server-url", "install-uuid"];
    let says_which = place.is("management.cattle.io", "settings") && identity.contains(&place.name.as_str());
    !place.is_crd() && !says_which
}

/// A namespace and an owner would take others along, an account its tokens; controllers would make some of them again.
fn may_go(item: &Item, owners: &HashSet<OwnerKey>) -> bool {
    let place = &item.place;
    !place.is_namespace() && !place.is("", "serviceaccounts") && !owners.contains(&key_of(item))
}

/// A merge patch of something that the kind has and a restore brings back.
fn patch(item: &Item, random: &mut StdRng) -> Value {
    let Item { place, object } = item;
    let mut patch = match (place.group.as_str(), place.plural.as_str()) {
        ("", "secrets") => json!({"data": {"disturbed": "eWVz"}}),
        ("rbac.authorization.k8s.io", "clusterroles" | "roles") => {
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
        }
        ("rbac.authorization.k8s.io", _) => {
            json!({"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "disturbed"}]})
        }
        ("management.cattle.io", "settings") => json!({"value": "disturbed"}),
        ("" | "apps", _) => json!({"metadata": {"labels": {"disturbed": "yes"}}}),
        _ if object["spec"].is_object() => json!({"spec": {"disturbed": true}}),
        _ => json!({"disturbed": true}),
    };
    if object["metadata"]["ownerReferences"].is_array() && random.random_bool(0.5) {
        patch["metadata"]["ownerReferences"] = Value::Null;
    }
    patch
}

/// An object that both fixtures' selectors match.
fn addition(number: usize) -> Item {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let management = |plural| ("management.cattle.io", "v3", plural);
    let shared = Some("cattle-global-data");
    let name = format!("extra-{number:05}");
    let (place, kind, mut object) = match number % 5 {
        0 => (Place::new(management("users"), None, &format!("u-{name}")), "User", json!({"username": name})),
        1 => (Place::new(("", "v1", "secrets"), shared, &name), "Secret", json!({"stringData": {"key": name}})),
        2 => {
            let rules = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
            (Place::new((RBAC, "v1", "clusterroles"), None, &format!("c-{name}")), "ClusterRole", rules)
        }
        3 => {
            let role = json!({"roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}});
            (Place::new((RBAC, "v1", "rolebindings"), shared, &name), "RoleBinding", role)
        }
        _ => (Place::new(management("tokens"), None, &format!("token-{name}")), "Token", json!({"ttl": 0})),
    };
    object["apiVersion"] = match place.group.as_str() {
        "" => json!(place.version),
        group => json!(format!("{group}/{}", place.version)),
    };
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": place.name, "namespace": place.namespace});
    Item { place, object }
}
