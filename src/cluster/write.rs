//! Writes: each a request with a deadline, repeated only where that is safe, and fenced by the lease.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connect::Limits;
use super::lease::{Fence, LeaseGuard, Sent};
use super::request::{
    Backoff, Call, JSON, MAX_ANSWER_BYTES, Reply, Transport, Try, collection_path, push_query, push_segment,
};
use super::{ApiFailure, ClusterError, FailureKind, JsonFault, Lost};
use crate::object::{ObjectKey, Resource};

const MERGE_PATCH: &str = "application/merge-patch+json";
/// Owns our fields in `managedFields`.
const FIELD_MANAGER: &str = "reinback";

/// One object, as a request names it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub resource: &'a Resource,
    /// `None` for a cluster-scoped object.
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

impl<'a> Target<'a> {
    pub fn new(resource: &'a Resource, namespace: Option<&'a str>, name: &'a str) -> Self {
        Self { resource, namespace, name }
    }

    pub(super) fn path(&self) -> Result<String, ClusterError> {
        let mut path = collection_path(self.resource, self.namespace)?;
        push_segment(&mut path, "name", self.name)?;
        Ok(path)
    }
}

impl<'a> From<&'a ObjectKey> for Target<'a> {
    fn from(key: &'a ObjectKey) -> Self {
        let ObjectKey { resource, namespace, name } = key;
        Self { resource, namespace: namespace.as_deref(), name }
    }
}

/// As [`ObjectKey`]: `secrets.#v1/cattle-system/tls-rancher`.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.resource, self.name),
            None => write!(f, "{}/{}", self.resource, self.name),
        }
    }
}

/// What must hold of an object for its deletion; `None` does not ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preconditions<'a> {
    pub uid: Option<&'a str>,
    pub resource_version: Option<&'a str>,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Another identity to write as. Needs the right to impersonate it.
#[derive(Debug, Clone)]
pub struct Impersonate {
    pub user: String,
    pub groups: Vec<String>,
}

/// An object as the server has it now, parsed when asked for. `Debug` does not show it: it may be a Secret.
#[derive(Clone)]
pub struct Answer {
    /// 201 when the object was made by this request.
    pub code: u16,
    pub body: Bytes,
}

/// What names one state of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// 0 where the resource does not count generations.
    pub generation: i64,
    /// Whether the object waits for its finalizers.
    pub deleting: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("code", &self.code).field("bytes", &self.body.len()).finish()
    }
}

impl Answer {
    pub(super) fn new(reply: Reply) -> Self {
        let Reply { code, content_type: _, body } = reply;
        Self { code, body }
    }

    pub fn value(&self) -> Result<Value, JsonFault> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// UID and versions, without building the object.
    pub fn identity(&self) -> Result<Identity, JsonFault> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            uid: Option<String>,
            resource_version: Option<String>,
            #[serde(default)]
            generation: i64,
            deletion_timestamp: Option<serde::de::IgnoredAny>,
        }
        let Object { metadata } = serde_json::from_slice(&self.body)?;
        let Metadata { uid, resource_version, generation, deletion_timestamp } = metadata;
        Ok(Identity { uid, resource_version, generation, deleting: deletion_timestamp.is_some() })
    }
}

/// Why an object was not written, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot {what}: {failure}")]
    Api { what: String, failure: Box<ApiFailure> },
    /// Nothing was sent.
    #[error("cannot {what}: the lease is lost, another reinback may be at work")]
    LeaseLost { what: String },
    /// Nothing was done.
    #[error("cannot {what}: the API server at {url} does not answer")]
    Unreachable { what: String, url: String, source: Lost },
    /// The request was sent and its outcome is not known: look at the object before anything else.
    #[error("cannot tell whether it worked to {what}: the answer was lost")]
    Unknown { what: String, source: Option<Lost> },
    #[error(transparent)]
    BadName(#[from] ClusterError),
}

