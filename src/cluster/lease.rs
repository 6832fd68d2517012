//! The lease that lets one reinback at a time write to a cluster.
//!
//! Times are measured here, never compared between machines: a holder counts its validity from before it sent the
//! renewal that succeeded, a candidate counts from when it saw the lease change last. A holder sends nothing after
//! `renew_deadline` without a renewal, and its last request is over `write_timeout` later; a candidate waits for longer
//! than both together.

mod doubt;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::write::{ClusterWriter, Target, WriteError, json_body};
use super::{ClusterError, ClusterReader, FailureKind};
use crate::object::Resource;
use doubt::Doubt;
pub(super) use doubt::Sent;

/// How often a candidate looks (client-go's retry period).
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time for a look that only saves another one.
const SIGHT_WITHIN: Duration = Duration::from_secs(2);
/// What a candidate waits beyond what the holder needs, for a request that the server finishes while it hears of its end.
const MARGIN: Duration = Duration::from_secs(1);

/// Where the lease lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

impl Default for LeaseName {
    /// The one lease of a cluster.
    fn default() -> Self {
        Self { namespace: "reinback-system".to_owned(), name: "reinback".to_owned() }
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How the lease is kept and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// A lease that stands unchanged for less than this is not taken. The lease states the longer of this and what the
    /// holder's last request may need, so that a candidate with other settings waits long enough.
    pub duration: Duration,
    /// At most half of `renew_deadline` is used, so that one failed renewal loses nothing.
    pub renew_every: Duration,
    /// After this long without a successful renewal nothing more is sent.
    pub renew_deadline: Duration,
    /// Longest time for one fenced request.
    pub write_timeout: Duration,
}

impl Default for LeaseTimes {
    /// client-go's 15 s and 10 s; renewed every 5 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_every: Duration::from_secs(5),
            renew_deadline: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
        }
    }
}

impl LeaseTimes {
    /// How long a lease must stand unchanged before it may be taken from its holder.
    pub fn takeover_after(&self, stated: Duration) -> Duration {
        let Self { duration, renew_every: _, renew_deadline, write_timeout } = *self;
        duration.max(stated).max(renew_deadline + write_timeout + MARGIN)
    }

    /// What the lease says of itself, rounded up to whole seconds.
    fn stated_seconds(&self) -> u64 {
        let wait = self.takeover_after(Duration::ZERO);
        wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("cannot take lease {lease}: namespace {namespace} does not exist; create it, or let the agent create it")]
    NamespaceMissing { lease: String, namespace: String },
    #[error("cannot read lease {lease}")]
    Read { lease: String, source: ClusterError },
    #[error("cannot write lease {lease}")]
    Write { lease: String, source: WriteError },
}

/// What came of trying to take the lease.
#[derive(Debug)]
pub enum Acquired {
    Held(LeaseGuard),
    /// Someone else has it, and may for as long as `at_most` go on without renewing.
    Busy {
        holder: String,
        at_most: Duration,
    },
}

/// A lease that nobody held when it was looked at, by its resourceVersion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting(String);

/// Someone who wants the lease. Keep it between tries: what it has observed is how it knows that a holder is gone.
pub struct Candidate {
    reader: ClusterReader,
    writer: ClusterWriter,
    name: LeaseName,
    times: LeaseTimes,
    identity: String,
    /// The resourceVersion seen last, and when it was first seen.
    observed: Option<(String, Instant)>,
    doubt: Doubt,
}

/// A name for this process as a holder: the pod's or machine's name, and something random.
pub fn holder_identity() -> String {
    let host = std::env::var("POD_NAME")
        .or_else(|_unset| std::env::var("HOSTNAME"))
        .or_else(|_unset| std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()))
        .unwrap_or_default();
    let host = if host.is_empty() { "reinback" } else { host.as_str() };
    format!("{host}_{:08x}", fastrand::u32(..))
}

/// A lease as it was read.
struct Record {
    object: Value,
    holder: String,
    resource_version: String,
    stated: Duration,
}

