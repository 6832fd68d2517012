//! What tests tell an operator to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What an operator does with a Restore, in its order. A script acts before each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The Lease is taken.
    Lock,
    /// The encryption Secret and the backup are read.
    Load,
    ScaleDown,
    Definitions,
    ClusterScoped,
    Namespaced,
    /// What the backup does not have is deleted.
    Prune,
    /// What is still there loses its finalizers.
    Strip,
    ScaleUp,
    /// The Restore is marked as done.
    Report,
    /// The Lease is given back.
    Unlock,
}

impl Phase {
    pub const ALL: [Self; 11] = [
        Self::Lock,
        Self::Load,
        Self::ScaleDown,
        Self::Definitions,
        Self::ClusterScoped,
        Self::Namespaced,
        Self::Prune,
        Self::Strip,
        Self::ScaleUp,
        Self::Report,
        Self::Unlock,
    ];
}

/// What becomes of a process that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its container is started again after this long.
    Restarts(Duration),
    Never,
}

/// What happens before a phase.
#[derive(Clone)]
pub(super) enum Act {
    Fail(String),
    Wait(Duration),
    Hold(watch::Sender<State>),
    Hang,
    Die(Then),
}

/// How it stands with a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Shut,
    Reached,
    Open,
}

struct Line {
    act: Act,
    /// How often it is still done; `None`: always.
    left: Option<usize>,
}

#[derive(Default)]
struct Lines {
    by_phase: BTreeMap<Phase, Vec<Line>>,
    reached: Vec<Phase>,
    log: Vec<String>,
}

/// Clones are the same script. Without a line an operator goes on.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Lines>>);

impl Script {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, phase: Phase, act: Act, times: Option<usize>) {
        self.lines().by_phase.entry(phase).or_default().push(Line { act, left: times });
    }

    /// The phase fails with this message so many times, or for ever.
    pub fn fail(&self, phase: Phase, message: &str, times: Option<usize>) {
        self.add(phase, Act::Fail(message.to_owned()), times);
    }

    /// The next process that comes to the phase stops there until the gate is opened.
    pub fn hold(&self, phase: Phase) -> Gate {
        let (state, _) = watch::channel(State::Shut);
        self.add(phase, Act::Hold(state.clone()), Some(1));
        Gate(state)
    }

    /// Nothing goes on from here.
    pub fn hang(&self, phase: Phase) {
        self.add(phase, Act::Hang, None);
    }

    /// The next process that comes to the phase takes this long before it.
    pub fn delay(&self, phase: Phase, by: Duration) {
        self.add(phase, Act::Wait(by), Some(1));
    }

    /// The next process that comes to the phase ends there, and forgets all.
    pub fn die(&self, phase: Phase, then: Then) {
        self.add(phase, Act::Die(then), Some(1));
    }

    /// Nothing is told any more, and what holds goes on.
    pub fn clear(&self) {
        let lines = std::mem::take(&mut self.lines().by_phase);
        for line in lines.into_values().flatten() {
            if let Act::Hold(state) = line.act {
                state.send_replace(State::Open);
            }
        }
    }

    /// The phases that were come to, in their order.
    pub fn reached(&self) -> Vec<Phase> {
        self.lines().reached.clone()
    }

    /// What the operator logged, as it does.
    pub fn log(&self) -> Vec<String> {
        self.lines().log.clone()
    }

    pub(super) fn note(&self, level: &str, message: &str) {
        self.lines().log.push(format!("{level}[2026/11/26 03:00:00] {message}"));
    }

    pub(super) fn reach(&self, phase: Phase) {
        self.lines().reached.push(phase);
    }

    /// What is to happen before this phase.
    pub(super) fn next(&self, phase: Phase) -> Option<Act> {
        let mut lines = self.lines();
        let of_phase = lines.by_phase.get_mut(&phase)?;
        let line = of_phase.first_mut()?;
        let act = line.act.clone();
        match &mut line.left {
            Some(left) if *left <= 1 => drop(of_phase.remove(0)),
            Some(left) => *left -= 1,
            None => {}
        }
        Some(act)
    }
}

/// Where an operator stops until a test lets it go on.
pub struct Gate(watch::Sender<State>);

impl Gate {
    /// Waits until an operator stands before it.
    pub async fn reached(&self) {
        let _ = self.0.subscribe().wait_for(|state| *state != State::Shut).await;
    }

    pub fn open(&self) {
        self.0.send_replace(State::Open);
    }
}

/// Stops before a gate until it is opened.
pub(super) async fn stand_before(gate: &watch::Sender<State>) {
    gate.send_if_modified(|state| std::mem::replace(state, (*state).max_reached()) == State::Shut);
    let _ = gate.subscribe().wait_for(|state| *state == State::Open).await;
}

impl State {
    fn max_reached(self) -> Self {
        match self {
            Self::Shut | Self::Reached => Self::Reached,
            Self::Open => Self::Open,
        }
    }
}