impl WriteError {
    /// What the API server said, where it said no.
    pub fn failure(&self) -> Option<&ApiFailure> {
        match self {
            Self::Api { failure, .. } => Some(failure),
            Self::LeaseLost { .. } | Self::Unreachable { .. } | Self::Unknown { .. } | Self::BadName(_) => None,
        }
    }

    pub fn kind(&self) -> Option<FailureKind> {
        self.failure().map(|failure| failure.kind)
    }
}

/// The half that changes the cluster.
///
/// A write whose future is dropped before it ends may have been carried out: look before doing it again.
#[derive(Clone)]
pub struct ClusterWriter {
    transport: Transport,
    fence: Option<Fence>,
    identity: HeaderMap,
    /// Longest that the fence lets one request take.
    longest: Duration,
}

/// Whether doing a request twice is the same as doing it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    Unsafe,
}

impl ClusterWriter {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, fence: None, identity: HeaderMap::new(), longest: Duration::MAX }
    }

    /// A writer that sends nothing once the lease may belong to someone else, and whose requests are over before
    /// anyone may take it.
    pub fn fenced(&self, guard: &LeaseGuard) -> Self {
        Self { fence: Some(guard.fence()), longest: guard.times().write_timeout, ..self.clone() }
    }

    /// A writer with its own time for one request, and for a request with all its repetitions.
    pub fn patient(&self, request_timeout: Duration, retry_for: Duration) -> Self {
        Self { transport: self.transport.patient(request_timeout, retry_for), ..self.clone() }
    }

    /// A writer whose requests wait behind no others.
    pub(super) fn unpaced(&self) -> Self {
        Self { transport: self.transport.unpaced(), ..self.clone() }
    }

    /// A writer that acts as someone else.
    pub fn impersonating(&self, who: &Impersonate) -> Result<Self, ClusterError> {
        let Impersonate { user, groups } = who;
        let mut identity = HeaderMap::new();
        identity.insert(HeaderName::from_static("impersonate-user"), header("user to impersonate", user)?);
        for group in groups {
            identity.append(HeaderName::from_static("impersonate-group"), header("group to impersonate", group)?);
        }
        Ok(Self { identity, ..self.clone() })
    }

    /// How often the API server has said 429 to this process.
    pub fn throttled(&self) -> u64 {
        self.transport.throttled()
    }

    /// Makes an object.
    ///
    /// # Errors
    ///
    /// `Unknown` when the connection broke after sending, or when an earlier try of this call may have made the object.
    pub async fn create(&self, target: &Target<'_>, body: Bytes) -> Result<Answer, WriteError> {
        // The name is checked as if it stood in the path, so that a bad one fails alike for every verb.
        target.path()?;
        let path = collection_path(target.resource, target.namespace)?;
        self.write(Method::POST, path, JSON, body, Repeat::Unsafe, || format!("create {target}")).await
    }

    /// Replaces an object. `body` carries the `metadata.resourceVersion` it is based on; after a lost answer the
    /// request is repeated, and may then meet its own success as a `Conflict`. An object that is gone is `NotFound`, or,
    /// where the API server makes objects by PUT (Leases, for one), a `Conflict` as well.
    pub async fn replace(&self, target: &Target<'_>, body: Bytes) -> Result<Answer, WriteError> {
        self.write(Method::PUT, target.path()?, JSON, body, Repeat::Safe, || format!("replace {target}")).await
    }

    /// Replaces an object's status, by the subresource.
    pub async fn replace_status(&self, target: &Target<'_>, body: Bytes) -> Result<Answer, WriteError> {
        let mut path = target.path()?;
        path.push_str("/status");
        self.write(Method::PUT, path, JSON, body, Repeat::Safe, || format!("replace the status of {target}")).await
    }

    /// Merges `patch` into an object (RFC 7396). A `metadata.resourceVersion` in it is a precondition.
    pub async fn merge_patch(&self, target: &Target<'_>, patch: &Value) -> Result<Answer, WriteError> {
        let what = || format!("patch {target}");
        self.write(Method::PATCH, target.path()?, MERGE_PATCH, json_body(patch), Repeat::Safe, what).await
    }

    /// Deletes an object. `NotFound` means that it is gone: perhaps by an earlier try of this call.
    ///
    /// Without a UID a repeated deletion could hit a new object of that name, so it is not repeated after a lost answer.
    pub async fn delete(
        &self,
        target: &Target<'_>,
        preconditions: Preconditions<'_>,
        propagation: Option<Propagation>,
        grace_seconds: Option<u32>,
    ) -> Result<Answer, WriteError> {
        let Preconditions { uid, resource_version } = preconditions;
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(uid) = uid {
            options["preconditions"]["uid"] = uid.into();
        }
        if let Some(resource_version) = resource_version {
            options["preconditions"]["resourceVersion"] = resource_version.into();
        }
        if let Some(propagation) = propagation {
            options["propagationPolicy"] = json!(propagation);
        }
        if let Some(seconds) = grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        let repeat = if uid.is_some() { Repeat::Safe } else { Repeat::Unsafe };
        let what = || format!("delete {target}");
        self.write(Method::DELETE, target.path()?, JSON, json_body(&options), repeat, what).await
    }

    async fn write(
        &self,
        method: Method,
        mut path: String,
        content_type: &'static str,
        body: Bytes,
        repeat: Repeat,
        what: impl Fn() -> String,
    ) -> Result<Answer, WriteError> {
        let Limits { request_timeout, retry_for, .. } = *self.transport.limits();
        let request_timeout = request_timeout.min(self.longest);
        // The server, too, stops working on the request then.
        let timeout = format!("{}ms", request_timeout.as_millis().max(1));
        let (manager, validation) = if method == Method::DELETE { ("", "") } else { (FIELD_MANAGER, "Ignore") };
        push_query(&mut path, &[("fieldManager", manager), ("fieldValidation", validation), ("timeout", &timeout)]);
        let call = Call { headers: self.identity.clone(), ..Call::new(method, path, Some(content_type), body) };
        let mut backoff = Backoff::until(Instant::now() + retry_for);
        let mut perhaps_done = false;
        let mut sent = self.fence.as_ref().map(Fence::call);
        loop {
            let now = Instant::now();
            if self.fence.as_ref().is_some_and(|fence| !fence.is_valid(now)) {
                return Err(self.unsent(perhaps_done, what()));
            }
            let before = sent.as_mut().and_then(|sent| sent.trying(now + request_timeout));
            let tried = self.transport.once(&call, now + request_timeout, MAX_ANSWER_BYTES).await;
            if let Some(sent) = &mut sent {
                account(sent, &tried, before);
            }
            let next = decide(tried, repeat, perhaps_done);
            let (again, verdict) = match next {
                Next::Done(reply) => return Ok(Answer::new(reply)),
                Next::Stop(verdict) => return Err(self.error(verdict, what())),
                Next::Again { retry_after, perhaps_done: now_perhaps, verdict } => {
                    perhaps_done = now_perhaps;
                    (backoff.wait(retry_after).await, verdict)
                }
                Next::AgainAfter(failure) => {
                    perhaps_done = true;
                    (backoff.wait_after(&failure).await, Verdict::Refused(failure))
                }
            };
            if !again {
                return Err(self.error(verdict, what()));
            }
        }
    }

    /// The lease is lost before a (further) try.
    fn unsent(&self, perhaps_done: bool, what: String) -> WriteError {
        if perhaps_done { WriteError::Unknown { what, source: None } } else { WriteError::LeaseLost { what } }
    }

    fn error(&self, verdict: Verdict, what: String) -> WriteError {
        match verdict {
            Verdict::Refused(failure) => WriteError::Api { what, failure: Box::new(failure) },
            Verdict::NotDone(source) => {
                WriteError::Unreachable { what, url: self.transport.api_url().to_owned(), source }
            }
            Verdict::Unknown(source) => WriteError::Unknown { what, source },
        }
    }
}

