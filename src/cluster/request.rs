//! One request and its answer: paths, deadlines, limits and retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::connect::Limits;
use super::{ApiFailure, ClusterError, FailureKind};
use crate::clock::Clock;
use crate::object::Resource;

/// Largest answer that is taken, in bytes. An object is at most about 3 MiB of JSON; a page holds what `list` asks for.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Largest answer to a refused request: a `Status` with its causes.
const MAX_FAILURE_BYTES: usize = 1 << 20;
/// Longest name in a path. Kubernetes' own limit is 253 for nearly all kinds; RBAC names have none.
const MAX_SEGMENT_BYTES: usize = 1024;
/// Longest wait that a server's `Retry-After` gets. More would hold a run for longer than a person expects.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Tries that an internal error is worth, over some 10 s: etcd has a new leader in less.
const INTERNAL_TRIES: usize = 8;
/// First and longest wait between tries that no server named.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

pub(super) const JSON: &str = "application/json";

/// Sends requests to one API server. Clones share connections and pace.
#[derive(Clone)]
pub(super) struct Transport {
    inner: Arc<Inner>,
    pace: Option<Arc<Pace>>,
    limits: Limits,
}

struct Inner {
    client: kube::Client,
    api_url: String,
    clock: Clock,
    /// Answers that said 429.
    throttled: AtomicU64,
}

/// A request as it can be sent more than once.
#[derive(Clone)]
pub(super) struct Call {
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    pub accept: &'static str,
    pub content_type: Option<&'static str>,
    pub body: Bytes,
    pub headers: HeaderMap,
}

impl Call {
    pub fn get(path: String) -> Self {
        Self::new(Method::GET, path, None, Bytes::new())
    }

    pub fn new(method: Method, path: String, content_type: Option<&'static str>, body: Bytes) -> Self {
        Self { method, path, accept: JSON, content_type, body, headers: HeaderMap::new() }
    }

    fn request(&self) -> Result<Request<Body>, http::Error> {
        let mut builder = Request::builder().method(&self.method).uri(&self.path).header(ACCEPT, self.accept);
        if let Some(content_type) = self.content_type {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        let mut request = builder.body(Body::from(self.body.clone()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

/// A successful answer.
pub(super) struct Reply {
    pub code: u16,
    pub content_type: Option<HeaderValue>,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("no connection could be made")]
    NotSent { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the connection broke before the answer was whole")]
    Broken { source: Box<dyn std::error::Error + Send + Sync> },
    /// Nothing was sent: others were before it, or the process stood still.
    #[error("its turn did not come in time")]
    NotInTurn,
    #[error("no answer within {} s", after.as_secs_f32())]
    TimedOut { after: Duration },
    #[error("the answer is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    /// The cause is dropped: it quotes what a credential plugin printed.
    #[error("no credentials could be had; run the kubeconfig's credential plugin by hand, or look at the token file")]
    Credentials,
}

impl Lost {
    /// Whether the server cannot have seen the request.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::NotInTurn | Self::Credentials => true,
            Self::Broken { .. } | Self::TimedOut { .. } | Self::TooLarge { .. } => false,
        }
    }

    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::NotInTurn | Self::Broken { .. } | Self::TimedOut { .. } => true,
            Self::TooLarge { .. } | Self::Credentials => false,
        }
    }
}

/// What came of one try: an answer, a refusal, or neither.
pub(super) type Try<T> = Result<Result<T, ApiFailure>, Lost>;

impl Transport {
    pub fn new(client: kube::Client, api_url: String, limits: Limits, clock: Clock) -> Self {
        let pace = (limits.qps > 0).then(|| Arc::new(Pace::new(limits.qps)));
        Self { inner: Arc::new(Inner { client, api_url, clock, throttled: AtomicU64::new(0) }), pace, limits }
    }

