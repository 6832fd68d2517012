//! A small Rancher before an upgrade, and what the upgrade does to it.
//!
//! Some fifty objects with what makes a restore hard: definitions, one of which is gone afterwards; owners that were made
//! anew, so that their UIDs changed; statuses with and without the subresource; writers beside Rancher; a built-in role;
//! Secrets; and objects that only the newer version has.

use serde_json::{Value, json};

/// Of the Rancher that the backup is of.
pub const BEFORE: &str = "v2.9.3";
/// Of the Rancher that was upgraded to.
pub const AFTER: &str = "v2.10.1";
/// In every Secret of the scene: what must be found nowhere else.
pub const SECRET_WORD: &str = "correct-horse-battery-staple";

/// What the upgrade changes, one object a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Made, or put in the place of the one of that name.
    Put(Value),
    /// `apiVersion`, `kind` and `metadata` say which.
    Delete(Value),
}

/// Every object, owners before what they own; owner references by name, their UIDs are the cluster's to say.
pub fn before() -> Vec<Value> {
    let mut objects = definitions();
    objects.extend(namespaces());
    objects.extend([rancher(BEFORE), rancher_service()]);
    objects.extend(settings());
    objects.extend(people());
    objects.extend(clusters());
    objects.extend(system());
    objects
}

/// The ResourceSet by which the backup is made: which live objects it stands for.
pub fn resource_set() -> Value {
    json!({
        "apiVersion": "resources.cattle.io/v1",
        "kind": "ResourceSet",
        "metadata": {"name": "rancher-resource-set"},
        "controllerReferences": [
            {"apiVersion": "apps/v1", "resource": "deployments", "name": "rancher", "namespace": "cattle-system"},
        ],
        "resourceSelectors": [
            {"apiVersion": "apiextensions.k8s.io/v1", "kindsRegexp": ".", "resourceNameRegexp": "(management|catalog)\\.cattle\\.io$"},
            {"apiVersion": "v1", "kindsRegexp": "^namespaces$", "resourceNameRegexp": "^cattle-|^c-m-|^fleet-"},
            {"apiVersion": "v1", "kindsRegexp": "^secrets$|^configmaps$", "namespaceRegexp": "^cattle-|^c-m-|^fleet-"},
            {"apiVersion": "v1", "kindsRegexp": "^serviceaccounts$", "namespaces": ["cattle-system"], "excludeResourceNameRegexp": "^default$"},
            {"apiVersion": "management.cattle.io/v3", "kindsRegexp": "."},
            {"apiVersion": "catalog.cattle.io/v1", "kindsRegexp": "."},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kindsRegexp": "^roles$|^rolebindings$", "namespaceRegexp": "^cattle-|^c-m-"},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kindsRegexp": "^clusterroles$|^clusterrolebindings$", "resourceNameRegexp": "^cattle-"},
            {"apiVersion": "apps/v1", "kindsRegexp": "^deployments$", "namespaces": ["cattle-fleet-system"]},
        ],
    })
}

/// Whether the backup holds this object of the scene: all but Rancher's own Deployment and Service, which Helm owns.
pub fn is_saved(object: &Value) -> bool {
    object["metadata"]["name"] != "rancher" || !matches!(object["kind"].as_str(), Some("Deployment" | "Service"))
}

/// The upgrade that went wrong.
pub fn upgrade() -> Vec<Step> {
    let put = Step::Put;
    let delete = deletion;
    let [alice, bob] = [user("u-alice", "Alice"), user("u-bob", "Bob")];
    let [admins, support] = [global_role("support", false), global_role_binding("grb-support", "u-bob", "support")];
    vec![
        put(rancher(AFTER)),
        put(setting("server-version", AFTER)),
        put(setting("agent-image", "rancher/rancher-agent:v2.10.1")),
        delete(&setting("ui-brand", "")),
        put(setting("only-in-2-10", "true")),
        // Made anew under the same name: what it owned went along, and came back without an owner or not at all.
        delete(&admins),
        put(global_role("support", false)),
        delete(&support),
        delete(&alice),
        put(merged(bob, json!({"displayName": "Bob, renamed by the upgrade"}))),
        put(merged(
            cluster("c-m-prod", "prod"),
            json!({
                "spec": {"displayName": "prod", "desiredAgentImage": "rancher/rancher-agent:v2.10.1"},
                "status": {"conditions": [{"type": "Ready", "status": "False", "message": "agent v2.10.1 does not connect"}]},
            }),
        )),
        delete(&project("p-web", "web")),
        put(project("p-new", "made after the upgrade")),
        put(secret("cattle-system", "migration-state", "helm")),
        put(secret("cattle-system", "tls-rancher-internal", "new")),
        delete(&secret("fleet-default", "import-token", "")),
        delete(&deployment("cattle-fleet-system", "gitjob", 1, "rancher/fleet:v0.10.4")),
        put(deployment("cattle-fleet-system", "fleet-controller", 2, "rancher/fleet:v0.11.0")),
        delete(&definition("catalog.cattle.io", "v1", "clusterrepos", "ClusterRepo", false, true)),
        put(role("cattle-system", "support", &["get", "list", "watch", "delete"])),
    ]
}

