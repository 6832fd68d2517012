//! Runs that wait: for a person who takes a gate away, or for a store.

use tracing::warn;

use super::begin::{Begun, chain, end};
use super::ledger::Books;
use super::look::Looked;
use super::{Agent, PassError, hold_expires};
use crate::cluster::ClusterWriter;
use crate::desired::Placed;
use crate::execute::Recorder;
use crate::plan::gate::{Gate, GateCode};
use crate::run::Phase;

impl Agent {
    /// Two manifests that one commit changed hold each other.
    pub(super) async fn hold_ambiguous(
        &self,
        writer: &ClusterWriter,
        books: &Books,
        placed: &Placed,
        others: Vec<String>,
    ) -> Result<Begun, PassError> {
        let recorder = self.recorder(writer, books, placed).await?;
        let gate = Gate::new(
            GateCode::Ambiguous,
            format!("the same commit changed {}", others.join(", ")),
            "remove all but one, or change the one that shall run in a commit of its own",
        );
        self.hold(writer, recorder, vec![gate], None).await
    }

    /// Holds a run, or fails it when it was held for too long. A hold that says nothing new is not written again.
    pub(super) async fn hold(
        &self,
        writer: &ClusterWriter,
        mut recorder: Recorder,
        gates: Vec<Gate>,
        looked: Option<&Looked>,
    ) -> Result<Begun, PassError> {
        let codes: Vec<&str> = gates.iter().filter(|gate| gate.holds()).map(|gate| gate.code.as_str()).collect();
        let reason = codes.first().copied().unwrap_or("Gates").to_owned();
        let message = format!("held by {}", codes.join(", "));
        let record = looked.map(|looked| looked.plan.record());
        let changed = {
            let status = recorder.status();
            status.phase != Phase::Held || status.gates != gates || !status.journal.is_empty()
        };
        if let Some(ended) = self.expire(writer, &mut recorder, &message).await? {
            return Ok(ended);
        }
        if changed {
            let now = self.now();
            warn!("run {} is {message}", recorder.name());
            recorder
                .update(writer, |run| {
                    let status = run.status.get_or_insert_default();
                    status.phase = Phase::Held;
                    status.reason = reason.clone();
                    status.message = message.clone();
                    status.held_since.get_or_insert(now);
                    status.started_at = None;
                    status.gates = gates.clone();
                    status.plan = record.clone().or_else(|| status.plan.take());
                    status.journal = Vec::new();
                })
                .await?;
            self.publisher.submit(recorder.run());
        }
        Ok(Begun::Held)
    }

    /// The store does not answer, or refuses us: that is no gate, but it holds all the same.
    pub(super) async fn hold_for_store(
        &self,
        writer: &ClusterWriter,
        mut recorder: Recorder,
        problem: &crate::store::StoreError,
    ) -> Result<Begun, PassError> {
        let message = format!("the backup cannot be read: {}", chain(problem));
        if let Some(ended) = self.expire(writer, &mut recorder, &message).await? {
            return Ok(ended);
        }
        let status = recorder.status();
        if status.phase != Phase::Held || status.message != message {
            warn!("run {}: {message}", recorder.name());
            let now = self.now();
            recorder
                .update(writer, |run| {
                    let status = run.status.get_or_insert_default();
                    status.phase = Phase::Held;
                    status.reason = "StoreUnavailable".to_owned();
                    status.message = message.clone();
                    status.gates = Vec::new();
                    status.held_since.get_or_insert(now);
                })
                .await?;
            self.publisher.submit(recorder.run());
        }
        Ok(Begun::Held)
    }

    async fn expire(
        &self,
        writer: &ClusterWriter,
        recorder: &mut Recorder,
        why: &str,
    ) -> Result<Option<Begun>, PassError> {
        let expires = hold_expires(recorder.run(), self.config.policy.max_hold);
        let now = self.now();
        if expires.is_none_or(|expires| now < expires) {
            return Ok(None);
        }
        let message = format!("{why} for longer than policy.maxHold; change reinback.io/requested-at to ask again");
        recorder.update(writer, |run| end(run, Phase::Failed, "HoldExpired", &message, now)).await?;
        self.publisher.submit(recorder.run());
        Ok(Some(Begun::Ended(Phase::Failed)))
    }
}

/// What holds a manifest whatever backup and cluster say.
pub fn held_unseen(placed: &Placed, books: &Books) -> Option<Gate> {
    let path = books.unreadable.first()?;
    let mut gate = Gate::new(
        GateCode::LedgerMismatch,
        format!("{} status files cannot be read, so what they stand for may have run: {path}", books.unreadable.len()),
        "restore the file from the status branch's history, or accept LedgerMismatch in reinback.io/accept",
    );
    gate.accepted = placed.manifest.options.accept.contains(&GateCode::LedgerMismatch);
    (!gate.accepted).then_some(gate)
}
