//! As whom an object is written.
//!
//! rancher-webhook stays up, and denies writes that take objects back to what an older Rancher had: fields that must not
//! change, users and creators that it does not know. It lets one identity pass unseen, its sudo ServiceAccount together with
//! the group `system:masters` (rancher/webhook, `pkg/admission/admission.go`; Rancher itself writes so). That identity may do
//! anything, so it is taken only for writes that rules of rancher-webhook's own configurations match, as they are live after
//! quiesce, and only where the ServiceAccount exists; everything else is written as ourselves, and every other webhook is
//! asked as ever.

use std::sync::Arc;

use super::{Executor, LaidOut, StepError};
use crate::cluster::{ClusterWriter, Impersonate, Target};
use crate::rancher::{SUDO_ACCOUNT, SUDO_GROUP};
use crate::webhook::{Operation, Write};

/// The two identities, and what says which is taken.
#[derive(Clone)]
pub struct Writers {
    own: ClusterWriter,
    sudo: ClusterWriter,
    laid_out: Arc<LaidOut>,
}

impl Executor {
    pub(super) fn writers(&self, laid_out: &Arc<LaidOut>) -> Result<Writers, StepError> {
        let (namespace, name) = SUDO_ACCOUNT;
        let sudo = Impersonate {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![SUDO_GROUP.to_owned()],
        };
        Ok(Writers {
            own: self.writer.clone(),
            sudo: self.writer.impersonating(&sudo)?,
            laid_out: Arc::clone(laid_out),
        })
    }
}

impl Writers {
    /// For a write of the object.
    pub fn to(&self, target: &Target<'_>, operation: Operation) -> &ClusterWriter {
        self.pick(target, operation, false)
    }

    /// For a write of its status.
    pub fn to_status(&self, target: &Target<'_>) -> &ClusterWriter {
        self.pick(target, Operation::Update, true)
    }

    fn pick(&self, target: &Target<'_>, operation: Operation, status: bool) -> &ClusterWriter {
        let Target { resource, namespace, name } = *target;
        let write = Write { resource, operation, status, namespace, name };
        match self.laid_out.observed.cluster.webhooks.takes_sudo(&write) {
            true => &self.sudo,
            false => &self.own,
        }
    }
}
