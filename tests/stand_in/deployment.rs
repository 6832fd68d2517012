//! The operator as it is installed: a Deployment, and a process for each of its pods that is Ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::Settings;
use super::api::{Api, Place, is_code, text};
use super::controller::{Died, Process};
use super::script::{Script, Then};

/// Of the Deployment.
pub const NAME: &str = "rancher-backup";
/// Until the pods are asked for again that could not be.
const AGAIN: Duration = Duration::from_secs(1);

/// Begins what runs in a pod: dropped, it ends.
pub type Start = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// An installed operator. Dropped, all its processes are killed.
pub struct StandIn {
    script: Script,
    task: AbortHandle,
}

impl StandIn {
    /// Puts the Deployment into the cluster and minds its pods from then on. Its definitions are to be there.
    pub async fn install(client: Client, settings: Settings) -> Self {
        Self::prepare(client.clone(), &settings).await;
        Self::over(client, settings)
    }

    /// Puts the Deployment into the cluster, and what its pods need.
    pub async fn prepare(client: Client, settings: &Settings) {
        let api = Api(client);
        for (place, object) in objects(settings) {
            match api.create(&place, &object).await {
                Ok(_) => {}
                Err(error) if is_code(&error, 409) => {}
                // A simulated cluster has no volumes, and its scheduler asks for none.
                Err(error) if is_code(&error, 404) && place.plural == "persistentvolumes" => {}
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }

    /// Minds the pods of a Deployment that is there.
    pub fn over(client: Client, settings: Settings) -> Self {
        let script = Script::default();
        let namespace = settings.namespace.clone();
        let (of_container, with) = (client.clone(), script.clone());
        let start = move || container(of_container.clone(), settings.clone(), with.clone()).boxed();
        Self { task: tokio::spawn(mind(client, namespace, Arc::new(start))).abort_handle(), script }
    }

    /// Minds the pods of a Deployment that is there, and runs something else in each: the real operator. No script moves that.
    pub fn running(client: Client, settings: &Settings, start: Start) -> Self {
        let task = tokio::spawn(mind(client, settings.namespace.clone(), start)).abort_handle();
        Self { script: Script::default(), task }
    }

    pub fn script(&self) -> &Script {
        &self.script
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts and ends processes as pods come and go.
async fn mind(client: Client, namespace: String, start: Start) {
    let api = Api(client);
    let pods = Place::new(("", "v1", "pods"), Some(&namespace), "");
    let selector = [("labelSelector", format!("app.kubernetes.io/name={NAME}"))];
    let mut processes = JoinSet::new();
    let mut running: BTreeMap<String, AbortHandle> = BTreeMap::new();
    loop {
        // Who cannot ask leaves all as it is.
        if let Ok((found, version)) = api.list(&pods, &selector).await {
            let ready: BTreeSet<String> = found.iter().filter(|pod| is_ready(pod)).map(uid).collect();
            running.retain(|uid, process| {
                if !ready.contains(uid) {
                    process.abort();
                }
                ready.contains(uid)
            });
            for uid in ready {
                running.entry(uid).or_insert_with(|| processes.spawn(start()));
            }
            if let Ok(events) = api.watch(&pods, &version).await {
                let _ = std::pin::pin!(events).next().await;
                continue;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A process, and another where it dies and is started again.
async fn container(client: Client, settings: Settings, script: Script) {
    loop {
        match Process::new(client.clone(), settings.clone(), script.clone()).run().await {
            Died(Then::Restarts(after)) => tokio::time::sleep(after).await,
            Died(Then::Never) => return,
        }
    }
}

fn uid(pod: &Value) -> String {
    text(&pod["metadata"]["uid"])
}

/// One that is being deleted has been told to end, and ends at once.
fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let is_ready = conditions.into_iter().any(|found| found["type"] == "Ready" && found["status"] == "True");
    is_ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// As its chart has it.
fn objects(settings: &Settings) -> Vec<(Place, Value)> {
    let namespace = settings.namespace.as_str();
    let labels = json!({
        "app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME, "resources.cattle.io/operator": "backup-restore",
    });
    let mut env = vec![
        json!({"name": "CHART_NAMESPACE", "value": namespace}),
        json!({"name": "ENCRYPTION_PROVIDER_LOCATION", "value": "/encryption"}),
    ];
    let mut container = json!({"name": NAME, "image": "rancher/backup-restore-operator:v11.0.2"});
    let mut pod = json!({});
    let mut objects = vec![(
        Place::new(("", "v1", "namespaces"), None, namespace),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
    )];
    if settings.volume.is_some() {
        env.push(json!({"name": "DEFAULT_PERSISTENCE_ENABLED", "value": "persistence-enabled"}));
        container["volumeMounts"] = json!([{"mountPath": "/var/lib/backups", "name": "pv-storage"}]);
        pod["volumes"] = json!([{"name": "pv-storage", "persistentVolumeClaim": {"claimName": NAME}}]);
        objects.extend(volume(namespace));
    }
    container["env"] = json!(env);
    pod["containers"] = json!([container]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    });
    objects.push((Place::new(("apps", "v1", "deployments"), Some(namespace), NAME), deployment));
    objects
}

/// A claim that is bound, so that a scheduler takes the pod.
fn volume(namespace: &str) -> Vec<(Place, Value)> {
    let name = format!("{NAME}-volume");
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": ""});
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec});
    volume["spec"]["capacity"] = json!({"storage": "2Gi"});
    volume["spec"]["hostPath"] = json!({"path": "/var/lib/backups"});
    volume["spec"]["claimRef"] = json!({"namespace": namespace, "name": NAME});
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": NAME, "namespace": namespace}, "spec": spec,
    });
    claim["spec"]["resources"] = json!({"requests": {"storage": "2Gi"}});
    claim["spec"]["volumeName"] = json!(name);
    vec![
        (Place::new(("", "v1", "persistentvolumes"), None, &name), volume),
        (Place::new(("", "v1", "persistentvolumeclaims"), Some(namespace), NAME), claim),
    ]
}
