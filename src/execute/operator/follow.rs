//! Watches what tells how far the operator is: its Restore, and the Lease that it takes for each try.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Handed;
use crate::cluster::{ClusterReader, Present, Watched};
use crate::object::Resource;
use crate::operator::{LEASE, State, holder, holder_of, restores, state};

/// Far longer than any run.
const FOR_EVER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between tries while the API server does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of a Restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// Not looked yet.
    Unknown,
    Gone,
    Seen(State),
}

/// What is known of the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Leases {
    /// It is held for the Restore that is followed.
    is_ours: bool,
    /// So often it was given back.
    tries: u64,
    /// Name of the last other Restore that it was held for.
    other: Option<String>,
}

/// Both watches; they end when this is dropped.
pub(super) struct Followed {
    restore: watch::Receiver<Look>,
    leases: watch::Receiver<Leases>,
    told_other: Option<String>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Followed {
    pub fn start(reader: &ClusterReader, handed: &Handed, operator_namespace: &str) -> Self {
        let (sender, restore) = watch::channel(Look::Unknown);
        let (lease_sender, leases) = watch::channel(Leases::default());
        let uid = handed.uid.clone();
        let of_restore = each(reader.clone(), restores(), None, handed.name.clone(), move |present| {
            sender.send_if_modified(|look| replace(look, look_at(present, &uid)));
        });
        let ours = holder_of(&handed.name, &handed.uid);
        let resource = Resource::new("coordination.k8s.io", "v1", "leases");
        let namespace = Some(operator_namespace.to_owned());
        let of_lease = each(reader.clone(), resource, namespace, LEASE.to_owned(), move |present| {
            let held_by = present.values().next().and_then(holder).map(str::to_owned);
            lease_sender.send_if_modified(|leases| replace(leases, leases.after(held_by.as_deref(), &ours)));
        });
        let tasks = [tokio::spawn(of_restore), tokio::spawn(of_lease)];
        Self { restore, leases, told_other: None, tasks }
    }

    /// Returns when something has changed.
    pub async fn changed(&mut self) {
        // The senders live as long as the tasks, which live as long as this.
        let _ = tokio::select! {
            changed = self.restore.changed() => changed,
            changed = self.leases.changed() => changed,
        };
    }

    pub fn restore(&mut self) -> Look {
        self.restore.borrow_and_update().clone()
    }

    /// Tries that have ended while this watched.
    pub fn tries(&mut self) -> u64 {
        self.leases.borrow_and_update().tries
    }

    /// Another Restore that the operator was at, once.
    pub fn other_holder(&mut self) -> Option<String> {
        let other = self.leases.borrow().other.clone();
        if other == self.told_other {
            return None;
        }
        self.told_other.clone_from(&other);
        other
    }
}

impl Leases {
    fn after(&self, held_by: Option<&str>, ours: &str) -> Self {
        let is_ours = held_by == Some(ours);
        let other = held_by.filter(|_| !is_ours).map(|other| {
            let name = other.split_once(':').map_or(other, |(name, _)| name);
            crate::run::cut_message(name)
        });
        Self {
            is_ours,
            tries: self.tries + u64::from(self.is_ours && !is_ours),
            other: other.or_else(|| self.other.clone()),
        }
    }
}

fn look_at(present: &Present, uid: &str) -> Look {
    let of_uid = |live: &&Value| live["metadata"]["uid"] == uid;
    present.values().find(of_uid).map_or(Look::Gone, |live| Look::Seen(state(live)))
}

fn replace<T: PartialEq>(place: &mut T, now: T) -> bool {
    let changed = *place != now;
    *place = now;
    changed
}

/// Tells every state of one object that is heard of.
async fn each(
    reader: ClusterReader,
    resource: Resource,
    namespace: Option<String>,
    name: String,
    mut tell: impl FnMut(&Present) + Send,
) {
    let field = format!("metadata.name={name}");
    let watched =
        Watched { resource: &resource, namespace: namespace.as_deref(), label_selector: "", field_selector: &field };
    loop {
        let looked = reader.wait_until(&watched, Instant::now() + FOR_EVER, |present| {
            tell(present);
            false
        });
        if looked.await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_try_is_counted_when_its_lease_is_given_back() {
        let mut leases = Leases::default();
        for held_by in [None, Some("a:1"), Some("a:1"), None, Some("a:1"), Some("other:2"), None, None] {
            leases = leases.after(held_by, "a:1");
        }
        assert_eq!(leases, Leases { is_ours: false, tries: 2, other: Some("other".to_owned()) });
    }

    #[test]
    fn another_restore_of_the_name_is_not_the_one_that_was_handed_over() {
        let present = |uid: &str| {
            let live = json!({"metadata": {"uid": uid}, "status": {"restoreCompletionTs": "now"}});
            Present::from([((String::new(), "a".to_owned()), live)])
        };
        assert_eq!(look_at(&present("1"), "1"), Look::Seen(State::Done));
        assert_eq!(look_at(&present("2"), "1"), Look::Gone);
        assert_eq!(look_at(&Present::new(), "1"), Look::Gone);
    }
}
