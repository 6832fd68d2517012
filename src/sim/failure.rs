//! What is said no with: the `Status` objects of the API server, in its words.

use http::StatusCode;
use serde_json::{Value, json};

use super::kinds::Kind;

/// A refusal, as it is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub code: StatusCode,
    pub body: FailureBody,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FailureBody {
    Status(Value),
    /// What answers for a path that nobody serves.
    Text(&'static str),
}

/// One thing that validation dislikes.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// `FieldValueInvalid` and the like.
    pub reason: &'static str,
    pub field: String,
    pub message: String,
}

impl Cause {
    /// `value` is told as JSON.
    pub fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", field: field.to_owned(), message }
    }

    pub fn required(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueRequired", field: field.to_owned(), message: format!("Required value: {why}") }
    }

    pub fn too_long(field: &str, limit_bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {limit_bytes} bytes");
        Self { reason: "FieldValueTooLong", field: field.to_owned(), message }
    }

    pub fn forbidden(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {why}") }
    }
}

const CONTINUE_TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can \
    start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl Failure {
    fn status(code: StatusCode, reason: &str, message: &str, details: Option<Value>) -> Self {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "code": code.as_u16(),
        });
        if !reason.is_empty() {
            body["reason"] = reason.into();
        }
        if let Some(details) = details {
            body["details"] = details;
        }
        Self { code, body: FailureBody::Status(body) }
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {} not found", kind.qualified(), quoted(name));
        Self::status(StatusCode::NOT_FOUND, "NotFound", &message, Some(of_resource(kind, name)))
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {} already exists", kind.qualified(), quoted(name));
        Self::status(StatusCode::CONFLICT, "AlreadyExists", &message, Some(of_resource(kind, name)))
    }

    /// The object is another than it was when it was read.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", kind.qualified(), quoted(name));
        Self::status(StatusCode::CONFLICT, "Conflict", &message, Some(of_resource(kind, name)))
    }

    /// A precondition of a deletion, which names the kind where the rest names the resource.
    pub fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        let qualified = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let message = format!("Operation cannot be fulfilled on {qualified} {}: {why}", quoted(name));
        Self::status(StatusCode::CONFLICT, "Conflict", &message, Some(of_kind(kind, name)))
    }

    pub fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let mut told: Vec<String> =
            causes.iter().map(|Cause { reason: _, field, message }| told(field, message)).collect();
        told.dedup();
        let told = match told.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let message = format!("{qualified} {} is invalid: {told}", quoted(name));
        let mut details = of_kind(kind, name);
        details["causes"] = causes.iter().map(cause).collect();
        Self::status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &message, Some(details))
    }

    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{} is forbidden: {why}", kind.qualified()),
            name => format!("{} {} is forbidden: {why}", kind.qualified(), quoted(name)),
        };
        Self::status(StatusCode::FORBIDDEN, "Forbidden", &message, Some(of_resource(kind, name)))
    }

    pub fn namespace_terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut failure = Self::forbidden(kind, name, &why);
        if let FailureBody::Status(body) = &mut failure.body {
            body["details"]["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        failure
    }

    pub fn bad_request(message: &str) -> Self {
        Self::status(StatusCode::BAD_REQUEST, "BadRequest", message, None)
    }

    /// An error that the API server did not expect itself.
    pub fn unclassified(message: &str) -> Self {
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, "", message, None)
    }

    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::status(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message, None)
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message, Some(json!({})))
    }

    pub fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::status(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", &message, None)
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", &message, None)
    }

    /// A `continue` token of a state that is forgotten; the new one goes on where it would have, on the newest state.
    pub fn continue_expired(token: &str) -> Self {
        let mut failure = Self::expired(CONTINUE_TOO_OLD);
        if let FailureBody::Status(body) = &mut failure.body {
            body["metadata"]["continue"] = token.into();
        }
        failure
    }

    pub fn expired(message: &str) -> Self {
        Self::status(StatusCode::GONE, "Expired", message, None)
    }

    /// A resource that nobody knows, of a group that is built in.
    pub fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::status(StatusCode::NOT_FOUND, "NotFound", message, Some(json!({})))
    }

    pub fn nobody_serves() -> Self {
        Self { code: StatusCode::NOT_FOUND, body: FailureBody::Text("404 page not found\n") }
    }

    /// An aggregated API whose server does not answer.
    pub fn unavailable() -> Self {
        Self { code: StatusCode::SERVICE_UNAVAILABLE, body: FailureBody::Text("service unavailable\n") }
    }

    /// The body of the answer, or of an event `ERROR`.
    pub fn into_value(self) -> Value {
        match self.body {
            FailureBody::Status(status) => status,
            FailureBody::Text(text) => text.into(),
        }
    }
}

/// As Go's `%q`, for which JSON is near enough in names.
fn quoted(name: &str) -> Value {
    name.into()
}

fn told(field: &str, message: &str) -> String {
    if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") }
}

fn cause(Cause { reason, field, message }: &Cause) -> Value {
    json!({"reason": reason, "message": message, "field": field})
}

fn of_resource(kind: &Kind, name: &str) -> Value {
    details(&kind.group, &kind.plural, name)
}

fn of_kind(kind: &Kind, name: &str) -> Value {
    details(&kind.group, &kind.kind, name)
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({"kind": kind});
    for (field, value) in [("group", group), ("name", name)] {
        if !value.is_empty() {
            details[field] = value.into();
        }
    }
    details
}
