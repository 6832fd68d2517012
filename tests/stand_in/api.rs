//! Requests as the operator makes them: whole objects, by GET, POST, PUT and DELETE.

use std::collections::HashMap;
use std::fmt;

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

/// Objects in a page of a list.
const PAGE: usize = 200;

/// Where an object lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: String,
}

impl Place {
    pub fn new((group, version, plural): (&str, &str, &str), namespace: Option<&str>, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// Its entry in a backup.
    pub fn path(&self) -> String {
        let Self { group, version, plural, namespace, name } = self;
        let folder = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!("{plural}.{group}#{version}/{folder}{name}.json")
    }

    fn url(&self) -> String {
        format!("{}/{}", self.list_url(), self.name)
    }

    fn list_url(&self) -> String {
        let Self { group, version, plural, namespace, name: _ } = self;
        let folder = namespace.as_ref().map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        format!("{}{folder}/{plural}", api_url(&api_version(group, version)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, version, plural, namespace: _, name } = self;
        write!(f, "{name} of type {group}/{version}, Resource={plural}")
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group, empty for the core one, and version.
pub fn parts(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn api_url(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}

/// What discovery says of a resource.
#[derive(Debug, Clone)]
pub struct Kind {
    pub plural: String,
    pub kind: String,
    pub is_namespaced: bool,
    pub can_list: bool,
}

pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// As Go prints it.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

/// Of a page of a list.
fn query(next: &str, selectors: &[(&str, String)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &PAGE.to_string()).append_pair("continue", next);
    query.extend_pairs(selectors).finish()
}

#[derive(Clone)]
pub struct Api(pub Client);

impl Api {
    async fn request(&self, request: Request<Vec<u8>>) -> Result<Value, kube::Error> {
        self.0.request(request).await
    }

    async fn read(&self, url: &str) -> Result<Value, kube::Error> {
        let request = Request::get(url).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.request(request).await
    }

    async fn write(&self, method: Method, url: &str, object: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
        self.request(request).await
    }

    /// The object; `None` when there is none.
    pub async fn get(&self, place: &Place) -> Result<Option<Value>, kube::Error> {
        match self.read(&place.url()).await {
            Err(error) if is_code(&error, 404) => Ok(None),
            read => read.map(Some),
        }
    }

    pub async fn create(&self, place: &Place, object: &Value) -> Result<Value, kube::Error> {
        self.write(Method::POST, &place.list_url(), object).await
    }

    pub async fn replace(&self, place: &Place, object: &Value) -> Result<Value, kube::Error> {
        self.write(Method::PUT, &place.url(), object).await
    }

    pub async fn replace_status(&self, place: &Place, object: &Value) -> Result<Value, kube::Error> {
        self.write(Method::PUT, &format!("{}/status", place.url()), object).await
    }

    pub async fn delete(&self, place: &Place) -> Result<(), kube::Error> {
        self.write(Method::DELETE, &place.url(), &json!({"apiVersion": "v1", "kind": "DeleteOptions"})).await.map(drop)
    }

    /// Every object of a resource, and the version of the list.
    pub async fn list(&self, like: &Place, selectors: &[(&str, String)]) -> Result<(Vec<Value>, String), kube::Error> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let page = format!("{}?{}", like.list_url(), query(&next, selectors));
            let mut page = self.read(&page).await?;
            items.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            next = text(&page["metadata"]["continue"]);
            if next.is_empty() {
                return Ok((items, text(&page["metadata"]["resourceVersion"])));
            }
        }
    }

    /// What happens to the objects of a resource from a version on.
    pub async fn watch(
        &self,
        like: &Place,
        version: &str,
    ) -> Result<impl futures::Stream<Item = Result<kube::api::WatchEvent<Value>, kube::Error>> + use<>, kube::Error>
    {
        let url = format!("{}?watch=1&allowWatchBookmarks=false&resourceVersion={version}", like.list_url());
        let request = Request::get(url).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.0.request_events(request).await
    }

    /// What is served of a group at a version; nothing when it is not.
    pub async fn kinds(&self, api_version: &str) -> Result<Vec<Kind>, kube::Error> {
        let list = match self.read(&api_url(api_version)).await {
            Err(error) if is_code(&error, 404) => return Ok(Vec::new()),
            list => list?,
        };
        let kinds = list["resources"].as_array().into_iter().flatten().map(|resource| Kind {
            plural: text(&resource["name"]),
            kind: text(&resource["kind"]),
            is_namespaced: resource["namespaced"] == true,
            can_list: resource["verbs"].as_array().is_some_and(|verbs| verbs.contains(&json!("list"))),
        });
        Ok(kinds.filter(|kind| !kind.plural.contains('/')).collect())
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Discovery, asked once for each group and version, and again for what was not there.
#[derive(Default)]
pub struct Kinds(HashMap<String, Vec<Kind>>);

impl Kinds {
    pub async fn find(&mut self, api: &Api, api_version: &str, kind: &str) -> Result<Option<Kind>, kube::Error> {
        let is_it = |found: &&Kind| found.kind == kind;
        if let Some(found) = self.0.get(api_version).and_then(|kinds| kinds.iter().find(is_it)) {
            return Ok(Some(found.clone()));
        }
        let kinds = api.kinds(api_version).await?;
        let found = kinds.iter().find(is_it).cloned();
        self.0.insert(api_version.to_owned(), kinds);
        Ok(found)
    }
}
