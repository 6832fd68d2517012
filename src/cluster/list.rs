//! Lists in pages, bounded by bytes.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::{Call, JSON, Reply, collection_path, push_query};
use super::{ApiFailure, ClusterError, ClusterReader, FailureKind, JsonFault};
use crate::object::Resource;

/// Objects on the first page, before their size is known.
const FIRST_PAGE: usize = 250;
/// What a page should weigh, in bytes: small enough to hold several at once, large enough that requests do not count.
const PAGE_BYTES: usize = 1 << 20;
/// Least and most objects on a later page. Past 1,000 a page gains nothing.
const PAGE_OBJECTS: (usize, usize) = (10, 1000);
/// How often a list is begun again when its `continue` token expired (etcd keeps history for 5 minutes by default).
const MAX_RESTARTS: usize = 3;
/// Names, labels and owners without the rest. A server that cannot do so sends the objects whole.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// What of a resource is listed; everything by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListOptions<'a> {
    pub namespace: Option<&'a str>,
    pub label_selector: &'a str,
    pub field_selector: &'a str,
    /// Ask for `metadata` only (`PartialObjectMetadata`).
    pub metadata_only: bool,
    /// Empty for the newest state; `0` for whatever the server has at hand.
    pub resource_version: &'a str,
    /// The state of `resource_version` and no other (`resourceVersionMatch=Exact`), so that several lists show one moment. A server
    /// that has forgotten that state, or does not have it yet, refuses; so does one that takes up an expired list.
    pub exactly: bool,
}

/// A whole list.
#[derive(Debug)]
pub struct Listed<T> {
    /// In the server's order: by namespace, then name.
    pub items: Vec<T>,
    /// Of the list as a whole; a watch goes on from it.
    pub resource_version: String,
    /// Requests that carried items of this list.
    pub pages: usize,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_: String,
}

impl ClusterReader {
    /// Lists a resource and keeps what `map` makes of each item; `None` leaves one out.
    ///
    /// Items of built-in resources carry neither `kind` nor `apiVersion`: the list says both once, for all. Custom
    /// resources carry them. `map` sees an item as the text it came in, so a page is never built as a tree;
    /// after an expired page it sees items again, and what it returned before is dropped.
    ///
    /// # Errors
    ///
    /// `NotServed` when the resource is not (or no longer) served, `Api`, `Unreachable`, `TooLarge`, `Expired`, and
    /// `BadAnswer` when the page or `map` finds something else than it must.
    pub async fn list<T>(
        &self,
        resource: &Resource,
        options: ListOptions<'_>,
        mut map: impl FnMut(&RawValue) -> Result<Option<T>, JsonFault>,
    ) -> Result<Listed<T>, ClusterError> {
        let mut progress = Progress::default();
        let mut listed = Listed { items: Vec::new(), resource_version: String::new(), pages: 0 };
        loop {
            let (reply, limit) = match self.page(resource, options, &progress).await? {
                (Ok(reply), limit) => (reply, limit),
                (Err(failure), _) => {
                    if progress.restart(failure, resource, options.exactly)? == Restart::Whole {
                        listed.items.clear();
                        listed.pages = 0;
                    }
                    continue;
                }
            };
            let bad = |source| ClusterError::BadAnswer { what: what(resource), source };
            let page: Page<'_> = serde_json::from_slice(&reply.body).map_err(|error| bad(error.into()))?;
            let items = page.items.unwrap_or_default();
            let count = items.len();
            for item in items {
                listed.items.extend(map(item).map_err(bad)?);
            }
            listed.pages += 1;
            listed.resource_version = page.metadata.resource_version;
            if page.metadata.continue_.is_empty() {
                return Ok(listed);
            }
            progress.continue_ = page.metadata.continue_;
            progress.limit = next_limit(reply.body.len(), count, limit);
        }
    }

    /// One page, and the limit that it was asked with: halved while the answer is too large.
    async fn page(
        &self,
        resource: &Resource,
        options: ListOptions<'_>,
        progress: &Progress,
    ) -> Result<(Result<Reply, ApiFailure>, usize), ClusterError> {
        let mut limit = progress.limit;
        loop {
            let call = call(resource, options, limit, &progress.continue_)?;
            match self.transport.read(&call, || what(resource)).await {
                Err(ClusterError::TooLarge { .. }) if limit > 1 => limit = (limit / 2).max(1),
                answer => return answer.map(|answer| (answer, limit)),
            }
        }
    }
}

