//! Webhooks of the API server: which writes each is asked about, and who answers.
//!
//! An admission webhook that refuses when nobody answers (`failurePolicy: Fail`) closes the door on every write that its
//! rules match; a conversion webhook that nobody answers closes it on reading, too. Rules are judged as the API server
//! does (apiserver, `pkg/admission/plugin/webhook/predicates/rules`), selectors of namespaces by the labels that are
//! known. What cannot be told counts as asked: selectors of objects, whose labels a plan does not hold, and conditions in
//! CEL. The API server asks no webhook about webhook configurations themselves, so that they can always be mended.

pub mod bundle;
pub mod silence;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bundle::Bundles;
use serde_json::{Map, Value};

use crate::backup::{LabelSelector, Labels};
use crate::object::Resource;
use crate::rancher::WEBHOOK_SERVICE;

const GROUP: &str = "admissionregistration.k8s.io";

/// Labels of the namespaces of a cluster.
pub type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;

/// A Service that answers webhooks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    pub namespace: String,
    pub name: String,
}

impl ServiceRef {
    /// Of a `clientConfig`; `None` where it names a URL.
    fn read(client_config: Option<&Value>) -> Option<Self> {
        let service = client_config?.get("service")?;
        let text = |field: &str| service.get(field).and_then(Value::as_str).map(str::to_owned);
        Some(Self { namespace: text("namespace")?, name: text("name")? })
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether a Service leads anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answered {
    /// It has an endpoint that is ready.
    Ready,
    NoEndpoint,
    /// There is no such Service.
    Missing,
    /// It leads out of the cluster, or the cluster does not say.
    Unknown,
}

/// Which of the two kinds of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Admission {
    Mutating,
    Validating,
}

impl Admission {
    pub const ALL: [Self; 2] = [Self::Mutating, Self::Validating];

    pub fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }

    pub fn resource(self) -> Resource {
        match self {
            Self::Mutating => Resource::new(GROUP, "v1", "mutatingwebhookconfigurations"),
            Self::Validating => Resource::new(GROUP, "v1", "validatingwebhookconfigurations"),
        }
    }
}

/// What a write does, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A write that the API server may ask webhooks about.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    pub resource: &'a Resource,
    pub operation: Operation,
    /// Of the subresource `status`.
    pub status: bool,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub struct AdmissionWebhook {
    pub admission: Admission,
    /// Name of its configuration.
    pub configuration: String,
    /// Its own name.
    pub name: String,
    /// `None` where it is called by URL.
    pub service: Option<ServiceRef>,
    /// Writes are refused where it cannot be called.
    pub fails_closed: bool,
    /// By which the API server trusts who answers.
    pub ca_bundle: Option<String>,
    rules: Vec<Rule>,
    /// Asked about the same object at another version, too (`matchPolicy: Equivalent`, the default).
    any_version: bool,
    namespaces: Option<Labels>,
}

#[derive(Debug, Clone)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

impl AdmissionWebhook {
    /// Reads the webhooks of a configuration.
    pub fn read_all(admission: Admission, configuration: &Value) -> Vec<Self> {
        let name = text(configuration.pointer("/metadata/name"));
        list(configuration.get("webhooks")).map(|webhook| Self::read(admission, &name, webhook)).collect()
    }

    fn read(admission: Admission, configuration: &str, webhook: &Value) -> Self {
        let selector = webhook.get("namespaceSelector").cloned().unwrap_or_default();
        let selector = serde_json::from_value::<Option<LabelSelector>>(selector).ok().flatten();
        Self {
            admission,
            configuration: configuration.to_owned(),
            name: text(webhook.get("name")),
            service: ServiceRef::read(webhook.get("clientConfig")),
            fails_closed: webhook.get("failurePolicy").is_none_or(|policy| policy != "Ignore"),
            ca_bundle: ca_bundle(webhook.get("clientConfig")),
            rules: list(webhook.get("rules")).map(Rule::read).collect(),
            any_version: webhook.get("matchPolicy").is_none_or(|policy| policy != "Exact"),
            namespaces: selector.and_then(|selector| Labels::new(&selector).ok()),
        }
    }

    /// rancher-webhook answers it.
    pub fn is_ranchers(&self) -> bool {
        let (namespace, name) = WEBHOOK_SERVICE;
        self.service.as_ref().is_some_and(|service| service.namespace == namespace && service.name == name)
    }

    /// The API server asks it about this write, or may do so.
    pub fn is_asked(&self, write: &Write<'_>, namespaces: &NamespaceLabels) -> bool {
        self.has_rule_for(write) && self.selects_namespace(write, namespaces)
    }

