//! Webhooks that nobody answers, silenced while objects are written where the author accepted the gate.
//!
//! Which ones the plan says, and no others are touched. What each had is in the journal before the first of them is silenced, and by
//! the same patch in an annotation of its own object ([`SILENCED_ANNOTATION`]). Objects of the backup that hold such a
//! webhook are written silenced, with the backup's value in the annotation. What each gets back is the annotation's value
//! before the journal's, and is in the journal too before the first gets it; where somebody has set another value
//! meanwhile, that stays.

use std::time::Duration;

use serde_json::Value;
use tracing::{info, warn};

use super::quiesce::is_conflict;
use super::{ExecuteError, Executor, StepError, Work};
use crate::cluster::{FailureKind, Target};
use crate::journal::Entry;
use crate::webhook::silence::{
    Had, Holder, HolderKind, SILENCED_ANNOTATION, SilencedWebhook, WebhookRef, by_holder, is_silenced, patch, silence,
    truth, unsilence,
};

const CONFLICT_TRIES: usize = 5;
/// An API server hears of a change to its webhooks by a watch, each of several for itself, and a definition's objects are
/// served anew then.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Of the values in the journal, as JSON: a sixth of what etcd takes for the whole `Run` in one request. A conversion of
/// Cluster API's has about 2 kB, most of it a certificate.
const JOURNALED_MAX_BYTES: usize = 256 << 10;

/// Which webhooks are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hooks {
    Admission,
    Conversion,
}

impl Hooks {
    fn are_of(self, kind: HolderKind) -> bool {
        (self == Self::Conversion) == (kind == HolderKind::CustomResourceDefinition)
    }
}

/// What a holder's webhooks become.
enum Becomes {
    Silent,
    AsBefore,
}

impl Executor {
    /// What every planned webhook has; durable before the first is silenced. One that is gone is none any more.
    pub(super) async fn record_webhooks(&self, work: &mut Work) -> Result<(), StepError> {
        let mut webhooks = Vec::new();
        for (holder, names) in by_holder(&work.recorder.to_silence()) {
            let Some(object) = self.look_at_holder(&holder).await? else { continue };
            let known = known(work, &holder);
            let has = |name: &String| Some((name.clone(), truth(holder.kind, &object, name, known.get(name))?));
            webhooks.extend(names.iter().filter_map(has).map(|(name, had)| named(&holder, name, had)));
        }
        if webhooks.is_empty() {
            return Ok(());
        }
        let bytes: usize = webhooks.iter().map(|webhook| webhook.had.to_string().len()).sum();
        if bytes > JOURNALED_MAX_BYTES {
            let message =
                format!("what {} webhooks have is more than a journal may hold: {bytes} bytes", webhooks.len());
            return Err(StepError::failed("QuiesceFailed", message));
        }
        Ok(work.recorder.append(&self.writer, Entry::Silenced { webhooks }).await?)
    }

    /// Returns when the API server has heard of it.
    pub(super) async fn silence_webhooks(&self, hooks: Hooks, work: &mut Work) -> Result<(), StepError> {
        let webhooks = work.recorder.silenced().into_keys().filter(|webhook| hooks.are_of(webhook.kind));
        let mut any = false;
        for (holder, names) in by_holder(&webhooks.collect::<Vec<_>>()) {
            let known = known(work, &holder).into_iter().filter(|(name, _)| names.contains(name)).collect();
            if self.change(&holder, &known, Becomes::Silent).await? {
                info!("silenced {} of {holder}", names.into_iter().collect::<Vec<_>>().join(", "));
                any = true;
            }
        }
        if any {
            tokio::time::sleep(HEARD_WITHIN).await;
        }
        Ok(())
    }

