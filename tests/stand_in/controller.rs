//! One process of the operator: its queue, its Lease, and how often it tries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use kube::Client;
use kube::api::WatchEvent;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Settings;
use super::api::{Api, Place, said, text};
use super::script::{Act, Phase, Script, Then, stand_before};
use super::status;
use super::trial::{Trial, Tried};

/// Restores at a time. The Lease lets one of them through.
const WORKERS: usize = 2;
/// Failures after which the waits are the longest.
const SLOW_AFTER: u32 = 30;
/// Until it asks again for what it could not read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// A process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Died(pub Then);

/// What goes with a process.
pub struct Life {
    pub script: Script,
    died: watch::Sender<Option<Then>>,
}

impl Life {
    /// # Errors
    ///
    /// When the script lets the phase fail.
    pub async fn reach(&self, phase: Phase) -> Result<(), String> {
        self.script.reach(phase);
        while let Some(act) = self.script.next(phase) {
            match act {
                Act::Fail(message) => return Err(message),
                Act::Wait(by) => tokio::time::sleep(by).await,
                Act::Hold(gate) => stand_before(&gate).await,
                Act::Hang => std::future::pending().await,
                Act::Die(then) => self.end(then).await,
            }
        }
        Ok(())
    }

    /// A Go panic: the container is started again. What was deferred is done before, so that the Lease is given back.
    pub async fn panic(&self, api: &Api, settings: &Settings, restore: &Value) {
        unlock(api, settings, &holder(restore)).await;
        self.end(Then::Restarts(Duration::ZERO)).await;
    }

    async fn end(&self, then: Then) {
        self.died.send_replace(Some(then));
        std::future::pending().await
    }
}

struct Inner {
    api: Api,
    settings: Settings,
    life: Life,
    /// What the watch has told: what a try is begun with.
    seen: Mutex<HashMap<String, Value>>,
    workers: Semaphore,
}

/// A process of the operator. Dropped, it is killed.
pub struct Process(Arc<Inner>);

impl Process {
    pub fn new(client: Client, settings: Settings, script: Script) -> Self {
        let (died, _) = watch::channel(None);
        Self(Arc::new(Inner {
            api: Api(client),
            settings,
            life: Life { script, died },
            seen: Mutex::default(),
            workers: Semaphore::new(WORKERS),
        }))
    }

    /// Until the script ends it.
    pub async fn run(self) -> Died {
        let mut died = self.0.life.died.subscribe();
        let ended = async {
            let ended = died.wait_for(Option::is_some).await;
            Died(ended.ok().and_then(|then| *then).unwrap_or(Then::Never))
        };
        tokio::select! {
            biased;
            died = ended => died,
            () = work(&self.0) => Died(Then::Never),
        }
    }
}

/// Hands each Restore to a task of its own when something happens to it.
async fn work(inner: &Arc<Inner>) {
    // Whoever held it, it is nobody's when an operator starts.
    let _ = inner.api.delete(&lease(&inner.settings)).await;
    let mut tasks = JoinSet::new();
    let mut keys: HashMap<String, Arc<Notify>> = HashMap::new();
    let mut changed = |name: &str, object: Option<Value>| {
        let mut seen = inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match object {
            Some(object) => seen.insert(name.to_owned(), object),
            None => seen.remove(name),
        };
        let wake = keys.entry(name.to_owned()).or_insert_with(|| {
            let wake = Arc::new(Notify::new());
            tasks.spawn(tend(Arc::clone(inner), name.to_owned(), Arc::clone(&wake)));
            wake
        });
        wake.notify_one();
    };
    let all = status::place("");
    loop {
        let listed = inner.api.list(&all, &[]).await;
        let Ok((objects, version)) = listed else {
            tokio::time::sleep(READ_AGAIN).await;
            continue;
        };
        let names: Vec<String> = objects.iter().map(|object| text(&object["metadata"]["name"])).collect();
        let gone: Vec<String> = {
            let seen = inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.keys().filter(|name| !names.contains(name)).cloned().collect()
        };
        gone.iter().for_each(|name| changed(name, None));
        names.iter().zip(objects).for_each(|(name, object)| changed(name, Some(object)));
        let Ok(events) = inner.api.watch(&all, &version).await else { continue };
        let mut events = std::pin::pin!(events);
        while let Ok(Some(event)) = events.try_next().await {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    changed(&text(&object["metadata"]["name"]), Some(object));
                }
                WatchEvent::Deleted(object) => changed(&text(&object["metadata"]["name"]), None),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
    }
}

