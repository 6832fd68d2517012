//! What the API server fills in where a built-in object does not say: taken out of both sides before they are compared, so
//! that an object that an older server stored, or that a person wrote short, equals what a newer server makes of it.
//!
//! From the defaulting functions of Kubernetes 1.34 (`pkg/apis/*/v1/defaults.go`, `zz_generated.defaults.go`); only constants
//! are here. A default that is missing here costs a write too many, and one that is wrong hides a difference: so only what
//! the server itself fills in, as it fills it in. `tests/it/fidelity/defaults.rs` holds the list to the real server.

use serde_json::{Map, Value, json};

use super::Resource;

type Object = Map<String, Value>;

/// Takes out of an object, without nulls, what the API server would fill in by itself.
pub fn strip(resource: &Resource, object: &mut Object) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "secrets") => drop_default(object, "type", &json!("Opaque")),
        ("", "services") => within(object, "spec", service),
        ("", "endpoints") => each(object, "subsets", |subset| each(subset, "ports", protocol)),
        ("", "persistentvolumeclaims") => {
            within(object, "spec", |spec| drop_default(spec, "volumeMode", &json!("Filesystem")))
        }
        ("", "pods") => within(object, "spec", |spec| {
            drop_default(spec, "enableServiceLinks", &json!(true));
            pod(spec);
        }),
        ("apps", "deployments") => within(object, "spec", deployment),
        ("apps", "statefulsets") => within(object, "spec", stateful_set),
        ("apps", "daemonsets") => daemon_set(object),
        ("apps", "replicasets") => within(object, "spec", |spec| {
            drop_default(spec, "replicas", &json!(1));
            template(spec);
        }),
        ("batch", "jobs") => job(object),
        ("batch", "cronjobs") => within(object, "spec", cron_job),
        ("rbac.authorization.k8s.io", _) => rbac(object),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations" | "mutatingwebhookconfigurations") => {
            each(object, "webhooks", webhook);
        }
        ("apiregistration.k8s.io", "apiservices") => {
            within(object, "spec", |spec| {
                within(spec, "service", |service| drop_default(service, "port", &json!(443)))
            });
        }
        ("scheduling.k8s.io", "priorityclasses") => {
            drop_default(object, "preemptionPolicy", &json!("PreemptLowerPriority"));
            drop_default(object, "globalDefault", &json!(false));
        }
        ("storage.k8s.io", "storageclasses") => {
            drop_default(object, "reclaimPolicy", &json!("Delete"));
            drop_default(object, "volumeBindingMode", &json!("Immediate"));
        }
        ("networking.k8s.io", "networkpolicies") => within(object, "spec", network_policy),
        ("networking.k8s.io", "ingressclasses") => {
            within(object, "spec", |spec| {
                within(spec, "parameters", |of| drop_default(of, "scope", &json!("Cluster")))
            });
        }
        _ => {}
    }
}

/// A field that says what the server would say; of a map that is empty then the map stays.
fn drop_default(object: &mut Object, field: &str, default: &Value) {
    if object.get(field) == Some(default) {
        object.remove(field);
    }
}

fn drop_defaults(object: &mut Object, defaults: &[(&str, Value)]) {
    for (field, default) in defaults {
        drop_default(object, field, default);
    }
}

fn within(object: &mut Object, field: &str, change: impl FnOnce(&mut Object)) {
    if let Some(inner) = object.get_mut(field).and_then(Value::as_object_mut) {
        change(inner);
    }
}

fn each(object: &mut Object, field: &str, change: impl FnMut(&mut Object)) {
    let items = object.get_mut(field).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut).for_each(change);
}

/// A map that the server fills in, and that says nothing else: gone when nothing is left in it.
fn drop_map(object: &mut Object, field: &str, change: impl FnOnce(&mut Object)) {
    within(object, field, change);
    drop_default(object, field, &json!({}));
}

fn protocol(port: &mut Object) {
    drop_default(port, "protocol", &json!("TCP"));
}

/// Addresses are the live cluster's to give: one of another cluster, or one that is taken, is refused, and one that is left
/// out of a replace stays as it is (`pkg/registry/core/service`, `patchAllocatedValues`).
pub fn drop_addresses(spec: &mut Object) {
    if spec.get("clusterIP") != Some(&json!("None")) {
        spec.remove("clusterIP");
    }
    for field in ["clusterIPs", "ipFamilies", "healthCheckNodePort"] {
        spec.remove(field);
    }
}