/// Takes down what is known of the tries of a call after the last one; `before` it, the others were in doubt until then.
fn account(sent: &mut Sent, tried: &Try<Reply>, before: Option<Instant>) {
    match tried {
        // Its preconditions, or that the object is there or gone, keep an earlier try from being carried out again.
        Ok(Ok(_)) => sent.settle(),
        Ok(Err(failure)) => match failure.kind {
            FailureKind::Conflict | FailureKind::AlreadyExists | FailureKind::NotFound => sent.settle(),
            // What failed may still be at work behind who says so.
            FailureKind::Timeout | FailureKind::Unavailable | FailureKind::Internal => {}
            FailureKind::Invalid
            | FailureKind::Forbidden
            | FailureKind::Unauthorized
            | FailureKind::TooManyRequests
            | FailureKind::WebhookDenied
            | FailureKind::WebhookUnavailable
            | FailureKind::Gone
            | FailureKind::NamespaceTerminating
            | FailureKind::TooLarge
            | FailureKind::Other => sent.take_back(before),
        },
        Err(lost) if lost.is_unsent() => sent.take_back(before),
        Err(_lost) => {}
    }
}

/// What follows from one try.
enum Next {
    Done(Reply),
    /// `verdict` stands when there is no time for another try.
    Again {
        retry_after: Option<Duration>,
        perhaps_done: bool,
        verdict: Verdict,
    },
    /// The server failed, perhaps after it did as asked, and perhaps for ever: who was refused is told so.
    AgainAfter(ApiFailure),
    Stop(Verdict),
}

