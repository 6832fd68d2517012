//! A process of reinback, as the world sees it: what it does is numbered, and it may die at any of it.
//!
//! All that a process does to the world goes through [`Process::around`] (the cluster), [`MortalBranch`] (Git) and
//! [`MortalStores`] (backups). Once it is dead nothing of it reaches the world any more, and no answer reaches it, as
//! with SIGKILL; what is left of its tasks waits for ever.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use jiff::Timestamp;
use kube::client::Body;
use reinback::git::{
    Change, CommitId, Completeness, Edit, Fetched, FileAt, GitError, Published, ReadBranch, Snapshot, TreeLimits,
    WriteBranch,
};
use reinback::sim::SimService;
use reinback::store::{Backups, BackupsWriter, Location, OpenStore, Spool, SpoolLimits, Stat, StoreError, Stores};
use tokio::sync::watch;
use tower::{BoxError, Service};

use crate::weather::{Fault, GitFault, StoreFault, Weather};

/// When a process dies: just before an effect, or just after it, when it took place and no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    Before,
    After,
}

/// At which effect, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    pub at: usize,
    pub moment: Moment,
}

/// What becomes of one effect.
enum Fate {
    Done,
    /// Done, but whoever asked for it is dead by then.
    DoneUnanswered,
    Never,
}

#[derive(Default)]
struct Life {
    effects: Vec<String>,
    is_dead: bool,
}

/// Called after each effect that took place.
pub type Witness = dyn Fn(&str) + Send + Sync;

struct Inner {
    death: Option<Death>,
    life: Mutex<Life>,
    died: watch::Sender<bool>,
    weather: Weather,
    witness: Box<Witness>,
}

/// Clones are the same process.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

impl Process {
    pub fn new(death: Option<Death>, weather: Weather, witness: Box<Witness>) -> Self {
        let (died, _) = watch::channel(false);
        Self(Arc::new(Inner { death, life: Mutex::default(), died, weather, witness }))
    }

    /// One that meets no fault.
    pub fn calm(death: Option<Death>) -> Self {
        Self::new(death, Weather::calm(), Box::new(|_| {}))
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.0.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did or tried to do to the world so far, in order.
    pub fn effects(&self) -> Vec<String> {
        self.life().effects.clone()
    }

    pub fn is_dead(&self) -> bool {
        self.life().is_dead
    }

    /// From outside, at a moment of somebody else's choice.
    pub fn kill(&self) {
        self.life().is_dead = true;
        self.0.died.send_replace(true);
    }

    pub async fn until_dead(&self) {
        let _ = self.0.died.subscribe().wait_for(|died| *died).await;
    }

    fn fate(&self, effect: &str) -> Fate {
        let mut life = self.life();
        if life.is_dead {
            return Fate::Never;
        }
        let number = life.effects.len();
        life.effects.push(effect.to_owned());
        match self.0.death {
            Some(Death { at, moment: Moment::Before }) if at == number => Fate::Never,
            Some(Death { at, moment: Moment::After }) if at == number => Fate::DoneUnanswered,
            _ => Fate::Done,
        }
    }

    /// The cluster as this process reaches it.
    pub fn around(&self, service: SimService) -> MortalService {
        MortalService { process: self.clone(), inner: service }
    }
}

/// The cluster, for one process.
#[derive(Clone)]
pub struct MortalService {
    process: Process,
    inner: SimService,
}

pub type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

impl Service<Request<Body>> for MortalService {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<AnyBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { process, inner } = self.clone();
        Box::pin(async move { process.carry(inner, request).await })
    }
}

impl Process {
    async fn carry(&self, inner: SimService, request: Request<Body>) -> Result<Response<AnyBody>, BoxError> {
        if self.is_dead() {
            return std::future::pending().await;
        }
        let writes = is_write(&request);
        let (label, request) = labelled(request).await?;
        let fault = self.0.weather.over_cluster(&label, writes);
        if let Some(answer) = self.0.weather.before(&fault).await {
            return answer;
        }
        tracing::debug!("{:.3?} process {:p} {label} {fault:?}", tokio::time::Instant::now(), self.0);
        if let Fault::Late(after) = fault {
            self.carry_late(inner, request, label, after);
            return Err("connection reset by peer".into());
        }
        let fate = if writes { self.fate(&label) } else { Fate::Done };
        let answer = match fate {
            Fate::Done => send(inner, request).await?,
            Fate::DoneUnanswered => {
                send(inner, request).await?;
                (self.0.witness)(&label);
                self.kill();
                return std::future::pending().await;
            }
            Fate::Never => {
                self.kill();
                return std::future::pending().await;
            }
        };
        if writes {
            (self.0.witness)(&label);
        }
        // Killed while the request was under way: it took place, and nobody hears of it.
        if self.is_dead() {
            return std::future::pending().await;
        }
        self.0.weather.after(&fault, answer).await
    }
}

