//! The resources that are served without a definition: those of Rancher's backups, and those that reinback asks for.

use std::sync::Arc;

use super::{Kind, Names, Rules, VERBS, Version};

/// A row: the plural, the kind, and in what it is not as the most are.
struct Row {
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    status: bool,
    verbs: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    stored: Option<&'static str>,
    rules: Rules,
}

const fn row(plural: &'static str, kind: &'static str) -> Row {
    let rules = Rules {
        custom: false,
        counts: false,
        made_by_put: false,
        needs_version: false,
        returned: false,
        names: Names::Subdomain,
    };
    Row {
        plural,
        kind,
        namespaced: true,
        status: false,
        verbs: VERBS,
        short_names: &[],
        categories: &[],
        stored: None,
        rules,
    }
}

impl Row {
    const fn cluster(self) -> Self {
        Self { namespaced: false, ..self }
    }

    const fn status(self) -> Self {
        Self { status: true, ..self }
    }

    const fn short(self, short_names: &'static [&'static str]) -> Self {
        Self { short_names, ..self }
    }

    const fn categories(self, categories: &'static [&'static str]) -> Self {
        Self { categories, ..self }
    }

    const fn verbs(self, verbs: &'static [&'static str]) -> Self {
        Self { verbs, ..self }
    }

    const fn stored_as(self, stored: &'static str) -> Self {
        Self { stored: Some(stored), ..self }
    }

    const fn counts(self) -> Self {
        Self { rules: Rules { counts: true, ..self.rules }, ..self }
    }

    const fn made_by_put(self) -> Self {
        Self { rules: Rules { made_by_put: true, ..self.rules }, ..self }
    }

    const fn needs_version(self) -> Self {
        Self { rules: Rules { needs_version: true, ..self.rules }, ..self }
    }

    const fn returned(self) -> Self {
        Self { rules: Rules { returned: true, ..self.rules }, ..self }
    }

    const fn names(self, names: Names) -> Self {
        Self { rules: Rules { names, ..self.rules }, ..self }
    }
}

const ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];
/// Of reviews, which are answered and not kept.
const ASKED: &[&str] = &["create"];
/// Namespaces are deleted one by one.
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

const CORE: &[Row] = &[
    row("configmaps", "ConfigMap").short(&["cm"]),
    row("endpoints", "Endpoints").short(&["ep"]).made_by_put(),
    row("events", "Event").short(&["ev"]).made_by_put(),
    row("namespaces", "Namespace").cluster().status().short(&["ns"]).verbs(ONE_BY_ONE).returned().names(Names::Label),
    row("nodes", "Node").cluster().status().short(&["no"]),
    row("persistentvolumeclaims", "PersistentVolumeClaim").status().short(&["pvc"]).returned(),
    row("pods", "Pod").status().short(&["po"]).categories(ALL).counts().returned(),
    row("secrets", "Secret"),
    row("serviceaccounts", "ServiceAccount").short(&["sa"]).returned(),
    row("services", "Service").status().short(&["svc"]).categories(ALL).made_by_put().returned().names(Names::Label),
];

const APPS: &[Row] = &[
    row("controllerrevisions", "ControllerRevision"),
    row("daemonsets", "DaemonSet").status().short(&["ds"]).categories(ALL).counts(),
    row("deployments", "Deployment").status().short(&["deploy"]).categories(ALL).counts(),
    row("replicasets", "ReplicaSet").status().short(&["rs"]).categories(ALL).counts(),
    row("statefulsets", "StatefulSet").status().short(&["sts"]).categories(ALL).counts(),
];

const RBAC: &[Row] = &[
    row("clusterrolebindings", "ClusterRoleBinding").cluster().made_by_put().names(Names::Segment),
    row("clusterroles", "ClusterRole").cluster().made_by_put().names(Names::Segment),
    row("rolebindings", "RoleBinding").made_by_put().names(Names::Segment),
    row("roles", "Role").made_by_put().names(Names::Segment),
];

const ADMISSION: &[Row] = &[
    row("mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
        .cluster()
        .categories(EXTENSIONS)
        .counts()
        .needs_version(),
    row("validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
        .cluster()
        .categories(EXTENSIONS)
        .counts()
        .needs_version(),
];

const DEFINITIONS: &[Row] = &[row("customresourcedefinitions", "CustomResourceDefinition")
    .cluster()
    .status()
    .short(&["crd", "crds"])
    .categories(EXTENSIONS)
    .counts()
    .needs_version()];

const SERVICES: &[Row] = &[row("apiservices", "APIService").cluster().status().categories(EXTENSIONS).needs_version()];

const REVIEWS: &[Row] = &[
    row("localsubjectaccessreviews", "LocalSubjectAccessReview").verbs(ASKED),
    row("selfsubjectaccessreviews", "SelfSubjectAccessReview").cluster().verbs(ASKED),
    row("selfsubjectrulesreviews", "SelfSubjectRulesReview").cluster().verbs(ASKED),
    row("subjectaccessreviews", "SubjectAccessReview").cluster().verbs(ASKED),
];

const IDENTITIES: &[Row] = &[
    row("selfsubjectreviews", "SelfSubjectReview").cluster().verbs(ASKED),
    row("tokenreviews", "TokenReview").cluster().verbs(ASKED),
];

const BATCH: &[Row] = &[
    row("cronjobs", "CronJob").status().short(&["cj"]).categories(ALL).counts(),
    row("jobs", "Job").status().categories(ALL).counts(),
];

const NETWORKING: &[Row] = &[
    row("ingresses", "Ingress").status().short(&["ing"]).counts(),
    row("networkpolicies", "NetworkPolicy").short(&["netpol"]).counts(),
];

/// By group, each at its `v1`.
const GROUPS: &[(&str, &[Row])] = &[
    ("", CORE),
    ("admissionregistration.k8s.io", ADMISSION),
    ("apiextensions.k8s.io", DEFINITIONS),
    ("apiregistration.k8s.io", SERVICES),
    ("apps", APPS),
    ("authentication.k8s.io", IDENTITIES),
    ("authorization.k8s.io", REVIEWS),
    ("batch", BATCH),
    ("coordination.k8s.io", &[row("leases", "Lease").made_by_put().needs_version()]),
    ("discovery.k8s.io", &[row("endpointslices", "EndpointSlice").counts()]),
    ("events.k8s.io", &[row("events", "Event").short(&["ev"]).made_by_put().stored_as("events")]),
    ("networking.k8s.io", NETWORKING),
    ("policy", &[row("poddisruptionbudgets", "PodDisruptionBudget").status().short(&["pdb"]).counts().needs_version()]),
    ("rbac.authorization.k8s.io", RBAC),
];

pub fn kinds() -> impl Iterator<Item = Kind> {
    GROUPS.iter().flat_map(|(group, rows)| rows.iter().map(|row| kind(group, row)))
}

fn kind(group: &str, row: &Row) -> Kind {
    let Row { plural, kind, namespaced, status, verbs, short_names, categories, stored, rules } = *row;
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    Kind {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        namespaced,
        short_names: owned(short_names),
        categories: owned(categories),
        versions: vec![Version { name: "v1".to_owned(), status, schema: None }],
        verbs,
        stored: Arc::from(stored.unwrap_or(&qualified)),
        rules,
    }
}
