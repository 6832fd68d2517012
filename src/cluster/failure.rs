//! What an API server said no with, without what it quoted.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// Longest field path that is kept, in bytes. Real ones stay far below; a webhook may send anything.
const MAX_FIELD_BYTES: usize = 256;
/// Most causes that are kept. A CRD's validation can name hundreds.
const MAX_CAUSES: usize = 20;
/// Longest reason, in bytes. The longest of Kubernetes is `UnsupportedMediaType`.
const MAX_REASON_BYTES: usize = 64;

/// A refusal by the API server.
///
/// Holds the status code, the reason, and the reasons and fields of its causes. Messages are dropped when they are read:
/// a validation error quotes the value it dislikes, and a webhook's text may hold anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiFailure {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' reason in CamelCase, such as `AlreadyExists`. Empty when the answer was not a `Status`.
    pub reason: String,
    /// Field path and reason of each cause that names one, at most 20; one of the two may be empty.
    pub causes: Vec<(String, String)>,
    /// How long the server asks to wait before the next try.
    pub retry_after: Option<Duration>,
    /// Name of the admission webhook that denied the request or could not be called.
    pub webhook: Option<String>,
    pub kind: FailureKind,
    /// The right that we lack, as `list runs.reinback.io`. None where an admission plugin forbids what we may do otherwise.
    pub missing_right: Option<String>,
    /// Of an expired `continue` token: a new one that goes on, on a later state.
    pub(super) inconsistent_continue: Option<String>,
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The object changed since it was read, or a precondition (UID, resourceVersion) does not hold.
    Conflict,
    NotFound,
    AlreadyExists,
    /// Refused by validation: a wrong value, or an immutable field.
    Invalid,
    /// Refused by authorisation, or by an admission plugin.
    Forbidden,
    Unauthorized,
    TooManyRequests,
    /// The server or etcd did not answer in time; a write may have happened.
    Timeout,
    /// The server cannot serve this now.
    Unavailable,
    /// Something broke behind the server (etcd changed its leader); a write may have happened. It may be so for ever, as with
    /// an object that cannot be decrypted, and is asked for again only a few times.
    Internal,
    WebhookDenied,
    /// A webhook that must be asked could not be.
    WebhookUnavailable,
    /// A resourceVersion or `continue` token is too old.
    Gone,
    /// The namespace is going away and takes no new objects.
    NamespaceTerminating,
    /// The body is larger than the server or etcd takes.
    TooLarge,
    Other,
}

/// As much of `metav1.Status` as is looked at. `message` is read to be classified, and dropped.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    kind: Option<&'a str>,
    #[serde(borrow)]
    message: std::borrow::Cow<'a, str>,
    reason: Option<String>,
    code: Option<u16>,
    details: Option<Details>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    causes: Vec<Cause>,
    retry_after_seconds: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    reason: Option<String>,
    field: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "continue")]
    continue_: Option<String>,
}

impl ApiFailure {
    /// Reads the body of an answer whose status code is not a success. Anything may stand in it.
    pub(super) fn read(code: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let status = serde_json::from_slice::<Status>(body).ok().filter(|status| status.kind == Some("Status"));
        let Status { kind: _, message, reason, code: stated, details, metadata } = status.unwrap_or_default();
        // An event of a watch travels in a 200 answer; its own code is the one that counts.
        let code = if code == 200 { stated.unwrap_or(500) } else { code };
        let reason = reason.filter(|reason| is_reason(reason)).unwrap_or_default();
        let Details { causes, retry_after_seconds } = details.unwrap_or_default();
        let causes: Vec<_> =
            causes.into_iter().map(cleaned).filter(|cause| !is_nameless(cause)).take(MAX_CAUSES).collect();
        let (kind, webhook) = classify(code, &reason, &message, &causes);
        Self {
            code,
            reason,
            causes,
            retry_after: retry_after.or(retry_after_seconds.map(Duration::from_secs)),
            webhook,
            kind,
            missing_right: missing_right(&message).filter(|_| kind == FailureKind::Forbidden),
            inconsistent_continue: metadata.and_then(|metadata| metadata.continue_).filter(|token| !token.is_empty()),
        }
    }

    /// Whether the request was turned away before anything was done about it.
    pub(super) fn is_untouched(&self) -> bool {
        self.kind == FailureKind::TooManyRequests
    }

    /// Whether the same request may get another answer soon.
    pub(super) fn is_passing(&self) -> bool {
        match self.kind {
            FailureKind::TooManyRequests | FailureKind::Timeout | FailureKind::Unavailable | FailureKind::Internal => {
                true
            }
            FailureKind::WebhookUnavailable
            | FailureKind::WebhookDenied
            | FailureKind::Conflict
            | FailureKind::NotFound
            | FailureKind::AlreadyExists
            | FailureKind::Invalid
            | FailureKind::Forbidden
            | FailureKind::Unauthorized
            | FailureKind::Gone
            | FailureKind::NamespaceTerminating
            | FailureKind::TooLarge => false,
            FailureKind::Other => self.code >= 500 && self.retry_after.is_some(),
        }
    }
}

