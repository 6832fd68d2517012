//! Rancher's facts, as data.

/// A Deployment that writes to the objects of a backup.
pub struct Writer {
    pub namespace: &'static str,
    pub deployment: &'static str,
}

pub const WRITERS: &[Writer] = &[Writer { namespace: "cattle-fleet-system", deployment: "fleet-controller" }];
