//! Webhooks that a run silences while it writes, since nobody answers them; and what they had.
//!
//! An admission webhook gets `failurePolicy: Ignore`, and a definition the conversion `None`, by which objects are only
//! relabelled. The same patch writes what they had into an annotation, so that it is never lost: whoever reads such an
//! object ([`reveal`]) sees what it is in truth, and what it is given back ([`unsilence`]) is that, and nothing where
//! somebody has set another value meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Admission;
use crate::object::Resource;

/// What the webhooks of a configuration, or the conversion of a definition, had: JSON by the name of the webhook.
pub const SILENCED_ANNOTATION: &str = "reinback.io/silenced";

/// Stands for the name of the webhook that converts the objects of a definition. No admission webhook is called so, since
/// their names have dots.
pub const CONVERSION: &str = "conversion";

/// What holds a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HolderKind {
    MutatingWebhookConfiguration,
    ValidatingWebhookConfiguration,
    CustomResourceDefinition,
}

impl HolderKind {
    fn of(resource: &Resource) -> Option<Self> {
        match (resource.is_webhook_configuration(), resource.is_crd()) {
            (true, _) if resource.plural.starts_with("mutating") => Some(Self::MutatingWebhookConfiguration),
            (true, _) => Some(Self::ValidatingWebhookConfiguration),
            (false, true) => Some(Self::CustomResourceDefinition),
            (false, false) => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutatingWebhookConfiguration => Admission::Mutating.kind(),
            Self::ValidatingWebhookConfiguration => Admission::Validating.kind(),
            Self::CustomResourceDefinition => "CustomResourceDefinition",
        }
    }

    pub fn resource(self) -> Resource {
        match self {
            Self::MutatingWebhookConfiguration => Admission::Mutating.resource(),
            Self::ValidatingWebhookConfiguration => Admission::Validating.resource(),
            Self::CustomResourceDefinition => Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        }
    }

    /// What a silenced webhook has.
    fn silent(self) -> Value {
        match self {
            Self::MutatingWebhookConfiguration | Self::ValidatingWebhookConfiguration => json!("Ignore"),
            Self::CustomResourceDefinition => json!({"strategy": "None"}),
        }
    }

    fn is_silent(self, value: &Value) -> bool {
        match self {
            Self::MutatingWebhookConfiguration | Self::ValidatingWebhookConfiguration => value == "Ignore",
            Self::CustomResourceDefinition => value["strategy"] == "None",
        }
    }

    /// What somebody wrote into the annotation may be anything.
    fn takes(self, value: &Value) -> bool {
        match self {
            Self::MutatingWebhookConfiguration | Self::ValidatingWebhookConfiguration => {
                value == "Ignore" || value == "Fail"
            }
            Self::CustomResourceDefinition => value["strategy"].is_string(),
        }
    }
}

/// One webhook, as a plan and a journal name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookRef {
    pub kind: HolderKind,
    /// Of the configuration, or of the definition.
    pub name: String,
    /// Its own name, or [`CONVERSION`].
    pub webhook: String,
}

impl WebhookRef {
    /// The conversion of this definition's objects.
    pub fn conversion(definition: &str) -> Self {
        let kind = HolderKind::CustomResourceDefinition;
        Self { kind, name: definition.to_owned(), webhook: CONVERSION.to_owned() }
    }

    pub fn is_conversion(&self) -> bool {
        self.kind == HolderKind::CustomResourceDefinition
    }
}

impl fmt::Display for WebhookRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.webhook, self.kind.as_str(), self.name)
    }
}

/// A webhook, and what it has when it is not silenced: a failure policy, or the whole `spec.conversion`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SilencedWebhook {
    pub webhook: WebhookRef,
    pub had: Value,
}

/// What webhooks have when they are not silenced.
pub type Silenced = BTreeMap<WebhookRef, Value>;

/// By the name of the webhook, of one holder.
pub type Had = BTreeMap<String, Value>;