impl Record {
    fn read(object: Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let holder = text("/spec/holderIdentity");
        let resource_version = text("/metadata/resourceVersion");
        let stated = object.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(0);
        // A day: a lease that states more was not written by a reinback.
        let stated = Duration::from_secs(stated.min(86_400));
        Self { object, holder, resource_version, stated }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Take,
    Wait { at_most: Duration },
}

/// Whether a lease that exists may be taken now.
fn decide(record: &Record, me: &str, unchanged_for: Duration, times: &LeaseTimes) -> Decision {
    let wait = times.takeover_after(record.stated);
    if record.holder.is_empty() || record.holder == me || unchanged_for >= wait {
        return Decision::Take;
    }
    Decision::Wait { at_most: wait - unchanged_for }
}

impl Candidate {
    pub fn new(
        reader: ClusterReader,
        writer: ClusterWriter,
        name: LeaseName,
        times: LeaseTimes,
        identity: String,
    ) -> Self {
        let times = LeaseTimes { renew_every: times.renew_every.min(times.renew_deadline / 2), ..times };
        // One try a request: the loop around it looks anew, which a blind repetition would not.
        let writer = writer.unpaced().patient(times.renew_every, Duration::ZERO);
        let reader = reader.unpaced();
        Self { reader, writer, name, times, identity, observed: None, doubt: Doubt::default() }
    }

    /// Tries until the lease is held, but at most for `patience`; first waits until nothing that was sent under it before
    /// may still be carried out.
    pub async fn acquire(&mut self, patience: Duration) -> Result<Acquired, LeaseError> {
        if let Some(until) = self.doubt.until(Instant::now()) {
            let wait = until - Instant::now();
            info!("waiting {} s: what was not answered may still be carried out until then", wait.as_secs_f32().ceil());
            sleep_until(until).await;
        }
        let end = Instant::now() + patience;
        loop {
            let acquired = self.try_acquire().await?;
            let Acquired::Busy { at_most, .. } = &acquired else { return Ok(acquired) };
            let pause = LOOK_EVERY.min(*at_most + Duration::from_millis(10));
            if Instant::now() + pause > end {
                return Ok(acquired);
            }
            sleep(pause).await;
        }
    }

    /// Looks whether nobody holds the lease. What is read of runs from then on is all that there is for whoever takes the lease
    /// as it was ([`LeaseGuard::follows`]): nobody writes them without it.
    ///
    /// `None` also where there is none, where it cannot be read, and where something that was sent under it before may still be
    /// carried out: it has to be taken first then.
    pub async fn sight(&self) -> Option<Sighting> {
        if self.doubt.until(Instant::now()).is_some() {
            return None;
        }
        let resource = leases();
        let target = target(&resource, &self.name);
        let looked = timeout(SIGHT_WITHIN, self.reader.get(&target)).await;
        let record = Record::read(looked.ok()?.ok()??.value().ok()?);
        record.holder.is_empty().then_some(Sighting(record.resource_version))
    }

    /// Looks once, and takes the lease where it is free, given back, or unchanged for long enough.
    pub async fn try_acquire(&mut self) -> Result<Acquired, LeaseError> {
        let resource = leases();
        let target = target(&resource, &self.name);
        let read = |source| LeaseError::Read { lease: self.name.to_string(), source };
        let Some(answer) = self.reader.get(&target).await.map_err(read)? else { return self.create().await };
        let bad = |source| read(ClusterError::BadAnswer { what: format!("get {target}"), source });
        let record = Record::read(answer.value().map_err(bad)?);
        let unchanged_for = self.unchanged_for(&record);
        match decide(&record, &self.identity, unchanged_for, &self.times) {
            Decision::Take => self.take(record).await,
            Decision::Wait { at_most } => Ok(Acquired::Busy { holder: record.holder, at_most }),
        }
    }

