//! What the cluster says of itself, of Rancher and of those who write beside it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::try_join_all;
use serde_json::Value;

use super::webhooks::{self, Converters, Service};
use super::{ObserveError, Places, visible};
use crate::cluster::{Catalog, ClusterReader, ListOptions, Target, selector_text};
use crate::journal::WorkloadRef;
use crate::object::Resource;
use crate::object::normal::REPLICAS_ANNOTATION;
use crate::object::protect::SecretRef;
use crate::observed::{Backup, ClusterFacts, UpstreamRestore, Workload};
use crate::operator;
use crate::plan::quiesce;
use crate::rancher::{BACKUP_OPERATOR, RANCHER_WEBHOOKS, WRITERS};
use crate::release::History;
use crate::webhook::{NamespaceLabels, ServiceRef, Webhooks};

/// Gathers what is asked of the cluster as a whole.
pub async fn cluster(
    reader: &ClusterReader,
    catalog: &Catalog,
    places: &Places,
    converters: Converters<impl Future<Output = BTreeSet<ServiceRef>>>,
    controllers: &[WorkloadRef],
) -> Result<ClusterFacts, ObserveError> {
    // A score of small requests: one after the other they would take longer than all lists.
    let asked = async {
        let namespaces = namespaces(reader).await?;
        let (webhooks, services) = webhooks::read(reader, catalog, converters, namespaces.labels).await?;
        Ok((namespaces.terminating, webhooks, services))
    };
    let (
        settings,
        (terminating_namespaces, mut webhooks, services),
        scalers,
        writers,
        (restores, operator_secrets),
        release_version,
        rancher_webhooks,
        uid,
    ) = tokio::try_join!(
        Settings::read(reader, catalog),
        asked,
        Scalers::read(reader, catalog),
        writers(reader, places, controllers),
        upstream(reader, catalog, places),
        release_version(reader, places),
        rancher_webhooks(reader),
        async { Ok(reader.cluster_uid().await?) },
    )?;
    let workloads = writers.iter().map(|reference| workload(reader, reference, places, &services, &scalers));
    let workloads: Vec<Workload> = try_join_all(workloads).await?.into_iter().flatten().collect();
    keep_serving(&mut webhooks, &services, &workloads);
    Ok(ClusterFacts {
        uid: uid.unwrap_or_default(),
        api_url: reader.api_url().to_owned(),
        install_uuid: settings.install_uuid,
        server_url: settings.server_url,
        server_version: settings.server_version,
        release_version,
        releases: History::default(),
        helm: None,
        release_types: BTreeMap::new(),
        brought: Vec::new(),
        removed: Vec::new(),
        workloads,
        webhooks,
        restores,
        operator: None,
        operator_secrets,
        terminating_namespaces,
        occupied_namespaces: BTreeMap::new(),
        unfinished_runs: Vec::new(),
        services: BTreeSet::new(),
        rancher_webhooks,
        connected_clusters: None,
        kubernetes_version: None,
    })
}

/// Of the Services that webhook configurations of the backup name, those that are there.
pub async fn services_named(
    reader: &ClusterReader,
    backup: &Backup,
) -> Result<BTreeSet<(String, String)>, ObserveError> {
    let named = backup.objects.iter().flat_map(|object| object.summary.particulars().webhook_services.iter());
    let named: BTreeSet<(String, String)> =
        named.map(|(namespace, name)| (namespace.to_string(), name.to_string())).collect();
    let resource = Resource::new("", "v1", "services");
    let mut there = BTreeSet::new();
    for (namespace, name) in named {
        if get(reader, &resource, Some(&namespace), &name).await?.is_some() {
            there.insert((namespace, name));
        }
    }
    Ok(there)
}

/// Rancher's own webhook configurations, which rancher-webhook makes when it starts.
async fn rancher_webhooks(reader: &ClusterReader) -> Result<Vec<String>, ObserveError> {
    let mut found = Vec::new();
    for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let resource = Resource::new("admissionregistration.k8s.io", "v1", plural);
        if get(reader, &resource, None, RANCHER_WEBHOOKS).await?.is_some() {
            found.push(format!("{plural}/{RANCHER_WEBHOOKS}"));
        }
    }
    Ok(found)
}

/// Settings of Rancher that a plan compares.
#[derive(Default)]
struct Settings {
    install_uuid: Option<String>,
    server_url: Option<String>,
    server_version: Option<String>,
}