/// Where a list stands between two pages.
struct Progress {
    limit: usize,
    /// Empty for the first page.
    continue_: String,
    restarts: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self { limit: FIRST_PAGE, continue_: String::new(), restarts: 0 }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Restart {
    /// From the first page, on the newest state.
    Whole,
    /// On from here, on a later state: objects may be seen twice or missed where they changed since.
    Inconsistent,
}

impl Progress {
    /// After a refused page: begins again, when that is worth it. A state that is forgotten is not had by asking again.
    fn restart(&mut self, failure: ApiFailure, resource: &Resource, exactly: bool) -> Result<Restart, ClusterError> {
        let what = what(resource);
        match failure.kind {
            FailureKind::NotFound => return Err(ClusterError::NotServed { what }),
            FailureKind::Gone if !self.continue_.is_empty() && !exactly => {}
            _ => return Err(ClusterError::Api { what, failure: Box::new(failure) }),
        }
        self.restarts += 1;
        if self.restarts <= MAX_RESTARTS {
            self.continue_.clear();
            return Ok(Restart::Whole);
        }
        match failure.inconsistent_continue {
            // Bounded: a list that expires at every page would go on for ever.
            Some(token) if self.restarts <= 2 * MAX_RESTARTS => {
                self.continue_ = token;
                Ok(Restart::Inconsistent)
            }
            _ => Err(ClusterError::Expired { what, restarts: self.restarts }),
        }
    }
}

fn what(resource: &Resource) -> String {
    format!("list {resource}")
}

fn call(resource: &Resource, options: ListOptions<'_>, limit: usize, token: &str) -> Result<Call, ClusterError> {
    let ListOptions { namespace, label_selector, field_selector, metadata_only, resource_version, exactly } = options;
    let mut path = collection_path(resource, namespace)?;
    let pairs = [
        ("labelSelector", label_selector),
        ("fieldSelector", field_selector),
        ("limit", &limit.to_string()),
        ("continue", token),
        // A token already says which state it belongs to; the server refuses both together.
        ("resourceVersion", if token.is_empty() { resource_version } else { "" }),
        ("resourceVersionMatch", if token.is_empty() && exactly { "Exact" } else { "" }),
    ];
    push_query(&mut path, &pairs);
    let accept = if metadata_only { METADATA_ONLY } else { JSON };
    Ok(Call { accept, ..Call::new(http::Method::GET, path, None, Bytes::new()) })
}

/// So many objects of the last page's mean size as a page may weigh.
fn next_limit(page_bytes: usize, page_objects: usize, last_limit: usize) -> usize {
    match page_bytes.checked_div(page_objects) {
        Some(mean_bytes) => (PAGE_BYTES / mean_bytes.max(1)).clamp(PAGE_OBJECTS.0, PAGE_OBJECTS.1),
        None => last_limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(token: Option<&str>) -> ApiFailure {
        let metadata = token.map(|token| format!(r#","metadata":{{"continue":"{token}"}}"#)).unwrap_or_default();
        let body = format!(r#"{{"kind":"Status","reason":"Expired"{metadata}}}"#);
        ApiFailure::read(410, None, body.as_bytes())
    }

    #[test]
    fn pages_hold_about_one_mebibyte() {
        assert_eq!(next_limit(250 * 1024, 250, 250), 1000);
        assert_eq!(next_limit(250 * 50 * 1024, 250, 250), 20);
        assert_eq!(next_limit(3 << 20, 1, 250), 10);
        assert_eq!(next_limit(300, 0, 250), 250);
    }

    #[test]
    fn an_expired_list_begins_again_three_times_and_then_goes_on_where_it_is() {
        let secrets = Resource::new("", "v1", "secrets");
        let mut progress = Progress { continue_: "old".into(), ..Progress::default() };
        for _ in 0..MAX_RESTARTS {
            assert_eq!(progress.restart(gone(Some("new")), &secrets, false).unwrap(), Restart::Whole);
            assert_eq!(progress.continue_, "");
            progress.continue_ = "old".into();
        }
        assert_eq!(progress.restart(gone(Some("new")), &secrets, false).unwrap(), Restart::Inconsistent);
        assert_eq!(progress.continue_, "new");
        let error = progress.restart(gone(None), &secrets, false).unwrap_err();
        insta::assert_snapshot!(error, @"cannot list secrets.#v1: the list changed faster than it could be read, 5 times");
    }

    #[test]
    fn a_list_of_one_state_does_not_go_on_with_another() {
        let mut progress = Progress { continue_: "old".into(), ..Progress::default() };
        let error = progress.restart(gone(Some("new")), &Resource::new("", "v1", "secrets"), true).unwrap_err();
        assert!(matches!(error, ClusterError::Api { failure, .. } if failure.kind == FailureKind::Gone));
    }

    #[test]
    fn a_list_asks_for_its_selector_and_page() {
        let options =
            ListOptions { namespace: Some("a"), label_selector: "x=y", resource_version: "0", ..Default::default() };
        let secrets = Resource::new("", "v1", "secrets");
        let path = |token| call(&secrets, options, 250, token).unwrap().path;
        assert_eq!(path(""), "/api/v1/namespaces/a/secrets?labelSelector=x%3Dy&limit=250&resourceVersion=0");
        assert_eq!(path("t"), "/api/v1/namespaces/a/secrets?labelSelector=x%3Dy&limit=250&continue=t");
        let exact = ListOptions { resource_version: "7", exactly: true, ..ListOptions::default() };
        let path = |token| call(&secrets, exact, 250, token).unwrap().path;
        assert_eq!(path(""), "/api/v1/secrets?limit=250&resourceVersion=7&resourceVersionMatch=Exact");
        assert_eq!(path("t"), "/api/v1/secrets?limit=250&continue=t");
    }
}