enum Verdict {
    Refused(ApiFailure),
    NotDone(Lost),
    Unknown(Option<Lost>),
}

/// Decides after a try. `perhaps_done`: an earlier try may have been carried out.
fn decide(tried: Result<Result<Reply, ApiFailure>, Lost>, repeat: Repeat, perhaps_done: bool) -> Next {
    match tried {
        Ok(Ok(reply)) => Next::Done(reply),
        Ok(Err(failure)) => after_refusal(failure, repeat, perhaps_done),
        Err(lost) => after_loss(lost, repeat, perhaps_done),
    }
}

fn after_refusal(failure: ApiFailure, repeat: Repeat, perhaps_done: bool) -> Next {
    let retry_after = failure.retry_after;
    if failure.is_untouched() {
        let verdict = if perhaps_done { Verdict::Unknown(None) } else { Verdict::Refused(failure) };
        return Next::Again { retry_after, perhaps_done, verdict };
    }
    match repeat {
        Repeat::Safe | Repeat::Unsafe if failure.kind == FailureKind::Internal => Next::AgainAfter(failure),
        Repeat::Safe if failure.kind == FailureKind::Timeout => {
            Next::Again { retry_after, perhaps_done: true, verdict: Verdict::Unknown(None) }
        }
        Repeat::Safe if failure.is_passing() => {
            Next::Again { retry_after, perhaps_done, verdict: Verdict::Refused(failure) }
        }
        // A load balancer may say 503 for a request that got through: what a later try meets may be ours.
        Repeat::Unsafe if failure.kind == FailureKind::Unavailable => {
            Next::Again { retry_after, perhaps_done: true, verdict: Verdict::Unknown(None) }
        }
        Repeat::Unsafe if failure.kind == FailureKind::Timeout => Next::Stop(Verdict::Unknown(None)),
        Repeat::Unsafe if perhaps_done && failure.kind == FailureKind::AlreadyExists => {
            Next::Stop(Verdict::Unknown(None))
        }
        Repeat::Safe | Repeat::Unsafe => Next::Stop(Verdict::Refused(failure)),
    }
}

fn after_loss(lost: Lost, repeat: Repeat, perhaps_done: bool) -> Next {
    let perhaps_done = perhaps_done || !lost.is_unsent();
    let again = lost.is_passing() && (lost.is_unsent() || repeat == Repeat::Safe);
    let verdict = if perhaps_done { Verdict::Unknown(Some(lost)) } else { Verdict::NotDone(lost) };
    if again { Next::Again { retry_after: None, perhaps_done, verdict } } else { Next::Stop(verdict) }
}

