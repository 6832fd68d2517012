//! What holds at every moment, and at the end, however a run was disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reinback::demo::scene::SECRET_WORD;
use reinback::git::CommitId;
use reinback::sim::Sim;
use serde_json::Value;

use crate::cluster_api;
use crate::dead_webhook;
use crate::memory_git::{Git, STATUS};
use crate::process::{Death, Process, Witness};
use crate::protected;
use crate::stage::{Objects, Stage};
use crate::weather::Weather;

/// The run's phase and reason, by the cluster.
pub fn outcome(run: &Value) -> (String, String) {
    let text = |field: &str| run["status"][field].as_str().unwrap_or_default().to_owned();
    (text("phase"), text("reason"))
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed" | "Superseded" | "Cancelled")
}

/// Git says of each run what the cluster says.
pub fn assert_status_is_truthful(stage: &Stage) {
    let files = stage.git.files(STATUS);
    for run in stage.runs() {
        let name = run["metadata"]["name"].as_str().expect("a name");
        let file = files.iter().find(|(path, _)| path.starts_with("runs/") && path.contains(name));
        let (path, content) = file.unwrap_or_else(|| panic!("no status file of {name} among {:?}", files.keys()));
        let said: Value = serde_yaml::from_slice(content).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(outcome(&said), outcome(&run), "{path}");
    }
}

#[derive(Default)]
struct Known {
    /// Runs by key: how each ended, what it pins once it has begun.
    ended: BTreeMap<String, (String, String)>,
    pinned: BTreeMap<String, Value>,
    /// Keys of runs whose start is on the status branch.
    announced: BTreeSet<String>,
    /// The run that is under way, or was last: somebody may have deleted its object.
    begun: Option<Value>,
    /// What nobody but reinback itself may touch, with UID and version.
    protected: BTreeMap<String, (String, String)>,
    tip: Option<CommitId>,
    /// Of each process, by its number.
    identities: BTreeMap<usize, String>,
    /// Somebody scaled Rancher up in the middle: it takes a moment until that is seen.
    is_run_by_hand: bool,
    /// The holder that wrote last.
    acting: Option<String>,
    processes: usize,
    problems: Vec<String>,
}

struct Inner {
    has_dead_webhook: bool,
    sim: Sim,
    git: Git,
    known: Mutex<Known>,
}

/// Looks at the world after each effect of each process. Clones are the same.
#[derive(Clone)]
pub struct Watchdog(Arc<Inner>);

impl Watchdog {
    pub fn new(stage: &Stage) -> Self {
        let protected = protected::versions(&stage.sim.objects());
        assert!(protected.len() > 12, "{protected:?}");
        let known = Known { tip: stage.git.tip(STATUS), protected, ..Known::default() };
        let (sim, git) = (stage.sim.clone(), stage.git.clone());
        let has_dead_webhook = dead_webhook::is_there(&sim);
        Self(Arc::new(Inner { has_dead_webhook, sim, git, known: Mutex::new(known) }))
    }

    /// A process in this weather, watched.
    pub fn process(&self, weather: Weather) -> Process {
        self.watched(None, weather)
    }

    /// One that meets no fault and dies at this effect, watched.
    pub fn mortal(&self, death: Option<Death>) -> Process {
        self.watched(death, Weather::calm())
    }

    fn watched(&self, death: Option<Death>, weather: Weather) -> Process {
        let number = {
            let mut known = self.known();
            known.processes += 1;
            known.processes
        };
        let watchdog = self.clone();
        let witness: Box<Witness> = Box::new(move |effect| {
            let objects = watchdog.0.sim.objects();
            watchdog.check_world(effect, &objects);
            watchdog.check_fence(number, effect, &objects);
        });
        Process::new(death, weather, witness)
    }