    pub fn api_url(&self) -> &str {
        &self.inner.api_url
    }

    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    /// How often the server has said 429, over all clones.
    pub fn throttled(&self) -> u64 {
        self.inner.throttled.load(Ordering::Relaxed)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The same connections, with another patience.
    pub fn patient(&self, request_timeout: Duration, retry_for: Duration) -> Self {
        Self { limits: Limits { request_timeout, retry_for, ..self.limits }, ..self.clone() }
    }

    /// The same connections without the pace: for requests that are few, and too late behind others.
    pub fn unpaced(&self) -> Self {
        Self { pace: None, ..self.clone() }
    }

    /// Sends a request that changes nothing, again while that may help, for at most `limits.retry_for`.
    pub async fn read(
        &self,
        call: &Call,
        what: impl Fn() -> String,
    ) -> Result<Result<Reply, ApiFailure>, ClusterError> {
        let limits = self.limits();
        let mut backoff = Backoff::until(Instant::now() + limits.retry_for);
        loop {
            let tried = self.once(call, Instant::now() + limits.request_timeout, MAX_ANSWER_BYTES).await;
            let again = match &tried {
                Ok(Ok(_)) => false,
                Ok(Err(failure)) => failure.is_passing() && backoff.wait_after(failure).await,
                Err(lost) => lost.is_passing() && backoff.wait(None).await,
            };
            if again {
                continue;
            }
            return tried.map_err(|lost| self.lost(lost, what()));
        }
    }

    pub fn lost(&self, lost: Lost, what: String) -> ClusterError {
        match lost {
            Lost::TooLarge { limit_bytes } => ClusterError::TooLarge { what, limit_bytes },
            source @ (Lost::NotSent { .. }
            | Lost::NotInTurn
            | Lost::Broken { .. }
            | Lost::TimedOut { .. }
            | Lost::Credentials) => ClusterError::Unreachable { what, url: self.api_url().to_owned(), source },
        }
    }

    /// One try. The answer must be whole by `deadline`, and no larger than `max_bytes`.
    pub async fn once(&self, call: &Call, deadline: Instant, max_bytes: usize) -> Try<Reply> {
        let response = match self.open(call, deadline).await? {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let (parts, body) = response.into_parts();
        let body = collect(body, &parts.headers, deadline, max_bytes).await?;
        Ok(Ok(Reply { code: parts.status.as_u16(), content_type: parts.headers.get(CONTENT_TYPE).cloned(), body }))
    }

    /// Sends, and returns when the head of the answer is there. A refusal is read to its end.
    pub async fn open(&self, call: &Call, deadline: Instant) -> Try<Response<Body>> {
        let request = call.request().map_err(|source| Lost::NotSent { source: source.into() })?;
        if let Some(pace) = &self.pace {
            pace.wait(deadline).await?;
        }
        // A process that was frozen until now may have lost its lease meanwhile: `timeout_at` would try once before it looks.
        if Instant::now() >= deadline {
            return Err(Lost::NotInTurn);
        }
        let response = in_time(deadline, self.inner.client.send(request)).await?.map_err(sorted)?;
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            self.inner.throttled.fetch_add(1, Ordering::Relaxed);
        }
        let (parts, body) = response.into_parts();
        let retry_after = parts.headers.get(RETRY_AFTER).and_then(retry_after);
        // A refusal stands by its code, also when its text cannot be read.
        let body = collect(body, &parts.headers, deadline, MAX_FAILURE_BYTES).await.unwrap_or_default();
        Ok(Err(ApiFailure::read(parts.status.as_u16(), retry_after, &body)))
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Lost> {
    let started = Instant::now();
    timeout_at(deadline, work).await.map_err(|_elapsed| Lost::TimedOut { after: deadline - started })
}

/// Tells a request that cannot have been sent from one that may have been.
fn sorted(error: kube::Error) -> Lost {
    match error {
        kube::Error::Auth(_) => Lost::Credentials,
        kube::Error::Service(source) => {
            let unsent = source
                .downcast_ref::<hyper_util::client::legacy::Error>()
                .is_some_and(hyper_util::client::legacy::Error::is_connect);
            if unsent { Lost::NotSent { source } } else { Lost::Broken { source } }
        }
        other => Lost::Broken { source: other.into() },
    }
}

/// Reads a body into one piece of memory, sized by `Content-Length` where the server gives it.
async fn collect(mut body: Body, headers: &HeaderMap, deadline: Instant, max_bytes: usize) -> Result<Bytes, Lost> {
    let too_large = Lost::TooLarge { limit_bytes: max_bytes };
    let stated = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|stated| stated > max_bytes) {
        return Err(too_large);
    }
    let mut whole = BytesMut::with_capacity(stated.unwrap_or(0));
    while let Some(frame) = in_time(deadline, body.frame()).await? {
        let frame = frame.map_err(|source| Lost::Broken { source: source.into() })?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > max_bytes {
            return Err(too_large);
        }
        whole.extend_from_slice(data);
    }
    Ok(whole.freeze())
}

fn retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Waits between tries: doubling, with jitter, longer where the server asks for it, never past the end.
pub(super) struct Backoff {
    end: Instant,
    next: Duration,
    internal: usize,
}

impl Backoff {
    pub fn until(end: Instant) -> Self {
        Self { end, next: BACKOFF.0, internal: 0 }
    }

    /// As [`Backoff::wait`], for a refusal; false also when it will probably stay.
    pub async fn wait_after(&mut self, failure: &ApiFailure) -> bool {
        self.internal += usize::from(failure.kind == FailureKind::Internal);
        self.internal < INTERNAL_TRIES && self.wait(failure.retry_after).await
    }

    /// Sleeps; false when another try would come too late.
    pub async fn wait(&mut self, retry_after: Option<Duration>) -> bool {
        let jittered = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(BACKOFF.1);
        let pause = jittered.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        if Instant::now() + pause >= self.end {
            return false;
        }
        sleep(pause).await;
        true
    }
}

/// Spreads requests evenly: one each `1 / qps` seconds.
struct Pace {
    between: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(qps: u32) -> Self {
        Self { between: Duration::from_secs(1) / qps, next: Mutex::new(Instant::now()) }
    }

    async fn wait(&self, deadline: Instant) -> Result<(), Lost> {
        let started = Instant::now();
        let slot = {
            let mut next = self.next.lock().await;
            let slot = (*next).max(started);
            if slot > deadline {
                return Err(Lost::NotInTurn);
            }
            *next = slot + self.between;
            slot
        };
        sleep_until(slot).await;
        Ok(())
    }
}

/// `/api/v1/namespaces/x/secrets`, or `/apis/group/v1/clusterthings`.
pub(super) fn collection_path(resource: &Resource, namespace: Option<&str>) -> Result<String, ClusterError> {
    let Resource { group, version, plural } = resource;
    let mut path = String::with_capacity(96);
    if group.is_empty() {
        path.push_str("/api");
    } else {
        path.push_str("/apis");
        push_segment(&mut path, "API group", group)?;
    }
    push_segment(&mut path, "API version", version)?;
    if let Some(namespace) = namespace {
        path.push_str("/namespaces");
        push_segment(&mut path, "namespace", namespace)?;
    }
    push_segment(&mut path, "resource", plural)?;
    Ok(path)
}

/// Appends `/segment`, percent-encoded. Names come from backups: one that would change the path is refused.
pub(super) fn push_segment(path: &mut String, what: &'static str, segment: &str) -> Result<(), ClusterError> {
    let bad = |c: char| c == '/' || c == '%' || c.is_control();
    if matches!(segment, "" | "." | "..") || segment.len() > MAX_SEGMENT_BYTES || segment.contains(bad) {
        return Err(ClusterError::BadName { what, value: segment.chars().take(100).collect() });
    }
    path.push('/');
    for &byte in segment.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(())
}

/// Appends `?a=b&c=d`, leaving out what is empty.
pub(super) fn push_query(path: &mut String, pairs: &[(&str, &str)]) {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(group: &str, plural: &str, namespace: Option<&str>) -> Result<String, ClusterError> {
        collection_path(&Resource::new(group, "v1", plural), namespace)
    }

    #[test]
    fn core_and_named_groups_have_their_own_roots() {
        assert_eq!(path("", "secrets", Some("cattle-system")).unwrap(), "/api/v1/namespaces/cattle-system/secrets");
        assert_eq!(
            path("rbac.authorization.k8s.io", "clusterroles", None).unwrap(),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        );
    }

    #[test]
    fn a_name_with_a_colon_is_kept_and_other_signs_are_encoded() {
        let mut path = String::new();
        push_segment(&mut path, "name", "system:a b?ü#").unwrap();
        assert_eq!(path, "/system:a%20b%3F%C3%BC%23");
    }

    #[test]
    fn a_name_that_would_leave_its_path_is_refused() {
        for name in ["", ".", "..", "a/b", "..%2f..", "a\nb", &"a".repeat(2000)] {
            assert!(push_segment(&mut String::new(), "name", name).is_err(), "{name:?}");
        }
        assert!(path("", "secrets", Some("../kube-system")).is_err());
    }

    #[test]
    fn empty_values_are_left_out_of_a_query() {
        let mut path = "/x".to_owned();
        push_query(&mut path, &[("a", ""), ("labelSelector", "app=rancher,!x"), ("limit", "5")]);
        assert_eq!(path, "/x?labelSelector=app%3Drancher%2C%21x&limit=5");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_of_ten_lets_ten_requests_a_second_through() {
        let pace = Pace::new(10);
        let started = Instant::now();
        for _ in 0..21 {
            pace.wait(started + Duration::from_secs(60)).await.unwrap();
        }
        assert_eq!(started.elapsed().as_millis() / 10, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_honour_the_server_and_end() {
        let started = Instant::now();
        let mut backoff = Backoff::until(started + Duration::from_secs(60));
        assert!(backoff.wait(Some(Duration::from_secs(7))).await);
        assert!(started.elapsed() >= Duration::from_secs(7));
        while backoff.wait(None).await {}
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