    /// Its rules match this write, whatever its selectors say.
    pub fn has_rule_for(&self, write: &Write<'_>) -> bool {
        !is_never_asked_about(write.resource) && self.rules.iter().any(|rule| rule.matches(write, self.any_version))
    }

    fn selects_namespace(&self, write: &Write<'_>, namespaces: &NamespaceLabels) -> bool {
        let namespace = if write.resource.is_namespace() { Some(write.name) } else { write.namespace };
        let (Some(selector), Some(namespace)) = (&self.namespaces, namespace) else { return true };
        // Which labels one gets that is yet to be made is not known.
        let Some(labels) = namespaces.get(namespace) else { return true };
        selector.hold(|key| labels.get(key).map(String::as_str))
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let texts = |field: &str| list(rule.get(field)).filter_map(Value::as_str).map(str::to_owned).collect();
        let scope = text(rule.get("scope"));
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: if scope.is_empty() { "*".to_owned() } else { scope },
        }
    }

    fn matches(&self, write: &Write<'_>, any_version: bool) -> bool {
        let Self { operations, groups, versions, resources, scope } = self;
        let has = |all: &[String], one: &str| all.iter().any(|each| each == "*" || each == one);
        let Write { resource, operation, status, namespace, name: _ } = write;
        // A Namespace counts as cluster-scoped, as any object without one.
        let in_scope = match scope.as_str() {
            "Cluster" => namespace.is_none(),
            "Namespaced" => namespace.is_some(),
            _ => true,
        };
        in_scope
            && has(operations, operation.as_str())
            && has(groups, &resource.group)
            && (any_version || has(versions, &resource.version))
            && resources.iter().any(|each| names(each, &resource.plural, *status))
    }
}

/// `clusters` names a type without its subresources, `clusters/*` with them, `*` all types, `*/*` all of both.
fn names(pattern: &str, plural: &str, status: bool) -> bool {
    let (of, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
    let asked = if status { "status" } else { "" };
    (of == "*" || of == plural) && (subresource == "*" || subresource == asked)
}

/// apiserver, `pkg/admission/plugin/webhook/predicates/rules`: a configuration must not lock itself.
fn is_never_asked_about(resource: &Resource) -> bool {
    resource.group == GROUP
}

/// The webhook that converts the objects of a definition between its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversionWebhook {
    pub group: String,
    pub plural: String,
    /// `None` where it is called by URL.
    pub service: Option<ServiceRef>,
    /// By which the API server trusts who answers.
    pub ca_bundle: Option<String>,
    /// At which new objects are stored.
    pub storage: Option<String>,
    /// `status.storedVersions`: at which objects may lie in etcd. Empty of a definition that is not live.
    pub stored: Vec<String>,
}

impl ConversionWebhook {
    /// Of a CustomResourceDefinition; `None` where no webhook converts.
    pub fn read(crd: &Map<String, Value>) -> Option<Self> {
        let spec = crd.get("spec")?;
        let conversion = spec.get("conversion").filter(|conversion| conversion["strategy"] == "Webhook")?;
        Some(Self {
            group: text(spec.get("group")),
            plural: text(spec.pointer("/names/plural")),
            service: ServiceRef::read(conversion.pointer("/webhook/clientConfig")),
            ca_bundle: ca_bundle(conversion.pointer("/webhook/clientConfig")),
            storage: list(spec.get("versions"))
                .find(|version| version["storage"] == true)
                .map(|version| text(version.get("name"))),
            stored: list(crd.get("status").and_then(|status| status.get("storedVersions")))
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        })
    }

    pub fn converts(&self, resource: &Resource) -> bool {
        resource.is(&self.group, &self.plural)
    }
}

/// All webhooks of a cluster, and who answers them.
#[derive(Debug, Clone, Default)]
pub struct Webhooks {
    pub admission: Vec<AdmissionWebhook>,
    pub conversion: Vec<ConversionWebhook>,
    /// Every Service that one of them names.
    pub services: BTreeMap<ServiceRef, Answered>,
    pub namespaces: NamespaceLabels,
    /// Secrets, by namespace and name, with which those serve who stay up.
    pub serving: BTreeSet<(String, String)>,
    /// By which the API server trusts those who stay up.
    pub kept: Bundles,
    /// The ServiceAccount is there that rancher-webhook lets pass.
    pub sudo: bool,
}