/// The step that deletes this object.
pub(super) fn deletion(object: &Value) -> Step {
    let mut metadata = json!({"name": object["metadata"]["name"]});
    if let Some(namespace) = object["metadata"].get("namespace") {
        metadata["namespace"] = namespace.clone();
    }
    Step::Delete(json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata}))
}

fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn named(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn management(kind: &str, namespace: Option<&str>, name: &str, more: Value) -> Value {
    merged(named("management.cattle.io/v3", kind, namespace, name), more)
}

fn rbac(kind: &str, namespace: Option<&str>, name: &str, more: Value) -> Value {
    merged(named("rbac.authorization.k8s.io/v1", kind, namespace, name), more)
}

fn owned(mut object: Value, owner: &Value) -> Value {
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": "",
    }]);
    object
}

fn definitions() -> Vec<Value> {
    let management = |plural: &str, kind: &str, namespaced: bool, status: bool| {
        definition("management.cattle.io", "v3", plural, kind, namespaced, status)
    };
    vec![
        management("settings", "Setting", false, false),
        management("users", "User", false, true),
        management("globalroles", "GlobalRole", false, false),
        management("globalrolebindings", "GlobalRoleBinding", false, false),
        management("clusters", "Cluster", false, true),
        management("projects", "Project", true, false),
        definition("catalog.cattle.io", "v1", "clusterrepos", "ClusterRepo", false, true),
    ]
}

fn definition(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool, status: bool) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let mut served = json!({"name": version, "served": true, "storage": true, "schema": schema});
    if status {
        served["subresources"] = json!({"status": {}});
    }
    let singular = kind.to_lowercase();
    let spec = json!({
        "group": group,
        "scope": if namespaced { "Namespaced" } else { "Cluster" },
        "names": {"plural": plural, "singular": singular, "kind": kind, "listKind": format!("{kind}List")},
        "versions": [served],
        "conversion": {"strategy": "None"},
    });
    let object = named("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &format!("{plural}.{group}"));
    merged(object, json!({"spec": spec}))
}

fn namespaces() -> Vec<Value> {
    let names = ["cattle-system", "cattle-fleet-system", "fleet-default", "c-m-prod"];
    names.map(|name| named("v1", "Namespace", None, name)).into()
}

pub(super) fn rancher(version: &str) -> Value {
    deployment("cattle-system", "rancher", 3, &format!("rancher/rancher:{version}"))
}

/// By it Rancher is asked whether it is well.
fn rancher_service() -> Value {
    let service = named("v1", "Service", Some("cattle-system"), "rancher");
    merged(service, json!({"spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": "rancher"}}}))
}

fn deployment(namespace: &str, name: &str, replicas: i64, image: &str) -> Value {
    let labels = json!({"app": name});
    let template = json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": name, "image": image}]},
    });
    let mut object = named("apps/v1", "Deployment", Some(namespace), name);
    object["metadata"]["labels"] = labels.clone();
    merged(object, json!({"spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}}))
}

fn settings() -> Vec<Value> {
    [
        ("server-url", "https://rancher.example.org"),
        ("server-version", BEFORE),
        ("install-uuid", "0b0f3b1e-5a6d-4a1f-8a8f-1f0a7c0d9e11"),
        ("agent-image", "rancher/rancher-agent:v2.9.3"),
        ("ui-brand", "suse"),
        ("auth-token-max-ttl-minutes", "129600"),
    ]
    .map(|(name, value)| setting(name, value))
    .into()
}

fn setting(name: &str, value: &str) -> Value {
    management("Setting", None, name, json!({"value": value, "default": "", "customized": false}))
}

fn people() -> Vec<Value> {
    let roles = [global_role("admin", true), global_role("support", false)];
    let bindings = [("grb-alice", "u-alice", "admin"), ("grb-support", "u-bob", "support")];
    let bindings = bindings.map(|(name, user, role)| global_role_binding(name, user, role));
    let cluster_roles: Vec<Value> = roles.iter().map(cluster_role_of).collect();
    let cluster_bindings: Vec<Value> = bindings.iter().map(cluster_role_binding_of).collect();
    let users = [user("u-alice", "Alice"), user("u-bob", "Bob"), user("u-carol", "Carol")];
    users.into_iter().chain(roles).chain(bindings).chain(cluster_roles).chain(cluster_bindings).collect()
}

pub(super) fn user(name: &str, shown: &str) -> Value {
    let status = json!({"conditions": [{"type": "InitialRolesPopulated", "status": "True"}]});
    management("User", None, name, json!({"displayName": shown, "username": name, "status": status}))
}

fn global_role(name: &str, builtin: bool) -> Value {
    let rules = json!([{"apiGroups": ["management.cattle.io"], "resources": ["clusters"], "verbs": ["get"]}]);
    management("GlobalRole", None, name, json!({"displayName": name, "builtin": builtin, "rules": rules}))
}

pub(super) fn global_role_binding(name: &str, user: &str, role: &str) -> Value {
    management("GlobalRoleBinding", None, name, json!({"userName": user, "globalRoleName": role}))
}

fn cluster_role_of(role: &Value) -> Value {
    let name = format!("cattle-globalrole-{}", role["metadata"]["name"].as_str().unwrap_or_default());
    owned(rbac("ClusterRole", None, &name, json!({"rules": role["rules"]})), role)
}

fn cluster_role_binding_of(binding: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!("cattle-globalrolebinding-{}", text(&binding["metadata"]["name"]));
    let role = format!("cattle-globalrole-{}", text(&binding["globalRoleName"]));
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": text(&binding["userName"])});
    let more = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    });
    owned(rbac("ClusterRoleBinding", None, &name, more), binding)
}

