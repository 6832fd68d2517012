//! Rights: all, but for those that were taken away.

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Kind;
use super::meta::text;
use crate::cluster::Access;

/// Who asks, in refusals.
const USER: &str = "sim";

/// Refuses what was taken away.
pub fn check(denied: &[Access], kind: &Kind, asked: &Access) -> Result<(), Failure> {
    if !is_denied(denied, asked) {
        return Ok(());
    }
    let Access { verb, group, resource, subresource, namespace, name } = asked;
    let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    let why = format!("User {USER:?} cannot {verb} resource {resource:?} in API group {group:?} {place}");
    Err(Failure::forbidden(kind, name, &why))
}

/// Answers a review, of rights or of who asks.
pub fn review(denied: &[Access], kind: &Kind, mut review: Value) -> Value {
    if kind.group == "authentication.k8s.io" {
        let groups = ["system:masters", "system:authenticated"];
        review["status"] = json!({"userInfo": {"username": USER, "groups": groups}});
        return review;
    }
    let attribute = |field: &str| text(&review, &format!("/spec/resourceAttributes/{field}")).to_owned();
    let asked = Access {
        verb: attribute("verb"),
        group: attribute("group"),
        resource: attribute("resource"),
        subresource: attribute("subresource"),
        namespace: attribute("namespace"),
        name: attribute("name"),
    };
    review["status"] = if is_denied(denied, &asked) { json!({"allowed": false}) } else { json!({"allowed": true}) };
    review
}

/// Whether any denial touches what is asked: an empty or general field on either side touches all.
fn is_denied(denied: &[Access], asked: &Access) -> bool {
    denied.iter().any(|denied| {
        let same = |a: &str, b: &str| a == b || a == "*" || b == "*";
        let within = |denied: &str, asked: &str| denied.is_empty() || asked.is_empty() || denied == asked;
        same(&denied.verb, &asked.verb)
            && same(&denied.group, &asked.group)
            && same(&denied.resource, &asked.resource)
            && same(&denied.subresource, &asked.subresource)
            && within(&denied.namespace, &asked.namespace)
            && within(&denied.name, &asked.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_takes_what_it_names_and_the_right_to_all() {
        let denied = [Access { namespace: "a".to_owned(), ..Access::new("list", "", "secrets") }];
        let within = |namespace: &str| Access { namespace: namespace.to_owned(), ..Access::new("list", "", "secrets") };
        assert!(is_denied(&denied, &within("a")));
        assert!(!is_denied(&denied, &within("b")));
        assert!(is_denied(&denied, &Access::new("list", "", "secrets")), "in all namespaces");
        assert!(is_denied(&denied, &Access::new("*", "*", "*")));
        assert!(!is_denied(&denied, &Access::new("get", "", "secrets")));
        assert!(!is_denied(&denied, &Access::new("list", "apps", "secrets")));
    }
}