fn classify(code: u16, reason: &str, message: &str, causes: &[(String, String)]) -> (FailureKind, Option<String>) {
    if let Some(webhook) = quoted_after(message, "admission webhook \"") {
        return (FailureKind::WebhookDenied, Some(webhook));
    }
    if let Some(webhook) = quoted_after(message, "failed calling webhook \"") {
        return (FailureKind::WebhookUnavailable, Some(webhook));
    }
    // Of a definition (apiextensions-apiserver, `conversion/webhook_converter.go`): the message names the kind.
    if message.contains("conversion webhook for ") {
        return (FailureKind::WebhookUnavailable, None);
    }
    if causes.iter().any(|(_, reason)| reason == "NamespaceTerminating") {
        return (FailureKind::NamespaceTerminating, None);
    }
    let kind = match (code, reason) {
        (_, "AlreadyExists") => FailureKind::AlreadyExists,
        (_, "ServerTimeout" | "Timeout") | (504, _) => FailureKind::Timeout,
        (401, _) => FailureKind::Unauthorized,
        (403, _) => FailureKind::Forbidden,
        (404, _) => FailureKind::NotFound,
        (409, _) => FailureKind::Conflict,
        (410, _) => FailureKind::Gone,
        (413, _) => FailureKind::TooLarge,
        (422, _) => FailureKind::Invalid,
        (429, _) => FailureKind::TooManyRequests,
        (502 | 503, _) => FailureKind::Unavailable,
        // etcd's own limit comes as a 500 without a reason of its own (apiserver, `etcdserver: request is too large`).
        (500, _) if message.contains("request is too large") => FailureKind::TooLarge,
        (500, _) => FailureKind::Internal,
        _ => FailureKind::Other,
    };
    (kind, None)
}

/// The name in quotes after `prefix`, where it looks like a webhook's name: a DNS name is no secret, anything else is dropped.
fn quoted_after(message: &str, prefix: &str) -> Option<String> {
    let (_, rest) = message.split_once(prefix)?;
    let (name, _) = rest.split_once('"')?;
    let is_name = name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    Some(if is_name { name.to_owned() } else { String::new() })
}

/// What the authorizers of an API server miss: `… is forbidden: User "…" cannot list resource "runs" in API group "…"`
/// (apiserver's `responsewriters.Forbidden`). The user's name is dropped: it may be anything.
fn missing_right(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(" is forbidden: User \"")?;
    let (_, rest) = rest.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, _) = rest.split_once('"')?;
    let is_plain = |text: &str| {
        text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/' | b'*'))
    };
    if ![verb, resource, group].into_iter().all(is_plain) {
        return None;
    }
    let (plural, subresource) = resource
        .split_once('/')
        .map_or((resource, String::new()), |(plural, subresource)| (plural, format!("/{subresource}")));
    let dot = if group.is_empty() { "" } else { "." };
    Some(format!("{verb} {plural}{dot}{group}{subresource}"))
}

fn cleaned(Cause { reason, field }: Cause) -> (String, String) {
    let is_field = |field: &String| field.len() <= MAX_FIELD_BYTES && field.bytes().all(is_field_byte);
    (field.filter(is_field).unwrap_or_default(), reason.filter(|reason| is_reason(reason)).unwrap_or_default())
}

fn is_nameless((field, reason): &(String, String)) -> bool {
    field.is_empty() && reason.is_empty()
}

fn is_reason(text: &str) -> bool {
    text.len() <= MAX_REASON_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_field_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-/[]()*$".contains(&byte)
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, reason, causes, retry_after: _, webhook, kind, missing_right, inconsistent_continue: _ } =
            self;
        match (kind, webhook, missing_right) {
            (FailureKind::WebhookDenied, Some(name), _) => write!(f, "webhook {name} denied it")?,
            (FailureKind::WebhookUnavailable, Some(name), _) => write!(f, "webhook {name} could not be called")?,
            (FailureKind::WebhookUnavailable, None, _) => f.write_str("the conversion webhook could not be called")?,
            (FailureKind::Internal, _, _) => f.write_str("the API server failed")?,
            (_, _, Some(right)) => {
                write!(f, "the right to {right} is missing; docs/rbac.yaml has every one that reinback takes")?;
            }
            _ => f.write_str("the API server refused it")?,
        }
        match reason.as_str() {
            "" => write!(f, " (code {code})")?,
            reason => write!(f, " ({reason}, code {code})")?,
        }
        for (position, (field, reason)) in causes.iter().enumerate() {
            f.write_str(if position == 0 { ": " } else { ", " })?;
            match (field.as_str(), reason.as_str()) {
                ("", reason) => f.write_str(reason)?,
                (field, "") => f.write_str(field)?,
                (field, reason) => write!(f, "{field} {reason}")?,
            }
        }
        Ok(())
    }
}

