//! What was sent under a lease, was not answered, and may still be carried out.
//!
//! A connection that broke says nothing about its request: the server may be at work on it until the time that the request
//! names is over. Whoever begins meanwhile could meet an effect that it did not see coming, so the lease is not given back
//! until then, and not taken again by who sent it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Until when a request of this process may be carried out. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Doubt(Arc<Mutex<Option<Instant>>>);

impl Doubt {
    fn latest(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last of them is over; `None` where all are.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.latest().filter(|until| *until > now)
    }

    /// A call of which nothing was sent yet.
    pub fn call(&self) -> Sent {
        Sent { doubt: self.clone(), until: None }
    }
}

/// One call, with its repetitions. What it has sent is in doubt from when this is dropped.
#[derive(Debug)]
pub struct Sent {
    doubt: Doubt,
    until: Option<Instant>,
}

impl Sent {
    /// A try is sent, on which the server works until then at most. Gives until when the earlier ones were in doubt.
    pub fn trying(&mut self, until: Instant) -> Option<Instant> {
        let before = self.until;
        self.until = before.max(Some(until));
        before
    }

    /// The answer says that no try will be carried out any more.
    pub fn settle(&mut self) {
        self.until = None;
    }

    /// The last try did not reach the server, or was refused; `before` is what [`Sent::trying`] gave.
    pub fn take_back(&mut self, before: Option<Instant>) {
        self.until = before;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut latest = self.doubt.latest();
        *latest = latest.max(self.until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_sent_and_not_answered_is_in_doubt() {
        let doubt = Doubt::default();
        let (now, then) = (Instant::now(), Instant::now() + Duration::from_secs(30));
        let mut answered = doubt.call();
        assert_eq!(answered.trying(then), None);
        answered.settle();
        drop(answered);
        let mut unsent = doubt.call();
        let before = unsent.trying(then);
        unsent.take_back(before);
        drop(unsent);
        assert_eq!(doubt.until(now), None);
        let mut lost = doubt.call();
        lost.trying(now);
        assert_eq!(lost.trying(then), Some(now));
        drop(lost);
        drop(doubt.call());
        assert_eq!(doubt.until(now), Some(then));
        assert_eq!(doubt.until(then), None);
    }
}