impl Settings {
    async fn read(reader: &ClusterReader, catalog: &Catalog) -> Result<Self, ObserveError> {
        let resource = Resource::new("management.cattle.io", "v3", "settings");
        if catalog.find(&resource).is_none() {
            return Ok(Self::default());
        }
        let (install_uuid, server_url, server_version) = tokio::try_join!(
            setting(reader, &resource, "install-uuid"),
            setting(reader, &resource, "server-url"),
            setting(reader, &resource, "server-version"),
        )?;
        Ok(Self { install_uuid, server_url, server_version })
    }
}

pub(super) async fn setting(
    reader: &ClusterReader,
    resource: &Resource,
    name: &str,
) -> Result<Option<String>, ObserveError> {
    let Some(value) = get(reader, resource, None, name).await? else { return Ok(None) };
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    Ok(text("value").or_else(|| text("default")).map(str::to_owned))
}

/// One object, or `None` when it or its type is not there or not ours to see.
pub(super) async fn get(
    reader: &ClusterReader,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, ObserveError> {
    let answer = visible(reader.get(&Target::new(resource, namespace, name)).await)?;
    Ok(answer.and_then(|answer| answer.value().ok()))
}

/// Every object of a type; none when the type is not served.
pub(super) async fn all(
    reader: &ClusterReader,
    catalog: &Catalog,
    group: &str,
    plural: &str,
) -> Result<Vec<Value>, ObserveError> {
    let Some(found) = catalog.find_any_version(group, plural) else { return Ok(Vec::new()) };
    let listed = reader
        .list(&found.resource, ListOptions::default(), |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?)))
        .await;
    visible(listed.map(|listed| listed.items))
}

/// `appVersion` of the newest deployed Helm release of Rancher. Its name is on the Deployment that Helm made.
/// The Helm release that Rancher's Deployment says it is of, else one of its name.
pub(super) async fn release_name(reader: &ClusterReader, places: &Places) -> Result<String, ObserveError> {
    let deployments = Resource::new("apps", "v1", "deployments");
    let namespace = Some(places.rancher_namespace.as_str());
    let rancher = get(reader, &deployments, namespace, &places.rancher_deployment).await?;
    let annotations = rancher.as_ref().and_then(|rancher| rancher.pointer("/metadata/annotations"));
    let release = annotations.and_then(|all| all.get("meta.helm.sh/release-name")).and_then(Value::as_str);
    Ok(release.unwrap_or(&places.rancher_deployment).to_owned())
}

