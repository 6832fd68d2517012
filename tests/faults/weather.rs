//! What goes wrong around a process, chosen by a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tower::BoxError;

use crate::invariants::is_of_the_backup;
use crate::process::AnyBody;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The connection breaks before the request is carried out.
    Refused,
    /// It is carried out, and the connection breaks before its answer.
    AnswerLost,
    /// The body of the answer breaks off in the middle.
    Cut,
    /// Carried out after a while.
    Slow(Duration),
    /// Carried out, and never answered.
    Silent,
    /// The connection breaks at once, and the request is carried out all the same after this long, whatever has become of
    /// who sent it.
    Late(Duration),
    /// Answered by this instead of being carried out.
    Status(u16),
    /// Denied by an admission webhook.
    Denied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitFault {
    Unreachable,
    /// Pushed, and the answer is lost.
    AnswerLost,
    Rejected,
    Revoked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    Unavailable,
    Short,
    Changed,
    DiskFull,
}

/// Writes name the time after which the API server gives up working on them: the fence's for one request, of
/// `LeaseTimes`.
const LONGEST_LATE_MS: u64 = 30_000;

/// How often something goes wrong, of 1,000, and what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Climate {
    pub cluster: u32,
    pub git: u32,
    pub store: u32,
    /// Of writes of objects, denied by a webhook.
    pub denials: u32,
}

struct State {
    rng: StdRng,
    climate: Climate,
    /// While it is not over, nothing answers.
    cluster_gone_until: Option<Instant>,
    git_gone_until: Option<Instant>,
    store_gone_until: Option<Instant>,
    log: Vec<String>,
}

/// Clones are the same.
#[derive(Clone)]
pub struct Weather(Option<Arc<Mutex<State>>>);

impl Weather {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self(None)
    }

    pub fn of(seed: u64, climate: Climate) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let (cluster_gone_until, git_gone_until, store_gone_until) = (None, None, None);
        let log = Vec::new();
        let state = State { rng, climate, cluster_gone_until, git_gone_until, store_gone_until, log };
        Self(Some(Arc::new(Mutex::new(state))))
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.0.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        if let Some(mut state) = self.state() {
            state.climate = Climate::default();
            (state.cluster_gone_until, state.git_gone_until, state.store_gone_until) = (None, None, None);
        }
    }

    /// Nothing of the cluster answers for this long.
    pub fn take_cluster_away(&self, during: Duration) {
        if let Some(mut state) = self.state() {
            state.cluster_gone_until = Some(Instant::now() + during);
        }
    }

    pub fn take_git_away(&self, during: Duration) {
        if let Some(mut state) = self.state() {
            state.git_gone_until = Some(Instant::now() + during);
        }
    }

    pub fn take_store_away(&self, during: Duration) {
        if let Some(mut state) = self.state() {
            state.store_gone_until = Some(Instant::now() + during);
        }
    }

    pub fn over_cluster(&self, label: &str, writes: bool) -> Fault {
        let Some(mut state) = self.state() else { return Fault::None };
        let fault = state.cluster_fault(label, writes);
        if fault != Fault::None {
            state.log.push(format!("{label}: {fault:?}"));
        }
        fault
    }

    pub fn over_git(&self, pushes: bool) -> Option<GitFault> {
        let mut state = self.state()?;
        let fault = state.git_fault(pushes)?;
        state.log.push(format!("git: {fault:?}"));
        Some(fault)
    }

    pub fn over_store(&self) -> Option<StoreFault> {
        let mut state = self.state()?;
        let fault = state.store_fault()?;
        state.log.push(format!("store: {fault:?}"));
        Some(fault)
    }

    /// What comes instead of carrying the request out.
    pub async fn before(&self, fault: &Fault) -> Option<Result<Response<AnyBody>, BoxError>> {
        match fault {
            Fault::Refused => Some(Err("connection reset by peer".into())),
            Fault::Slow(while_) => {
                sleep(*while_).await;
                None
            }
            Fault::Status(code) => Some(Ok(refusal(*code))),
            Fault::Denied => Some(Ok(denial())),
            Fault::None | Fault::AnswerLost | Fault::Cut | Fault::Silent | Fault::Late(_) => None,
        }
    }

    /// What comes of an answer.
    pub async fn after(&self, fault: &Fault, answer: Response<AnyBody>) -> Result<Response<AnyBody>, BoxError> {
        match fault {
            Fault::AnswerLost => Err("connection reset by peer".into()),
            Fault::Cut => Ok(cut(answer)),
            // Longer than every time-out.
            Fault::Silent => {
                sleep_until(Instant::now() + Duration::from_secs(3600)).await;
                Err("nobody listens any more".into())
            }
            Fault::None | Fault::Refused | Fault::Slow(_) | Fault::Late(_) | Fault::Status(_) | Fault::Denied => {
                Ok(answer)
            }
        }
    }
}