    /// Gives every webhook what it had, or what the backup has. All are tried, whatever becomes of one.
    pub(super) async fn unsilence(&self, hooks: Hooks, work: &mut Work) -> Result<(), StepError> {
        let webhooks = work.recorder.to_silence();
        let holders = by_holder(webhooks.iter().filter(|webhook| hooks.are_of(webhook.kind)));
        self.record_given_back(holders.keys(), work).await?;
        let mut failure = None;
        for holder in holders.into_keys() {
            match self.change(&holder, &known(work, &holder), Becomes::AsBefore).await {
                Ok(true) => info!("gave the webhooks of {holder} back what they had"),
                Ok(false) => {}
                Err(StepError::Failed(why)) => {
                    let message = format!(
                        "{holder} stays silenced, and its annotation {SILENCED_ANNOTATION} says what it had: {}",
                        why.message
                    );
                    work.recorder.warn(&message);
                    failure.get_or_insert(StepError::failed("ResumeFailed", message));
                }
                Err(other) => return Err(other),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// For a run that ends without a resume.
    pub(super) async fn unsilence_for_good(&self, work: &mut Work) -> Result<(), ExecuteError> {
        for hooks in [Hooks::Conversion, Hooks::Admission] {
            match self.unsilence(hooks, work).await {
                Ok(()) => {}
                Err(StepError::Failed(why)) => warn!("{}", why.message),
                Err(StepError::BrokenOff(error)) => return Err(error),
                // Nothing here waits.
                Err(StepError::Stopped) => {}
            }
        }
        Ok(())
    }

    async fn record_given_back(
        &self,
        holders: impl Iterator<Item = &Holder>,
        work: &mut Work,
    ) -> Result<(), StepError> {
        let mut webhooks = Vec::new();
        for holder in holders {
            let Some(object) = self.look_at_holder(holder).await? else { continue };
            let known = known(work, holder);
            let names = work.recorder.to_silence();
            let names = names.into_iter().filter(|webhook| is_held_by(webhook, holder)).map(|webhook| webhook.webhook);
            for name in names {
                let Some(truth) = truth(holder.kind, &object, &name, known.get(&name)) else { continue };
                if is_silenced(holder.kind, &object, &name, &truth) {
                    webhooks.push(named(holder, name, truth));
                }
            }
        }
        match webhooks.is_empty() {
            true => Ok(()),
            false => Ok(work.recorder.append(&self.writer, Entry::Unsilenced { webhooks }).await?),
        }
    }

    /// True when something was to change. One that is gone needs no change.
    async fn change(&self, holder: &Holder, known: &Had, becomes: Becomes) -> Result<bool, StepError> {
        let resource = holder.kind.resource();
        let target = Target::new(&resource, None, &holder.name);
        for _ in 0..CONFLICT_TRIES {
            let Some(live) = self.look_at_holder(holder).await? else { return Ok(false) };
            let mut wanted = live.clone();
            match becomes {
                Becomes::Silent => silence(&resource, &mut wanted, known.keys().map(String::as_str), known),
                Becomes::AsBefore => unsilence(&resource, &mut wanted, known),
            }
            let Some(patch) = patch(holder.kind, &live, &wanted) else { return Ok(false) };
            match self.writer.merge_patch(&target, &patch).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == Some(FailureKind::NotFound) => return Ok(false),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reason = match becomes {
            Becomes::Silent => "QuiesceFailed",
            Becomes::AsBefore => "ResumeFailed",
        };
        Err(StepError::failed(reason, format!("{holder} changes faster than it can be patched")))
    }

    async fn look_at_holder(&self, holder: &Holder) -> Result<Option<Value>, StepError> {
        let resource = holder.kind.resource();
        let answer = self.reader.get(&Target::new(&resource, None, &holder.name)).await?;
        Ok(answer.map(|answer| answer.value().unwrap_or(Value::Null)))
    }
}

fn is_held_by(webhook: &WebhookRef, holder: &Holder) -> bool {
    webhook.kind == holder.kind && webhook.name == holder.name
}

/// What the journal says of the webhooks of an object.
fn known(work: &Work, holder: &Holder) -> Had {
    let all = work.recorder.silenced().into_iter().filter(|(webhook, _)| is_held_by(webhook, holder));
    all.map(|(webhook, had)| (webhook.webhook, had)).collect()
}

fn named(holder: &Holder, webhook: String, had: Value) -> SilencedWebhook {
    SilencedWebhook { webhook: WebhookRef { kind: holder.kind, name: holder.name.clone(), webhook }, had }
}
