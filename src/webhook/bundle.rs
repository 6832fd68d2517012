//! CA bundles: by which the API server trusts who answers a webhook or an aggregated API.
//!
//! A server that stays up while objects are written goes on showing the certificate that it has. So its Secret stays, and
//! whatever names its Service is written with the bundle that is live, or every later write would be refused. Bundles are
//! left out of the normal form of an object and compared here, one by one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ServiceRef;
use crate::object::{Digest, Resource};

/// Base64 of PEM, by Service. A certificate is no secret.
pub type Bundles = BTreeMap<ServiceRef, String>;

/// The bundles of one object, where it has some.
pub type Trusted = Box<[(ServiceRef, Digest)]>;

const FIELD: &str = "caBundle";

/// Takes the bundles of Services out of an object.
pub fn take(resource: &Resource, object: &mut Map<String, Value>) -> Trusted {
    let mut taken = Vec::new();
    each(resource, object, |service, config| {
        if let Some(bundle) = config.remove(FIELD).filter(|bundle| !bundle.is_null()) {
            taken.push((service, Digest::of(&bundle)));
        }
    });
    taken.into_boxed_slice()
}

/// Puts the bundles of `kept` in the place of the object's own.
pub fn put(resource: &Resource, object: &mut Map<String, Value>, kept: &Bundles) {
    if kept.is_empty() {
        return;
    }
    each(resource, object, |service, config| {
        if let Some(bundle) = kept.get(&service) {
            config.insert(FIELD.to_owned(), Value::from(bundle.as_str()));
        }
    });
}

/// Whether a write would leave the bundles as they are: those of `kept` it does not touch.
pub fn equal(backup: &Trusted, live: &Trusted, kept: &Bundles) -> bool {
    let own = |of: &Trusted| of.iter().filter(|(service, _)| !kept.contains_key(service)).cloned().collect::<Vec<_>>();
    own(backup) == own(live)
}

/// Visits each place with a Service and room for a bundle.
fn each(
    resource: &Resource,
    object: &mut Map<String, Value>,
    mut visit: impl FnMut(ServiceRef, &mut Map<String, Value>),
) {
    let mut one = |config: Option<&mut Value>| {
        let Some(config) = config else { return };
        let Some(service) = ServiceRef::read(Some(config)) else { return };
        if let Some(config) = config.as_object_mut() {
            visit(service, config);
        }
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
            webhooks.into_iter().flatten().for_each(|webhook| one(webhook.get_mut("clientConfig")));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            one(object.get_mut("spec").and_then(|spec| spec.pointer_mut("/conversion/webhook/clientConfig")));
        }
        ("apiregistration.k8s.io", "apiservices") => one(object.get_mut("spec")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(group: &str, plural: &str) -> Resource {
        Resource::new(group, "v1", plural)
    }

    fn service(name: &str) -> ServiceRef {
        ServiceRef { namespace: "a".to_owned(), name: name.to_owned() }
    }

    fn config(name: &str, bundle: &str) -> Value {
        json!({"service": {"namespace": "a", "name": name}, "caBundle": bundle})
    }

    #[test]
    fn bundles_are_found_wherever_a_service_is_trusted_by_one() {
        let webhooks = json!({"webhooks": [{"clientConfig": config("b", "x")}, {"clientConfig": {"url": "https://u", "caBundle": "x"}}]});
        let crd = json!({"spec": {"conversion": {"webhook": {"clientConfig": config("b", "x")}}}});
        for (of, object) in [
            (resource("admissionregistration.k8s.io", "validatingwebhookconfigurations"), webhooks),
            (resource("apiextensions.k8s.io", "customresourcedefinitions"), crd),
            (resource("apiregistration.k8s.io", "apiservices"), json!({"spec": config("b", "x")})),
        ] {
            let mut object = object.as_object().expect("an object").clone();
            let kept = Bundles::from([(service("b"), "live".to_owned())]);
            put(&of, &mut object, &kept);
            let text = serde_json::to_string(&object).unwrap();
            assert_eq!(text.matches("live").count(), 1, "{text}");
            assert_eq!(take(&of, &mut object).len(), 1);
            let text = serde_json::to_string(&object).unwrap();
            assert!(!text.contains("live") && text.matches("caBundle").count() <= 1, "a URL keeps its own: {text}");
            assert!(put_nothing(&of, object), "other objects stay as they are");
        }
    }

    fn put_nothing(of: &Resource, object: Map<String, Value>) -> bool {
        let mut after = object.clone();
        put(of, &mut after, &Bundles::from([(service("other"), "live".to_owned())]));
        after == object
    }

    #[test]
    fn what_is_kept_is_not_compared() {
        let of = |name: &str, bundle: &str| -> Trusted { Box::new([(service(name), Digest::of(&json!(bundle)))]) };
        let kept = Bundles::from([(service("b"), "live".to_owned())]);
        assert!(equal(&of("b", "old"), &of("b", "new"), &kept));
        assert!(equal(&of("b", "old"), &Trusted::default(), &kept));
        assert!(!equal(&of("c", "old"), &of("c", "new"), &kept));
        assert!(equal(&of("c", "old"), &of("c", "old"), &kept));
    }
}
