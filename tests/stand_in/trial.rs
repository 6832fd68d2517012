//! One try of one Restore, from the Lease to its end. What it remembers, replicas above all, is in memory.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::Settings;
use super::api::{Api, Kinds, Place, api_version, is_code, parts, said, text};
use super::backup::{Backup, Item, encryption};
use super::controller::Life;
use super::graph::Graph;
use super::script::Phase;
use super::status;
use super::write::{Panic, Writer, customize, merge_versions, with_status};

/// Deletions at a time.
const WORKERS: usize = 25;
/// How long a definition may take until it is served.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// A workload that was scaled down, and what it had.
struct Scaled {
    place: Place,
    replicas: i64,
}

pub struct Trial<'a> {
    pub api: &'a Api,
    pub settings: &'a Settings,
    pub life: &'a Life,
    pub restore: &'a Value,
    pub kinds: Kinds,
    pub created: HashSet<String>,
    pub with_status: HashSet<String>,
}

/// How a try ended.
pub enum Tried {
    Done {
        source: &'static str,
    },
    /// With the words of the condition.
    Failed(String),
}

impl Trial<'_> {
    /// Everything between the Lease's being taken and the status.
    pub async fn run(&mut self) -> Tried {
        let script = &self.life.script;
        script.note("INFO", &format!("Processing Restore CR {}", text(&self.restore["metadata"]["name"])));
        let (mut backup, source) = match self.load().await {
            Ok(loaded) => loaded,
            Err(message) => return Tried::Failed(message),
        };
        let scaled = match self.life.reach(Phase::ScaleDown).await {
            Ok(()) => self.scale_down(&backup).await,
            Err(message) => return Tried::Failed(message),
        };
        let ended = self.write_all(&mut backup).await;
        if let Err(message) = self.life.reach(Phase::ScaleUp).await {
            return Tried::Failed(message);
        }
        self.scale_up(&scaled).await;
        match ended {
            Ok(()) => Tried::Done { source },
            Err(message) => Tried::Failed(message),
        }
    }

    async fn load(&mut self) -> Result<(Backup, &'static str), String> {
        self.life.reach(Phase::Load).await?;
        let spec = &self.restore["spec"];
        let encryption = match spec["encryptionConfigSecretName"].as_str().filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => Some(encryption(&self.secret(&self.settings.namespace, name).await?)?),
        };
        let (folder, source) = self.location().await?;
        let path = folder.join(text(&spec["backupFilename"]));
        Backup::load(&path, encryption.as_ref(), self.settings.defects).map(|backup| (backup, source))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Value, String> {
        let place = Place::new(("", "v1", "secrets"), Some(namespace), name);
        let secret = self.api.get(&place).await.map_err(|error| said(&error))?;
        secret.ok_or_else(|| format!("secrets \"{name}\" not found"))
    }

    /// Where the backup lies, and what the operator calls that.
    async fn location(&self) -> Result<(PathBuf, &'static str), String> {
        let s3 = &self.restore["spec"]["storageLocation"]["s3"];
        if s3.is_null() {
            let volume = self.settings.volume.clone();
            let nowhere = "backup location not specified on the restore CR, and not configured at the operator level";
            return volume.map(|folder| (folder, "PV")).ok_or_else(|| nowhere.to_owned());
        }
        if let Some(name) = s3["credentialSecretName"].as_str().filter(|name| !name.is_empty()) {
            self.secret(s3["credentialSecretNamespace"].as_str().unwrap_or_default(), name).await?;
        }
        let bucket = text(&s3["bucketName"]);
        let folder = self.settings.buckets.get(&bucket).ok_or_else(|| format!("bucket {bucket} does not exist"))?;
        Ok((folder.join(s3["folder"].as_str().unwrap_or_default().trim_matches('/')), "S3"))
    }

    /// What a workload had is known from here on to nobody but this try.
    async fn scale_down(&self, backup: &Backup) -> Vec<Scaled> {
        let mut scaled = Vec::new();
        for (index, reference) in backup.set.controller_references.iter().enumerate() {
            let (group, version) = parts(&reference.api_version);
            let namespace = Some(reference.namespace.as_str()).filter(|namespace| !namespace.is_empty());
            let place = Place::new((group, version, &reference.resource), namespace, &reference.name);
            let written = &backup.set.whole["controllerReferences"][index]["replicas"];
            let mut replicas = written.as_i64().unwrap_or_default();
            if let Ok(Some(mut live)) = self.api.get(&place).await
                && let Some(number) = live["spec"]["replicas"].as_i64()
            {
                replicas = number;
                live["spec"]["replicas"] = json!(0);
                self.life.script.note("INFO", &format!("Scaling down controllerRef {} to 0", place.name));
                // What fails is logged, and no more.
                let _ = self.api.replace(&place, &live).await;
            }
            scaled.push(Scaled { place, replicas });
        }
        scaled
    }

    async fn scale_up(&self, scaled: &[Scaled]) {
        for Scaled { place, replicas } in scaled {
            let Ok(Some(mut live)) = self.api.get(place).await else { continue };
            live["spec"]["replicas"] = json!(replicas);
            self.life.script.note("INFO", &format!("Scaling up controllerRef {} to {replicas}", place.name));
            let _ = self.api.replace(place, &live).await;
        }
    }

    async fn write_all(&mut self, backup: &mut Backup) -> Result<(), String> {
        let ignores = self.restore["spec"]["ignoreErrors"] == true;
        let passed = |what: &str, result: Result<(), String>, life: &Life| match result {
            Err(error) => {
                life.script.note("ERRO", &format!("Error restoring {what} {error}"));
                if ignores { Ok(()) } else { Err(format!("error restoring {what}, check logs for exact error")) }
            }
            Ok(()) => Ok(()),
        };
        let definitions = match self.life.reach(Phase::Definitions).await {
            Ok(()) => self.definitions(&backup.definitions).await,
            Err(error) => Err(error),
        };
        passed("CRDs", definitions, self.life)?;
        let cluster_scoped = match self.life.reach(Phase::ClusterScoped).await {
            Ok(()) => self.objects(&mut backup.cluster_scoped).await,
            Err(error) => Err(error),
        };
        passed("cluster-scoped resources", cluster_scoped, self.life)?;
        let namespaced = match self.life.reach(Phase::Namespaced).await {
            Ok(()) => self.objects(&mut backup.namespaced).await,
            Err(error) => Err(error),
        };
        passed("namespaced resources", namespaced, self.life)?;
        if self.restore["spec"]["prune"] == false {
            return Ok(());
        }
        self.prune(backup).await.map_err(|error| format!("error pruning during restore: {error}"))
    }

    fn writer(&mut self) -> Writer<'_> {
        Writer {
            api: self.api,
            kinds: &mut self.kinds,
            script: &self.life.script,
            defects: self.settings.defects,
            with_status: &self.with_status,
        }
    }

    async fn definitions(&mut self, items: &[Item]) -> Result<(), String> {
        for Item { place, object } in items {
            let mut object = object.clone();
            if let Some(live) = self.api.get(place).await.map_err(|error| said(&error))? {
                merge_versions(&mut object, &live);
            }
            let statuses = with_status(&object);
            let item = Item { place: place.clone(), object };
            self.writer().write(&item).await?;
            self.created.insert(place.path());
            self.with_status.extend(statuses);
        }
        for Item { place, object: _ } in items {
            let deadline = tokio::time::Instant::now() + ESTABLISHED;
            loop {
                tokio::time::sleep(self.settings.definition_poll).await;
                let live = self.api.get(place).await.map_err(|error| said(&error))?.unwrap_or_default();
                let conditions = live["status"]["conditions"].as_array().into_iter().flatten();
                if conditions.into_iter().any(|found| found["type"] == "Established" && found["status"] == "True") {
                    break;
                }
                if tokio::time::Instant::now() > deadline {
                    return Err("timed out waiting for the condition".to_owned());
                }
            }
        }
        Ok(())
    }

    async fn objects(&mut self, items: &mut [Item]) -> Result<(), String> {
        let defects = self.settings.defects;
        for item in items.iter_mut() {
            if let Err(Panic) = customize(&mut item.object, defects) {
                self.life.panic(self.api, self.settings, self.restore).await;
            }
        }
        let script = self.life.script.clone();
        let graph = Graph::of(self.api, &mut self.kinds, items, &self.created, defects, &script).await;
        let mut graph = graph.map_err(|error| said(&error))?;
        let mut errors = Vec::new();
        while let Some(index) = graph.ready.pop_front() {
            let item = &items[index];
            let path = item.place.path();
            if self.created.contains(&path) {
                continue;
            }
            if let Err(error) = self.writer().write(item).await {
                script.note("ERRO", &format!("Error restoring resource {}: {error}", item.place));
                errors.push(format!("error restoring {}: {error}", item.place));
                continue;
            }
            graph.release(&path);
            self.created.insert(path);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join(", ")) }
    }

    async fn prune(&mut self, backup: &Backup) -> Result<(), String> {
        self.life.reach(Phase::Prune).await?;
        let surplus = self.surplus(backup).await.map_err(|error| said(&error))?;
        self.delete(&surplus, false).await.unwrap_or_else(|error| {
            self.life.script.note("ERRO", &format!("Error pruning resources: {error}"));
        });
        let patience = self.restore["spec"]["deleteTimeoutSeconds"].as_u64().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(patience)).await;
        self.life.reach(Phase::Strip).await?;
        self.delete(&surplus, true).await
    }

    /// What the selectors of the backup choose, and the backup does not have.
    async fn surplus(&self, backup: &Backup) -> Result<Vec<Place>, kube::Error> {
        let Ok(selectors) = backup.set.compile() else { return Ok(Vec::new()) };
        let mut surplus = Vec::new();
        let versions: BTreeSet<&String> = backup.set.resource_selectors.iter().map(|one| &one.api_version).collect();
        for version in versions {
            for kind in self.api.kinds(version).await?.into_iter().filter(|kind| kind.can_list) {
                let (group, number) = parts(version);
                let like = Place::new((group, number, &kind.plural), None, "");
                for query in selectors.wants_resource(&api_version(group, number), &kind.kind, &kind.plural) {
                    let mut terms = Vec::new();
                    terms.extend(query.label_selector.map(|term| ("labelSelector", term)));
                    terms.extend(query.field_selector.map(|term| ("fieldSelector", term)));
                    for object in self.api.list(&like, &terms).await?.0 {
                        let metadata = &object["metadata"];
                        let (namespace, name) = (metadata["namespace"].as_str(), text(&metadata["name"]));
                        let place = Place::new((group, number, &kind.plural), namespace, &name);
                        let label = |key: &str| metadata["labels"][key].as_str();
                        if selectors.matches(query.index, namespace, &name, label)
                            && !backup.paths.contains(&place.path())
                        {
                            surplus.push(place);
                        }
                    }
                }
            }
        }
        Ok(surplus)
    }

    async fn delete(&self, surplus: &[Place], strips: bool) -> Result<(), String> {
        let deletions = surplus.iter().cloned().map(|place| remove(self.api.clone(), place, strips));
        let results: Vec<Result<(), String>> = stream::iter(deletions).buffer_unordered(WORKERS).collect().await;
        let errors: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join(", ")) }
    }

    /// Marks the Restore as done.
    pub async fn report(&self, source: &str) -> Result<(), String> {
        let now = self.settings.clock.now();
        status::update(self.api, &self.restore["metadata"]["name"], |restore| status::complete(restore, source, now))
            .await
    }
}

/// Deletes an object, without its finalizers where that is asked.
async fn remove(api: Api, place: Place, strips: bool) -> Result<(), String> {
    if strips {
        let Some(mut live) = api.get(&place).await.map_err(|error| said(&error))? else { return Ok(()) };
        live["metadata"].as_object_mut().map(|metadata| metadata.remove("finalizers"));
        api.replace(&place, &live).await.map_err(|error| said(&error))?;
    }
    match api.delete(&place).await {
        Err(error) if !is_code(&error, 404) && !is_code(&error, 410) => Err(said(&error)),
        _ => Ok(()),
    }
}
