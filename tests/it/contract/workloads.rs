//! Workloads and their pods.

use reinback::cluster::rollout_is_ready;
use serde_json::{Value, json};

use super::api::{Answer, Api};

fn workload(kind: &str, replicas: Option<u32>) -> Value {
    let labels = json!({"app": "web"});
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}});
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = "web".into();
    }
    object
}

async fn ready(api: &Api, one: &str) -> Answer {
    api.until(one, |workload| workload.text("/metadata/name") == "web" && rollout_is_ready(&workload.body)).await
}

async fn pods(api: &Api, count: usize) -> Vec<Value> {
    let path = format!("{}?labelSelector=app%3Dweb", api.core("pods"));
    let found = api.until(&path, |pods| pods.body["items"].as_array().is_some_and(|items| items.len() == count)).await;
    found.body["items"].as_array().expect("a list").clone()
}

fn status(workload: &Value) -> Value {
    let mut status = workload["status"].clone();
    for passing in ["conditions", "currentRevision", "updateRevision", "terminatingReplicas"] {
        status.as_object_mut().expect("a status").remove(passing);
    }
    status
}

pub async fn a_deployment_is_made_with_defaults(api: &Api) {
    api.post(&api.apis("apps", "deployments"), &workload("Deployment", None)).await;
}

pub async fn a_deployment_gets_ready_scales_down_and_up(api: &Api) {
    let path = api.apis("apps", "deployments");
    let one = format!("{path}/web");
    api.ask("POST", &path, &workload("Deployment", Some(2))).await;
    let up = ready(api, &one).await;
    api.note_value("up", &status(&up.body));
    for kind in ["Available", "Progressing"] {
        let conditions = up.body["status"]["conditions"].as_array().expect("conditions");
        let condition = conditions.iter().find(|c| c["type"] == kind).expect("the condition");
        api.note(&format!("{kind} {}", condition["status"]));
    }
    pods(api, 2).await;
    api.ask("PATCH", &one, &json!({"spec": {"replicas": 0}, "metadata": {"annotations": {"x": "1"}}})).await;
    pods(api, 0).await;
    let down = ready(api, &one).await;
    api.note_value("down", &status(&down.body));
    api.note(&format!("{}", down.body["metadata"]["generation"]));
    api.ask("PATCH", &one, &json!({"spec": {"replicas": 3}, "metadata": {"annotations": {"x": null}}})).await;
    let up = ready(api, &one).await;
    api.note_value("up again", &status(&up.body));
    pods(api, 3).await;
}

pub async fn a_deployment_owns_sets_and_sets_own_pods(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(1))).await;
    ready(api, &format!("{path}/web")).await;
    let sets = api.ask("GET", &api.apis("apps", "replicasets"), &Value::Null).await;
    let set = &sets.body["items"][0];
    let owner = |object: &Value| {
        let owner = &object["metadata"]["ownerReferences"][0];
        format!("{} {} {} {}", owner["apiVersion"], owner["kind"], owner["controller"], owner["blockOwnerDeletion"])
    };
    api.note(&owner(set));
    api.note(&format!("{}", set["metadata"]["labels"]["pod-template-hash"].is_string()));
    let pod = &pods(api, 1).await[0];
    api.note(&owner(pod));
    api.note(&format!("{} {}", pod["status"]["phase"], pod["spec"]["nodeName"].is_string()));
    let ready = pod["status"]["conditions"].as_array().expect("conditions").iter().find(|c| c["type"] == "Ready");
    api.note(&format!("{}", ready.expect("the condition")["status"]));
}

pub async fn a_deployment_takes_its_sets_and_pods_with_it(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(2))).await;
    ready(api, &format!("{path}/web")).await;
    pods(api, 2).await;
    api.delete(&format!("{path}/web"), &json!({"propagationPolicy": "Background"})).await;
    pods(api, 0).await;
    let none = |sets: &Answer| sets.body["items"].as_array().is_some_and(Vec::is_empty);
    api.until(&api.apis("apps", "replicasets"), none).await;
}