impl Process {
    /// What is on its way arrives, also when who sent it has died meanwhile. What the server refuses then is no effect.
    fn carry_late(&self, inner: SimService, request: Request<Body>, label: String, after: Duration) {
        let process = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            tracing::debug!("{:.3?} process {:p} {label} arrives late", tokio::time::Instant::now(), process.0);
            if send(inner, request).await.is_ok_and(|answer| answer.status().is_success()) {
                (process.0.witness)(&format!("{label} (late)"));
            }
        });
    }
}

/// What is asked, in a line: a POST with the name that is in its body.
async fn labelled(request: Request<Body>) -> Result<(String, Request<Body>), BoxError> {
    let label = format!("{} {}", request.method(), request.uri().path());
    if request.method() != Method::POST {
        return Ok((label, request));
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let object: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Ok((format!("{label} {name}"), Request::from_parts(parts, Body::from(body))))
}

async fn send(mut inner: SimService, request: Request<Body>) -> Result<Response<AnyBody>, BoxError> {
    let answer = inner.call(request).await.map_err(|never: Infallible| match never {})?;
    Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
}

/// Reviews are POSTs that change nothing.
fn is_write(request: &Request<Body>) -> bool {
    let asks = ["/apis/authorization.k8s.io/", "/apis/authentication.k8s.io/"];
    request.method() != Method::GET && !asks.iter().any(|group| request.uri().path().starts_with(group))
}

/// The status branch or the source, for one process.
pub struct MortalBranch<B> {
    pub process: Process,
    pub branch: B,
}

const URL: &str = "memory://git";

fn unreachable() -> GitError {
    GitError::Unreachable { url: URL.to_owned(), detail: "connection refused".to_owned() }
}

fn failed(fault: GitFault) -> GitError {
    let url = URL.to_owned();
    match fault {
        GitFault::Unreachable | GitFault::AnswerLost => unreachable(),
        GitFault::Rejected => {
            GitError::Rejected { url, branch: crate::memory_git::STATUS.to_owned(), detail: "hook declined".to_owned() }
        }
        GitFault::Revoked => GitError::Auth { url, detail: "HTTP 401".to_owned(), remedy: "look at the credentials" },
    }
}

impl<B> MortalBranch<B> {
    fn alive(&self) -> Result<(), GitError> {
        match self.process.is_dead() {
            true => Err(unreachable()),
            false => self.process.0.weather.over_git(false).map_or(Ok(()), |fault| Err(failed(fault))),
        }
    }
}

impl<B: ReadBranch> ReadBranch for MortalBranch<B> {
    fn blocks(&self) -> bool {
        self.branch.blocks()
    }

    fn fetch(&mut self) -> Result<Fetched, GitError> {
        self.alive()?;
        self.branch.fetch()
    }

    fn resolve(&mut self, revision: &str) -> Result<CommitId, GitError> {
        self.alive()?;
        self.branch.resolve(revision)
    }

    fn snapshot(&self, commit: &CommitId, path: &str, limits: &TreeLimits) -> Result<Snapshot, GitError> {
        self.branch.snapshot(commit, path, limits)
    }

    fn file(&mut self, commit: Option<&CommitId>, path: &str, limit: usize) -> Result<(CommitId, FileAt), GitError> {
        self.alive()?;
        self.branch.file(commit, path, limit)
    }

    fn changes(
        &mut self,
        tip: &CommitId,
        path: &str,
        limits: &TreeLimits,
        visit: &mut dyn FnMut(Change) -> std::ops::ControlFlow<()>,
    ) -> Result<Completeness, GitError> {
        self.alive()?;
        self.branch.changes(tip, path, limits, visit)
    }
}

impl<B: WriteBranch> WriteBranch for MortalBranch<B> {
    fn blocks(&self) -> bool {
        self.branch.blocks()
    }

    fn fetch(&mut self) -> Result<Option<CommitId>, GitError> {
        self.alive()?;
        self.branch.fetch()
    }

    fn read(&self, prefix: &str, limits: &TreeLimits) -> Result<Vec<(String, Vec<u8>)>, GitError> {
        self.branch.read(prefix, limits)
    }

    fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, GitError> {
        self.branch.read_file(path, limit)
    }

    fn publish(&mut self, message: &str, now: Timestamp, edit: &mut Edit<'_>) -> Result<Published, GitError> {
        if self.process.is_dead() {
            return Err(unreachable());
        }
        let fault = self.process.0.weather.over_git(true);
        if let Some(fault) = fault.filter(|fault| *fault != GitFault::AnswerLost) {
            return Err(failed(fault));
        }
        let label = format!("push {:?}", message.lines().next().unwrap_or_default());
        let published = match self.process.fate(&label) {
            Fate::Done => self.branch.publish(message, now, edit)?,
            Fate::DoneUnanswered => {
                self.branch.publish(message, now, edit)?;
                (self.process.0.witness)(&label);
                self.process.kill();
                return Err(unreachable());
            }
            Fate::Never => {
                self.process.kill();
                return Err(unreachable());
            }
        };
        (self.process.0.witness)(&label);
        match fault {
            Some(fault) => Err(failed(fault)),
            None => Ok(published),
        }
    }
}

/// The one store there is, for one process.
pub struct MortalStores {
    pub process: Process,
    /// Where the backups lie, whatever the configuration says: its words are part of a run's key, which shall be the
    /// same for the same seed.
    pub folder: PathBuf,
}

impl OpenStore for MortalStores {
    fn open<'a>(&'a self, _location: &'a Location) -> BoxFuture<'a, Result<Box<dyn Backups>, StoreError>> {
        Box::pin(async move {
            let backups = Stores.open_writer(&Location::Directory(self.folder.clone())).await?;
            Ok(Box::new(MortalBackups { process: self.process.clone(), backups }) as Box<dyn Backups>)
        })
    }

    fn open_writer<'a>(&'a self, _location: &'a Location) -> BoxFuture<'a, Result<Box<dyn BackupsWriter>, StoreError>> {
        Box::pin(async move {
            let backups = Stores.open_writer(&Location::Directory(self.folder.clone())).await?;
            Ok(Box::new(MortalBackups { process: self.process.clone(), backups }) as Box<dyn BackupsWriter>)
        })
    }
}

struct MortalBackups {
    process: Process,
    backups: Box<dyn BackupsWriter>,
}

impl MortalBackups {
    /// What is asked of a store, in this weather, by one who is alive.
    async fn read<T>(&self, name: &str, asked: BoxFuture<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        if self.process.is_dead() {
            return std::future::pending().await;
        }
        match self.process.0.weather.over_store() {
            None => asked.await,
            Some(fault) => Err(broken(fault, name, Path::new("/backups"))),
        }
    }

    /// An effect, after which its process may be dead.
    async fn write(
        &self,
        what: &str,
        name: &str,
        asked: BoxFuture<'_, Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        if self.process.is_dead() {
            return std::future::pending().await;
        }
        if let Some(fault) = self.process.0.weather.over_store() {
            return Err(broken(fault, name, Path::new("/backups")));
        }
        let label = format!("store {what} {name}");
        let written = match self.process.fate(&label) {
            Fate::Done => asked.await,
            Fate::DoneUnanswered => {
                let _ = asked.await;
                (self.process.0.witness)(&label);
                self.process.kill();
                return std::future::pending().await;
            }
            Fate::Never => {
                self.process.kill();
                return std::future::pending().await;
            }
        };
        (self.process.0.witness)(&label);
        written
    }
}

