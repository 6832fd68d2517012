//! Worlds to plan in, built by verb: a backup and a cluster that agree, then what a test changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::gate::GateCode;
use super::{Plan, Request, plan};
use crate::backup::{BackupName, Facts, ResourceSet, Selectors};
use crate::journal::WorkloadRef;
use crate::object::binding::Identity;
use crate::object::protect::Guarded;
use crate::object::{Interner, ObjectKey, Resource, live_facts, summarise};
use crate::observed::{
    Backup, BackupObject, BackupSeen, ChartSeen, ClusterFacts, Dependent, LedgerFacts, Live, LiveObject, Observed,
    OpenEntries, Served, ServedType, Workload,
};
use crate::webhook::ServiceRef;

/// UID of kube-system, in the cluster and in the name of the backup.
pub const UID: &str = "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc";
/// Of the backup as stored.
pub const SHA256: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// What a plan is made from, before the lists are joined.
pub struct World {
    pub request: Request,
    pub cluster: ClusterFacts,
    pub chart: Option<ChartSeen>,
    pub ledger: LedgerFacts,
    pub served: Served,
    pub denied: Vec<crate::observed::Access>,
    pub unlisted: Vec<(Resource, String)>,
    pub unconverted: BTreeSet<Resource>,
    pub dependents: Vec<Dependent>,
    pub backup: Backup,
    /// Instead of the backup.
    pub seen: Option<BackupSeen>,
    pub live: Vec<LiveObject>,
    interner: Interner,
}

/// Reads `secrets.#v1/cattle-system/tls-rancher`.
pub fn key(path: &str) -> ObjectKey {
    let parts: Vec<&str> = path.split('/').collect();
    let (folder, version) = parts[0].split_once('#').expect("a version");
    let (plural, group) = folder.split_once('.').expect("a group");
    let resource = Arc::new(Resource::new(group, version, plural));
    match parts[1..] {
        [name] => ObjectKey::new(&resource, None, name),
        [namespace, name] => ObjectKey::new(&resource, Some(namespace), name),
        _ => panic!("{path} is not the path of an object"),
    }
}

/// `kind`, `apiVersion` and `metadata` beside what the test says; the kind is made from the plural.
pub fn object(path: &str, more: Value) -> Value {
    let key = key(path);
    let mut object = json!({
        "apiVersion": key.resource.api_version(),
        "kind": kind_of(&key.resource.plural),
        "metadata": { "name": &*key.name },
    });
    if let Some(namespace) = &key.namespace {
        object["metadata"]["namespace"] = json!(&**namespace);
    }
    merge(&mut object, more);
    object
}

/// `secrets` to `Secret`; words in the middle stay small, which few tests mind.
pub fn kind_of(plural: &str) -> String {
    if plural == "serviceaccounts" {
        return "ServiceAccount".to_owned();
    }
    let singular = plural.strip_suffix('s').unwrap_or(plural);
    let (first, rest) = singular.split_at(1);
    first.to_uppercase() + rest
}

pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// A CRD of one version, with the status subresource or without it.
pub fn crd(plural: &str, group: &str, version: &str, status: bool) -> Value {
    let mut declared = json!({ "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } });
    if status {
        declared["subresources"] = json!({ "status": {} });
    }
    json!({
        "spec": {
            "group": group, "scope": "Cluster", "names": { "plural": plural, "kind": kind_of(plural) },
            "versions": [declared],
        },
        "status": { "storedVersions": [version], "conditions": [{ "type": "Established", "status": "True" }] },
    })
}

pub fn owner(path: &str, uid: &str) -> Value {
    let key = key(path);
    json!({ "apiVersion": key.resource.api_version(), "kind": kind_of(&key.resource.plural), "name": &*key.name, "uid": uid })
}

/// UID of a live object that the test did not give one.
pub fn uid_of(path: &str) -> String {
    format!("uid of {path}")
}

impl World {
    /// Rancher v2.9.3 with three replicas, and a whole backup of it without any object.
    pub fn quiet() -> Self {
        let rancher = workload("cattle-system", "rancher");
        let cluster = ClusterFacts {
            uid: UID.to_owned(),
            api_url: "https://10.0.0.1:6443".to_owned(),
            server_url: Some("https://rancher.example.org".to_owned()),
            server_version: Some("v2.9.3".to_owned()),
            workloads: vec![Workload { rancher: true, image: Some("rancher/rancher:v2.9.3".to_owned()), ..rancher }],
            ..ClusterFacts::default()
        };
        let backup = Backup {
            name: BackupName::new(&format!("daily-{UID}-2026-11-22T09-00-00Z.tar.gz")).expect("a name"),
            sha256: SHA256.to_owned(),
            size_bytes: 7_340_032,
            facts: Facts {
                rancher_version: Some("v2.9.3".to_owned()),
                server_url: Some("https://rancher.example.org".to_owned()),
                install_uuid: Some("b3c0a1f2".to_owned()),
            },
            objects: Vec::new(),
            selectors: Some(no_selectors()),
            filters: None,
            controllers: Vec::new(),
            unserved_selectors: Vec::new(),
            unlistable: Vec::new(),
            unknown_fields: Vec::new(),
            open_entries: OpenEntries::default(),
        };
        let request = Request {
            kind: "Restore".to_owned(),
            name: "back-to-monday".to_owned(),
            key: "5eed".to_owned(),
            engine: "auto".to_owned(),
            prune: true,
            max_prune_share_percent: 100,
            backup_name: backup.name.to_string(),
            ..Request::default()
        };
        let mut world = Self {
            request,
            cluster,
            chart: None,
            ledger: LedgerFacts {
                branch_exists: true,
                branch_cluster_uid: Some(UID.to_owned()),
                ..LedgerFacts::default()
            },
            served: Served::default(),
            denied: Vec::new(),
            unlisted: Vec::new(),
            unconverted: BTreeSet::new(),
            dependents: Vec::new(),
            backup,
            seen: None,
            live: Vec::new(),
            interner: Interner::default(),
        };
        for built_in in [
            "namespaces.#v1",
            "secrets.#v1",
            "configmaps.#v1",
            "serviceaccounts.#v1",
            "deployments.apps#v1",
            "roles.rbac.authorization.k8s.io#v1",
            "rolebindings.rbac.authorization.k8s.io#v1",
            "clusterroles.rbac.authorization.k8s.io#v1",
            "clusterrolebindings.rbac.authorization.k8s.io#v1",
            "customresourcedefinitions.apiextensions.k8s.io#v1",
        ] {
            world.serve(built_in, false, built_in != "secrets.#v1");
        }
        for custom in [
            "settings.management.cattle.io#v3",
            "users.management.cattle.io#v3",
            "projects.management.cattle.io#v3",
            "clusters.management.cattle.io#v3",
        ] {
            world.serve(custom, true, false);
        }
        world.serve("clusters.provisioning.cattle.io#v1", true, true);
        world
    }

    /// The API server serves a type, given as the folder of a backup.
    pub fn serve(&mut self, folder: &str, custom: bool, status: bool) -> &mut Self {
        let resource = key(&format!("{folder}/x")).resource;
        let kind = Arc::from(kind_of(&resource.plural));
        let kind = ServedType { kind, namespaced: false, listable: true, status, custom };
        self.served.types.insert(resource.as_ref().clone(), kind);
        self
    }

    /// The backup has an object.
    pub fn backed_up(&mut self, path: &str, more: Value) -> &mut Self {
        let key = key(path);
        let summary = summarise(&key.resource, object(path, more), &mut self.interner).expect("an object");
        self.backup.objects.push(BackupObject { key, summary });
        self
    }

    /// The cluster has an object that a selector of the backup matches.
    pub fn live(&mut self, path: &str, more: Value) -> &mut Self {
        let key = key(path);
        let mut value = object(
            path,
            json!({ "metadata": { "uid": uid_of(path), "resourceVersion": "7", "creationTimestamp": "2026-11-01T00:00:00Z" } }),
        );
        merge(&mut value, more);
        let facts = live_facts(&value).expect("what a live object has");
        let summary = summarise(&key.resource, value, &mut self.interner).expect("an object");
        self.live.push(LiveObject { key, summary, facts, selected: true });
        self
    }

    /// The same object in both.
    pub fn both(&mut self, path: &str, more: Value) -> &mut Self {
        self.backed_up(path, more.clone()).live(path, more)
    }

    /// An object that goes when one of its owners does.
    pub fn dependent(&mut self, path: &str, owners: &[&str]) -> &mut Self {
        let owners = owners.iter().map(|path| uid_of(path).into()).collect();
        self.dependents.push(Dependent { key: key(path), uid: uid_of(path).into(), owners });
        self
    }

    pub fn accept(&mut self, code: GateCode) -> &mut Self {
        self.request.accept.insert(code);
        self
    }

    pub fn rancher(&mut self) -> &mut Workload {
        &mut self.cluster.workloads[0]
    }

    pub fn observed(&self) -> Observed {
        let mut live = Live::new(self.live.iter().map(copy).collect(), self.served.clone());
        live.dependents.clone_from(&self.dependents);
        live.unlisted.clone_from(&self.unlisted);
        live.unconverted.clone_from(&self.unconverted);
        let whole = || {
            let Backup {
                name,
                sha256,
                size_bytes,
                facts,
                objects,
                selectors,
                filters,
                controllers,
                unserved_selectors,
                unlistable,
                unknown_fields,
                open_entries,
            } = &self.backup;
            BackupSeen::Whole(Box::new(Backup {
                name: name.clone(),
                sha256: sha256.clone(),
                size_bytes: *size_bytes,
                facts: facts.clone(),
                objects: objects
                    .iter()
                    .map(|object| BackupObject { key: object.key.clone(), summary: object.summary.clone() })
                    .collect(),
                selectors: selectors.clone(),
                filters: filters.clone(),
                controllers: controllers.clone(),
                unserved_selectors: unserved_selectors.clone(),
                unlistable: unlistable.clone(),
                unknown_fields: unknown_fields.clone(),
                open_entries: open_entries.clone(),
            }))
        };
        let backup = match &self.seen {
            None => whole(),
            Some(BackupSeen::NotNamed) => BackupSeen::NotNamed,
            Some(BackupSeen::Missing { place }) => BackupSeen::Missing { place: place.clone() },
            Some(BackupSeen::Corrupt { message }) => BackupSeen::Corrupt { message: message.clone() },
            Some(BackupSeen::Encrypted(closed)) => BackupSeen::Encrypted(closed.clone()),
            Some(BackupSeen::Unreadable { reason }) => BackupSeen::Unreadable { reason: reason.clone() },
            Some(BackupSeen::Whole(_)) => panic!("change the backup of the world instead"),
        };
        Observed {
            at: "2026-11-23T09:00:00Z".parse().expect("a time"),
            backup,
            chart: self.chart.clone(),
            cluster: self.cluster.clone(),
            live,
            ledger: self.ledger.clone(),
            denied: self.denied.clone(),
            guarded: Guarded {
                serving: self.cluster.webhooks.serving.clone(),
                other_cluster: !super::is_same_cluster(&self.backup, &self.cluster),
                ..guarded()
            },
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.request, &self.observed())
    }

    /// Codes of the raised gates that hold the plan.
    pub fn holding(&self) -> Vec<GateCode> {
        self.plan().holding().map(|gate| gate.code).collect()
    }
}

pub fn guarded() -> Guarded {
    Guarded {
        rancher_namespace: "cattle-system".to_owned(),
        rancher_deployment: "rancher".to_owned(),
        operator_namespace: "cattle-resources-system".to_owned(),
        operator_secrets: BTreeSet::new(),
        identity: Identity::default(),
        own_roles: BTreeSet::new(),
        stays_up: BTreeSet::new(),
        other_cluster: false,
        serving: BTreeSet::new(),
    }
}

/// Reads `cattle-system/rancher-webhook`.
pub fn service(place: &str) -> ServiceRef {
    let (namespace, name) = place.split_once('/').expect("a namespace and a name");
    ServiceRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A Deployment with three ready replicas.
pub fn workload(namespace: &str, name: &str) -> Workload {
    Workload {
        reference: WorkloadRef {
            api_version: "apps/v1".to_owned(),
            resource: "deployments".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        rancher: false,
        uid: format!("uid of {name}"),
        replicas: 3,
        ready: 3,
        recorded: None,
        rolling: false,
        image: None,
        selector: format!("app={name}"),
        managers: Vec::new(),
        answers: Vec::new(),
        mounts: Vec::new(),
    }
}

fn copy(object: &LiveObject) -> LiveObject {
    let LiveObject { key, summary, facts, selected } = object;
    LiveObject { key: key.clone(), summary: summary.clone(), facts: facts.clone(), selected: *selected }
}

/// What a selector matches is said by [`World::live`].
fn no_selectors() -> Selectors {
    ResourceSet::default().compile().expect("no selector is wrong")
}