pub async fn another_template_replaces_the_pods(api: &Api) {
    let path = api.apis("apps", "deployments");
    let one = format!("{path}/web");
    api.ask("POST", &path, &workload("Deployment", Some(2))).await;
    ready(api, &one).await;
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2"}]}}}});
    api.ask("PATCH", &one, &patch).await;
    let done = ready(api, &one).await;
    api.note_value("done", &status(&done.body));
    let left = pods(api, 2).await;
    api.note(&format!("{}", left.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "web:2")));
}

pub async fn a_namespace_takes_its_workloads_with_it(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(2))).await;
    ready(api, &format!("{path}/web")).await;
    let one = format!("/api/v1/namespaces/{}", api.ns);
    api.ask("DELETE", &one, &Value::Null).await;
    api.until_gone(&one).await;
    api.get(&api.core("pods")).await;
    api.get(&format!("{path}/web")).await;
}

pub async fn a_selector_stays(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(0))).await;
    let patch = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}});
    let refused = api.ask("PATCH", &format!("{path}/web"), &patch).await;
    api.note(&format!("{} {} {}", refused.code, refused.text("/reason"), refused.text("/details/causes/0/field")));
}

pub async fn a_deployments_status_is_not_written_with_it(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(0))).await;
    let one = format!("{path}/web");
    ready(api, &one).await;
    let patched = api.ask("PATCH", &one, &json!({"status": {"replicas": 7}})).await;
    api.note(&format!("{} {}", patched.code, patched.body["status"]["replicas"]));
}

pub async fn a_stateful_set_has_pods_with_numbers(api: &Api) {
    let path = api.apis("apps", "statefulsets");
    let one = format!("{path}/web");
    api.ask("POST", &path, &workload("StatefulSet", Some(2))).await;
    let up = ready(api, &one).await;
    api.note_value("up", &status(&up.body));
    let names: Vec<_> = pods(api, 2).await.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    api.note(&format!("{names:?}"));
    api.ask("PATCH", &one, &json!({"spec": {"replicas": 0}})).await;
    pods(api, 0).await;
    ready(api, &one).await;
}

pub async fn a_daemon_set_has_a_pod_on_the_node(api: &Api) {
    let path = api.apis("apps", "daemonsets");
    api.ask("POST", &path, &workload("DaemonSet", None)).await;
    let wanted = |set: &Answer| set.body["status"]["numberAvailable"] == 1 && rollout_is_ready(&set.body);
    let up = api.until(&format!("{path}/web"), wanted).await;
    api.note_value("up", &status(&up.body));
    pods(api, 1).await;
}

pub async fn a_deleted_pod_is_stopped_and_replaced(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(1))).await;
    ready(api, &format!("{path}/web")).await;
    let name = pods(api, 1).await[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let one = format!("{}/{name}", api.core("pods"));
    let answer = api.ask("DELETE", &one, &Value::Null).await;
    api.note(&format!("{} {} {}", answer.code, answer.text("/kind"), answer.body["metadata"]["deletionGracePeriodSeconds"]));
    api.until_gone(&one).await;
    ready(api, &format!("{path}/web")).await;
    pods(api, 1).await;
}

pub async fn a_pod_can_be_deleted_without_grace(api: &Api) {
    let path = api.apis("apps", "deployments");
    api.ask("POST", &path, &workload("Deployment", Some(1))).await;
    ready(api, &format!("{path}/web")).await;
    let name = pods(api, 1).await[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let one = format!("{}/{name}", api.core("pods"));
    let answer = api.ask("DELETE", &one, &json!({"gracePeriodSeconds": 0})).await;
    let after = api.ask("GET", &one, &Value::Null).await;
    api.note(&format!("{} {}", answer.code, after.code));
}