impl State {
    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }

    fn cluster_fault(&mut self, label: &str, writes: bool) -> Fault {
        if self.cluster_gone_until.is_some_and(|until| Instant::now() < until) {
            return Fault::Refused;
        }
        if writes && is_of_the_backup(label) && self.happens(self.climate.denials) {
            return Fault::Denied;
        }
        if !self.happens(self.climate.cluster) {
            return Fault::None;
        }
        match self.rng.random_range(0..11) {
            0 => Fault::Refused,
            1 => Fault::AnswerLost,
            2 => Fault::Cut,
            3 => Fault::Slow(Duration::from_millis(self.rng.random_range(100..20_000))),
            4 => Fault::Silent,
            5 => Fault::Status(429),
            6 => Fault::Status(500),
            7 => Fault::Status(503),
            8 if writes => Fault::Status(409),
            9 if writes => Fault::Late(Duration::from_millis(self.rng.random_range(1..LONGEST_LATE_MS))),
            _ => Fault::Status(504),
        }
    }

    fn git_fault(&mut self, pushes: bool) -> Option<GitFault> {
        if self.git_gone_until.is_some_and(|until| Instant::now() < until) {
            return Some(GitFault::Unreachable);
        }
        if !self.happens(self.climate.git) {
            return None;
        }
        Some(match self.rng.random_range(0..4) {
            0 if pushes => GitFault::AnswerLost,
            1 if pushes => GitFault::Rejected,
            2 => GitFault::Revoked,
            _ => GitFault::Unreachable,
        })
    }

    fn store_fault(&mut self) -> Option<StoreFault> {
        if self.store_gone_until.is_some_and(|until| Instant::now() < until) {
            return Some(StoreFault::Unavailable);
        }
        if !self.happens(self.climate.store) {
            return None;
        }
        Some(match self.rng.random_range(0..4) {
            0 => StoreFault::Unavailable,
            1 => StoreFault::Short,
            2 => StoreFault::Changed,
            _ => StoreFault::DiskFull,
        })
    }
}

fn status(code: u16, reason: &str, message: &str) -> Response<AnyBody> {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let body = Full::from(body.to_string()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn refusal(code: u16) -> Response<AnyBody> {
    match code {
        429 => {
            let mut response = status(429, "TooManyRequests", "the server has received too many requests");
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            response
        }
        409 => status(409, "Conflict", "the object has been modified"),
        503 => status(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => status(504, "Timeout", "Timeout: request did not complete within requested timeout"),
        _ => status(500, "InternalError", "Internal error occurred: etcdserver: leader changed"),
    }
}

/// As Rancher's webhook denies (apiserver, `admission/plugin/webhook/errors`).
fn denial() -> Response<AnyBody> {
    let message = "admission webhook \"rancher.cattle.io.settings\" denied the request: it is not allowed";
    status(403, "Forbidden", message)
}

/// The first half of the first piece, then an error: of a watch that is its first event, of an answer nearly half of it.
fn cut(answer: Response<AnyBody>) -> Response<AnyBody> {
    let (mut parts, mut body) = answer.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let half = stream::once(async move {
        match body.frame().await {
            Some(Ok(frame)) => {
                let bytes = frame.into_data().unwrap_or_default();
                Ok(bytes.slice(..bytes.len() / 2))
            }
            Some(Err(error)) => Err(error),
            None => Ok(Bytes::new()),
        }
    });
    let broken = stream::once(async { Err::<Bytes, BoxError>("unexpected end of file".into()) });
    let frames = half.chain(broken).map_ok(Frame::data);
    Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
}