    /// The rancher-backup operator, watched: it is another writer, which has no Lease of reinback's, and is to be given nothing to do
    /// while Rancher runs.
    pub fn operator(&self) -> Process {
        let watchdog = self.clone();
        let witness: Box<Witness> = Box::new(move |effect| {
            let objects = watchdog.0.sim.objects();
            // Whatever run it is for has begun, or a person's Restore is: what reinback may begin is not asked of it.
            watchdog.check_world(&format!("{OPERATOR}: {effect}"), &objects);
            let mut known = watchdog.known();
            let is_ready = |key: &String| key.starts_with("pods/cattle-system/rancher-");
            if is_of_the_backup(effect) && !known.is_run_by_hand && objects.keys().any(is_ready) {
                known.problems.push(format!("the operator wrote {effect} while Rancher runs"));
            }
        });
        Process::new(None, Weather::calm(), witness)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that must hold at any moment.
    pub fn check(&self, effect: &str) {
        self.check_world(effect, &self.0.sim.objects());
    }

    fn check_world(&self, effect: &str, objects: &Objects) {
        let runs: Vec<&Value> = objects
            .iter()
            .filter(|(key, _)| key.starts_with("runs.reinback.io/"))
            .map(|(_, run)| run.as_ref())
            .collect();
        let mut known = self.known();
        let mut problems = Vec::new();
        problems.extend(known.check_once(&runs));
        problems.extend(known.check_history(&self.0.git));
        problems.extend(known.check_protected(effect, protected::versions(objects)));
        problems
            .extend(check_replicas(objects.get("deployments.apps/cattle-system/rancher").map(AsRef::as_ref), &runs));
        problems.extend(cluster_api::check(objects));
        if self.0.has_dead_webhook {
            problems.extend(dead_webhook::check(&self.0.sim));
        }
        if effect.starts_with("push") {
            known.learn_announced(&self.0.git);
        }
        problems.extend(known.check_started(effect));
        if effect.starts_with("push") || effect == "the end" {
            problems.extend(leaks(&self.0.git, &runs));
        }
        known.problems.extend(problems.into_iter().map(|problem| format!("after {effect}: {problem}")));
    }

    /// Two never write: once the holder of the Lease has written, nobody else does. A holder whose Lease somebody deleted
    /// may go on until it looks, and whoever makes it anew waits for that.
    fn check_fence(&self, process: usize, effect: &str, objects: &Objects) {
        let lease = objects.get("leases.coordination.k8s.io/reinback-system/reinback");
        let holder = lease.map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned());
        let holder = holder.unwrap_or_default();
        let mut known = self.known();
        if effect.contains("/leases") {
            if !holder.is_empty() {
                known.identities.entry(process).or_insert(holder);
            }
            return;
        }
        if effect.starts_with("push") || is_of_the_store(effect) || is_in_setup(effect) {
            return;
        }
        let own = known.identities.get(&process).cloned().unwrap_or_default();
        let is_ready = |(key, _): &(&String, &Arc<Value>)| key.starts_with("pods/cattle-system/rancher-");
        if is_of_the_backup(effect) && !known.is_run_by_hand && objects.iter().any(|pod| is_ready(&pod)) {
            known.problems.push(format!("{effect} while Rancher runs"));
        }
        if is_of_the_backup(effect)
            && let Some(awake) = cluster_api::check_quiet(objects)
        {
            known.problems.push(format!("{effect} while {awake}"));
        }
        if is_of_the_backup(effect)
            && self.0.has_dead_webhook
            && dead_webhook::is_asked_about(effect)
            && !dead_webhook::is_silenced(&self.0.sim)
        {
            known.problems.push(format!("{effect} while a webhook that nobody answers is asked"));
        }
        if holder == own {
            known.acting = Some(holder);
        } else if !holder.is_empty() && known.acting.as_ref() == Some(&holder) {
            known.problems.push(format!("process {process} ({own}) wrote {effect} while {holder:?} held the lease"));
        }
    }

    /// From now on Rancher may run for a moment while objects are written.
    pub fn rancher_is_run_by_hand(&self) {
        self.known().is_run_by_hand = true;
    }

