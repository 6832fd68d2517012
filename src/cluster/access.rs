//! What we may do, asked of the API server itself.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::request::{Call, JSON};
use super::write::json_body;
use super::{ClusterError, ClusterReader, FailureKind};
use crate::object::binding::Identity;

/// Reviews asked at once.
const IN_FLIGHT: usize = 16;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const SELF_REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// One right. Empty fields ask for all: any subresource is none, any namespace is the whole cluster, any name every object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    pub verb: String,
    pub group: String,
    /// Plural, or `*`.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Access {
    /// `verb` on all objects of a resource, in all namespaces.
    pub fn new(verb: &str, group: &str, resource: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
        }
    }
}

impl ClusterReader {
    /// Says of each right whether we have it, in the order asked.
    ///
    /// One request where we may do everything, else one more a right.
    pub async fn allowed(&self, asked: &[Access]) -> Result<Vec<(Access, bool)>, ClusterError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        if self.may(&Access::new("*", "*", "*")).await? {
            return Ok(asked.iter().map(|access| (access.clone(), true)).collect());
        }
        // Owned, so that the stream can be polled in a task of its own.
        let answers = asked.iter().cloned().map(|access| async move {
            let allowed = self.may(&access).await?;
            Ok((access, allowed))
        });
        stream::iter(answers).buffered(IN_FLIGHT).try_collect().await
    }

    /// Whom the API server takes us for. Everybody who is known to it may ask (ClusterRole `system:basic-user`).
    ///
    /// # Errors
    ///
    /// As any read; `NotServed` before Kubernetes 1.28.
    pub async fn whoami(&self) -> Result<Identity, ClusterError> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            user_info: UserInfo,
        }
        #[derive(Deserialize)]
        struct UserInfo {
            #[serde(default)]
            username: String,
            #[serde(default)]
            groups: BTreeSet<String>,
        }
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let call = Call::new(Method::POST, SELF_REVIEWS.to_owned(), Some(JSON), json_body(&review));
        let what = || "ask whom the API server takes us for".to_owned();
        let reply = match self.transport.read(&call, what).await? {
            Ok(reply) => reply,
            Err(failure) if failure.kind == FailureKind::NotFound => {
                return Err(ClusterError::NotServed { what: what() });
            }
            Err(failure) => return Err(ClusterError::Api { what: what(), failure: Box::new(failure) }),
        };
        let bad = |error: serde_json::Error| ClusterError::BadAnswer { what: what(), source: error.into() };
        let Review { status: Status { user_info } } = serde_json::from_slice(&reply.body).map_err(bad)?;
        Ok(Identity { user: user_info.username, groups: user_info.groups })
    }

    async fn may(&self, access: &Access) -> Result<bool, ClusterError> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            #[serde(default)]
            allowed: bool,
        }
        let Access { verb, group, resource, subresource, namespace, name } = access;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name,
            }},
        });
        let call = Call::new(Method::POST, REVIEWS.to_owned(), Some(JSON), json_body(&review));
        let what = || format!("ask whether we may {verb} {resource}.{group}");
        let reply = self.transport.read(&call, what).await?;
        let reply = reply.map_err(|failure| ClusterError::Api { what: what(), failure: Box::new(failure) })?;
        let bad = |error: serde_json::Error| ClusterError::BadAnswer { what: what(), source: error.into() };
        let Review { status } = serde_json::from_slice(&reply.body).map_err(bad)?;
        Ok(status.allowed)
    }
}
