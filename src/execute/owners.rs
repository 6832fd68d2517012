//! The UIDs of owners while a plan is carried out.
//!
//! A dependent is written with the UID that its owner has by then. An owner that is live keeps its UID, so its dependents
//! need not wait for it; one that is made, or made anew, is waited for by each of its dependents alone, so that objects of
//! all depths are in flight at once. An owner that turns out to be gone when it is written gets another UID after all: its
//! dependents are written once more when the step has written all others.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::journal::Step;
use crate::object::owner::{Owner, OwnerId, WantedOwners};
use crate::observed::OwnerUids;

/// Where in the order of writes an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub step: Step,
    pub depth: u16,
}

impl Place {
    /// Written in the same step, and begun before: it may be waited for.
    fn comes_before(self, other: Self) -> bool {
        self.step == other.step && self.depth < other.depth
    }
}

/// Owners by what their dependents call them.
pub struct Owners {
    /// Objects that others of the backup name as their owner, or as the account of their token.
    named: WantedOwners,
    state: Mutex<State>,
    written: Notify,
}

struct State {
    uids: OwnerUids,
    /// Those that this plan makes, or makes anew, until each is written or has failed.
    coming: HashMap<OwnerId, Place>,
    /// Those that got another UID though the plan did not say so.
    moved: HashSet<OwnerId>,
}

impl Owners {
    /// `uids` are those of live owners that keep them; `coming` are the ones that get one.
    pub fn new(named: WantedOwners, uids: OwnerUids, coming: HashMap<OwnerId, Place>) -> Self {
        let state = State { uids, coming, moved: HashSet::new() };
        Self { named, state: Mutex::new(state), written: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UID of an owner, or of an account, now.
    pub fn uid(&self, id: &OwnerId) -> Option<Box<str>> {
        self.state().uids.get(id).cloned()
    }

    /// The UID of the owner of an object in this namespace now.
    pub fn uid_of(&self, owner: &Owner, namespace: Option<&Arc<str>>) -> Option<Box<str>> {
        let state = self.state();
        owner.candidates(namespace).find_map(|id| state.uids.get(&id).cloned())
    }

    /// All UIDs for a look at many.
    pub fn with_uids<T>(&self, look: impl FnOnce(&OwnerUids) -> T) -> T {
        look(&self.state().uids)
    }

    /// An object was written, and this is its UID now.
    pub fn learn(&self, id: &OwnerId, uid: &str) {
        if !self.named.has(id) {
            return;
        }
        let mut state = self.state();
        let before = state.uids.insert(id.clone(), uid.into());
        if before.is_some_and(|before| *before != *uid) {
            state.moved.insert(id.clone());
        }
    }

    /// An object was written, or will not be: nobody waits for it any more.
    pub fn settle(&self, id: &OwnerId) {
        if self.state().coming.remove(id).is_some() {
            self.written.notify_waiters();
        }
    }

    /// Returns when none of `ids` is still to be written before `place`.
    pub async fn until_settled(&self, ids: &[OwnerId], place: Place) {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            // From here on no owner comes unseen.
            written.as_mut().enable();
            let waits = {
                let state = self.state();
                ids.iter().any(|id| state.coming.get(id).is_some_and(|owner| owner.comes_before(place)))
            };
            if !waits {
                return;
            }
            written.await;
        }
    }

    /// One of these got another UID though the plan did not say so.
    pub fn has_moved(&self, ids: &[OwnerId]) -> bool {
        let state = self.state();
        !state.moved.is_empty() && ids.iter().any(|id| state.moved.contains(id))
    }

    /// Some owner did.
    pub fn any_moved(&self) -> bool {
        !self.state().moved.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(name: &str) -> OwnerId {
        OwnerId { group: "g".into(), kind: "Owner".into(), namespace: None, name: name.into() }
    }

    fn at(step: Step, depth: u16) -> Place {
        Place { step, depth }
    }

    fn owners(uids: &[(&str, &str)], coming: &[(&str, Place)]) -> Owners {
        let named = ["a", "b", "c"].map(id).into_iter().collect();
        let uids = uids.iter().map(|(name, uid)| (id(name), (*uid).into())).collect();
        Owners::new(named, uids, coming.iter().map(|(name, place)| (id(name), *place)).collect())
    }

    async fn waits(owners: &Owners, name: &str, place: Place) -> bool {
        tokio::time::timeout(Duration::from_secs(1), owners.until_settled(&[id(name)], place)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_owner_that_is_begun_before_in_the_same_step_is_waited_for() {
        let coming = [("a", at(Step::Namespaced, 1)), ("c", at(Step::ClusterScoped, 0))];
        let owners = owners(&[("b", "1")], &coming);
        assert!(waits(&owners, "a", at(Step::Namespaced, 2)).await);
        // In a circle the one that goes ahead has no greater depth.
        assert!(!waits(&owners, "a", at(Step::Namespaced, 1)).await);
        assert!(!waits(&owners, "b", at(Step::Namespaced, 2)).await, "it is live");
        assert!(!waits(&owners, "c", at(Step::Namespaced, 2)).await, "its step is over: it failed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_its_owner_is_written_or_has_failed() {
        let owners = Arc::new(owners(&[], &[("a", at(Step::Namespaced, 0)), ("b", at(Step::Namespaced, 0))]));
        let waiting = {
            let owners = Arc::clone(&owners);
            tokio::spawn(async move { owners.until_settled(&[id("a"), id("b")], at(Step::Namespaced, 1)).await })
        };
        tokio::task::yield_now().await;
        owners.learn(&id("a"), "1");
        owners.settle(&id("a"));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the other is not there yet");
        owners.settle(&id("b"));
        waiting.await.expect("it goes on");
        assert_eq!((owners.uid(&id("a")).as_deref(), owners.uid(&id("b"))), (Some("1"), None));
    }

    #[test]
    fn an_owner_that_was_live_and_has_another_uid_has_moved() {
        let owners = owners(&[("a", "1"), ("b", "2")], &[("c", at(Step::Namespaced, 0))]);
        for (name, uid) in [("a", "1"), ("b", "3"), ("c", "4"), ("nobody's", "5")] {
            owners.learn(&id(name), uid);
        }
        let moved = ["a", "b", "c", "nobody's"].map(|name| owners.has_moved(&[id(name)]));
        assert_eq!(moved, [false, true, false, false]);
        assert!(owners.any_moved());
        assert_eq!(owners.uid(&id("nobody's")), None);
    }
}
