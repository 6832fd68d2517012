//! What the entries of a journal come to, read off borrowed events.

use std::collections::BTreeMap;

use super::{Entry, Event, Paused, PausedCluster, SafetyBackup, Step, StepTime, VersionHad, WorkloadRef};
use crate::webhook::silence::{Silenced, SilencedWebhook};

/// [`super::Journal::replicas`] of borrowed events.
pub fn replicas(events: &[Event]) -> BTreeMap<WorkloadRef, i32> {
    let mut first = BTreeMap::new();
    for event in events {
        if let Entry::Replicas { workload, replicas } = &event.entry {
            first.entry(workload.clone()).or_insert(*replicas);
        }
    }
    first
}

/// What clusters get back that a run paused; `None` where it pauses none. The first word wins, as with replicas, and the first
/// of what is given back beats it.
pub fn paused(events: &[Event]) -> Option<Paused> {
    let (mut had, mut given_back) = (None, Paused::new());
    for event in events {
        let (words, clusters) = match &event.entry {
            Entry::Paused { clusters } => (had.get_or_insert_default(), clusters),
            Entry::Unpaused { clusters } => (&mut given_back, clusters),
            _ => continue,
        };
        for PausedCluster { namespace, name, paused } in clusters {
            words.entry((namespace.clone(), name.clone())).or_insert(*paused);
        }
    }
    if !given_back.is_empty() {
        had.get_or_insert_default().extend(given_back);
    }
    had
}

/// What silenced webhooks get back; empty where a run silences none. The first word wins, as with replicas, and the first of what is
/// given back beats it.
pub fn silenced(events: &[Event]) -> Silenced {
    let (mut had, mut given_back) = (Silenced::new(), Silenced::new());
    for event in events {
        let (words, webhooks) = match &event.entry {
            Entry::Silenced { webhooks } => (&mut had, webhooks),
            Entry::Unsilenced { webhooks } => (&mut given_back, webhooks),
            _ => continue,
        };
        for SilencedWebhook { webhook, had } in webhooks {
            words.entry(webhook.clone()).or_insert_with(|| had.clone());
        }
    }
    had.extend(given_back);
    had
}

/// Webhooks are silenced, and not yet given back.
pub fn is_silencing(events: &[Event]) -> bool {
    let last = events.iter().rev().find_map(|event| match &event.entry {
        Entry::Silenced { .. } => Some(true),
        Entry::Unsilenced { .. } => Some(false),
        _ => None,
    });
    last.unwrap_or_default()
}

/// [`super::Journal::step_times`] of borrowed events.
pub fn step_times(events: &[Event]) -> Vec<StepTime> {
    let mut times: Vec<StepTime> = Vec::new();
    for Event { at, entry } in events {
        let known = |step: &Step| times.iter().position(|time| time.step == *step);
        match entry {
            Entry::Started { step } if known(step).is_none() => {
                times.push(StepTime { step: *step, started: *at, finished: None, failed: None });
            }
            Entry::Finished { step } => {
                if let Some(index) = known(step) {
                    times[index].finished = Some(*at);
                }
            }
            Entry::Failed { step, .. } => {
                if let Some(index) = known(step) {
                    times[index].failed = Some(*at);
                }
            }
            Entry::Steps { .. }
            | Entry::Started { .. }
            | Entry::Replicas { .. }
            | Entry::Paused { .. }
            | Entry::Unpaused { .. }
            | Entry::Silenced { .. }
            | Entry::Unsilenced { .. }
            | Entry::SafetyBackup { .. }
            | Entry::Handed { .. }
            | Entry::VersionHad { .. }
            | Entry::TakenOver { .. }
            | Entry::Recovered => {}
        }
    }
    times
}

/// The safety backup of the run.
pub fn safety_backup(events: &[Event]) -> Option<&SafetyBackup> {
    events.iter().find_map(|event| {
        let Entry::SafetyBackup { backup } = &event.entry else { return None };
        Some(backup)
    })
}

/// Name and UID of the Restore that the operator was handed.
pub fn handed(events: &[Event]) -> Option<(&str, &str)> {
    events.iter().find_map(|event| {
        let Entry::Handed { restore, uid } = &event.entry else { return None };
        Some((restore.as_str(), uid.as_str()))
    })
}

/// What the run set Rancher's version back from.
pub fn version_had(events: &[Event]) -> Option<&VersionHad> {
    events.iter().find_map(|event| {
        let Entry::VersionHad { had } = &event.entry else { return None };
        Some(had)
    })
}

/// The steps of the run, in their order.
pub fn steps(events: &[Event]) -> &[Step] {
    let own = events.iter().find_map(|event| match &event.entry {
        Entry::Steps { steps } if !steps.is_empty() => Some(steps.as_slice()),
        _ => None,
    });
    own.unwrap_or(Step::NATIVE)
}

/// The operator writes the objects of this run.
pub fn has_operator(events: &[Event]) -> bool {
    steps(events).contains(&Step::Operator)
}
