//! Downstream clusters: connected as they were before?

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{Judged, word};

/// One object of `clusters.management.cattle.io`, as far as it says whether the cluster is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNow {
    pub name: String,
    /// As people call it.
    pub display_name: String,
    /// The condition `Connected`; where there is none (Rancher before 2.6), `Ready`.
    pub connected: bool,
    /// When that condition was last written, as far as it says.
    pub written: Option<Timestamp>,
}

impl ClusterNow {
    /// `None` without a name.
    pub fn read(value: &Value) -> Option<Self> {
        let name = value.pointer("/metadata/name").and_then(Value::as_str)?.to_owned();
        let display_name = value.pointer("/spec/displayName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
        let condition = |kind: &str| conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
        let condition = condition("Connected").or_else(|| condition("Ready"));
        let written = condition.and_then(|condition| condition["lastUpdateTime"].as_str()?.parse().ok());
        let connected = condition.is_some_and(|condition| condition["status"] == "True");
        Some(Self { name, display_name, connected, written })
    }

    /// It was this Rancher that said so. The restore brings the conditions of the backup back, and Rancher, which looks
    /// every 15 seconds (its `pkg/controllers/management/clusterconnected`), writes only what is not so: what is older than
    /// `since` counts once Rancher has had the time to look (`settled`).
    fn is_back(&self, since: Timestamp, settled: bool) -> bool {
        self.connected && (settled || self.written.is_some_and(|written| written >= since))
    }

    fn told(&self) -> String {
        match self.display_name.as_str() {
            "" => self.name.clone(),
            display => format!("{} ({})", self.name, word(display)),
        }
    }
}

/// Judges the clusters by those that were connected before the run, by name; `None` where that was not recorded.
///
/// `since` is when Rancher was Ready again; `settled` says that it has had the time to look at all of them.
pub fn clusters(before: Option<&[String]>, now: &[ClusterNow], since: Timestamp, settled: bool) -> Judged {
    let Some(before) = before else {
        return Judged::not_asked("which clusters were connected before the run was not recorded");
    };
    let before: BTreeSet<&str> = before.iter().map(String::as_str).collect();
    let there: BTreeSet<&str> = now.iter().map(|cluster| cluster.name.as_str()).collect();
    let (mut back, mut missing, mut rest) = (0_usize, Vec::new(), Vec::new());
    for cluster in now {
        let is_back = cluster.is_back(since, settled);
        match (before.contains(cluster.name.as_str()), is_back) {
            (true, true) => {
                back += 1;
                rest.push(format!("{}: connected", cluster.told()));
            }
            (true, false) => missing.push(format!("{}: not connected, and was before", cluster.told())),
            (false, true) => rest.push(format!("{}: connected, and was not before", cluster.told())),
            (false, false) => rest.push(format!("{}: not connected, as before", cluster.told())),
        }
    }
    missing.extend(before.difference(&there).map(|name| format!("{name}: gone, and was connected before")));
    let of = before.len();
    let judged = match missing.len() {
        0 if of == 0 => Judged::passed("no cluster was connected before"),
        0 => Judged::passed(format!("all {of} clusters that were connected before are so again")),
        count => Judged::failed(format!("{count} of {of} clusters that were connected before are not; {back} are")),
    };
    missing.extend(rest);
    judged.with(missing)
}
