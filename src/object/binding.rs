//! RBAC bindings: whom they give which role. A restore that took ours away would lose its rights in the middle.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Interner, Resource, protect};
use crate::run::NAMESPACE;

/// Whom the API server takes us for (`SelfSubjectReview`); empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: BTreeSet<String>,
}

/// Groups that everybody, or every account, is in: what is bound to them is nobody's credential.
const EVERYBODY: [&str; 3] = ["system:authenticated", "system:unauthenticated", "system:serviceaccounts"];

impl Identity {
    /// Namespace and name of the ServiceAccount that we are.
    pub fn account(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}

/// What is kept of a RoleBinding or ClusterRoleBinding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    subjects: Box<[Subject]>,
    /// The role that it gives.
    pub role: Role,
}

/// A role; without a namespace, a ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role {
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
    Account { namespace: Arc<str>, name: Arc<str> },
}

impl Binding {
    /// Reads a binding; `None` of anything else.
    pub fn read(resource: &Resource, object: &Map<String, Value>, interner: &mut Interner) -> Option<Box<Self>> {
        let binds = matches!(resource.plural.as_str(), "rolebindings" | "clusterrolebindings");
        if !binds || !protect::is_rbac(resource) {
            return None;
        }
        let namespace = object.get("metadata").and_then(|metadata| metadata.get("namespace")).and_then(Value::as_str);
        let of_role = |field: &str| object.get("roleRef").and_then(|role| role.get(field)).and_then(Value::as_str);
        let in_namespace = of_role("kind") == Some("Role");
        let role = Role {
            namespace: namespace.filter(|_| in_namespace).map(|namespace| interner.text(namespace)),
            name: interner.text(of_role("name").unwrap_or_default()),
        };
        let subjects = object.get("subjects").and_then(Value::as_array).into_iter().flatten();
        let subjects = subjects.filter_map(|subject| Subject::read(subject, interner)).collect();
        Some(Box::new(Self { subjects, role }))
    }

    /// It gives rights to us, or to an account of our namespace.
    pub fn binds(&self, identity: &Identity) -> bool {
        self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => !name.is_empty() && **name == *identity.user,
            Subject::Group(name) => !EVERYBODY.contains(&&**name) && identity.groups.contains(&**name),
            Subject::Account { namespace, name } => {
                **namespace == *NAMESPACE || identity.account() == Some((namespace, name))
            }
        })
    }
}

impl Subject {
    fn read(subject: &Value, interner: &mut Interner) -> Option<Self> {
        let text = |field: &str| subject.get(field).and_then(Value::as_str);
        let name = interner.text(text("name")?);
        match text("kind")? {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => Some(Self::Account { namespace: interner.text(text("namespace")?), name }),
            _ => None,
        }
    }
}
