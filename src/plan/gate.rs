//! Gates: reasons why a plan may not run, yet or at all.

use std::fmt;
use std::str::FromStr;

/// What takes a gate away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum GateClass {
    /// Nothing but a changed manifest or a changed world.
    Refuse,
    /// The author, by naming the code in `reinback.io/accept`.
    Accept,
    /// Time.
    Wait,
}

macro_rules! gate_codes {
    ($($class:ident: $($code:ident)+;)+) => {
        /// The stable code of a gate; each has a section in `docs/gates.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum GateCode { $($($code,)+)+ }

        impl GateCode {
            /// Every code, refusals first.
            pub const ALL: &[GateCode] = &[$($(GateCode::$code,)+)+];

            pub fn class(self) -> GateClass {
                match self { $($(GateCode::$code)|+ => GateClass::$class,)+ }
            }

            pub fn as_str(self) -> &'static str {
                match self { $($(GateCode::$code => stringify!($code),)+)+ }
            }
        }
    };
}

gate_codes! {
    Refuse: BackupNotFound BackupCorrupt DigestMismatch DecryptionFailed PermissionDenied AccessThroughRancher
        AppliedElsewhere Ambiguous UnsupportedVersion NotSupported OperatorMissing HelmMissing ReleaseNotFound
        KubernetesTooNew StoreNotWritable ApprovalMismatch;
    Accept: AlreadyRun DifferentCluster DifferentServerUrl VersionMismatch VersionBoundary LedgerMismatch
        RancherAtZero ManagedElsewhere CrdVersionsKept ResourceNotServed OwnerMissing Recreates ObjectTerminating
        WebhookUnavailable DownstreamReverts PruneDeletesClusters PruneDeletesNamespaces PruneDeletesCrds PruneShare
        PlanIncomplete NotEncrypted;
    Wait: RunInProgress NamespaceTerminating ReleasePending RancherUpdating StatusNotPushed WindowClosed
        ApprovalMissing;
}

impl fmt::Display for GateCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is not a gate code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a gate code")]
pub struct UnknownGateCode(pub String);

impl FromStr for GateCode {
    type Err = UnknownGateCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or_else(|| UnknownGateCode(text.to_owned()))
    }
}

/// One raised gate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    pub code: GateCode,
    pub class: GateClass,
    /// What stands in the way, naming the object. No secret value is in it.
    pub message: String,
    /// What a person does about it.
    pub remedy: String,
    /// The author listed the code in `reinback.io/accept`: reported, but it does not hold the run.
    pub accepted: bool,
}

impl Gate {
    /// A gate that nobody has accepted yet.
    pub fn new(code: GateCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, class: code.class(), message: message.into(), remedy: remedy.into(), accepted: false }
    }

    /// The run waits for this gate.
    pub fn holds(&self) -> bool {
        !self.accepted
    }
}
