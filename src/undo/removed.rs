//! What a run deleted since only a newer Rancher serves it, so that it can be made again when that one comes back.

use jiff::Timestamp;
use serde_json::Value;

use crate::journal::{Entry, VersionHad};
use crate::plan::version::ObjectRef;
use crate::rancher::API_SERVICES;
use crate::run::{Run, RunStatus};

/// An object as it was before a run deleted it.
#[derive(Debug, Clone, PartialEq)]
pub struct Removed {
    pub object: ObjectRef,
    /// The first version of Rancher that makes it.
    pub since: (u64, u64, u64),
    /// Without what the API server sets.
    pub value: Value,
}

/// What the last run that deleted any did delete, Services before the APIServices that they stand behind. A journal is not believed
/// further: nothing else is ever made from it.
pub fn removed(runs: &[Run]) -> Vec<Removed> {
    let last = runs.iter().filter_map(last_of).max_by_key(|(at, ..)| *at);
    let Some((_, status, had)) = last else { return Vec::new() };
    let change = status.plan.as_ref().and_then(|plan| plan.version.as_ref());
    let planned = change.map(|change| change.removes.as_slice()).unwrap_or_default();
    let known = had.removed.iter().filter_map(|value| {
        let object = planned.iter().find(|object| names(object, value))?;
        Some(Removed { object: object.clone(), since: since(object, &had.removed)?, value: value.clone() })
    });
    let (mut services, others): (Vec<_>, Vec<_>) = known.partition(|known| known.object.resource == "services");
    services.extend(others);
    services
}

/// When a run recorded what it deletes; `None` where that was nothing.
fn last_of(run: &Run) -> Option<(Timestamp, &RunStatus, &VersionHad)> {
    let status = run.status.as_ref()?;
    status.journal.iter().find_map(|event| match &event.entry {
        Entry::VersionHad { had } if !had.removed.is_empty() => Some((event.at, status, had)),
        _ => None,
    })
}

fn names(object: &ObjectRef, value: &Value) -> bool {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    text("/apiVersion") == Some(&object.api_version)
        && text("/metadata/name") == Some(&object.name)
        && text("/metadata/namespace") == object.namespace.as_deref()
}

/// `None` for what is neither an APIService of Rancher's nor the Service behind one that went with it.
fn since(object: &ObjectRef, removed: &[Value]) -> Option<(u64, u64, u64)> {
    let of_name = |name: &str| API_SERVICES.iter().find(|(known, _)| *known == name).map(|(_, since)| *since);
    match (object.api_version.as_str(), object.resource.as_str()) {
        ("apiregistration.k8s.io/v1", "apiservices") => of_name(&object.name),
        ("v1", "services") => removed.iter().find_map(|other| {
            let text = |path: &str| other.pointer(path).and_then(Value::as_str);
            let is_behind = text("/kind") == Some("APIService")
                && text("/spec/service/name") == Some(&object.name)
                && text("/spec/service/namespace") == object.namespace.as_deref();
            is_behind.then(|| of_name(text("/metadata/name")?)).flatten()
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::undo::tests::failed;

    const SERVICE: &str = "v1 services cattle-system api-extension";
    const API_SERVICE: &str = "apiregistration.k8s.io/v1 apiservices  v1.ext.cattle.io";

    fn object(text: &str) -> ObjectRef {
        let parts: Vec<&str> = text.split(' ').collect();
        let [api_version, resource, namespace, name] = parts[..] else { panic!("{text}") };
        ObjectRef {
            api_version: api_version.to_owned(),
            resource: resource.to_owned(),
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            name: name.to_owned(),
        }
    }

    fn service(note: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api-extension", "namespace": "cattle-system"},
            "spec": {"ports": [{"port": 6666, "name": note}]}})
    }

    fn api_service(name: &str) -> Value {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
            "spec": {"service": {"namespace": "cattle-system", "name": "api-extension"}}})
    }

    /// A run that deleted these at that second.
    fn run(second: i64, planned: &[&str], values: Vec<Value>) -> Run {
        let mut run = failed();
        let status = run.status.as_mut().expect("a status");
        let change = status.plan.as_mut().and_then(|plan| plan.version.as_mut()).expect("a version");
        change.removes = planned.iter().map(|text| object(text)).collect();
        for event in &mut status.journal {
            event.at = Timestamp::from_second(second).expect("a time");
            if let Entry::VersionHad { had } = &mut event.entry {
                had.removed.clone_from(&values);
            }
        }
        run
    }

    #[test]
    fn what_the_last_run_deleted_can_be_made_again_services_first() {
        let both = [API_SERVICE, SERVICE];
        let older = run(1, &both, vec![api_service("v1.ext.cattle.io"), service("older")]);
        let newer = run(2, &both, vec![api_service("v1.ext.cattle.io"), service("newer")]);
        let nothing = run(3, &[], Vec::new());
        let known = removed(&[newer, older, nothing]);
        let shown: Vec<_> = known.iter().map(|known| (known.object.to_string(), known.since)).collect();
        let shown: Vec<_> = shown.iter().map(|(object, since)| (object.as_str(), *since)).collect();
        assert_eq!(
            shown,
            [("services/cattle-system/api-extension", (2, 11, 0)), ("apiservices/v1.ext.cattle.io", (2, 11, 0))]
        );
        assert_eq!(known[0].value, service("newer"));
        assert_eq!(removed(&[run(1, &[], Vec::new())]), []);
    }

    #[test]
    fn a_journal_that_somebody_wrote_makes_nothing_that_rancher_does_not() {
        let role =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "all"}});
        let named = "rbac.authorization.k8s.io/v1 clusterroles  all";
        let other = "apiregistration.k8s.io/v1 apiservices  v1.example.org";
        let planned = [named, other, SERVICE, API_SERVICE];
        // Of another group, or of a Service that no APIService of Rancher's names; and one that no plan names.
        assert_eq!(removed(&[run(1, &planned, vec![role, api_service("v1.example.org"), service("")])]), []);
        assert_eq!(removed(&[run(1, &[], vec![api_service("v1.ext.cattle.io")])]), []);
        assert_eq!(removed(&[run(1, &planned, vec![api_service("v1.ext.cattle.io")])]).len(), 1);
    }
}