impl BackupsWriter for MortalBackups {
    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("probe", "", self.backups.probe()))
    }

    fn put<'a>(&'a self, name: &'a str, backup: &'a Spool) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("put", name, self.backups.put(name, backup)))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("delete", name, self.backups.delete(name)))
    }
}

impl Backups for MortalBackups {
    fn describe(&self) -> String {
        self.backups.describe()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, Stat)>, StoreError>> {
        Box::pin(self.read("", self.backups.list()))
    }

    fn stat<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, StoreError>> {
        Box::pin(self.read(name, self.backups.stat(name)))
    }

    fn spool<'a>(
        &'a self,
        name: &'a str,
        spool_dir: &'a Path,
        limits: SpoolLimits,
    ) -> BoxFuture<'a, Result<Spool, StoreError>> {
        Box::pin(async move {
            if self.process.is_dead() {
                return std::future::pending().await;
            }
            match self.process.0.weather.over_store() {
                None => self.backups.spool(name, spool_dir, limits).await,
                Some(fault) => Err(broken(fault, name, spool_dir)),
            }
        })
    }
}

fn broken(fault: StoreFault, name: &str, spool_dir: &Path) -> StoreError {
    let place = "a simulated store".to_owned();
    match fault {
        StoreFault::Unavailable => StoreError::Refused { place, status: 503, code: Some("SlowDown".to_owned()) },
        StoreFault::Short => StoreError::Interrupted {
            place,
            name: name.to_owned(),
            received: 100,
            size: 200,
            source: "the connection broke".into(),
        },
        StoreFault::Changed => StoreError::Changed { place, name: name.to_owned() },
        StoreFault::DiskFull => {
            StoreError::NoSpace { dir: spool_dir.to_owned(), needed: 1 << 20, available: Some(1 << 10) }
        }
    }
}