/// An object that holds webhooks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub kind: HolderKind,
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The webhooks by the object that holds them.
pub fn by_holder<'w>(webhooks: impl IntoIterator<Item = &'w WebhookRef>) -> BTreeMap<Holder, BTreeSet<String>> {
    let mut holders: BTreeMap<Holder, BTreeSet<String>> = BTreeMap::new();
    for WebhookRef { kind, name, webhook } in webhooks {
        let holder = Holder { kind: *kind, name: name.clone() };
        holders.entry(holder).or_default().insert(webhook.clone());
    }
    holders
}

/// Names of the webhooks among `silenced` that this object holds.
pub fn held_by<'w>(silenced: &'w BTreeSet<WebhookRef>, resource: &Resource, name: &str) -> Vec<&'w str> {
    let Some(kind) = HolderKind::of(resource) else { return Vec::new() };
    let held = silenced.iter().filter(|webhook| webhook.kind == kind && webhook.name == name);
    held.map(|webhook| webhook.webhook.as_str()).collect()
}

/// What a webhook has when it is not silenced: `known` is asked of one that is silent and whose object does not say. `None` where
/// the object holds no such webhook.
pub fn truth(kind: HolderKind, object: &Value, webhook: &str, known: Option<&Value>) -> Option<Value> {
    let now = value(kind, object, webhook)?;
    if !kind.is_silent(&now) {
        return Some(now);
    }
    Some(recorded(kind, object).remove(webhook).or_else(|| known.cloned()).unwrap_or(now))
}

/// The webhook is silent now, and is not in truth.
pub fn is_silenced(kind: HolderKind, object: &Value, webhook: &str, truth: &Value) -> bool {
    let now = value(kind, object, webhook);
    now.is_some_and(|now| kind.is_silent(&now)) && !kind.is_silent(truth)
}

/// Silences webhooks of an object, and writes what each had into its annotation.
pub fn silence<'n>(resource: &Resource, object: &mut Value, names: impl IntoIterator<Item = &'n str>, known: &Had) {
    let Some(kind) = HolderKind::of(resource) else { return };
    let mut had = recorded(kind, object);
    for name in names {
        let Some(truth) = truth(kind, object, name, known.get(name)) else { continue };
        had.insert(name.to_owned(), truth);
        put(kind, object, name, kind.silent());
    }
    had.retain(|name, _| value(kind, object, name).is_some());
    if had.is_empty() {
        return;
    }
    let text = json!(had).to_string();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(SILENCED_ANNOTATION.to_owned(), Value::from(text));
    }
}