    fn unchanged_for(&mut self, record: &Record) -> Duration {
        match &self.observed {
            Some((version, since)) if *version == record.resource_version => since.elapsed(),
            _ => {
                self.observed = Some((record.resource_version.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    async fn create(&mut self) -> Result<Acquired, LeaseError> {
        let LeaseName { namespace, name } = &self.name;
        let mut object = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"namespace": namespace, "name": name},
        });
        held(&mut object, &self.identity, &self.times, self.reader.clock().now());
        let resource = leases();
        let started = Instant::now();
        let written = self.writer.create(&target(&resource, &self.name), json_body(&object)).await;
        match written {
            Err(error) if error.kind() == Some(FailureKind::NotFound) => {
                Err(LeaseError::NamespaceMissing { lease: self.name.to_string(), namespace: namespace.clone() })
            }
            written => self.taken(written, started, None),
        }
    }

    async fn take(&mut self, record: Record) -> Result<Acquired, LeaseError> {
        let Record { mut object, holder, resource_version, stated: _ } = record;
        if !holder.is_empty() {
            info!(lease.holder = %holder, "lease {} of {holder:?} ran out, taking it", self.name);
        }
        held(&mut object, &self.identity, &self.times, self.reader.clock().now());
        let resource = leases();
        let started = Instant::now();
        let written = self.writer.replace(&target(&resource, &self.name), json_body(&object)).await;
        self.taken(written, started, Some(Sighting(resource_version)))
    }

    fn taken(
        &mut self,
        written: Result<super::Answer, WriteError>,
        started: Instant,
        replaced: Option<Sighting>,
    ) -> Result<Acquired, LeaseError> {
        let someone_else = |holder: &str| Acquired::Busy { holder: holder.to_owned(), at_most: LOOK_EVERY };
        match written {
            Ok(answer) => {
                let object = answer.value().map_err(|source| LeaseError::Read {
                    lease: self.name.to_string(),
                    source: ClusterError::BadAnswer { what: format!("take lease {}", self.name), source },
                })?;
                Ok(Acquired::Held(self.guard(object, started, replaced)))
            }
            // Someone was faster: the next look says who. A lost answer may have been a success, which it says too.
            Err(error) if matches!(error.kind(), Some(FailureKind::Conflict | FailureKind::AlreadyExists)) => {
                Ok(someone_else("another candidate"))
            }
            Err(WriteError::Unknown { .. }) => Ok(someone_else("unknown: the answer was lost")),
            Err(source) => Err(LeaseError::Write { lease: self.name.to_string(), source }),
        }
    }

    fn guard(&self, object: Value, started: Instant, replaced: Option<Sighting>) -> LeaseGuard {
        let (lost, _) = watch::channel(false);
        let valid_until = Mutex::new(started + self.times.renew_deadline);
        let fence = Fence { state: Arc::new(State { valid_until, lost, doubt: self.doubt.clone() }) };
        let renewal = Renewal {
            reader: self.reader.clone(),
            writer: self.writer.clone(),
            name: self.name.clone(),
            times: self.times,
            identity: self.identity.clone(),
            fence: fence.clone(),
            object,
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(renewal.run(stopped));
        let running = Some(Running { stop, task });
        LeaseGuard { fence, times: self.times, identity: self.identity.clone(), replaced, running }
    }
}

/// Takes the lease, waiting for it at most for `patience`. For more than one try keep a [`Candidate`].
pub async fn acquire(
    cluster: &super::Cluster,
    name: LeaseName,
    times: LeaseTimes,
    patience: Duration,
) -> Result<Acquired, LeaseError> {
    Candidate::new(cluster.reader(), cluster.writer(), name, times, holder_identity()).acquire(patience).await
}

/// Whether the lease may still be acted upon. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Fence {
    state: Arc<State>,
}

struct State {
    valid_until: Mutex<Instant>,
    lost: watch::Sender<bool>,
    doubt: Doubt,
}

impl Fence {
    /// A call that goes through this fence.
    pub(super) fn call(&self) -> Sent {
        self.state.doubt.call()
    }

    /// When the last request may be sent, unless the lease is renewed before.
    pub fn valid_until(&self) -> Instant {
        *self.state.valid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_valid(&self, now: Instant) -> bool {
        !*self.state.lost.borrow() && now < self.valid_until()
    }

    /// Turns true when the lease is lost or given back; it never turns false again.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.state.lost.subscribe()
    }

    /// Returns when the lease is lost or given back.
    pub async fn until_lost(&self) {
        // The sender lives in `self`, so waiting ends only by the value.
        let mut lost = self.lost();
        let _lost = lost.wait_for(|lost| *lost).await;
    }

    fn lose(&self) {
        self.state.lost.send_replace(true);
    }

    fn extend(&self, until: Instant) {
        *self.state.valid_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// The lease, held and renewed in the background. Dropping it fences all writers off and leaves the lease to run out;
/// [`LeaseGuard::release`] gives it back at once.
pub struct LeaseGuard {
    fence: Fence,
    times: LeaseTimes,
    identity: String,
    /// The lease as it was before; `None` for one that was not there.
    replaced: Option<Sighting>,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Renewal>,
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseGuard")
            .field("identity", &self.identity)
            .field("lost", &*self.fence.state.lost.borrow())
            .finish_non_exhaustive()
    }
}

impl LeaseGuard {
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// The lease was not there, and was made. Should somebody have deleted it, its holder may go on until it looks: who
    /// finds work under way waits for [`LeaseTimes::takeover_after`] first.
    pub fn is_new(&self) -> bool {
        self.replaced.is_none()
    }

    /// Nobody has held the lease from this sighting until it was taken: each who takes it, renews it or gives it back writes it.
    pub fn follows(&self, sighting: &Sighting) -> bool {
        self.replaced.as_ref() == Some(sighting)
    }

    pub fn times(&self) -> &LeaseTimes {
        &self.times
    }

    /// Who we are in the lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn valid_until(&self) -> Instant {
        self.fence.valid_until()
    }

    pub fn is_valid(&self, now: Instant) -> bool {
        self.fence.is_valid(now)
    }

    /// Gives the lease back, so that the next candidate need not wait. Fences writers off first; end their requests
    /// before, because another holder may begin as soon as this is done. Where one of them was not answered, the lease is
    /// left to run out.
    pub async fn release(mut self) -> Result<(), LeaseError> {
        let was_lost = *self.fence.state.lost.borrow();
        self.fence.lose();
        if self.fence.state.doubt.until(Instant::now()).is_some() {
            info!("lease {} is left to run out: what was not answered may still be carried out", self.identity);
            return Ok(());
        }
        let Some(Running { stop, task }) = self.running.take() else { return Ok(()) };
        // The task may have ended by itself.
        let _ended = stop.send(());
        match task.await {
            Ok(renewal) if !was_lost => renewal.give_back().await,
            _ => Ok(()),
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.fence.lose();
        if let Some(Running { stop: _, task }) = self.running.take() {
            task.abort();
        }
    }
}

/// Renews a lease until it is stopped or lost.
struct Renewal {
    reader: ClusterReader,
    writer: ClusterWriter,
    name: LeaseName,
    times: LeaseTimes,
    identity: String,
    fence: Fence,
    /// As the server had it last.
    object: Value,
}

enum Renewed {
    Yes,
    /// Again soon.
    NotNow(WriteError),
    Taken,
}

impl Renewal {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Self {
        let mut next = Instant::now() + self.times.renew_every;
        loop {
            tokio::select! {
                _ = &mut stopped => return self,
                () = sleep_until(next.min(self.fence.valid_until())) => {}
            }
            let started = Instant::now();
            let Some(left) = self.fence.valid_until().checked_duration_since(started).filter(|left| !left.is_zero())
            else {
                warn!("lease {} could not be renewed in time", self.name);
                break;
            };
            match timeout(left, self.renew()).await {
                Ok(Renewed::Yes) => {
                    self.fence.extend(started + self.times.renew_deadline);
                    next = started + self.times.renew_every;
                }
                Ok(Renewed::Taken) => {
                    warn!("lease {} was taken by someone else", self.name);
                    break;
                }
                Ok(Renewed::NotNow(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "cannot renew lease {}", self.name);
                    next = Instant::now() + self.times.renew_every / 5;
                }
                // Too late; the next turn says so.
                Err(_elapsed) => {}
            }
        }
        self.fence.lose();
        self
    }

    async fn renew(&mut self) -> Renewed {
        let resource = leases();
        let name = self.name.clone();
        let target = target(&resource, &name);
        let mut object = self.object.clone();
        object["spec"]["renewTime"] = micro_time(self.reader.clock().now());
        match self.writer.replace(&target, json_body(&object)).await {
            Ok(answer) => self.renewed(answer),
            // Changed under us: by our own lost answer, by a hand, by a new holder; or deleted.
            Err(error) if matches!(error.kind(), Some(FailureKind::Conflict | FailureKind::NotFound)) => {
                self.look_again(&target, error).await
            }
            Err(error) => Renewed::NotNow(error),
        }
    }

    async fn look_again(&mut self, target: &Target<'_>, error: WriteError) -> Renewed {
        let Ok(found) = self.reader.get(target).await else { return Renewed::NotNow(error) };
        let Some(answer) = found else { return self.make_again(target).await };
        let Ok(object) = answer.value() else { return Renewed::NotNow(error) };
        let record = Record::read(object);
        if record.holder != self.identity {
            return Renewed::Taken;
        }
        self.object = record.object;
        self.object["spec"]["renewTime"] = micro_time(self.reader.clock().now());
        match self.writer.replace(target, json_body(&self.object)).await {
            Ok(answer) => self.renewed(answer),
            Err(error) => Renewed::NotNow(error),
        }
    }

    /// The lease was deleted: whoever makes it first has it.
    async fn make_again(&mut self, target: &Target<'_>) -> Renewed {
        let LeaseName { namespace, name } = &self.name;
        let mut object = self.object.clone();
        object["metadata"] = json!({"namespace": namespace, "name": name});
        match self.writer.create(target, json_body(&object)).await {
            Ok(answer) => self.renewed(answer),
            // The next try sees who was faster.
            Err(error) => Renewed::NotNow(error),
        }
    }

    fn renewed(&mut self, answer: super::Answer) -> Renewed {
        if let Ok(object) = answer.value() {
            self.object = object;
        }
        Renewed::Yes
    }

    async fn give_back(self) -> Result<(), LeaseError> {
        let mut object = self.object;
        // As client-go gives back: no holder, and nothing to wait for.
        object["spec"]["holderIdentity"] = "".into();
        object["spec"]["leaseDurationSeconds"] = 1.into();
        object["spec"]["renewTime"] = micro_time(self.reader.clock().now());
        let resource = leases();
        match self.writer.replace(&target(&resource, &self.name), json_body(&object)).await {
            Ok(_) => Ok(()),
            // Someone has it already, or nobody ever will.
            Err(error) if matches!(error.kind(), Some(FailureKind::Conflict | FailureKind::NotFound)) => Ok(()),
            Err(source) => Err(LeaseError::Write { lease: self.name.to_string(), source }),
        }
    }
}

/// Writes a new holder into a lease, and leaves what else stands there.
fn held(object: &mut Value, identity: &str, times: &LeaseTimes, now: Timestamp) {
    if !object["spec"].is_object() {
        object["spec"] = json!({});
    }
    let spec = &mut object["spec"];
    let changes_hands = spec["holderIdentity"].as_str().is_some_and(|holder| holder != identity);
    let transitions = spec["leaseTransitions"].as_u64().unwrap_or(0) + u64::from(changes_hands);
    spec["holderIdentity"] = identity.into();
    spec["leaseDurationSeconds"] = times.stated_seconds().into();
    spec["acquireTime"] = micro_time(now);
    spec["renewTime"] = micro_time(now);
    spec["leaseTransitions"] = transitions.into();
}

/// `metav1.MicroTime`: six digits, always.
fn micro_time(time: Timestamp) -> Value {
    Value::String(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn leases() -> Resource {
    Resource::new("coordination.k8s.io", "v1", "leases")
}

fn target<'a>(resource: &'a Resource, name: &'a LeaseName) -> Target<'a> {
    Target::new(resource, Some(&name.namespace), &name.name)
}

#[cfg(test)]
mod tests;