    /// Nothing was wrong at any moment, and each run ended with a reason, with Rancher as that says.
    pub fn assert_ended_well(&self, incidents: &[String]) {
        let problems = std::mem::take(&mut self.known().problems);
        assert!(problems.is_empty(), "{} problems, first {:#?}", problems.len(), &problems[..problems.len().min(5)]);
        let objects = self.0.sim.objects();
        let rancher = &objects["deployments.apps/cattle-system/rancher"];
        // Of Git, since somebody may have deleted the objects.
        let files = self.0.git.files(STATUS);
        let runs = files.iter().filter(|(path, _)| path.starts_with("runs/"));
        let runs =
            runs.map(|(path, text)| serde_yaml::from_slice(text).unwrap_or_else(|error| panic!("{path}: {error}")));
        let outcomes: Vec<(String, String)> = runs.map(|run: Value| outcome(&run)).collect();
        assert!(outcomes.iter().all(|(phase, reason)| is_terminal(phase) && !reason.is_empty()), "{outcomes:?}");
        let held_down = outcomes.iter().any(|(phase, _)| phase == "Failed");
        let replicas = rancher["spec"]["replicas"].as_i64().unwrap_or_default();
        let recorded = rancher["metadata"]["annotations"]["reinback.io/replicas"].as_str();
        assert!(!dead_webhook::is_silenced(&self.0.sim), "still silenced: {outcomes:?} {incidents:?}");
        let held = cluster_api::held(&objects);
        assert!(
            held.is_empty() || held_down,
            "still paused though nothing failed: {held:?} {outcomes:?} {incidents:?}"
        );
        match recorded {
            None => assert_eq!(replicas, 3, "{outcomes:?} {incidents:?}"),
            Some(recorded) => {
                assert!(held_down, "Rancher is down though nothing failed: {outcomes:?} {incidents:?}");
                // By hand is one of the ways on after a failure.
                let by_hand = incidents.iter().any(|incident| incident == "RancherScaledUp");
                assert!(replicas == 0 || by_hand && replicas == 3, "{replicas}: {outcomes:?} {incidents:?}");
                assert_eq!(recorded, "3", "{outcomes:?} {incidents:?}");
            }
        }
    }
}

/// Begins what the operator wrote.
const OPERATOR: &str = "operator";

/// A write of an object of the backup, or a deletion by prune.
pub fn is_of_the_backup(effect: &str) -> bool {
    let scales = effect.starts_with("PATCH") && effect.contains("/deployments/");
    let pauses = effect.starts_with("PATCH") && effect.contains("/apis/cluster.x-k8s.io/");
    let silences = effect.starts_with("PATCH") && effect.contains("/validatingwebhookconfigurations/");
    // The operator scales by PUT, and reads and tells of a Restore.
    let scales = scales || effect.starts_with("PUT") && effect.ends_with("/cattle-system/deployments/rancher");
    !scales && !pauses && !silences && !effect.contains("/restores") && is_of_the_cluster(effect)
}

/// Not what a run does for itself.
fn is_of_the_cluster(effect: &str) -> bool {
    let own = ["push", "/leases", "/runs", "/events", "the end"];
    !is_in_setup(effect) && !is_of_the_store(effect) && !own.iter().any(|own| effect.contains(own))
}

/// The probe before a run, the safety backup in it, and what retention drops.
fn is_of_the_store(effect: &str) -> bool {
    effect.starts_with("store ")
}

/// Written before the Lease is asked for, and events beside everything.
fn is_in_setup(effect: &str) -> bool {
    effect.contains("/events")
        || effect.contains("/customresourcedefinitions") && effect.contains("runs.reinback.io")
        || effect.starts_with("POST /api/v1/namespaces reinback-system")
}

impl Known {
    /// Invariants 1, 2 and 9: what has ended stays so, one at a time, and what began is what was merged.
    fn check_once(&mut self, runs: &[&Value]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut under_way = Vec::new();
        let mut keys = BTreeMap::<String, usize>::new();
        for run in runs {
            let key = run["spec"]["key"].as_str().unwrap_or_default().to_owned();
            let (phase, reason) = outcome(run);
            *keys.entry(key.clone()).or_default() += 1;
            if let Some(before) = self.ended.get(&key)
                && *before != (phase.clone(), reason.clone())
                && !phase.is_empty()
            {
                problems.push(format!("{key} had ended {before:?} and is {phase} {reason}"));
            }
            if is_terminal(&phase) {
                self.ended.insert(key.clone(), (phase.clone(), reason));
            }
            // A start that could not be announced touched nothing, and may be thought over.
            if matches!(phase.as_str(), "Pending" | "Held") {
                self.pinned.remove(&key);
                self.announced.remove(&key);
            }
            if phase == "Running" {
                self.begun = Some((*run).clone());
                under_way.push(key.clone());
                let document = &run["spec"]["document"];
                let pinned = self.pinned.entry(key.clone()).or_insert_with(|| document.clone());
                if pinned != document {
                    problems.push(format!("{key} runs another document than it began with"));
                }
            }
        }
        problems
            .extend(keys.iter().filter(|(_, count)| **count > 1).map(|(key, count)| format!("{count} runs of {key}")));
        if under_way.len() > 1 {
            problems.push(format!("several runs are under way: {under_way:?}"));
        }
        problems
    }

