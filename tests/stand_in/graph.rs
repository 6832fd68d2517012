//! In which order the operator writes, and what it loses on the way.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::Value;

use super::Defects;
use super::api::{Api, Kinds, Place, parts, said, text};
use super::backup::Item;
use super::script::Script;

/// Objects by their places among those of a phase.
#[derive(Default)]
pub struct Graph {
    /// What waits for nothing, in the order in which it is written.
    pub ready: VecDeque<usize>,
    /// By the path of an owner, what waits for it.
    dependents: HashMap<String, Vec<usize>>,
    /// How many owners each still waits for.
    owners: HashMap<usize, usize>,
}

/// What owner references come to.
struct Owners {
    paths: Vec<String>,
    /// Some reference was not counted.
    are_invalid: bool,
}

impl Graph {
    /// Changes what the operator changes before it writes, and drops owner references that it takes for invalid.
    pub async fn of(
        api: &Api,
        kinds: &mut Kinds,
        items: &mut [Item],
        created: &HashSet<String>,
        defects: Defects,
        script: &Script,
    ) -> Result<Self, kube::Error> {
        let mut graph = Self::default();
        let known: HashSet<String> = items.iter().map(|item| item.place.path()).collect();
        for (index, item) in items.iter_mut().enumerate() {
            if defects.skips_rancher && is_rancher(&item.place) {
                script.note("INFO", &format!("Skip restoring the deployment cattle-system/{}", item.place.name));
                continue;
            }
            let Some(references) = item.object["metadata"]["ownerReferences"].as_array().cloned() else {
                graph.ready.push_back(index);
                continue;
            };
            let owners = count(api, kinds, &item.place, &references, created, defects).await?;
            let waits = owners.paths.len();
            let is_lost = owners.paths.iter().any(|path| !known.contains(path));
            if waits == 0 || (is_lost && !defects.loses_dependents) {
                if owners.are_invalid && waits == 0 {
                    item.object["metadata"].as_object_mut().map(|metadata| metadata.remove("ownerReferences"));
                }
                graph.ready.push_back(index);
                continue;
            }
            for path in owners.paths {
                graph.dependents.entry(path).or_default().push(index);
            }
            graph.owners.insert(index, waits);
        }
        Ok(graph)
    }

    /// What may be written now that this is.
    pub fn release(&mut self, path: &str) {
        for dependent in self.dependents.get(path).into_iter().flatten() {
            let left = self.owners.entry(*dependent).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.ready.push_back(*dependent);
            }
        }
    }
}

async fn count(
    api: &Api,
    kinds: &mut Kinds,
    place: &Place,
    references: &[Value],
    created: &HashSet<String>,
    defects: Defects,
) -> Result<Owners, kube::Error> {
    let mut owners = Owners { paths: Vec::new(), are_invalid: false };
    for reference in references {
        let (api_version, kind, name) =
            (text(&reference["apiVersion"]), text(&reference["kind"]), text(&reference["name"]));
        let Some(found) = kinds.find(api, &api_version, &kind).await? else {
            owners.are_invalid = true;
            continue;
        };
        if defects.drops_role_owners && ["globalrole", "roletemplate"].contains(&kind.to_lowercase().as_str()) {
            owners.are_invalid = true;
            continue;
        }
        let (group, version) = parts(&api_version);
        let namespace = place.namespace.as_deref().filter(|_| found.is_namespaced);
        let path = Place::new((group, version, &found.plural), namespace, &name).path();
        if found.is_namespaced || !created.contains(&path) {
            owners.paths.push(path);
        }
    }
    Ok(owners)
}

fn is_rancher(place: &Place) -> bool {
    let Place { group: _, version: _, plural, namespace, name } = place;
    plural == "deployments"
        && namespace.as_deref() == Some("cattle-system")
        && (name.ends_with("rancher") || name.ends_with("rancher-webhook"))
}

/// What became of owner references on the way to a write.
pub enum Remapped {
    Done,
    /// An owner is not there: all references go.
    Dropped,
}

/// Gives owner references the UIDs of the live owners.
///
/// # Errors
///
/// What the operator would say.
pub async fn remap(api: &Api, kinds: &mut Kinds, place: &Place, object: &mut Value) -> Result<Remapped, String> {
    let Some(references) = object["metadata"]["ownerReferences"].as_array_mut() else { return Ok(Remapped::Done) };
    for reference in references {
        let (api_version, kind, name) =
            (text(&reference["apiVersion"]), text(&reference["kind"]), text(&reference["name"]));
        if api_version.is_empty() || kind.is_empty() {
            continue;
        }
        let found = kinds.find(api, &api_version, &kind).await.map_err(|error| said(&error))?;
        let found = found.ok_or_else(|| {
            format!("error getting resource for gvk {api_version}, Kind={kind}: no matches for kind \"{kind}\"")
        })?;
        let (group, version) = parts(&api_version);
        let namespace = place.namespace.as_deref().filter(|_| found.is_namespaced);
        let owner = Place::new((group, version, &found.plural), namespace, &name);
        let live = api.get(&owner).await;
        match live.map_err(|error| format!("error obtaining new UID for {name}: {}", said(&error)))? {
            Some(live) => reference["uid"] = live["metadata"]["uid"].clone(),
            None => {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove("ownerReferences"));
                return Ok(Remapped::Dropped);
            }
        }
    }
    Ok(Remapped::Done)
}
