//! Requests and answers: which path and verb mean what.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, header};
use serde_json::{Value, json};

use super::access;
use super::body::{self, MAX_BODY_BYTES};
use super::delete::Deleted;
use super::failure::{Failure, FailureBody};
use super::kinds::Kind;
use super::list::{self, ListQuery};
use super::proxy;
use super::selector::Selector;
use super::watch::Watch;
use super::world::World;
use super::write::{Part, Place, Written};
use super::{discovery, meta};
use crate::cluster::Access;
use crate::object::Resource;

const JSON: &str = "application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// What the real one reads and writes; here it is JSON alone.
const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// How long a watch lasts that does not say.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// An answer that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

pub enum Reply {
    Whole(Answer),
    Watch(Box<Watch>),
}

impl Answer {
    fn json(code: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { code, content_type: JSON, body: body.into() }
    }

    fn document(document: &Value) -> Self {
        Self::json(StatusCode::OK, document.to_string())
    }
}

impl From<Failure> for Answer {
    fn from(Failure { code, body }: Failure) -> Self {
        match body {
            FailureBody::Status(status) => Self::json(code, status.to_string()),
            FailureBody::Text(text) => Self { code, content_type: "text/plain; charset=utf-8", body: text.into() },
        }
    }
}

/// Does what a request asks.
pub fn answer(world: &mut World, parts: &Parts, body: &Bytes) -> Reply {
    match route(world, &Request { parts, body }) {
        Ok(reply) => reply,
        Err(failure) => Reply::Whole(failure.into()),
    }
}

struct Request<'a> {
    parts: &'a Parts,
    body: &'a Bytes,
}

impl Request<'_> {
    /// A parameter of the query; empty where it is missing.
    fn query(&self, name: &str) -> String {
        let pairs = url::form_urlencoded::parse(self.parts.uri.query().unwrap_or_default().as_bytes());
        pairs.into_owned().find(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
    }

    fn header(&self, name: HeaderName) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Who writes: as the request says, or else the client's name.
    fn manager(&self) -> String {
        let stated = self.query("fieldManager");
        if !stated.is_empty() {
            return stated;
        }
        let agent = self.header(header::USER_AGENT);
        let (name, _) = agent.split_once('/').unwrap_or((agent, ""));
        if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
    }

    fn check_media_types(&self) -> Result<(), Failure> {
        let accept = self.header(header::ACCEPT);
        let is_ours = |accept: &str| {
            accept.is_empty() || ["application/json", "*/*", "application/*"].iter().any(|t| accept.contains(t))
        };
        if !is_ours(accept) {
            return Err(Failure::not_acceptable(MEDIA_TYPES));
        }
        let sent = self.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        if self.parts.method == Method::PATCH && sent != MERGE_PATCH {
            return Err(Failure::unsupported_media_type(MERGE_PATCH));
        }
        if matches!(self.parts.method, Method::POST | Method::PUT) && !sent.is_empty() && sent != JSON {
            return Err(Failure::unsupported_media_type(MEDIA_TYPES));
        }
        if self.body.len() > MAX_BODY_BYTES {
            return Err(Failure::too_large(MAX_BODY_BYTES));
        }
        Ok(())
    }
}

fn route(world: &mut World, request: &Request<'_>) -> Result<Reply, Failure> {
    let segments: Vec<String> = request.parts.uri.path().split('/').filter(|s| !s.is_empty()).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["version"] => Ok(whole(&version())),
        ["healthz" | "readyz" | "livez"] => {
            let body = Bytes::from_static(b"ok");
            Ok(Reply::Whole(Answer { code: StatusCode::OK, content_type: "text/plain; charset=utf-8", body }))
        }
        ["api" | "apis"] => Ok(groups(world, request, segments[0] == "api")),
        ["api", version] => resources(world, "", version),
        ["apis", group] => discovery::one_group(&world.kinds, &world.failing, group)
            .map(|d| whole(&d))
            .ok_or_else(Failure::nobody_serves),
        ["apis", group, version] => resources(world, group, version),
        ["api", "v1", "namespaces", namespace, "services", service, "proxy", path @ ..]
            if request.parts.method == Method::GET =>
        {
            proxy::answer(world, namespace, service, path).map(Reply::Whole)
        }
        ["api", version, rest @ ..] => target(world, request, "", version, rest),
        ["apis", group, version, rest @ ..] => target(world, request, group, version, rest),
        _ => Err(Failure::nobody_serves()),
    }
}