/// Gives the webhooks of an object what they had, by its annotation before `known`. One to which somebody has given another value
/// keeps that.
pub fn unsilence(resource: &Resource, object: &mut Value, known: &Had) {
    let Some(kind) = HolderKind::of(resource) else { return };
    let recorded = recorded(kind, object);
    for name in recorded.keys().chain(known.keys()) {
        if let Some(truth) = truth(kind, object, name, known.get(name)) {
            put(kind, object, name, truth);
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(SILENCED_ANNOTATION);
    }
}

/// Shows an object as it is when nothing of it is silenced, whoever did that.
pub fn reveal(resource: &Resource, object: &mut Value) {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    if annotations.is_some_and(|all| all.get(SILENCED_ANNOTATION).is_some()) {
        unsilence(resource, object, &Had::new());
    }
}

/// The merge patch that makes `to` of `from`, which differ in what is silenced; `None` where nothing is to do. It names the version
/// that it goes by.
pub fn patch(kind: HolderKind, from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let note = to["metadata"]["annotations"][SILENCED_ANNOTATION].clone();
    let mut patch = json!({"metadata": {
        "resourceVersion": from["metadata"]["resourceVersion"],
        "annotations": {SILENCED_ANNOTATION: note},
    }});
    match kind {
        HolderKind::MutatingWebhookConfiguration | HolderKind::ValidatingWebhookConfiguration => {
            patch["webhooks"] = to["webhooks"].clone();
        }
        HolderKind::CustomResourceDefinition => {
            let mut conversion: Map<String, Value> = Map::new();
            let fields = from["spec"]["conversion"].as_object().into_iter().flatten();
            // What is not named in a merge patch stays.
            conversion.extend(fields.map(|(field, _)| (field.clone(), Value::Null)));
            conversion.extend(to["spec"]["conversion"].as_object().cloned().into_iter().flatten());
            patch["spec"] = json!({"conversion": conversion});
        }
    }
    Some(patch)
}

fn recorded(kind: HolderKind, object: &Value) -> Had {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let text = annotations.and_then(|all| all.get(SILENCED_ANNOTATION)).and_then(Value::as_str);
    let mut had: Had = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    had.retain(|_, value| kind.takes(value));
    had
}

/// As the API server takes it: `Fail` and `None` are its defaults.
fn value(kind: HolderKind, object: &Value, webhook: &str) -> Option<Value> {
    match kind {
        HolderKind::MutatingWebhookConfiguration | HolderKind::ValidatingWebhookConfiguration => {
            let webhooks = object.get("webhooks").and_then(Value::as_array);
            let found = webhooks.into_iter().flatten().find(|of| of["name"] == webhook)?;
            let policy = found.get("failurePolicy").filter(|policy| !policy.is_null());
            Some(policy.cloned().unwrap_or_else(|| json!("Fail")))
        }
        HolderKind::CustomResourceDefinition => {
            let spec = object.get("spec").filter(|spec| webhook == CONVERSION && spec.is_object())?;
            let conversion = spec.get("conversion").filter(|conversion| conversion.is_object());
            Some(conversion.cloned().unwrap_or_else(|| kind.silent()))
        }
    }
}

fn put(kind: HolderKind, object: &mut Value, webhook: &str, value: Value) {
    match kind {
        HolderKind::MutatingWebhookConfiguration | HolderKind::ValidatingWebhookConfiguration => {
            let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
            for of in webhooks.into_iter().flatten().filter(|of| of["name"] == webhook) {
                of["failurePolicy"] = value.clone();
            }
        }
        HolderKind::CustomResourceDefinition => object["spec"]["conversion"] = value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "settings.example.org";

    fn kind() -> (HolderKind, Resource) {
        let kind = HolderKind::ValidatingWebhookConfiguration;
        (kind, kind.resource())
    }

    fn configuration(policy: &str) -> Value {
        json!({"metadata": {"name": "asked", "resourceVersion": "7", "annotations": {"a": "b"}}, "webhooks": [
            {"name": NAME, "failurePolicy": policy},
            {"name": "other.example.org", "failurePolicy": "Fail"},
        ]})
    }

    fn definition() -> Value {
        json!({"metadata": {"name": "widgets.example.org", "resourceVersion": "7"}, "spec": {"group": "example.org",
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": {"service": {"namespace": "a", "name": "b"}, "caBundle": "x"}}}}})
    }

    fn silenced(resource: &Resource, object: &Value, name: &str) -> Value {
        let mut silenced = object.clone();
        silence(resource, &mut silenced, [name], &Had::new());
        silenced
    }

    /// RFC 7386.
    fn merged(into: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else { return *into = patch.clone() };
        if !into.is_object() {
            *into = json!({});
        }
        for (field, value) in fields {
            match value.is_null() {
                true => drop(into.as_object_mut().expect("an object").remove(field)),
                false => merged(&mut into[field], value),
            }
        }
    }

    #[test]
    fn one_webhook_is_silenced_with_what_it_had_beside_it_and_gets_that_back() {
        let (kind, resource) = kind();
        let live = configuration("Fail");
        let after = silenced(&resource, &live, NAME);
        assert_eq!(after["webhooks"][0]["failurePolicy"], "Ignore");
        assert_eq!(after["webhooks"][1], live["webhooks"][1]);
        assert_eq!(after["metadata"]["annotations"][SILENCED_ANNOTATION], r#"{"settings.example.org":"Fail"}"#);
        assert_eq!(silenced(&resource, &after, NAME), after, "once more is the same");
        let mut shown = after.clone();
        reveal(&resource, &mut shown);
        assert_eq!(shown, live);
        let mut patched = live.clone();
        merged(&mut patched, &patch(kind, &live, &after).unwrap());
        assert_eq!(patched, after);
        merged(&mut patched, &patch(kind, &after, &live).unwrap());
        assert_eq!(patched, live);
        assert_eq!(patch(kind, &live, &live), None);
    }

    #[test]
    fn a_conversion_is_silenced_whole_and_comes_back_whole() {
        let kind = HolderKind::CustomResourceDefinition;
        let live = definition();
        let after = silenced(&kind.resource(), &live, CONVERSION);
        assert_eq!(after["spec"], json!({"group": "example.org", "conversion": {"strategy": "None"}}));
        let mut patched = live.clone();
        merged(&mut patched, &patch(kind, &live, &after).unwrap());
        assert_eq!(patched, after);
        let mut back = patched.clone();
        unsilence(&kind.resource(), &mut back, &Had::new());
        assert_eq!(back["spec"], live["spec"]);
        merged(&mut patched, &patch(kind, &after, &back).unwrap());
        assert_eq!(patched["spec"], live["spec"]);
        assert_eq!(patched["metadata"]["annotations"], json!({}));
    }

    #[test]
    fn the_annotation_beats_the_journal_and_what_somebody_set_meanwhile_beats_both() {
        let (kind, resource) = kind();
        let journal = Had::from([(NAME.to_owned(), json!("Fail"))]);
        let given_back = |mut object: Value, known: &Had| {
            unsilence(&resource, &mut object, known);
            assert_eq!(object["metadata"]["annotations"], json!({"a": "b"}));
            object["webhooks"][0]["failurePolicy"].clone()
        };
        // The backup has Ignore, and was written so.
        assert_eq!(given_back(silenced(&resource, &configuration("Ignore"), NAME), &journal), "Ignore");
        assert_eq!(given_back(configuration("Ignore"), &journal), "Fail", "somebody took the annotation away");
        assert_eq!(given_back(configuration("Ignore"), &Had::new()), "Ignore", "none of ours");
        let mut changed = silenced(&resource, &configuration("Ignore"), NAME);
        changed["webhooks"][0]["failurePolicy"] = json!("Fail");
        assert_eq!(given_back(changed, &Had::new()), "Fail");
        let mut broken = configuration("Ignore");
        broken["metadata"]["annotations"][SILENCED_ANNOTATION] = json!(r#"{"settings.example.org": 7}"#);
        assert_eq!(given_back(broken.clone(), &journal), "Fail");
        assert_eq!(truth(kind, &broken, "gone.example.org", None), None);
        assert!(
            is_silenced(kind, &broken, NAME, &json!("Fail")) && !is_silenced(kind, &broken, NAME, &json!("Ignore"))
        );
    }

    #[test]
    fn an_object_that_lost_the_webhook_or_is_of_another_type_is_left_alone() {
        let (_, resource) = kind();
        let live = configuration("Fail");
        assert_eq!(silenced(&resource, &live, "gone.example.org"), live);
        let secrets = Resource::new("", "v1", "secrets");
        assert_eq!(silenced(&secrets, &live, NAME), live);
        let silenced = BTreeSet::from([WebhookRef::conversion("widgets.example.org")]);
        let definitions = HolderKind::CustomResourceDefinition.resource();
        assert_eq!(held_by(&silenced, &definitions, "widgets.example.org"), [CONVERSION]);
        assert!(held_by(&silenced, &definitions, "other.example.org").is_empty());
        assert!(held_by(&silenced, &resource, "widgets.example.org").is_empty());
    }
}