/// Where JSON stopped being what was expected: a place and a class, never the text there.
///
/// `serde_json`'s own error quotes the value it did not expect, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{class} in line {line}, column {column}")]
pub struct JsonFault {
    class: &'static str,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for JsonFault {
    fn from(error: serde_json::Error) -> Self {
        let class = match error.classify() {
            serde_json::error::Category::Io => "a broken read",
            serde_json::error::Category::Syntax => "a syntax error",
            serde_json::error::Category::Data => "an unexpected type",
            serde_json::error::Category::Eof => "an early end",
        };
        Self { class, line: error.line(), column: error.column() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, body: &str) -> ApiFailure {
        ApiFailure::read(code, None, body.as_bytes())
    }

    #[test]
    fn a_validation_error_keeps_fields_and_reasons_and_drops_the_quoted_value() {
        let seen = failure(
            422,
            r#"{"kind":"Status","reason":"Invalid","message":"Secret \"x\" is invalid: data[a]: \"hunter2\"",
                "details":{"causes":[{"reason":"FieldValueInvalid","message":"hunter2","field":"data[a]"},
                {"reason":"hunter2 is bad","field":"hunter2 \"quoted\""}]}}"#,
        );
        insta::assert_snapshot!(seen, @"the API server refused it (Invalid, code 422): data[a] FieldValueInvalid");
        assert_eq!(seen.kind, FailureKind::Invalid);
        assert!(!format!("{seen:?}").contains("hunter2"));
    }

    #[test]
    fn a_webhook_is_named_and_its_words_are_not_kept() {
        let denied = failure(
            400,
            r#"{"kind":"Status","code":400,"reason":"tokenhunter2 !","message":"admission webhook \"rancher.cattle.io.settings\" denied the request: hunter2"}"#,
        );
        insta::assert_snapshot!(denied, @"webhook rancher.cattle.io.settings denied it (code 400)");
        let down = failure(
            500,
            r#"{"kind":"Status","reason":"InternalError","message":"Internal error occurred: failed calling webhook \"capi.x\": dial tcp"}"#,
        );
        insta::assert_snapshot!(down, @"webhook capi.x could not be called (InternalError, code 500)");
        assert_eq!(down.kind, FailureKind::WebhookUnavailable);
    }

    #[test]
    fn an_answer_that_is_not_a_status_is_classed_by_its_code() {
        let seen = failure(503, "<html>secret</html>");
        insta::assert_snapshot!(seen, @"the API server refused it (code 503)");
        assert_eq!(seen.kind, FailureKind::Unavailable);
        assert!(seen.is_passing());
    }

    #[test]
    fn an_object_that_exists_is_told_apart_from_a_conflict() {
        assert_eq!(failure(409, r#"{"kind":"Status","reason":"AlreadyExists"}"#).kind, FailureKind::AlreadyExists);
        assert_eq!(failure(409, r#"{"kind":"Status","reason":"Conflict"}"#).kind, FailureKind::Conflict);
    }

    #[test]
    fn a_namespace_on_its_way_out_is_told_apart_from_missing_rights() {
        let body = r#"{"kind":"Status","reason":"Forbidden","details":{"causes":[{"reason":"NamespaceTerminating","field":"metadata.namespace"}]}}"#;
        assert_eq!(failure(403, body).kind, FailureKind::NamespaceTerminating);
    }

    #[test]
    fn a_missing_right_is_told_with_the_remedy_and_without_the_users_name() {
        let lacking = |what: &str| {
            let message = format!("x is forbidden: User \"hunter2\" cannot {what} in the namespace \"hunter3\"");
            failure(403, &serde_json::json!({"kind": "Status", "reason": "Forbidden", "message": message}).to_string())
        };
        let seen = lacking(r#"update resource "runs/status" in API group "reinback.io""#);
        insta::assert_snapshot!(seen, @"the right to update runs.reinback.io/status is missing; docs/rbac.yaml has every one that reinback takes (Forbidden, code 403)");
        assert!(!format!("{seen:?}").contains("hunter"));
        let seen = lacking(r#"get resource "namespaces" in API group """#);
        assert_eq!(seen.missing_right.as_deref(), Some("get namespaces"));
        for strange in [r#"get resource "a b" in API group """#, "eat", r#"" cannot get path "/x""#] {
            assert_eq!(lacking(strange).missing_right, None, "{strange}");
        }
        let quota =
            r#"{"kind":"Status","reason":"Forbidden","message":"pods \"x\" is forbidden: exceeded quota: hunter2"}"#;
        insta::assert_snapshot!(failure(403, quota), @"the API server refused it (Forbidden, code 403)");
    }

    #[test]
    fn json_faults_do_not_quote_the_text() {
        let error = serde_json::from_str::<u8>(r#""hunter2""#).unwrap_err();
        insta::assert_snapshot!(JsonFault::from(error), @"an unexpected type in line 1, column 9");
    }
}