fn whole(document: &Value) -> Reply {
    Reply::Whole(Answer::document(document))
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.3", "platform": "linux/amd64"})
}

fn groups(world: &World, request: &Request<'_>, core: bool) -> Reply {
    let World { kinds, failing, .. } = world;
    if request.header(header::ACCEPT).contains("g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList") {
        let document = discovery::aggregated(kinds, failing, core);
        return Reply::Whole(Answer { content_type: AGGREGATED, ..Answer::document(&document) });
    }
    whole(&if core { discovery::core_versions() } else { discovery::group_list(kinds, failing) })
}

fn resources(world: &World, group: &str, version: &str) -> Result<Reply, Failure> {
    if is_failing(world, group, version) {
        return Err(Failure::unavailable());
    }
    discovery::resource_list(&world.kinds, group, version).map(|d| whole(&d)).ok_or_else(Failure::nobody_serves)
}

fn is_failing(world: &World, group: &str, version: &str) -> bool {
    world.failing.iter().any(|registered| registered.group == group && registered.version == version)
}

/// What a path names below its group and version.
struct Target<'a> {
    kind: Arc<Kind>,
    version: &'a str,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    part: Part,
}

fn target(
    world: &mut World,
    request: &Request<'_>,
    group: &str,
    version: &str,
    rest: &[&str],
) -> Result<Reply, Failure> {
    if is_failing(world, group, version) {
        return Err(Failure::unavailable());
    }
    let is_own = |plural: &&str| group.is_empty() && matches!(*plural, "status" | "finalize");
    let (namespace, plural, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] if !is_own(plural) => (Some(*namespace), *plural, rest),
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return Err(Failure::nobody_serves()),
    };
    let kind = world.kinds.served(&Resource::new(group, version, plural)).cloned();
    let unknown = || {
        let is_built_in = world.kinds.all().any(|kind| kind.group == group && !kind.rules.custom);
        if is_built_in { Failure::no_resource() } else { Failure::nobody_serves() }
    };
    let kind = kind.ok_or_else(unknown)?;
    let (name, part) = match rest {
        [] => (None, Part::Whole),
        [name] => (Some(*name), Part::Whole),
        [name, "status"] if kind.version(version).is_some_and(|at| at.status) => (Some(*name), Part::Status),
        _ => return Err(Failure::nobody_serves()),
    };
    // A namespaced object cannot be named without its namespace, nor a cluster-scoped one in one.
    if namespace.is_some() && !kind.namespaced || namespace.is_none() && kind.namespaced && name.is_some() {
        return Err(Failure::nobody_serves());
    }
    carry_out(world, request, &Target { kind, version, namespace, name, part })
}

fn carry_out(world: &mut World, request: &Request<'_>, target: &Target<'_>) -> Result<Reply, Failure> {
    let Target { kind, version, namespace, name, part } = target;
    let verb = verb(request, name.is_some()).ok_or_else(Failure::method_not_allowed)?;
    if !kind.verbs.contains(&verb) {
        return Err(Failure::method_not_allowed());
    }
    access::check(&world.denied, kind, &asked(verb, target))?;
    request.check_media_types()?;
    let manager = request.manager();
    let place = Place { kind, version, namespace: *namespace, manager: &manager };
    match (verb, name) {
        ("create", None) if !kind.is_stored() => {
            let review = body::object(kind, version, *namespace, request.body)?;
            Ok(object(StatusCode::CREATED, target, &access::review(&world.denied, kind, review)))
        }
        ("create", None) => {
            if kind.namespaced && namespace.is_none() {
                return Err(Failure::method_not_allowed());
            }
            let new = body::object(kind, version, *namespace, request.body)?;
            Ok(written(target, &world.create(&place, new)?))
        }
        ("get", Some(name)) => {
            let found = world.store.get(&place.key(name)).ok_or_else(|| Failure::not_found(kind, name))?;
            Ok(object(StatusCode::OK, target, found))
        }
        ("update", Some(name)) => {
            let mut new = body::object(kind, version, *namespace, request.body)?;
            body::check_name(&mut new, name, *namespace)?;
            Ok(written(target, &world.update(&place, name, *part, new)?))
        }
        ("patch", Some(name)) => {
            let patch = body::patch(request.body)?;
            Ok(written(target, &world.merge_patch(&place, name, *part, &patch)?))
        }
        ("delete", Some(name)) => {
            let options = body::delete_options(request.body, |of| Some(request.query(of)).filter(|v| !v.is_empty()))?;
            let deleted = world.delete(kind, &place.key(name), &options)?;
            Ok(gone(target, &deleted))
        }
        ("list", None) => {
            let query = list_query(request, target, None)?;
            let page = list::page(&world.store, kind, version, &query)?;
            Ok(Reply::Whole(Answer::json(StatusCode::OK, page)))
        }
        ("watch", name) => watch(world, request, target, *name),
        _ => Err(Failure::method_not_allowed()),
    }
}