/// Everything that becomes of one Restore.
async fn tend(inner: Arc<Inner>, name: String, wake: Arc<Notify>) {
    let mut failures = 0;
    let mut again: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
        let _worker = inner.workers.acquire().await;
        again = None;
        match on_change(&inner, &name).await {
            Ok(()) => failures = 0,
            Err(error) => {
                inner.life.script.note("ERRO", &format!("error syncing '{name}': {error}, requeuing"));
                again = Some(Instant::now() + backoff(failures));
                failures += 1;
            }
        }
    }
}

/// Between the failure with this number, from 0, and the next try (lasso, `pkg/controller`).
fn backoff(failures: u32) -> Duration {
    if failures >= SLOW_AFTER {
        return Duration::from_secs(120);
    }
    Duration::from_millis(5).saturating_mul(1 << failures.min(20)).min(Duration::from_secs(30))
}

async fn on_change(inner: &Arc<Inner>, name: &str) -> Result<(), String> {
    let restore = inner.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    let Some(restore) = restore else { return Ok(()) };
    let is_done = !text(&restore["status"]["restoreCompletionTs"]).is_empty();
    if is_done || !restore["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let holder = holder(&restore);
    inner.life.reach(Phase::Lock).await?;
    lock(inner, &holder).await?;
    let ended = attempt(inner, &restore).await;
    // What fails here is passed over by the operator, too.
    let unlocked = inner.life.reach(Phase::Unlock).await;
    if unlocked.is_ok() {
        unlock(&inner.api, &inner.settings, &holder).await;
    }
    ended
}

/// As its Lease names a Restore.
fn holder(restore: &Value) -> String {
    format!("{}:{}", text(&restore["metadata"]["name"]), text(&restore["metadata"]["uid"]))
}

async fn attempt(inner: &Arc<Inner>, restore: &Value) -> Result<(), String> {
    let Inner { api, settings, life, seen: _, workers: _ } = &**inner;
    let mut trial = Trial {
        api,
        settings,
        life,
        restore,
        kinds: Default::default(),
        created: Default::default(),
        with_status: Default::default(),
    };
    let message = match trial.run().await {
        Tried::Failed(message) => message,
        Tried::Done { source } => {
            let reported = match life.reach(Phase::Report).await {
                Ok(()) => trial.report(source).await,
                Err(message) => Err(message),
            };
            match reported {
                Ok(()) => return Ok(()),
                Err(message) => message,
            }
        }
    };
    if status::tells(restore, &message) {
        return Err(message);
    }
    let now = settings.clock.now();
    let told = status::update(api, &restore["metadata"]["name"], |restore| status::fail(restore, &message, now)).await;
    told.map_err(|error| format!("{message}{error}"))
}

fn lease(settings: &Settings) -> Place {
    Place::new(("coordination.k8s.io", "v1", "leases"), Some(&settings.namespace), "restore-controller")
}

async fn lock(inner: &Inner, holder: &str) -> Result<(), String> {
    let place = lease(&inner.settings);
    let live = inner.api.get(&place).await.map_err(|error| said(&error))?;
    let Some(mut live) = live else {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": place.name, "namespace": place.namespace}, "spec": {"holderIdentity": holder},
        });
        return inner.api.create(&place, &lease).await.map(drop).map_err(|error| said(&error));
    };
    if let Some(other) = live["spec"]["holderIdentity"].as_str() {
        return Err(format!("restore {other} is in progress"));
    }
    live["spec"]["holderIdentity"] = json!(holder);
    inner.api.replace(&place, &live).await.map(drop).map_err(|error| said(&error))
}

async fn unlock(api: &Api, settings: &Settings, holder: &str) {
    let place = lease(settings);
    if let Ok(Some(mut live)) = api.get(&place).await
        && live["spec"]["holderIdentity"] == holder
    {
        live["spec"].as_object_mut().map(|spec| spec.remove("holderIdentity"));
        let _ = api.replace(&place, &live).await;
    }
}
