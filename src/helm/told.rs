//! What of helm's own words may be told on: names of objects, releases and hooks, and why, and no value (invariant 7).
//!
//! Its errors hold those of the API server, which quote what they dislike, and lines of charts and values.

use std::sync::LazyLock;

use regex::Regex;

use super::{Refusal, RefusalKind};
use crate::run::cut_message;

/// Forms that are told on. From Helm 3.22 and 4.3 (`pkg/action`, `pkg/kube`, `pkg/storage/driver`) and apimachinery.
const FORMS: &[&str] = &[
    r#"\b[a-z][a-z0-9.-]* "NAME" (?:not found|already exists|is forbidden)"#,
    r#"cannot (?:get|list|create|update|patch|delete|watch) resource "[a-z0-9./-]+" in API group "[a-z0-9.-]*""#,
    r#"\b[A-Za-z][A-Za-z0-9.-]* "NAME" is invalid(?:: [a-z][A-Za-z0-9.\[\]-]*: (?:Invalid value|Forbidden|Required value|Unsupported value|Duplicate value|Too long))?"#,
    r#"Operation cannot be fulfilled on [a-z][a-z0-9.-]* "NAME""#,
    r#"cannot patch "NAME" with kind [A-Za-z]+"#,
    r#"conflicts? with "NAME"(?: (?:with subresource "[a-z]+" )?using [a-z0-9./-]+(?:: \.[A-Za-z.]+)?)?"#,
    r#"conflict occurred while applying object NAME/NAME [A-Za-z0-9./, =]+"#,
    r#"unable to build kubernetes objects from (?:current|new) release manifest"#,
    r#"no matches for kind "[A-Za-z]+" in version "[a-z0-9./-]+""#,
    r#"(?:pre|post)-(?:upgrade|rollback|install) hooks failed"#,
    r#"[Hh]ook (?:pre|post)-(?:upgrade|rollback|install) [A-Za-z0-9._/-]+ failed"#,
    r#"\b(?:job|Job) NAME failed"#,
    r#"BackoffLimitExceeded|DeadlineExceeded"#,
    r#"timed out waiting for the condition"#,
    r#"chart requires kubeVersion: [0-9A-Za-z.<>=~^|, *+!-]+ which is incompatible with Kubernetes v[0-9A-Za-z.+-]+"#,
    r#"release has no [0-9]+ version"#,
    r#"has no deployed releases"#,
    r#"release: (?:not found|already exists)"#,
    r#"another operation \(install/upgrade/rollback\) is in progress"#,
    r#"[A-Za-z]+ "NAME" in namespace "NAME" exists and cannot be imported into the current release"#,
    r#"admission webhook "NAME" denied the request"#,
    r#"failed calling webhook "NAME""#,
    r#"Chart\.yaml file is missing"#,
    r#"(?:missing in charts/ directory|chart metadata is missing|chart\.metadata\.[a-z]+ is required|validation: chart[a-z.]*)"#,
    r#"gzip: invalid (?:header|checksum)"#,
    r#"does not appear to be a gzipped archive"#,
    r#"template: [A-Za-z0-9._/-]+:[0-9]+(?::[0-9]+)?"#,
    r#"execution error at \([A-Za-z0-9._/-]+:[0-9]+(?::[0-9]+)?\)"#,
    r#"resource [A-Za-z0-9._:/-]+ (?:not ready|still exists)\. status: [A-Za-z]+"#,
    r#"parse error at \([A-Za-z0-9._/-]+:[0-9]+\)"#,
    r#"YAML parse error on [A-Za-z0-9._/-]+"#,
    r#"error converting YAML to JSON"#,
    r#"values don't meet the specifications of the schema\(s\)"#,
    r#"context "NAME" does not exist"#,
    r#"the server (?:could not find the requested resource|has asked for the client to provide credentials)"#,
    r#"Unauthorized"#,
    r#"unexpected EOF"#,
    r#"no space left on device"#,
    r#"permission denied"#,
    r#"connection (?:refused|reset by peer)"#,
    r#"no such host"#,
    r#"i/o timeout"#,
    r#"context (?:deadline exceeded|canceled)"#,
    r#"certificate signed by unknown authority"#,
];

/// Names of objects, with those that RBAC has besides, and of field managers.
const NAME: &str = "[A-Za-z0-9][A-Za-z0-9._:-]{0,252}";

static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let forms: Vec<String> = FORMS.iter().map(|form| format!("(?:{})", form.replace("NAME", NAME))).collect();
    Regex::new(&forms.join("|")).ok()
});

