//! The API server's audit log: every request, as the server saw it.

use jiff::Timestamp;
use serde::Deserialize;

/// One request, at the end of its response; a field is what the audit event of that name holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub user: AuditUser,
    /// As whom it was asked, where not as the user.
    #[serde(default)]
    pub impersonated_user: Option<AuditUser>,
    #[serde(default)]
    pub user_agent: String,
    #[serde(default)]
    pub object_ref: ObjectRef,
    #[serde(default)]
    pub response_status: ResponseStatus,
    pub request_received_timestamp: Timestamp,
    /// When the response was complete.
    pub stage_timestamp: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
pub struct AuditUser {
    pub username: String,
}

/// Empty where the request names no such thing, such as `name` in a list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    pub api_group: String,
    pub api_version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseStatus {
    pub code: u16,
}

impl AuditEvent {
    /// Whether the request asked for a change, allowed or not.
    pub fn writes(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

/// Reads whole lines that contain a text; one that is still being written is left out.
pub(super) fn parse(log: &str, text: &str) -> Vec<AuditEvent> {
    log.split_inclusive('\n')
        .filter(|line| line.ends_with('\n') && line.contains(text))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("audit event {line}: {error}")))
        .collect()
}