impl Webhooks {
    /// Learns what must stay as it is of those who stay up, once it is known whom a run stops.
    ///
    /// A Service stays up when somebody answers it now and not only workloads of `stopped` do, which are told by the
    /// Services that they answer. `secrets` are those with which each Service is served, as far as its own words go.
    pub fn keep<'a>(
        &mut self,
        stopped: &BTreeSet<ServiceRef>,
        secrets: impl IntoIterator<Item = &'a (ServiceRef, String)>,
    ) {
        let is_up = |service: &ServiceRef, services: &BTreeMap<ServiceRef, Answered>| {
            let answered = matches!(services.get(service), Some(Answered::Ready | Answered::Unknown));
            answered && !stopped.contains(service)
        };
        let of_admission = self.admission.iter().map(|webhook| (&webhook.service, &webhook.ca_bundle));
        let of_conversion = self.conversion.iter().map(|webhook| (&webhook.service, &webhook.ca_bundle));
        let bundles = of_admission.chain(of_conversion).filter_map(|(service, bundle)| {
            let service = service.as_ref().filter(|service| is_up(service, &self.services))?;
            Some((service.clone(), bundle.clone()?))
        });
        self.kept = bundles.collect();
        let serving = secrets.into_iter().filter(|(service, _)| is_up(service, &self.services));
        self.serving = serving.map(|(service, name)| (service.namespace.clone(), name.clone())).collect();
    }

    /// rancher-webhook would judge this write, and lets its sudo identity pass.
    pub fn takes_sudo(&self, write: &Write<'_>) -> bool {
        self.sudo && self.admission.iter().any(|webhook| webhook.is_ranchers() && webhook.has_rule_for(write))
    }
}

