//! Requests of a case, and what is written down of their answers.

use std::fmt::Write as _;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use regex::Regex;
use reinback::sim::Sim;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// How long a case waits for what a cluster does by itself.
const LONG: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// One of the two, as a case sees it.
pub struct Api {
    client: Client,
    sim: Option<Sim>,
    /// The namespace of the case.
    pub ns: String,
    written: Mutex<String>,
}

/// An answer that is whole.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub content_type: String,
    /// A text where the body is not JSON.
    pub body: Value,
}

impl Answer {
    /// The text at a JSON pointer.
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Api {
    /// For the case of this name; its namespace is there.
    pub async fn new(client: Client, case: &str, sim: Option<Sim>) -> Self {
        let ns = format!("contract-{}", case.replace('_', "-"));
        let ns = ns[..ns.len().min(63)].trim_end_matches('-').to_owned();
        let api = Self { client, sim, ns, written: Mutex::default() };
        let made = api.ask("POST", "/api/v1/namespaces", &json!({"metadata": {"name": api.ns}})).await;
        assert_eq!(made.code, 201, "{made:?}");
        api
    }

    pub fn written(self) -> String {
        self.written.into_inner().expect("no test panics here")
    }

    /// `/api/v1/namespaces/NS/PLURAL`, of the namespace of the case.
    pub fn core(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.ns)
    }

    /// `/apis/GROUP/v1/namespaces/NS/PLURAL`, likewise.
    pub fn apis(&self, group: &str, plural: &str) -> String {
        format!("/apis/{group}/v1/namespaces/{}/{plural}", self.ns)
    }

    /// Sends, and writes the whole answer down.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self.ask(method, path, body).await;
        self.write_answer(method, path, &answer);
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, body).await
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, body).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.send("DELETE", path, options).await
    }

    /// Sends, and writes nothing down.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.ask_raw(method, path, &[("content-type", content_type), ("accept", "application/json")], body).await
    }

    pub async fn ask_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let code = response.status().as_u16();
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let bytes = response.into_body().collect().await.expect("the body is whole").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_text| String::from_utf8_lossy(&bytes).into());
        Answer { code, content_type, body }
    }

    async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> http::Response<Body> {
        let method: Method = method.parse().expect("a method");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        self.client.send(request).await.expect("an answer")
    }

    /// Looks until `wanted` holds of what a GET answers, and gives that.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + LONG;
        loop {
            let answer = self.ask("GET", path, &Value::Null).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "still not so: {path} gives {answer:?}");
            sleep(LOOK).await;
        }
    }

    /// Looks until there is something at a path.
    pub async fn until_there(&self, path: &str) -> Answer {
        self.until(path, |answer| answer.code == 200).await
    }

    /// Looks until there is nothing at a path.
    pub async fn until_gone(&self, path: &str) {
        self.until(path, |answer| answer.code == 404).await;
    }

    /// Reads a watch to its `count`th event, or its end, and writes the events down, but no bookmarks.
    pub async fn watch(&self, path: &str, count: usize) {
        let events = self.watch_events(path, count).await;
        self.note(&format!("WATCH {}", mask_text(path)));
        for event in &events {
            self.note(&masked(event));
        }
    }

    /// Takes a watch up, and does something while its events come.
    pub async fn watch_while(&self, path: &str, count: usize, work: impl Future<Output = ()>) {
        let work = async {
            // The watch is to be there first.
            sleep(Duration::from_millis(300)).await;
            work.await;
        };
        tokio::join!(self.watch(path, count), work);
    }

    /// As [`Self::watch`], written down by nobody.
    pub async fn watch_events(&self, path: &str, count: usize) -> Vec<Value> {
        self.watch_as(path, "application/json", count).await
    }

    /// As [`Self::watch_events`], in the form that is asked for.
    pub async fn watch_as(&self, path: &str, accept: &str, count: usize) -> Vec<Value> {
        let response = self.open("GET", path, &[("accept", accept)], Vec::new()).await;
        assert_eq!(response.status(), 200);
        timeout(LONG, events(response.into_body(), Some(count))).await.expect("the watch ends in time")
    }

    /// All events of a watch, bookmarks too.
    pub async fn watch_all(&self, path: &str) -> Vec<Value> {
        let response = self.open("GET", path, &[("accept", "application/json")], Vec::new()).await;
        timeout(LONG, events(response.into_body(), None)).await.expect("the watch ends in time")
    }

    /// Forgets the versions that were given out so far: at once, or by waiting for the compaction of etcd.
    pub async fn forget_history(&self) {
        match &self.sim {
            Some(sim) => sim.forget_history(),
            None => sleep(Duration::from_secs(4)).await,
        }
    }

    /// Writes something down.
    pub fn note(&self, text: &str) {
        let mut written = self.written.lock().expect("no test panics here");
        writeln!(written, "{text}").expect("a text can be written to");
    }

    /// Writes a part of something down.
    pub fn note_value(&self, what: &str, value: &Value) {
        self.note(&format!("{what}: {}", masked(value)));
    }

    pub fn write_answer(&self, method: &str, path: &str, answer: &Answer) {
        let Answer { code, content_type, body } = answer;
        self.note(&format!("{method} {} → {code} {content_type}\n{}", mask_text(path), masked(body)));
    }
}

/// The first events of a watch but for bookmarks, or all of them.
async fn events(mut body: Body, count: Option<usize>) -> Vec<Value> {
    let (mut events, mut buffer) = (Vec::new(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
            if count.is_none() || event["type"] != "BOOKMARK" {
                events.push(event);
            }
            if count == Some(events.len()) {
                return events;
            }
        }
    }
    events
}

/// As text, without what differs by nature.
fn masked(value: &Value) -> String {
    let mut value = value.clone();
    mask(&mut value);
    match value {
        Value::String(text) => text,
        value => serde_json::to_string_pretty(&value).expect("JSON can be written"),
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (field, value) in fields.iter_mut() {
                match (field.as_str(), &*value) {
                    ("resourceVersion", Value::String(version)) if !version.is_empty() => *value = json!("<version>"),
                    ("continue", Value::String(_)) => *value = json!("<token>"),
                    _ => mask(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => *text = mask_text(text),
        _ => {}
    }
}

fn mask_text(text: &str) -> String {
    static MASKS: LazyLock<[(Regex, &str); 6]> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
            (r"\((\d+)\)", "(<version>)"),
            (r"ResourceVersion in object meta: \d+", "ResourceVersion in object meta: <version>"),
            (r"continue=[^&]+", "continue=<token>"),
            (r"resourceVersion=\d+", "resourceVersion=<version>"),
        ]
        .map(|(pattern, mask)| (Regex::new(pattern).expect("a pattern"), mask))
    });
    MASKS.iter().fold(text.to_owned(), |text, (pattern, mask)| pattern.replace_all(&text, *mask).into_owned())
}
