//! What is served, and who may use it.

use serde_json::{Value, json};

use super::api::Api;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// The built-in groups of both; the real one has more.
const GROUPS: &[&str] = &["apps", "coordination.k8s.io", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "policy"];
/// Resources of the simulated one.
const RESOURCES: &[&str] = &[
    "configmaps", "secrets", "namespaces", "serviceaccounts", "pods", "services", "endpoints", "events", "nodes", "deployments", "replicasets",
    "statefulsets", "daemonsets", "clusterroles", "clusterrolebindings", "roles", "rolebindings", "leases", "customresourcedefinitions",
    "apiservices", "validatingwebhookconfigurations", "mutatingwebhookconfigurations", "endpointslices", "poddisruptionbudgets",
    "selfsubjectaccessreviews", "selfsubjectreviews", "jobs", "cronjobs", "ingresses", "networkpolicies", "controllerrevisions", "persistentvolumeclaims",
];

async fn document(api: &Api, path: &str) -> Value {
    let answer = api.ask_raw("GET", path, &[("accept", AGGREGATED)], Vec::new()).await;
    api.note(&format!("{path} {} {}", answer.code, answer.content_type));
    answer.body
}

pub async fn all_groups_are_told_in_one_document(api: &Api) {
    for path in ["/api", "/apis"] {
        let body = document(api, path).await;
        api.note(&format!("{} {}", body["kind"], body["apiVersion"]));
        for group in body["items"].as_array().expect("groups") {
            let versions = group["versions"].as_array().expect("versions").iter().filter(|version| version["version"] == "v1");
            for version in versions {
                for resource in version["resources"].as_array().into_iter().flatten() {
                    tell(api, &group["metadata"]["name"], version, resource);
                }
            }
        }
    }
}

/// Without the subresources that the simulated one lacks.
fn tell(api: &Api, group: &Value, version: &Value, resource: &Value) {
    let name = resource["resource"].as_str().expect("a name");
    let is_built_in = group.as_str().is_none_or(|group| !group.contains("example"));
    if !is_built_in || !RESOURCES.contains(&name) {
        return;
    }
    let mut resource = resource.clone();
    resource["subresources"] = resource["subresources"].as_array().into_iter().flatten().filter(|s| s["subresource"] == "status").cloned().collect();
    api.note_value(&format!("{group} {}", version["freshness"]), &resource);
}

pub async fn groups_are_in_order(api: &Api) {
    let aggregated = document(api, "/apis").await;
    let legacy = api.ask("GET", "/apis", &Value::Null).await.body;
    api.note(&format!("{} {}", legacy["kind"], legacy["apiVersion"]));
    let names = |groups: &Value, pointer: &str| -> Vec<String> {
        let names = groups.as_array().expect("groups").iter().filter_map(|group| group.pointer(pointer)?.as_str());
        names.filter(|name| GROUPS.contains(name)).map(str::to_owned).collect()
    };
    api.note(&format!("{:?}", names(&aggregated["items"], "/metadata/name")));
    api.note(&format!("{:?}", names(&legacy["groups"], "/name")));
}

pub async fn a_group_is_told_by_itself(api: &Api) {
    api.get("/apis/apps").await;
    api.get("/apis/rbac.authorization.k8s.io").await;
    let core = api.ask("GET", "/api", &Value::Null).await;
    api.note(&format!("{} {}", core.text("/kind"), core.body["versions"]));
}

pub async fn a_version_is_told_by_itself(api: &Api) {
    for path in ["/api/v1", "/apis/apps/v1", "/apis/coordination.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1"] {
        let list = api.ask("GET", path, &Value::Null).await;
        api.note(&format!("{path} {} {} {}", list.code, list.text("/kind"), list.text("/groupVersion")));
        for resource in list.body["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            let (plural, part) = name.split_once('/').unwrap_or((name, ""));
            if !RESOURCES.contains(&plural) || !matches!(part, "" | "status") {
                continue;
            }
            let mut resource = resource.clone();
            resource.as_object_mut().expect("fields").remove("storageVersionHash");
            api.note_value("resource", &resource);
        }
    }
}

pub async fn methods_that_a_path_does_not_know_are_refused(api: &Api) {
    for (method, path) in [("PUT", api.core("configmaps")), ("POST", format!("{}/a", api.core("configmaps"))), ("POST", "/api/v1/configmaps".to_owned())] {
        let answer = api.ask(method, &path, &json!({"metadata": {"name": "a"}})).await;
        api.write_answer(method, &path, &answer);
    }
}

pub async fn the_server_says_that_it_is_well(api: &Api) {
    for path in ["/healthz", "/readyz", "/livez"] {
        api.get(path).await;
    }
    let version = api.ask("GET", "/version", &Value::Null).await;
    api.note(&format!("{} {}", version.code, version.text("/major")));
}

pub async fn rights_are_reviewed(api: &Api) {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}}});
    let answer = api.ask("POST", path, &review).await;
    api.note(&format!("{} {} {}", answer.code, answer.text("/kind"), answer.body["status"]["allowed"]));
    let answer = api.ask("GET", path, &Value::Null).await;
    api.note(&format!("{} {}", answer.code, answer.text("/reason")));
}

pub async fn who_asks_is_told(api: &Api) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = api.ask("POST", path, &review).await;
    let groups = answer.body["status"]["userInfo"]["groups"].as_array().cloned().unwrap_or_default();
    api.note(&format!("{} {} {}", answer.code, answer.text("/kind"), groups.contains(&json!("system:masters"))));
    api.note(&format!("{}", answer.text("/status/userInfo/username").is_empty()));
}

pub async fn an_api_without_its_server_fails(api: &Api) {
    let group = format!("{}.example.org", api.ns);
    let path = "/apis/apiregistration.k8s.io/v1/apiservices";
    let name = format!("v1.{group}");
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
        "spec": {"group": group, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 15,
            "insecureSkipTLSVerify": true, "service": {"namespace": api.ns, "name": "gone"}}});
    api.ask("POST", path, &service).await;
    let one = format!("{path}/{name}");
    let judged = api.until(&one, |service| service.body["status"]["conditions"][0]["status"] == "False").await;
    api.note_value("condition", &judged.body["status"]["conditions"][0]);
    let asked = api.until(&format!("/apis/{group}/v1"), |answer| answer.code == 503).await;
    api.note(&format!("{}", asked.code));
    let listed = api.until(&format!("/apis/{group}/v1/things"), |answer| answer.code == 503).await;
    api.note(&format!("{}", listed.code));
    let stale = async {
        loop {
            let body = api.ask_raw("GET", "/apis", &[("accept", AGGREGATED)], Vec::new()).await.body;
            let found = body["items"].as_array().expect("groups").iter().find(|g| g["metadata"]["name"] == group.as_str()).cloned();
            if let Some(found) = found.filter(|group| group["versions"][0]["freshness"] == "Stale") {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let stale = tokio::time::timeout(std::time::Duration::from_secs(60), stale).await.expect("it is stale in time");
    api.note(&format!("{} {}", stale["versions"][0]["version"], stale["versions"][0]["freshness"]));
    api.ask("DELETE", &one, &Value::Null).await;
    api.until_gone(&format!("/apis/{group}/v1")).await;
}
