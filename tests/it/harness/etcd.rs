//! What a cluster holds, read and set back beneath its API server, which follows etcd as it follows any write.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Everything that an API server stores, and the key after it.
const ALL: (&str, &str) = ("/registry/", "/registry0");
/// What servers that run say of themselves, which is not of the objects that a test finds.
const OF_SERVERS: [&str; 4] = [
    "/registry/masterleases/",
    "/registry/leases/kube-system/",
    "/registry/services/endpoints/default/kubernetes",
    "/registry/endpointslices/default/kubernetes",
];
/// Events are forgotten after an hour by themselves.
const EVENTS: &str = "/registry/events/";
/// etcd takes 128 changes and 1.5 MiB at once.
const AT_ONCE: (usize, usize) = (100, 512 << 10);
/// Tries until nobody writes any more; each takes some 0.1 s.
const TRIES: usize = 50;

/// What a cluster holds by its key in etcd: the revision that wrote it, and the value in base64.
pub type Content = BTreeMap<String, (i64, String)>;
/// Which revision wrote each key.
pub type Revisions = BTreeMap<String, i64>;

/// An etcd, asked by its gateway for JSON.
#[derive(Debug, Clone)]
pub struct Etcd {
    url: String,
}

impl Etcd {
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// All that is held.
    pub async fn content(&self) -> Result<Content> {
        self.range(false).await
    }

    /// Brings everything back to `content`, and gives the revisions that wrote it. `known` are the revisions of keys that are as
    /// there. Whoever still writes is waited for.
    ///
    /// # Errors
    /// When etcd does not answer, or somebody goes on writing.
    pub async fn set_back(&self, content: &Content, mut known: Revisions) -> Result<Revisions> {
        let mut left = Vec::new();
        for _ in 0..TRIES {
            let now = self.range(true).await?;
            let changes = changes(content, &known, &now);
            if changes.is_empty() {
                return Ok(known);
            }
            left = changes.iter().map(|change| change.key().to_owned()).collect();
            known.extend(self.write(&changes).await?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("somebody goes on writing {left:?}")
    }

    async fn range(&self, keys_only: bool) -> Result<Content> {
        let body = json!({"key": encoded(ALL.0), "range_end": encoded(ALL.1), "keys_only": keys_only});
        let answer = self.ask("range", &body).await?;
        let entries = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |entry: &Value| {
            let key = String::from_utf8(STANDARD.decode(entry["key"].as_str()?).ok()?).ok()?;
            let revision = entry["mod_revision"].as_str()?.parse().ok()?;
            Some((key, (revision, entry["value"].as_str().unwrap_or_default().to_owned())))
        };
        entries.iter().map(|entry| read(entry).with_context(|| format!("no entry of etcd: {entry}"))).collect()
    }

    /// Makes the changes, and gives the revision of each key that is there now.
    async fn write(&self, changes: &[Change<'_>]) -> Result<Revisions> {
        let mut revisions = Revisions::new();
        let mut rest = changes;
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while let Some(change) = rest.get(count) {
                bytes += change.size();
                if count > 0 && (count == AT_ONCE.0 || bytes > AT_ONCE.1) {
                    break;
                }
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            let operations: Vec<Value> = now.iter().map(Change::operation).collect();
            let answer = self.ask("txn", &json!({"success": operations})).await?;
            let revision = answer["header"]["revision"].as_str().and_then(|text| text.parse().ok());
            let revision: i64 = revision.with_context(|| format!("no revision: {answer}"))?;
            let written = now.iter().filter(|change| matches!(change, Change::Put { .. }));
            revisions.extend(written.map(|change| (change.key().to_owned(), revision)));
            rest = later;
        }
        Ok(revisions)
    }

    async fn ask(&self, what: &str, body: &Value) -> Result<Value> {
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request = http::Request::post(format!("{}/v3/kv/{what}", self.url));
        let response = client.request(request.body(Full::from(serde_json::to_vec(body)?))?).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "etcd: {what}: {status} {}", String::from_utf8_lossy(&answer));
        Ok(serde_json::from_slice(&answer)?)
    }
}

enum Change<'a> {
    Put { key: &'a str, value: &'a str },
    Delete { key: &'a str },
}

impl Change<'_> {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }

    fn operation(&self) -> Value {
        match self {
            Self::Put { key, value } => json!({"request_put": {"key": encoded(key), "value": value}}),
            Self::Delete { key } => json!({"request_delete_range": {"key": encoded(key)}}),
        }
    }
}

/// What has to change so that `content` is held again.
fn changes<'a>(content: &'a Content, known: &Revisions, now: &'a Content) -> Vec<Change<'a>> {
    let is_of_servers = |key: &str| OF_SERVERS.iter().any(|prefix| key.starts_with(prefix));
    let puts = content.iter().filter(|(key, _)| !is_of_servers(key)).filter_map(|(key, (_, value))| {
        let as_known = match now.get(key) {
            Some((revision, _)) => known.get(key) == Some(revision),
            None => key.starts_with(EVENTS),
        };
        (!as_known).then_some(Change::Put { key, value })
    });
    let surplus = now.keys().filter(|key| !is_of_servers(key) && !content.contains_key(*key));
    puts.chain(surplus.map(|key| Change::Delete { key })).collect()
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}
