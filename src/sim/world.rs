//! One cluster at one moment: what is stored, what is served, and what its controllers will do next.
//!
//! Nothing here waits. Whoever asks says what time it is, and first everything happens that was due by then, in the order
//! in which it was due. So the state is a function of seed, requests and time, and nothing runs when nobody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::SimOptions;
use super::controllers::{self, Work};
use super::discovery::Registered;
use super::kinds::{Kind, Kinds};
use super::meta;
use super::store::{Key, Revision, Store};
use crate::cluster::Access;

/// How often the store forgets what happened before the last time (kube-apiserver, `--etcd-compaction-interval`).
const COMPACTION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The signs of generated names (apimachinery, `util/rand`).
const NAME_SIGNS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest name before the five generated signs (apiserver, `storage/names`).
const GENERATED_STEM_BYTES: usize = 58;

pub struct World {
    pub store: Store,
    pub kinds: Kinds,
    pub failing: Vec<Registered>,
    pub denied: Vec<Access>,
    /// Owners' uids, and what they own.
    pub dependents: BTreeMap<String, BTreeSet<Key>>,
    pub options: SimOptions,
    rng: Rng,
    elapsed: Duration,
    due: BTreeMap<(Duration, u64), Work>,
    waiting: BTreeSet<Work>,
    enqueued: u64,
    reacted: Revision,
    compact_at: Duration,
    compact_to: Revision,
}

impl World {
    /// An empty cluster with its four namespaces.
    pub fn new(options: SimOptions) -> Self {
        let mut world = Self {
            store: Store::default(),
            kinds: Kinds::built_in(),
            failing: Vec::new(),
            denied: Vec::new(),
            dependents: BTreeMap::new(),
            rng: Rng::with_seed(options.seed),
            options,
            elapsed: Duration::ZERO,
            due: BTreeMap::new(),
            waiting: BTreeSet::new(),
            enqueued: 0,
            reacted: 0,
            compact_at: COMPACTION_INTERVAL,
            compact_to: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.install(&namespace).expect("a namespace is a kind that is served");
        }
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": controllers::NODE}});
        self.install(&node).expect("a node is a kind that is served");
        self.react();
    }

    /// Lets everything happen that was due by `elapsed` since the start.
    pub fn advance(&mut self, elapsed: Duration) {
        self.react();
        while let Some(first) = self.due.first_entry()
            && first.key().0 <= elapsed
        {
            let ((at, _), work) = first.remove_entry();
            self.waiting.remove(&work);
            self.pass(at);
            controllers::run(self, &work);
            self.react();
        }
        self.pass(elapsed);
    }

    /// When something happens next, since the start.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// What tells one state from another: the revision, and how much work was ever begun.
    pub fn mark(&self) -> (Revision, u64) {
        (self.store.revision(), self.enqueued)
    }

    /// Queues what the controllers make of the changes since they last looked.
    pub fn react(&mut self) {
        let Ok(changes) = self.store.since(self.reacted) else { return };
        let changes: Vec<_> = changes.cloned().collect();
        self.reacted = self.store.revision();
        for change in &changes {
            self.index_owners(change.before.as_deref(), change.after.as_deref(), &change.key);
            controllers::react(self, change);
        }
    }

    fn index_owners(&mut self, before: Option<&Value>, after: Option<&Value>, key: &Key) {
        for owner in before.map(meta::owners).unwrap_or_default() {
            let uid = meta::text(owner, "/uid");
            if let Some(owned) = self.dependents.get_mut(uid) {
                owned.remove(key);
                if owned.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
        for owner in after.map(meta::owners).unwrap_or_default() {
            self.dependents.entry(meta::text(owner, "/uid").to_owned()).or_default().insert(key.clone());
        }
    }

    /// Queues work after a delay, unless the same work waits already.
    pub fn queue(&mut self, after: Duration, work: Work) {
        if self.waiting.insert(work.clone()) {
            self.enqueued += 1;
            self.due.insert((self.elapsed + after, self.enqueued), work);
        }
    }

    fn pass(&mut self, elapsed: Duration) {
        self.elapsed = self.elapsed.max(elapsed);
        while self.compact_at <= self.elapsed {
            self.store.forget(self.compact_to);
            self.compact_to = self.store.revision();
            self.compact_at += COMPACTION_INTERVAL;
        }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.elapsed).unwrap_or(SignedDuration::MAX);
        self.options.start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    /// Now, as it stands in objects.
    pub fn time(&self) -> String {
        self.time_after(0)
    }

    pub fn time_after(&self, seconds: i64) -> String {
        let then = self.now().checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A random UID, version 4.
    pub fn new_uid(&mut self) -> String {
        let bits = self.rng.u128(..);
        let bits = bits & !(0xf000 << 64) | (0x4000 << 64);
        let bits = bits & !(0xc000 << 48) | (0x8000 << 48);
        let digits = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
    }

    /// `stem` and five random signs.
    pub fn new_name(&mut self, stem: &str) -> String {
        let mut name = stem[..stem.floor_char_boundary(GENERATED_STEM_BYTES)].to_owned();
        name.extend((0..5).map(|_| char::from(NAME_SIGNS[self.rng.usize(..NAME_SIGNS.len())])));
        name
    }

    /// A random moment between both.
    pub fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (shortest, longest) = (nanos(shortest), nanos(longest));
        Duration::from_nanos(self.rng.u64(shortest..=longest.max(shortest)))
    }

    /// The kind of a stored object; `None` when its definition is gone.
    pub fn kind_of(&self, key: &Key) -> Option<Arc<Kind>> {
        self.kinds.of_stored(&key.of).cloned()
    }

    /// Changes a stored object as a controller does: what changes nothing is not written, and one that is deleted and has
    /// lost its last finalizer goes.
    pub fn modify(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let old = Arc::clone(self.store.get(key)?);
        let mut new = (*old).clone();
        change(&mut new);
        if new == *old {
            return Some(old);
        }
        if let Some(kind) = self.kind_of(key) {
            super::write::count_generation(&kind, &old, &mut new);
        }
        Some(self.keep_or_remove(key, new))
    }

    /// Writes what an update left of an object, or removes it where nothing holds it back any longer.
    pub fn keep_or_remove(&mut self, key: &Key, object: Value) -> Arc<Value> {
        if is_over(key, &object) {
            self.store.remove(key);
            return Arc::new(object);
        }
        self.store.put(key.clone(), object)
    }
}

/// Whether an object is deleted and waits for nothing any longer.
fn is_over(key: &Key, object: &Value) -> bool {
    let is_empty = !key.is("namespaces") || meta::list(object, "/spec/finalizers").is_empty();
    meta::is_deleting(object)
        && meta::finalizers(object).is_empty()
        && meta::number(object, "/metadata/deletionGracePeriodSeconds") == 0
        && is_empty
}