async fn release_version(reader: &ClusterReader, places: &Places) -> Result<Option<String>, ObserveError> {
    let namespace = Some(places.rancher_namespace.as_str());
    let release = release_name(reader, places).await?;
    let secrets = Resource::new("", "v1", "secrets");
    let labels = format!("owner=helm,status=deployed,name={release}");
    let options = ListOptions { namespace, label_selector: &labels, ..ListOptions::default() };
    let listed = reader.list(&secrets, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await;
    let releases = visible(listed.map(|listed| listed.items))?;
    Ok(History::read(&releases).newest().map(|newest| newest.app_version.clone()).filter(|version| !version.is_empty()))
}

/// Rancher first, then those that write beside it, those that the backup names, and the rancher-backup operator.
async fn writers(
    reader: &ClusterReader,
    places: &Places,
    controllers: &[WorkloadRef],
) -> Result<Vec<WorkloadRef>, ObserveError> {
    let mut all = vec![reference(&places.rancher_namespace, "deployments", &places.rancher_deployment)];
    let mut known = Vec::new();
    let found = WRITERS.iter().map(async |writer| match writer.name {
        Some(name) => Ok(vec![reference(writer.namespace, writer.resource, name)]),
        None => workloads_in(reader, writer.namespace, writer.resource).await,
    });
    for writers in try_join_all(found).await? {
        known.extend(writers);
    }
    let operator = reference(&places.operator_namespace, "deployments", BACKUP_OPERATOR);
    for reference in known.into_iter().chain(controllers.iter().cloned()).chain([operator]) {
        if !all.contains(&reference) {
            all.push(reference);
        }
    }
    Ok(all)
}

fn reference(namespace: &str, resource: &str, name: &str) -> WorkloadRef {
    WorkloadRef {
        api_version: "apps/v1".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

async fn workloads_in(reader: &ClusterReader, namespace: &str, plural: &str) -> Result<Vec<WorkloadRef>, ObserveError> {
    let resource = Resource::new("apps", "v1", plural);
    let options = ListOptions { namespace: Some(namespace), metadata_only: true, ..ListOptions::default() };
    let listed = reader
        .list(&resource, options, |raw| {
            let value: Value = serde_json::from_str(raw.get())?;
            Ok(value.pointer("/metadata/name").and_then(Value::as_str).map(|name| reference(namespace, plural, name)))
        })
        .await;
    visible(listed.map(|listed| listed.items))
}

async fn workload(
    reader: &ClusterReader,
    reference: &WorkloadRef,
    places: &Places,
    services: &[Service],
    scalers: &Scalers,
) -> Result<Option<Workload>, ObserveError> {
    let resource = reference.resource_type();
    let Some(value) = get(reader, &resource, Some(&reference.namespace), &reference.name).await? else {
        return Ok(None);
    };
    Ok(Some(read_workload(reference, &value, places, services, scalers)))
}

fn read_workload(
    reference: &WorkloadRef,
    value: &Value,
    places: &Places,
    services: &[Service],
    scalers: &Scalers,
) -> Workload {
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let recorded = value.pointer("/metadata/annotations").and_then(|all| all.get(REPLICAS_ANNOTATION));
    let rancher = reference.namespace == places.rancher_namespace && reference.name == places.rancher_deployment;
    let mut managers = managers(value, rancher);
    managers.extend(scalers.of(reference));
    let answers = services.iter().filter(|service| service.selects(&reference.namespace, value));
    Workload {
        reference: reference.clone(),
        rancher,
        uid: text("/metadata/uid").unwrap_or_default().to_owned(),
        replicas: number("/spec/replicas").unwrap_or(1),
        ready: number("/status/readyReplicas").unwrap_or(0),
        recorded: recorded.and_then(Value::as_str).and_then(|text| text.parse().ok()),
        rolling: is_rolling(value),
        image: text("/spec/template/spec/containers/0/image").map(str::to_owned),
        selector: selector_text(value).unwrap_or_default(),
        managers,
        answers: answers.map(|service| service.reference.clone()).collect(),
        mounts: mounts(value),
    }
}

/// What workloads that stay up serve with stays as it is.
fn keep_serving(webhooks: &mut Webhooks, services: &[Service], workloads: &[Workload]) {
    let (quiesce, stays_up) = quiesce::split(workloads);
    let answered = |workloads: &[Workload]| workloads.iter().flat_map(|workload| workload.answers.clone()).collect();
    let (mut stopped, up): (BTreeSet<ServiceRef>, BTreeSet<ServiceRef>) = (answered(&quiesce), answered(&stays_up));
    stopped.retain(|service| !up.contains(service));
    let own = services
        .iter()
        .flat_map(|service| service.secrets.iter().map(|name| (service.reference.clone(), name.clone())));
    let mounted = stays_up.iter().flat_map(|workload| {
        workload.answers.iter().flat_map(|service| workload.mounts.iter().map(|name| (service.clone(), name.clone())))
    });
    let secrets: Vec<(ServiceRef, String)> = own.chain(mounted).collect();
    webhooks.keep(&stopped, &secrets);
}

/// Secrets that a workload's pods mount.
fn mounts(workload: &Value) -> Vec<String> {
    let volumes = workload.pointer("/spec/template/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    let names = volumes.flat_map(|volume| {
        let whole = volume.pointer("/secret/secretName");
        let parts = volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten();
        whole.into_iter().chain(parts.filter_map(|part| part.pointer("/secret/name")))
    });
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A rollout that makes progress: on the worst day Rancher crashes in a loop, and nobody should wait for that to end.
fn is_rolling(workload: &Value) -> bool {
    let conditions = workload.pointer("/status/conditions").and_then(Value::as_array);
    let progressing = conditions.into_iter().flatten().find(|condition| condition["type"] == "Progressing");
    progressing.is_some_and(|condition| {
        condition["status"] == "True"
            && matches!(
                condition["reason"].as_str(),
                Some("ReplicaSetUpdated" | "NewReplicaSetCreated" | "FoundNewReplicaSet")
            )
    })
}

/// Tools that would set the replicas back, by the marks that they leave (each tool's own documentation).
///
/// Fleet marks what it deploys with `objectset.rio.cattle.io/id`, and so does the library that Rancher and Fleet apply
/// their own parts with: their agents carry it on every installation. Those who would apply them again are scaled down
/// by the same run. So Fleet's marks count on Rancher alone, which carries none unless somebody deploys it by Fleet,
/// perhaps from another cluster, whose agent runs on.
fn managers(workload: &Value, is_rancher: bool) -> Vec<String> {
    let mark = |kind: &str, name: &str| {
        workload.pointer(&format!("/metadata/{kind}")).and_then(|all| all.get(name)).and_then(Value::as_str)
    };
    let fleet =
        [("annotations", "objectset.rio.cattle.io/id", "Fleet"), ("labels", "fleet.cattle.io/bundle-name", "Fleet")];
    let others = [
        ("annotations", "argocd.argoproj.io/tracking-id", "Argo CD"),
        ("labels", "argocd.argoproj.io/instance", "Argo CD"),
        ("labels", "kustomize.toolkit.fluxcd.io/name", "Flux Kustomization"),
        ("labels", "helm.toolkit.fluxcd.io/name", "Flux HelmRelease"),
        ("annotations", "helmcharts.helm.cattle.io/configHash", "HelmChart"),
    ];
    let marks = others.iter().chain(fleet.iter().filter(|_| is_rancher));
    let found = marks.filter_map(|(kind, name, tool)| mark(kind, name).map(|by| format!("{tool} ({by})")));
    found.collect()
}

/// Those that scale workloads by themselves.
#[derive(Default)]
struct Scalers {
    /// Target as (kind, namespace, name), and who scales it.
    targets: Vec<((String, String, String), String)>,
}

impl Scalers {
    async fn read(reader: &ClusterReader, catalog: &Catalog) -> Result<Self, ObserveError> {
        let mut targets = Vec::new();
        for (group, plural, tool) in [
            ("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
            ("keda.sh", "scaledobjects", "KEDA"),
        ] {
            let found = all(reader, catalog, group, plural).await?;
            targets.extend(found.iter().filter_map(|scaler| scaled(scaler, tool)));
        }
        let charts = all(reader, catalog, "helm.cattle.io", "helmcharts").await?;
        targets.extend(charts.iter().filter_map(installed_by_chart));
        Ok(Self { targets })
    }

    fn of(&self, reference: &WorkloadRef) -> Vec<String> {
        let kind = match reference.resource.as_str() {
            "statefulsets" => "StatefulSet",
            _ => "Deployment",
        };
        let is_it = |(of, namespace, name): &(String, String, String)| {
            of == kind && *namespace == reference.namespace && *name == reference.name
        };
        self.targets.iter().filter(|(target, _)| is_it(target)).map(|(_, by)| by.clone()).collect()
    }
}

fn scaled(scaler: &Value, tool: &str) -> Option<((String, String, String), String)> {
    let namespace = scaler.pointer("/metadata/namespace")?.as_str()?;
    let target = scaler.pointer("/spec/scaleTargetRef")?;
    let kind = target.get("kind").and_then(Value::as_str).unwrap_or("Deployment");
    let name = target.get("name")?.as_str()?;
    let by = format!("{tool} ({namespace}/{})", scaler.pointer("/metadata/name")?.as_str()?);
    Some(((kind.to_owned(), namespace.to_owned(), name.to_owned()), by))
}

/// K3s and RKE2 install Rancher from a `HelmChart` of the same name and apply it again when it changes.
fn installed_by_chart(chart: &Value) -> Option<((String, String, String), String)> {
    let name = chart.pointer("/metadata/name")?.as_str()?;
    let namespace = chart.pointer("/spec/targetNamespace")?.as_str()?;
    let by = format!("HelmChart ({}/{name})", chart.pointer("/metadata/namespace")?.as_str()?);
    Some((("Deployment".to_owned(), namespace.to_owned(), name.to_owned()), by))
}

#[derive(Default)]
struct Namespaces {
    terminating: BTreeSet<String>,
    labels: NamespaceLabels,
}

async fn namespaces(reader: &ClusterReader) -> Result<Namespaces, ObserveError> {
    let resource = Resource::new("", "v1", "namespaces");
    let options = ListOptions { metadata_only: true, ..ListOptions::default() };
    let listed = reader.list(&resource, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await;
    let mut namespaces = Namespaces::default();
    for value in visible(listed.map(|listed| listed.items))? {
        let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str) else { continue };
        if value.pointer("/metadata/deletionTimestamp").is_some() {
            namespaces.terminating.insert(name.to_owned());
        }
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        namespaces.labels.insert(name.to_owned(), labels.into_iter().flatten().filter_map(label).collect());
    }
    Ok(namespaces)
}

/// The operator's Restores, and the Secrets that it, its Restores and its Backups name.
async fn upstream(
    reader: &ClusterReader,
    catalog: &Catalog,
    places: &Places,
) -> Result<(Vec<UpstreamRestore>, BTreeSet<SecretRef>), ObserveError> {
    let restores = all(reader, catalog, "resources.cattle.io", "restores").await?;
    let backups = all(reader, catalog, "resources.cattle.io", "backups").await?;
    let namespace = &places.operator_namespace;
    let mut secrets: BTreeSet<SecretRef> =
        restores.iter().chain(&backups).flat_map(|object| secrets_named(object, namespace)).collect();
    secrets.extend(operators_own(reader, namespace).await?);
    let restore = |value: &Value| {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        UpstreamRestore {
            name: text("/metadata/name").to_owned(),
            ours: value.pointer("/metadata/labels").is_some_and(|labels| labels.get(operator::RUN).is_some()),
            key: operator::key_of(value).map(str::to_owned),
            finished: !text("/status/restoreCompletionTs").is_empty(),
        }
    };
    Ok((restores.iter().map(restore).collect(), secrets))
}

pub(super) fn secrets_named(object: &Value, operator_namespace: &str) -> Vec<SecretRef> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let secret = |namespace: &str, name: &str| SecretRef { namespace: namespace.to_owned(), name: name.to_owned() };
    let encryption = text("/spec/encryptionConfigSecretName").map(|name| secret(operator_namespace, name));
    let namespace = text("/spec/storageLocation/s3/credentialSecretNamespace").unwrap_or(operator_namespace);
    let credentials = text("/spec/storageLocation/s3/credentialSecretName").map(|name| secret(namespace, name));
    encryption.into_iter().chain(credentials).collect()
}

/// In this variable its chart names the Secret that says where backups lie by default (rancher-backup e90504c3,
/// `charts/rancher-backup/templates/deployment.yaml`).
pub(super) const DEFAULT_STORE: &str = "DEFAULT_S3_BACKUP_STORAGE_LOCATION";

/// Secrets that the operator's own pods take, and those of its default store.
async fn operators_own(reader: &ClusterReader, namespace: &str) -> Result<Vec<SecretRef>, ObserveError> {
    let deployments = Resource::new("apps", "v1", "deployments");
    let Some(operator) = get(reader, &deployments, Some(namespace), BACKUP_OPERATOR).await? else {
        return Ok(Vec::new());
    };
    let (mut names, store) = secrets_of_pods(&operator);
    let mut secrets = Vec::new();
    if let Some(store) = store {
        let resource = Resource::new("", "v1", "secrets");
        if let Some(secret) = get(reader, &resource, Some(namespace), &store).await? {
            secrets.extend(credentials_of_store(&secret, namespace));
        }
        names.push(store);
    }
    secrets.extend(names.into_iter().map(|name| SecretRef { namespace: namespace.to_owned(), name }));
    Ok(secrets)
}

/// The Secrets that a workload's pods mount, read or pull images with, and the one of the default store.
fn secrets_of_pods(workload: &Value) -> (Vec<String>, Option<String>) {
    let empty = Value::Null;
    let spec = workload.pointer("/spec/template/spec").unwrap_or(&empty);
    let list = |of: &Value, field: &str| of.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |of: &Value, pointer: &str| of.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let mut names: Vec<String> = Vec::new();
    let mut store = None;
    for container in list(spec, "containers").iter().chain(&list(spec, "initContainers")) {
        for variable in list(container, "env") {
            names.extend(text(&variable, "/valueFrom/secretKeyRef/name"));
            if variable["name"] == DEFAULT_STORE {
                store = text(&variable, "/value").filter(|name| !name.is_empty());
            }
        }
        names.extend(list(container, "envFrom").iter().filter_map(|from| text(from, "/secretRef/name")));
    }
    for volume in list(spec, "volumes") {
        names.extend(text(&volume, "/secret/secretName"));
        let sources = volume.get("projected").map(|projected| list(projected, "sources")).unwrap_or_default();
        names.extend(sources.iter().filter_map(|source| text(source, "/secret/name")));
    }
    names.extend(list(spec, "imagePullSecrets").iter().filter_map(|secret| text(secret, "/name")));
    (names, store)
}

fn credentials_of_store(secret: &Value, operator_namespace: &str) -> Option<SecretRef> {
    let text = |field: &str| {
        let encoded = secret.get("data")?.get(field)?.as_str()?;
        String::from_utf8(BASE64.decode(encoded).ok()?).ok().filter(|text| !text.is_empty())
    };
    let namespace = text("credentialSecretNamespace").unwrap_or_else(|| operator_namespace.to_owned());
    Some(SecretRef { namespace, name: text("credentialSecretName")? })
}