/// What says which kind a refusal is; the first that fits, for one error is inside another.
const KINDS: &[(&str, RefusalKind)] = &[
    ("release: not found", RefusalKind::ReleaseNotFound),
    ("release has no ", RefusalKind::RevisionNotFound),
    ("another operation (install/upgrade/rollback) is in progress", RefusalKind::Pending),
    ("has no deployed releases", RefusalKind::NeverDeployed),
    ("chart requires kubeVersion: ", RefusalKind::Kubernetes),
    ("luster unreachable", RefusalKind::Unreachable),
    ("\" is forbidden", RefusalKind::Forbidden),
    (" is forbidden: User ", RefusalKind::Forbidden),
    ("conflict with \"", RefusalKind::Conflict),
    ("conflicts with \"", RefusalKind::Conflict),
    ("hooks failed", RefusalKind::Hook),
    ("BackoffLimitExceeded", RefusalKind::Hook),
    ("job failed", RefusalKind::Hook),
    ("timed out waiting for the condition", RefusalKind::TimedOut),
    ("context deadline exceeded", RefusalKind::TimedOut),
    ("template: ", RefusalKind::Chart),
    ("execution error at ", RefusalKind::Chart),
    ("parse error", RefusalKind::Chart),
    ("Chart.yaml file is missing", RefusalKind::Chart),
    ("gzip: invalid", RefusalKind::Chart),
    ("does not appear to be a gzipped archive", RefusalKind::Chart),
    ("missing in charts/ directory", RefusalKind::Chart),
    ("chart.metadata.", RefusalKind::Chart),
    ("values don't meet the specifications", RefusalKind::Chart),
    ("connection refused", RefusalKind::Unreachable),
    ("no such host", RefusalKind::Unreachable),
    ("i/o timeout", RefusalKind::Unreachable),
];

/// What helm's standard error says, as far as it may be told on.
pub(super) fn refusal(stderr: &str) -> Refusal {
    // Logged by Helm 4, its messages are quoted.
    let plain = stderr.replace(r#"\""#, "\"");
    let kind = KINDS.iter().find(|(words, _)| plain.contains(words)).map_or(RefusalKind::Other, |(_, kind)| *kind);
    let mut parts: Vec<&str> = Vec::new();
    for found in FORM.iter().flat_map(|form| form.find_iter(&plain)) {
        if !parts.contains(&found.as_str()) {
            parts.push(found.as_str());
        }
    }
    Refusal { kind, told: cut_message(&parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stderr: &str) -> String {
        let Refusal { kind, told } = refusal(stderr);
        format!("{kind:?}: {told}")
    }

    #[test]
    fn a_conflict_is_told_with_whom_and_over_which_field() {
        // As Helm 4.3 says it, in its log and as its error.
        let said = r#"level=WARN msg="Rollback \"rancher\" failed: conflict occurred while applying object cattle-system/rancher apps/v1, Kind=Deployment: Apply failed with 1 conflict: conflict with \"reinback\" using apps/v1: .spec.replicas"
Error: conflict occurred while applying object cattle-system/rancher apps/v1, Kind=Deployment: Apply failed with 1 conflict: conflict with "reinback" using apps/v1: .spec.replicas"#;
        insta::assert_snapshot!(told(said), @r#"Conflict: conflict occurred while applying object cattle-system/rancher apps/v1, Kind=Deployment, conflict with "reinback" using apps/v1: .spec.replicas"#);
    }

    #[test]
    fn what_it_quotes_of_values_and_objects_is_dropped() {
        let invalid = r#"Error: UPGRADE FAILED: cannot patch "tls-rancher" with kind Secret: Secret "tls-rancher" is invalid: data[tls.key]: Invalid value: "hunter2": must be valid"#;
        insta::assert_snapshot!(told(invalid), @r#"Other: cannot patch "tls-rancher" with kind Secret, Secret "tls-rancher" is invalid: data[tls.key]: Invalid value"#);
        let yaml = "Error: UPGRADE FAILED: YAML parse error on rancher/templates/secret.yaml: error converting YAML to JSON: yaml: line 3: could not find expected ':' near hunter2";
        insta::assert_snapshot!(told(yaml), @"Chart: YAML parse error on rancher/templates/secret.yaml, error converting YAML to JSON");
        let values = "Error: failed to parse hunter2: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string hunter2";
        insta::assert_snapshot!(told(values), @"Other: ");
        let webhook = r#"Error: UPGRADE FAILED: cannot patch "rancher" with kind Deployment: admission webhook "deny.example.org" denied the request: the token hunter2 is known"#;
        insta::assert_snapshot!(told(webhook), @r#"Other: cannot patch "rancher" with kind Deployment, admission webhook "deny.example.org" denied the request"#);
        let hook = "Error: UPGRADE FAILED: pre-upgrade hooks failed: 1 error occurred:\n\t* job rancher-pre-upgrade failed: BackoffLimitExceeded\n\nhunter2";
        insta::assert_snapshot!(told(hook), @"Hook: pre-upgrade hooks failed, job rancher-pre-upgrade failed, BackoffLimitExceeded");
        let long =
            format!("Error: {}", (0..500).map(|n| format!("configmaps \"a{n}\" not found ")).collect::<String>());
        assert!(refusal(&long).told.len() < 2000);
    }
}