/// The verb of a request, as rights name it.
fn verb(request: &Request<'_>, is_named: bool) -> Option<&'static str> {
    let watches = matches!(request.query("watch").as_str(), "1" | "true");
    match (&request.parts.method, is_named) {
        (&Method::GET, false) if watches => Some("watch"),
        (&Method::GET, false) => Some("list"),
        (&Method::GET, true) => Some("get"),
        (&Method::POST, false) => Some("create"),
        (&Method::PUT, true) => Some("update"),
        (&Method::PATCH, true) => Some("patch"),
        (&Method::DELETE, true) => Some("delete"),
        _ => None,
    }
}

fn asked(verb: &str, target: &Target<'_>) -> Access {
    let Target { kind, version: _, namespace, name, part } = target;
    let subresource = if *part == Part::Status { "status" } else { "" };
    let owned = |text: &Option<&str>| text.unwrap_or_default().to_owned();
    Access {
        subresource: subresource.to_owned(),
        namespace: owned(namespace),
        name: owned(name),
        ..Access::new(verb, &kind.group, &kind.plural)
    }
}

fn list_query(request: &Request<'_>, target: &Target<'_>, name: Option<&str>) -> Result<ListQuery, Failure> {
    let fields = name.map_or_else(|| request.query("fieldSelector"), |name| format!("metadata.name={name}"));
    Ok(ListQuery {
        namespace: target.namespace.map(str::to_owned),
        selector: Selector::parse(&target.kind, &request.query("labelSelector"), &fields)?,
        limit: request.query("limit").parse().unwrap_or(0),
        continue_: request.query("continue"),
        resource_version: request.query("resourceVersion"),
        exactly: request.query("resourceVersionMatch") == "Exact",
        metadata_only: request.header(header::ACCEPT).contains("as=PartialObjectMetadataList"),
    })
}

fn watch(world: &World, request: &Request<'_>, target: &Target<'_>, name: Option<&str>) -> Result<Reply, Failure> {
    let ListQuery { namespace, selector, resource_version, .. } = list_query(request, target, name)?;
    let now = world.elapsed();
    let timeout = request.query("timeoutSeconds").parse().map_or(WATCH_TIMEOUT, Duration::from_secs);
    let end = now + timeout;
    let position = match resource_version.as_str() {
        "" | "0" => None,
        stated => Some(
            stated
                .parse()
                .map_err(|_not_a_number| Failure::bad_request(&format!("invalid resource version {stated:?}")))?,
        ),
    };
    let bookmarks = matches!(request.query("allowWatchBookmarks").as_str(), "1" | "true");
    Ok(Reply::Watch(Box::new(Watch {
        kind: Arc::clone(&target.kind),
        version: target.version.to_owned(),
        namespace,
        selector,
        // Of a list the word is another, and longer.
        metadata_only: request.header(header::ACCEPT).contains("as=PartialObjectMetadata;"),
        end,
        next_bookmark: bookmarks.then(|| Watch::first_bookmark(now, end)),
        position,
    })))
}

fn object(code: StatusCode, target: &Target<'_>, object: &Value) -> Reply {
    Reply::Whole(Answer::json(code, list::one(&target.kind, target.version, object)))
}

fn written(target: &Target<'_>, written: &Written) -> Reply {
    let code = if written.made { StatusCode::CREATED } else { StatusCode::OK };
    object(code, target, &written.object)
}

fn gone(target: &Target<'_>, deleted: &Deleted) -> Reply {
    match deleted {
        Deleted::Object(waiting) => object(StatusCode::OK, target, waiting),
        Deleted::Gone(gone) => {
            let Kind { group, plural, .. } = &*target.kind;
            let mut details = json!({"name": meta::name(gone), "kind": plural, "uid": meta::uid(gone)});
            if !group.is_empty() {
                details["group"] = group.as_str().into();
            }
            whole(&json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            }))
        }
    }
}

/// A segment of a path without its percent signs.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