fn service(spec: &mut Object) {
    drop_addresses(spec);
    // Without an address and without a selector it takes what there is.
    if spec.get("clusterIP").is_some() && spec.get("selector").is_none() {
        drop_default(spec, "ipFamilyPolicy", &json!("RequireDualStack"));
    }
    drop_defaults(
        spec,
        &[
            ("ipFamilyPolicy", json!("SingleStack")),
            ("type", json!("ClusterIP")),
            ("sessionAffinity", json!("None")),
            ("internalTrafficPolicy", json!("Cluster")),
            ("externalTrafficPolicy", json!("Cluster")),
            ("allocateLoadBalancerNodePorts", json!(true)),
            ("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10800 } })),
        ],
    );
    each(spec, "ports", |port| {
        protocol(port);
        if port.get("targetPort").is_some() && port.get("targetPort") == port.get("port") {
            port.remove("targetPort");
        }
    });
}

fn deployment(spec: &mut Object) {
    drop_defaults(
        spec,
        &[("replicas", json!(1)), ("revisionHistoryLimit", json!(10)), ("progressDeadlineSeconds", json!(600))],
    );
    drop_map(spec, "strategy", |strategy| {
        drop_map(strategy, "rollingUpdate", |rolling| {
            drop_defaults(rolling, &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
        });
        drop_default(strategy, "type", &json!("RollingUpdate"));
    });
    template(spec);
}

fn stateful_set(spec: &mut Object) {
    drop_defaults(
        spec,
        &[("replicas", json!(1)), ("revisionHistoryLimit", json!(10)), ("podManagementPolicy", json!("OrderedReady"))],
    );
    drop_map(spec, "updateStrategy", |strategy| {
        drop_map(strategy, "rollingUpdate", |rolling| drop_default(rolling, "partition", &json!(0)));
        drop_default(strategy, "type", &json!("RollingUpdate"));
    });
    drop_map(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
        drop_defaults(policy, &[("whenDeleted", json!("Retain")), ("whenScaled", json!("Retain"))]);
    });
    each(spec, "volumeClaimTemplates", |claim| {
        drop_defaults(claim, &[("apiVersion", json!("v1")), ("kind", json!("PersistentVolumeClaim"))]);
        claim.remove("status");
        within(claim, "spec", |spec| drop_default(spec, "volumeMode", &json!("Filesystem")));
    });
    template(spec);
}

fn daemon_set(object: &mut Object) {
    // Counted by the API server.
    within(object, "metadata", |metadata| {
        drop_map(metadata, "annotations", |all| drop(all.remove("deprecated.daemonset.template.generation")));
    });
    within(object, "spec", |spec| {
        drop_default(spec, "revisionHistoryLimit", &json!(10));
        drop_map(spec, "updateStrategy", |strategy| {
            drop_map(strategy, "rollingUpdate", |rolling| {
                drop_defaults(rolling, &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
            });
            drop_default(strategy, "type", &json!("RollingUpdate"));
        });
        template(spec);
    });
}

/// Labels by which a Job finds its Pods, made by the API server.
pub const JOB_LABELS: [&str; 4] =
    ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];

fn job(object: &mut Object) {
    drop_generated_selector(object);
    // Without labels of its own it gets those of its Pods.
    let of_pods = object.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    if let Some(labels) = of_pods {
        within(object, "metadata", |metadata| drop_default(metadata, "labels", &labels));
    }
    within(object, "spec", |spec| {
        drop_defaults(
            spec,
            &[
                ("completions", json!(1)),
                ("parallelism", json!(1)),
                ("backoffLimit", json!(6)),
                ("completionMode", json!("NonIndexed")),
                ("suspend", json!(false)),
                ("manualSelector", json!(false)),
                ("podReplacementPolicy", json!("TerminatingOrFailed")),
            ],
        );
        template(spec);
    });
}

/// A Job's selector names the UID that it had; the API server makes one that fits, and refuses another.
pub fn drop_generated_selector(job: &mut Object) {
    let labels = |labels: &mut Object| JOB_LABELS.iter().for_each(|label| drop(labels.remove(*label)));
    let manual = job.get("spec").and_then(|spec| spec.get("manualSelector")) == Some(&json!(true));
    if manual {
        return;
    }
    within(job, "metadata", |metadata| drop_map(metadata, "labels", labels));
    within(job, "spec", |spec| {
        spec.remove("selector");
        within(spec, "template", |template| {
            within(template, "metadata", |metadata| drop_map(metadata, "labels", labels));
        });
    });
}

fn cron_job(spec: &mut Object) {
    drop_defaults(
        spec,
        &[
            ("concurrencyPolicy", json!("Allow")),
            ("suspend", json!(false)),
            ("successfulJobsHistoryLimit", json!(3)),
            ("failedJobsHistoryLimit", json!(1)),
        ],
    );
    within(spec, "jobTemplate", |job| {
        drop_default(job, "metadata", &json!({}));
        within(job, "spec", template);
    });
}

fn rbac(object: &mut Object) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    within(object, "roleRef", |role| drop_default(role, "apiGroup", &json!(GROUP)));
    each(object, "subjects", |subject| match subject.get("kind").and_then(Value::as_str) {
        Some("User" | "Group") => drop_default(subject, "apiGroup", &json!(GROUP)),
        _ => drop_default(subject, "apiGroup", &json!("")),
    });
}

