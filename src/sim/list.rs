//! Objects as they are answered: one, a page of them, or their metadata.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;
use super::selector::Selector;
use super::store::{Revision, Store};
use super::strategy;

/// What of a kind is listed.
pub struct ListQuery {
    pub namespace: Option<String>,
    pub selector: Selector,
    /// 0 for no limit.
    pub limit: usize,
    /// Empty for the first page.
    pub continue_: String,
    pub resource_version: String,
    /// The state of `resource_version` is asked for, and no newer one.
    pub exactly: bool,
    pub metadata_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: PageMetadata,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    continue_: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_item_count: Option<usize>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Plain(Cow<'a, Value>),
    Typed(Typed<'a>),
    #[serde(rename_all = "camelCase")]
    Metadata {
        kind: &'static str,
        api_version: &'static str,
        metadata: &'a Value,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Typed<'a> {
    kind: &'a str,
    api_version: &'a str,
    #[serde(flatten)]
    object: Cow<'a, Value>,
}

/// Where a list goes on, as the API server encodes it.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1 for the newest state.
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// An object with its kind and version, as JSON.
pub fn one(kind: &Kind, version: &str, object: &Value) -> Bytes {
    json(&typed(kind, &kind.api_version(version), object))
}

/// An object's metadata alone, as a watch tells it.
pub fn metadata_of(object: &Value) -> Bytes {
    json(&partial(object))
}

fn partial(object: &Value) -> Item<'_> {
    Item::Metadata { kind: "PartialObjectMetadata", api_version: "meta.k8s.io/v1", metadata: &object["metadata"] }
}

fn typed<'a>(kind: &'a Kind, api_version: &'a str, object: &'a Value) -> Typed<'a> {
    Typed { kind: &kind.kind, api_version, object: strategy::shown(kind, object) }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("maps with text keys are serialised without an error").into()
}

/// One page of a list, as JSON.
pub fn page(store: &Store, kind: &Kind, version: &str, query: &ListQuery) -> Result<Bytes, Failure> {
    let ListQuery { namespace, selector, limit, continue_, resource_version, exactly, metadata_only } = query;
    if !continue_.is_empty() && !matches!(resource_version.as_str(), "" | "0") {
        return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
    }
    let prefix = namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let Start { mut revision, after } = start(store, continue_, &prefix)?;
    if *exactly && continue_.is_empty() {
        revision = stated(store, resource_version)?;
    }
    let objects = store.at(&kind.stored, revision).map_err(|_forgotten| expired(continue_))?;
    let from = objects.range(after..).filter(|(path, _)| path.starts_with(&prefix));
    let mut found = from.filter(|(_, object)| selector.matches(object));
    let page: Vec<(&String, &Arc<Value>)> = match limit {
        0 => found.by_ref().collect(),
        limit => found.by_ref().take(*limit).collect(),
    };
    let left = found.count();
    let continue_ = match page.last() {
        Some((path, _)) if left > 0 => Some(token(i64::try_from(revision).unwrap_or(-1), &path[prefix.len()..])),
        // Of custom resources it is said, too, that there is no more.
        _ => (kind.rules.custom && !metadata_only).then(String::new),
    };
    let api_version = kind.api_version(version);
    let remaining_item_count = (left > 0 && selector.is_empty()).then_some(left);
    let metadata = PageMetadata { resource_version: revision.to_string(), continue_, remaining_item_count };
    let items = page.iter().map(|(_, object)| item(kind, &api_version, object, *metadata_only)).collect();
    Ok(match metadata_only {
        true => json(&Page { kind: "PartialObjectMetadataList", api_version: "meta.k8s.io/v1", metadata, items }),
        false => json(&Page { kind: &kind.list_kind, api_version: &api_version, metadata, items }),
    })
}

fn item<'a>(kind: &'a Kind, api_version: &'a str, object: &'a Value, metadata_only: bool) -> Item<'a> {
    if metadata_only {
        return partial(object);
    }
    // The list says once what the items of built-in kinds are.
    if kind.rules.custom {
        Item::Typed(typed(kind, api_version, object))
    } else {
        Item::Plain(strategy::shown(kind, object))
    }
}

/// The state that a page is of, and the path from which it goes on.
struct Start {
    revision: Revision,
    after: String,
}

fn start(store: &Store, token: &str, prefix: &str) -> Result<Start, Failure> {
    if token.is_empty() {
        return Ok(Start { revision: store.revision(), after: prefix.to_owned() });
    }
    let Token { v: _, rv, start } = decoded(token).ok_or_else(|| Failure::bad_request("continue key is not valid"))?;
    let revision = Revision::try_from(rv).unwrap_or(store.revision());
    Ok(Start { revision, after: format!("{prefix}{start}") })
}

/// The state that a list asks for by its number.
fn stated(store: &Store, resource_version: &str) -> Result<Revision, Failure> {
    let invalid = |_not_a_number| Failure::bad_request(&format!("invalid resource version {resource_version:?}"));
    let revision: Revision = resource_version.parse().map_err(invalid)?;
    if revision > store.revision() {
        return Err(Failure::bad_request("the resource version is of a later state than the last"));
    }
    Ok(revision)
}

fn decoded(token: &str) -> Option<Token> {
    let token: Token = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    (token.v == TOKEN_VERSION && token.rv != 0 && !token.start.is_empty()).then_some(token)
}

fn token(revision: i64, path: &str) -> String {
    // The first key behind this one.
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: revision, start: format!("{path}\0") };
    URL_SAFE_NO_PAD.encode(json(&token))
}

fn expired(continue_: &str) -> Failure {
    match decoded(continue_) {
        Some(token) => Failure::continue_expired(&URL_SAFE_NO_PAD.encode(json(&Token { rv: -1, ..token }))),
        None => Failure::expired("The resourceVersion for the provided list is too old."),
    }
}
