//! Old safety backups go when a run has succeeded.

use tracing::{info, warn};

use super::Agent;
use super::begin::chain;
use super::ledger::Books;
use crate::run::Run;
use crate::safety;
use crate::store::{Location, OpenStore, StoreError};

impl Agent {
    /// Drops the safety backups of the store that nobody needs any more; `books` are those of before the run, so that `now`, the run as it
    /// ended, stands for what they say of it. That one cannot be dropped is no reason for a run to fail.
    pub(super) async fn drop_old_safety_backups(&self, books: &Books, now: &Run, location: &Location) {
        if !self.config.policy.safety_backup {
            return;
        }
        if let Err(error) = self.try_drop(books, now, location).await {
            warn!("old safety backups stay: {}", chain(&error));
        }
    }

    async fn try_drop(&self, books: &Books, now: &Run, location: &Location) -> Result<(), StoreError> {
        let store = self.stores.open_writer(location).await?;
        let stored = store.list().await?.into_iter().map(|(name, _)| name);
        let keep = self.config.policy.safety_backups;
        let others = books.runs.values().filter(|run| run.metadata.name != now.metadata.name);
        for name in safety::superfluous(stored, others.chain([now]), keep, &books.cluster_uid, self.now()) {
            info!("dropping the safety backup {name}: newer ones are kept");
            store.delete(&name).await?;
        }
        Ok(())
    }
}