fn webhook(webhook: &mut Object) {
    drop_defaults(
        webhook,
        &[
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
            ("timeoutSeconds", json!(10)),
            ("reinvocationPolicy", json!("Never")),
        ],
    );
    within(webhook, "clientConfig", client_config);
    each(webhook, "rules", |rule| drop_default(rule, "scope", &json!("*")));
}

/// Of a webhook, also of one that converts.
pub fn client_config(config: &mut Object) {
    within(config, "service", |service| drop_default(service, "port", &json!(443)));
}

fn network_policy(spec: &mut Object) {
    let egress = spec.get("egress").is_some_and(|rules| rules.as_array().is_some_and(|rules| !rules.is_empty()));
    let default = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    drop_default(spec, "policyTypes", &default);
    for direction in ["ingress", "egress"] {
        each(spec, direction, |rule| each(rule, "ports", protocol));
    }
}

fn template(spec: &mut Object) {
    within(spec, "template", |template| {
        drop_default(template, "metadata", &json!({}));
        within(template, "spec", pod);
    });
}

fn pod(spec: &mut Object) {
    drop_defaults(
        spec,
        &[
            ("restartPolicy", json!("Always")),
            ("dnsPolicy", json!("ClusterFirst")),
            ("schedulerName", json!("default-scheduler")),
            ("terminationGracePeriodSeconds", json!(30)),
            ("securityContext", json!({})),
        ],
    );
    // The older name of the same field, which the server keeps equal.
    if spec.get("serviceAccount").is_some() && spec.get("serviceAccount") == spec.get("serviceAccountName") {
        spec.remove("serviceAccount");
    }
    let on_host = spec.get("hostNetwork") == Some(&json!(true));
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, containers, |one| container(one, on_host));
    }
    each(spec, "volumes", volume);
}

fn container(container: &mut Object, on_host: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let pull = if is_latest(image) { "Always" } else { "IfNotPresent" };
    drop_defaults(
        container,
        &[
            ("imagePullPolicy", json!(pull)),
            ("terminationMessagePath", json!("/dev/termination-log")),
            ("terminationMessagePolicy", json!("File")),
            ("resources", json!({})),
        ],
    );
    drop_map(container, "securityContext", |context| drop_default(context, "procMount", &json!("Default")));
    each(container, "ports", |port| {
        protocol(port);
        if on_host && port.get("hostPort") == port.get("containerPort") {
            port.remove("hostPort");
        }
    });
    each(container, "env", |variable| within(variable, "valueFrom", |from| within(from, "fieldRef", field_ref)));
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, field, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |hook| within(hook, "httpGet", http_get));
        }
    });
}

/// Whether an image has no tag, or `latest`, and no digest.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    drop_defaults(
        probe,
        &[
            ("timeoutSeconds", json!(1)),
            ("periodSeconds", json!(10)),
            ("successThreshold", json!(1)),
            ("failureThreshold", json!(3)),
        ],
    );
    within(probe, "httpGet", http_get);
    within(probe, "grpc", |grpc| drop_default(grpc, "service", &json!("")));
}

fn http_get(get: &mut Object) {
    drop_defaults(get, &[("scheme", json!("HTTP")), ("path", json!("/"))]);
}

fn field_ref(reference: &mut Object) {
    drop_default(reference, "apiVersion", &json!("v1"));
}

fn volume(volume: &mut Object) {
    // One that names no source is an empty folder.
    drop_default(volume, "emptyDir", &json!({}));
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        within(volume, source, |source| drop_default(source, "defaultMode", &json!(420)));
    }
    within(volume, "hostPath", |path| drop_default(path, "type", &json!("")));
    within(volume, "downwardAPI", |api| each(api, "items", |item| within(item, "fieldRef", field_ref)));
    within(volume, "projected", |projected| {
        each(projected, "sources", |source| {
            within(source, "serviceAccountToken", |token| drop_default(token, "expirationSeconds", &json!(3600)));
            within(source, "downwardAPI", |api| each(api, "items", |item| within(item, "fieldRef", field_ref)));
        });
    });
}