    fn learn_announced(&mut self, git: &Git) {
        let files = git.files(STATUS);
        let runs = files.iter().filter(|(path, _)| path.starts_with("runs/"));
        let runs = runs.filter_map(|(_, text)| serde_yaml::from_slice::<Value>(text).ok());
        let running = runs.filter(|run| outcome(run).0 == "Running");
        self.announced.extend(running.filter_map(|run| Some(run["spec"]["key"].as_str()?.to_owned())));
    }

    /// Invariant 3: nothing is scaled, written or deleted before the plan has passed its gates and the start is on the
    /// remote.
    fn check_started(&self, effect: &str) -> Option<String> {
        if !is_of_the_cluster(effect) || effect.starts_with(OPERATOR) {
            return None;
        }
        let Some(run) = &self.begun else { return Some("no run has begun".to_owned()) };
        let key = run["spec"]["key"].as_str().unwrap_or_default();
        let status = &run["status"];
        let holds = |gate: &&Value| gate["accepted"] != true;
        let gate = status["gates"].as_array().and_then(|gates| gates.iter().find(holds));
        match gate {
            _ if !self.announced.contains(key) => Some(format!("the start of {key} is not on the status branch")),
            _ if status["plan"]["digest"].as_str().is_none_or(str::is_empty) => Some(format!("{key} has no plan")),
            Some(gate) => Some(format!("{key} is held by {}", gate["code"])),
            None => None,
        }
    }

    /// Invariant 6: what a restore must leave alone is there, as it was, and there is no more of it.
    fn check_protected(&mut self, effect: &str, now: BTreeMap<String, (String, String)>) -> Vec<String> {
        let mut problems = Vec::new();
        if effect.starts_with("DELETE") && ["/leases/", "/runs/"].iter().any(|own| effect.contains(own)) {
            problems.push("a lease or a run is deleted by reinback".to_owned());
        }
        let before = std::mem::replace(&mut self.protected, now);
        let now = &self.protected;
        problems.extend(before.keys().filter(|place| !now.contains_key(*place)).map(|gone| format!("{gone} is gone")));
        let touched = now.iter().filter(|(place, version)| before.get(*place) != Some(*version));
        problems.extend(touched.map(|(place, _)| format!("{place} is protected and was written")));
        problems
    }

    /// Invariant 8: the status branch only grows.
    fn check_history(&mut self, git: &Git) -> Option<String> {
        let before = std::mem::replace(&mut self.tip, git.tip(STATUS));
        let lost = before.filter(|before| !git.has(STATUS, *before));
        lost.map(|before| format!("commit {before} of the status branch is gone"))
    }
}

/// Invariant 4: how many replicas Rancher had is never lost.
fn check_replicas(rancher: Option<&Value>, runs: &[&Value]) -> Option<String> {
    let Some(rancher) = rancher else { return Some("the Deployment of Rancher is gone".to_owned()) };
    let replicas = rancher["spec"]["replicas"].as_i64().unwrap_or_default();
    let recorded = rancher["metadata"]["annotations"]["reinback.io/replicas"].as_str();
    match (replicas, recorded) {
        (3, None | Some("3")) | (0, Some("3")) => None,
        _ => Some(format!("Rancher has {replicas} replicas and {recorded:?} is recorded, beside {} runs", runs.len())),
    }
}

/// Invariant 7: no Secret's value is in Git or in a run.
fn leaks(git: &Git, runs: &[&Value]) -> Option<String> {
    let encoded = STANDARD.encode(SECRET_WORD);
    // The last digits of base64 depend on what follows.
    let words = [SECRET_WORD, &encoded[..encoded.len() - 4]];
    let is_in = |text: &str| words.iter().any(|word| text.contains(word));
    let files = git.files(STATUS);
    let file = files.iter().find(|(_, content)| is_in(&String::from_utf8_lossy(content)));
    let run = runs.iter().find(|run| is_in(&run.to_string()));
    match (file, run) {
        (Some((path, _)), _) => Some(format!("a Secret's value is in {path}")),
        (None, Some(run)) => Some(format!("a Secret's value is in run {}", run["metadata"]["name"])),
        (None, None) => None,
    }
}
