//! Which objects a plan would delete, kept small enough for a `Run`: who goes on with a run deletes these and no others.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::store::Sha256;

/// Bytes kept of a UID's digest: that an object is taken for one of 20,000 by chance happens once in 10^15 objects.
const MARK_BYTES: usize = 8;
/// More objects than these are not kept: they would take more than 214 kB of a `Run`, which is written every 2 s.
const KEPT: usize = 20_000;

/// The objects by their UIDs, so that one that was made anew under the same name is none of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlannedDeletions(BTreeSet<[u8; MARK_BYTES]>);

impl PlannedDeletions {
    pub fn of<'a>(uids: impl IntoIterator<Item = &'a str>) -> Self {
        Self(uids.into_iter().map(mark).collect())
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.0.contains(&mark(uid))
    }

    /// As it is kept; `None` when there are too many.
    pub fn text(&self) -> Option<String> {
        (self.0.len() <= KEPT).then(|| BASE64.encode(self.0.iter().flatten().copied().collect::<Vec<u8>>()))
    }

    /// What [`PlannedDeletions::text`] gave; `None` of anything else.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        let (marks, []) = bytes.as_chunks::<MARK_BYTES>() else { return None };
        Some(Self(marks.iter().copied().collect()))
    }
}

fn mark(uid: &str) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&Sha256::of(uid.as_bytes()).as_bytes()[..MARK_BYTES]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_planned_is_told_from_what_was_not_after_it_was_kept() {
        let planned = PlannedDeletions::of(["a", "b"]);
        let kept = planned.text().and_then(|text| PlannedDeletions::read(&text)).expect("it is kept");
        assert_eq!(kept, planned);
        assert!(kept.contains("a") && kept.contains("b") && !kept.contains("c"));
        let nothing = PlannedDeletions::default().text().expect("it is kept");
        assert!(!PlannedDeletions::read(&nothing).expect("readable").contains("a"));
        assert_eq!(PlannedDeletions::read("what somebody wrote"), None);
        assert_eq!(PlannedDeletions::read("AAAA"), None);
    }

    #[test]
    fn more_than_fit_into_a_run_are_not_kept() {
        let uids: Vec<String> = (0..=KEPT).map(|number| number.to_string()).collect();
        let text = |count: usize| PlannedDeletions::of(uids[..count].iter().map(String::as_str)).text();
        assert!(text(KEPT).is_some_and(|text| text.len() < 214_000));
        assert_eq!(text(KEPT + 1), None);
    }
}