fn clusters() -> Vec<Value> {
    vec![
        local_cluster(),
        cluster("c-m-prod", "prod"),
        project("p-web", "web"),
        project("p-system", "System"),
        merged(
            named("catalog.cattle.io/v1", "ClusterRepo", None, "rancher-charts"),
            json!({"spec": {"gitRepo": "https://git.rancher.io/charts", "gitBranch": "release-v2.9"}, "status": {"commit": "9a7f"}}),
        ),
        merged(
            named("catalog.cattle.io/v1", "ClusterRepo", None, "own-charts"),
            json!({"spec": {"url": "https://charts.example.org"}}),
        ),
    ]
}

fn cluster(name: &str, shown: &str) -> Value {
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}], "version": {"gitVersion": "v1.30.4"}});
    let spec = json!({"displayName": shown, "desiredAgentImage": "rancher/rancher-agent:v2.9.3"});
    management("Cluster", None, name, json!({"spec": spec, "status": status}))
}

/// The cluster that Rancher runs in. It has no conditions: nobody is there who would write them anew.
fn local_cluster() -> Value {
    let spec = json!({"displayName": "local", "desiredAgentImage": "rancher/rancher-agent:v2.9.3"});
    management("Cluster", None, "local", json!({"spec": spec, "status": {"version": {"gitVersion": "v1.30.4"}}}))
}

fn project(name: &str, shown: &str) -> Value {
    let status = json!({"conditions": [{"type": "BackingNamespaceCreated", "status": "True"}]});
    let spec = json!({"clusterName": "c-m-prod", "displayName": shown});
    management("Project", Some("c-m-prod"), name, json!({"spec": spec, "status": status}))
}

fn system() -> Vec<Value> {
    let carried = named("v1", "ConfigMap", Some("cattle-system"), "provider-state");
    let carried = merged(carried, json!({"data": {"github": "enabled"}}));
    let settings = named("v1", "ConfigMap", Some("fleet-default"), "cluster-values");
    let settings = owned(merged(settings, json!({"data": {"region": "eu"}})), &carried_by());
    let bound = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "support"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u-bob"}],
    });
    vec![
        secret("cattle-system", "tls-rancher-internal", "old"),
        secret("cattle-system", "serving-cert", "old"),
        secret("fleet-default", "import-token", "old"),
        secret("c-m-prod", "cluster-credentials", "old"),
        carried,
        carried_by(),
        settings,
        named("v1", "ServiceAccount", Some("cattle-system"), "rancher-helper"),
        role("cattle-system", "support", &["get", "list", "watch"]),
        rbac("RoleBinding", Some("cattle-system"), "support", bound),
        deployment("cattle-fleet-system", "fleet-controller", 1, "rancher/fleet:v0.10.4"),
        deployment("cattle-fleet-system", "gitjob", 1, "rancher/fleet:v0.10.4"),
    ]
}

/// An owner in a namespace.
fn carried_by() -> Value {
    merged(
        named("v1", "ConfigMap", Some("fleet-default"), "cluster-registration"),
        json!({"data": {"cluster": "prod"}}),
    )
}

fn role(namespace: &str, name: &str, verbs: &[&str]) -> Value {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
    rbac("Role", Some(namespace), name, json!({"rules": rules}))
}

fn secret(namespace: &str, name: &str, version: &str) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let word = STANDARD.encode(format!("{SECRET_WORD} {namespace} {name} {version}"));
    merged(named("v1", "Secret", Some(namespace), name), json!({"type": "Opaque", "data": {"word": word}}))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn id(object: &Value) -> String {
        let metadata = &object["metadata"];
        format!("{} {} {} {}", object["apiVersion"], object["kind"], metadata["namespace"], metadata["name"])
    }

    #[test]
    fn every_object_is_there_once_and_the_upgrade_deletes_only_what_is_there() {
        let before = before();
        let ids: BTreeSet<String> = before.iter().map(id).collect();
        assert_eq!(ids.len(), before.len());
        assert!(before.iter().filter(|object| is_saved(object)).count() <= 60);
        for step in upgrade() {
            if let Step::Delete(object) = step {
                assert!(ids.contains(&id(&object)), "{object}");
            }
        }
    }
}