fn ca_bundle(client_config: Option<&Value>) -> Option<String> {
    let bundle = client_config?.get("caBundle")?.as_str()?;
    (!bundle.is_empty()).then(|| bundle.to_owned())
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn webhook(more: Value) -> AdmissionWebhook {
        let mut webhook = json!({
            "name": "rancher.cattle.io.settings",
            "clientConfig": {"service": {"namespace": "cattle-system", "name": "rancher-webhook"}},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["management.cattle.io"],
                "apiVersions": ["v3"], "resources": ["settings"]}],
        });
        for (field, value) in more.as_object().expect("fields") {
            webhook[field] = value.clone();
        }
        let configuration = json!({"metadata": {"name": "rancher.cattle.io"}, "webhooks": [webhook]});
        AdmissionWebhook::read_all(Admission::Validating, &configuration).remove(0)
    }

    fn is_asked(webhook: &AdmissionWebhook, folder: (&str, &str, &str), operation: Operation, status: bool) -> bool {
        let resource = Resource::new(folder.0, folder.1, folder.2);
        let write = Write { resource: &resource, operation, status, namespace: None, name: "x" };
        webhook.is_asked(&write, &NamespaceLabels::new())
    }

    const SETTINGS: (&str, &str, &str) = ("management.cattle.io", "v3", "settings");

    #[test]
    fn a_webhook_is_asked_about_the_types_and_operations_of_its_rules() {
        let plain = webhook(json!({}));
        assert!(plain.fails_closed);
        assert!(is_asked(&plain, SETTINGS, Operation::Create, false));
        assert!(is_asked(&plain, ("management.cattle.io", "v4", "settings"), Operation::Update, false), "equivalent");
        assert!(!is_asked(&plain, SETTINGS, Operation::Delete, false));
        assert!(!is_asked(&plain, SETTINGS, Operation::Update, true), "the subresource is not named");
        assert!(!is_asked(&plain, ("management.cattle.io", "v3", "users"), Operation::Create, false));
        let exact = webhook(json!({"matchPolicy": "Exact", "failurePolicy": "Ignore"}));
        assert!(!exact.fails_closed);
        assert!(!is_asked(&exact, ("management.cattle.io", "v4", "settings"), Operation::Update, false));
    }

    #[test]
    fn stars_mean_types_and_with_a_slash_subresources_too() {
        let rules = |resource: &str, scope: &str| {
            webhook(json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
                "resources": [resource], "scope": scope}]}))
        };
        for (pattern, object, status) in [
            ("*", true, false),
            ("*/*", true, true),
            ("settings/*", true, true),
            ("settings/status", false, true),
            ("*/status", false, true),
        ] {
            let webhook = rules(pattern, "*");
            assert_eq!(is_asked(&webhook, SETTINGS, Operation::Delete, false), object, "{pattern}");
            assert_eq!(is_asked(&webhook, SETTINGS, Operation::Update, true), status, "{pattern}");
        }
        assert!(!is_asked(&rules("*", "Namespaced"), SETTINGS, Operation::Create, false));
        assert!(is_asked(&rules("*", "Cluster"), SETTINGS, Operation::Create, false));
        let configurations = (GROUP, "v1", "validatingwebhookconfigurations");
        assert!(!is_asked(&rules("*", "*"), configurations, Operation::Update, false), "they can always be mended");
    }

    #[test]
    fn a_namespace_that_the_selector_leaves_out_is_not_asked_about_and_an_unknown_one_is() {
        let webhook = webhook(json!({
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets", "namespaces"]}],
            "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]},
        }));
        let labels = |name: &str| BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        let known = ["kube-system", "a"].map(|name| (name.to_owned(), labels(name)));
        let namespaces = NamespaceLabels::from(known);
        let asked = |plural: &str, namespace: Option<&str>, name: &str| {
            let resource = Resource::new("", "v1", plural);
            let write = Write { resource: &resource, operation: Operation::Create, status: false, namespace, name };
            webhook.is_asked(&write, &namespaces)
        };
        assert!(asked("secrets", Some("a"), "x") && asked("secrets", Some("new"), "x"));
        assert!(!asked("secrets", Some("kube-system"), "x") && !asked("namespaces", None, "kube-system"));
    }

    #[test]
    fn the_sudo_identity_is_taken_for_what_ranchers_own_webhook_would_judge() {
        let other = json!({"clientConfig": {"service": {"namespace": "a", "name": "b"}}});
        let settings = Resource::new("management.cattle.io", "v3", "settings");
        let users = Resource::new("management.cattle.io", "v3", "users");
        let takes = |webhooks: &Webhooks, resource: &Resource| {
            let write = Write { resource, operation: Operation::Update, status: false, namespace: None, name: "x" };
            webhooks.takes_sudo(&write)
        };
        let mut webhooks = Webhooks { admission: vec![webhook(json!({}))], sudo: true, ..Webhooks::default() };
        assert!(takes(&webhooks, &settings) && !takes(&webhooks, &users));
        webhooks.sudo = false;
        assert!(!takes(&webhooks, &settings), "nobody made the account");
        let webhooks = Webhooks { admission: vec![webhook(other)], sudo: true, ..Webhooks::default() };
        assert!(!takes(&webhooks, &settings), "another's webhook");
    }

    #[test]
    fn who_stays_up_keeps_its_certificate_and_the_trust_in_it() {
        let other = json!({"clientConfig": {"service": {"namespace": "a", "name": "b"}, "caBundle": "b"}});
        let own = json!({"clientConfig": {"service": {"namespace": "cattle-system", "name": "rancher-webhook"}, "caBundle": "r"}});
        let admission = vec![webhook(own), webhook(other)];
        let services: Vec<ServiceRef> = admission.iter().filter_map(|webhook| webhook.service.clone()).collect();
        let answered = services.iter().map(|service| (service.clone(), Answered::Ready)).collect();
        let mut webhooks = Webhooks { admission, services: answered, ..Webhooks::default() };
        let secrets: Vec<_> = services.iter().map(|service| (service.clone(), "cert".to_owned())).collect();
        webhooks.keep(&BTreeSet::from([services[1].clone()]), &secrets);
        assert_eq!(webhooks.kept, Bundles::from([(services[0].clone(), "r".to_owned())]));
        assert_eq!(webhooks.serving, BTreeSet::from([("cattle-system".to_owned(), "cert".to_owned())]));
        webhooks.services.insert(services[0].clone(), Answered::NoEndpoint);
        webhooks.keep(&BTreeSet::new(), &secrets);
        assert_eq!(webhooks.kept.keys().collect::<Vec<_>>(), [&services[1]], "nobody answers the other");
    }

    #[test]
    fn a_definition_says_who_converts_its_objects() {
        let read = |conversion: Value| {
            let crd = json!({"spec": {"group": "g", "names": {"plural": "ps"}, "conversion": conversion}});
            ConversionWebhook::read(crd.as_object().expect("an object"))
        };
        assert_eq!(read(json!({"strategy": "None"})), None);
        let service =
            json!({"strategy": "Webhook", "webhook": {"clientConfig": {"service": {"namespace": "a", "name": "b"}}}});
        let found = read(service).unwrap();
        assert_eq!(found.service.as_ref().unwrap().to_string(), "a/b");
        assert!(found.converts(&Resource::new("g", "v9", "ps")));
        let url = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}}});
        assert_eq!(read(url).unwrap().service, None);
    }
}