/// The bytes of a JSON value, as a body.
pub(super) fn json_body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn header(what: &'static str, value: &str) -> Result<HeaderValue, ClusterError> {
    HeaderValue::from_str(value).map_err(|_not_printable| ClusterError::BadName { what, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, reason: &str) -> Result<Result<Reply, ApiFailure>, Lost> {
        let body = format!(r#"{{"kind":"Status","reason":"{reason}"}}"#);
        Ok(Err(ApiFailure::read(code, None, body.as_bytes())))
    }

    fn broken() -> Result<Result<Reply, ApiFailure>, Lost> {
        Err(Lost::Broken { source: "reset".into() })
    }

    fn shown(next: Next) -> &'static str {
        match next {
            Next::Done(_) => "done",
            Next::Again { perhaps_done: false, .. } => "again",
            Next::Again { perhaps_done: true, .. } => "again, perhaps done",
            Next::AgainAfter(_) => "again a few times",
            Next::Stop(Verdict::Refused(_)) => "refused",
            Next::Stop(Verdict::NotDone(_)) => "not done",
            Next::Stop(Verdict::Unknown(_)) => "unknown",
        }
    }

    #[test]
    fn a_creation_is_not_repeated_once_it_may_have_happened() {
        assert_eq!(shown(decide(broken(), Repeat::Unsafe, false)), "unknown");
        assert_eq!(shown(decide(refusal(504, "Timeout"), Repeat::Unsafe, false)), "unknown");
        assert_eq!(shown(decide(Err(Lost::NotSent { source: "refused".into() }), Repeat::Unsafe, false)), "again");
    }

    #[test]
    fn an_object_that_exists_after_a_doubtful_try_is_unknown_and_otherwise_refused() {
        assert_eq!(shown(decide(refusal(503, ""), Repeat::Unsafe, false)), "again, perhaps done");
        assert_eq!(shown(decide(refusal(409, "AlreadyExists"), Repeat::Unsafe, true)), "unknown");
        assert_eq!(shown(decide(refusal(409, "AlreadyExists"), Repeat::Unsafe, false)), "refused");
    }

    #[test]
    fn an_internal_error_is_worth_a_few_tries_and_one_of_a_webhook_none() {
        assert_eq!(shown(decide(refusal(500, "InternalError"), Repeat::Unsafe, false)), "again a few times");
        assert_eq!(shown(decide(refusal(500, "InternalError"), Repeat::Safe, false)), "again a few times");
        let body = r#"{"kind":"Status","message":"Internal error occurred: failed calling webhook \"a.b\": refused"}"#;
        let webhook = Ok(Err(ApiFailure::read(500, None, body.as_bytes())));
        assert_eq!(shown(decide(webhook, Repeat::Safe, false)), "refused");
    }

    #[test]
    fn too_many_requests_is_repeated_for_every_verb() {
        assert_eq!(shown(decide(refusal(429, "TooManyRequests"), Repeat::Unsafe, false)), "again");
        assert_eq!(shown(decide(refusal(429, "TooManyRequests"), Repeat::Safe, false)), "again");
    }

    #[test]
    fn what_is_safe_to_repeat_is_repeated_and_a_conflict_is_the_callers() {
        assert_eq!(shown(decide(broken(), Repeat::Safe, false)), "again, perhaps done");
        assert_eq!(shown(decide(refusal(503, ""), Repeat::Safe, false)), "again");
        assert_eq!(shown(decide(refusal(409, "Conflict"), Repeat::Safe, false)), "refused");
        assert_eq!(shown(decide(refusal(403, "Forbidden"), Repeat::Safe, false)), "refused");
    }

    #[test]
    fn an_answer_tells_uid_and_version_without_being_built() {
        let body = r#"{"metadata":{"uid":"u","resourceVersion":"7","deletionTimestamp":"x"},"data":{"a":"b"}}"#;
        let identity = Answer { code: 200, body: Bytes::from_static(body.as_bytes()) }.identity().unwrap();
        let expected =
            Identity { uid: Some("u".into()), resource_version: Some("7".into()), generation: 0, deleting: true };
        assert_eq!(identity, expected);
    }
}
