use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

/// Longest file name of common file systems, in bytes.
const MAX_NAME_BYTES: usize = 255;
const UUID_BYTES: usize = 36;
/// `2026-11-23T05-58-54`
const TIME_BYTES: usize = 19;

/// The file name of a backup: one part of a path, which leads nowhere else.
///
/// Any such name is taken; upstream demands no ending either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName(String);

/// What the operator writes into the names it gives: `<name>-<cluster>-<time>.tar.gz[.enc]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameParts<'a> {
    /// The name of the `Backup` that asked for it.
    pub prefix: &'a str,
    /// UID of the namespace `kube-system`, lower case: which cluster was backed up.
    pub cluster_uid: &'a str,
    /// When the backup was begun, to the second.
    pub taken_at: Timestamp,
    /// Whether an encryption was configured. Says nothing about the entries, which may still lie open.
    pub encrypted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not the file name of a backup: {reason}")]
pub struct BackupNameError {
    shown: String,
    reason: &'static str,
}

impl BackupName {
    /// # Errors
    ///
    /// When `name` is empty, `.`, `..` or longer than 255 bytes, or has a slash, a backslash or a control character.
    pub fn new(name: &str) -> Result<Self, BackupNameError> {
        match fault(name) {
            Some(reason) => Err(BackupNameError { shown: super::error::shown(name), reason }),
            None => Ok(Self(name.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the name says, if the operator gave it.
    pub fn parts(&self) -> Option<NameParts<'_>> {
        let (stem, encrypted) = match self.0.strip_suffix(".enc") {
            Some(stem) => (stem, true),
            None => (self.0.as_str(), false),
        };
        let (before, taken_at) = split_time(stem.strip_suffix(".tar.gz")?)?;
        let (prefix, cluster_uid) = split_at_end(before.strip_suffix('-')?, UUID_BYTES)?;
        let prefix = prefix.strip_suffix('-').filter(|prefix| !prefix.is_empty())?;
        is_uuid(cluster_uid).then_some(NameParts { prefix, cluster_uid, taken_at, encrypted })
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BackupName {
    type Err = BackupNameError;

    fn from_str(name: &str) -> Result<Self, BackupNameError> {
        Self::new(name)
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Some("it is longer than 255 bytes");
    }
    if matches!(name, "." | "..") {
        return Some("it names a folder");
    }
    if name.contains(['/', '\\']) {
        return Some("it has a slash; the folder is part of the storage location");
    }
    name.chars().any(char::is_control).then_some("it has control characters")
}

/// Takes the time off the end: RFC 3339 with dashes for its colons, in UTC (`Z`) or with an offset (`+01-00`).
fn split_time(stem: &str) -> Option<(&str, Timestamp)> {
    let offset_bytes = if stem.ends_with('Z') { 1 } else { 6 };
    let (before, time) = split_at_end(stem, TIME_BYTES + offset_bytes)?;
    let (local, offset) = time.split_at_checked(TIME_BYTES)?;
    let (date, clock) = local.split_once('T')?;
    // jiff reads more forms than the operator writes; only this one is `-` throughout.
    let fixed = |text: &str, digits: usize| text.bytes().filter(u8::is_ascii_digit).count() == digits;
    if local.contains(':')
        || !(fixed(date, 8) && fixed(clock, 6) && fixed(offset, if offset_bytes == 1 { 0 } else { 4 }))
    {
        return None;
    }
    let (sign, offset) = offset.split_at_checked(1)?;
    let rfc3339 = format!("{date}T{}{sign}{}", clock.replace('-', ":"), offset.replace('-', ":"));
    Some((before, rfc3339.parse().ok()?))
}

fn split_at_end(text: &str, bytes: usize) -> Option<(&str, &str)> {
    text.split_at_checked(text.len().checked_sub(bytes)?)
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(n, byte)| match n {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6e9ee6a6-d4f2-46c2-bd99-75269cf041dc";

    fn parts(name: &str) -> Option<(String, String, String, bool)> {
        let name = BackupName::new(name).unwrap();
        let NameParts { prefix, cluster_uid, taken_at, encrypted } = name.parts()?;
        Some((prefix.to_owned(), cluster_uid.to_owned(), taken_at.to_string(), encrypted))
    }

    #[test]
    fn a_name_of_the_operator_says_cluster_and_time() {
        let (prefix, uid, time, encrypted) = parts(&format!("plain-{UID}-2026-11-23T05-58-54Z.tar.gz")).unwrap();
        assert_eq!(
            (prefix.as_str(), uid.as_str(), time.as_str(), encrypted),
            ("plain", UID, "2026-11-23T05:58:54Z", false)
        );
        let (prefix, _, time, encrypted) =
            parts(&format!("my-daily-1-{UID}-2026-11-23T05-58-54+05-30.tar.gz.enc")).unwrap();
        assert_eq!((prefix.as_str(), time.as_str(), encrypted), ("my-daily-1", "2026-11-23T00:28:54Z", true));
        let (.., time, _) = parts(&format!("x-{UID}-2026-11-23T05-58-54-03-00.tar.gz")).unwrap();
        assert_eq!(time, "2026-11-23T08:58:54Z");
    }

    #[test]
    fn other_names_say_nothing() {
        for name in [
            "backup.tar.gz".to_owned(),
            "é.tar.gz".to_owned(),
            format!("plain-{UID}-2026-11-23T05-58-54Z.tgz"),
            format!("plain-{UID}-2026-13-23T05-58-54Z.tar.gz"),
            format!("plain-{UID}-2026-11-23T05-58-5Z.tar.gz"),
            format!("plain-{UID}-2026-11-23T05:58:54Z.tar.gz"),
            format!("{UID}-2026-11-23T05-58-54Z.tar.gz"),
            format!("-{UID}-2026-11-23T05-58-54Z.tar.gz"),
            format!("plain-{}-2026-11-23T05-58-54Z.tar.gz", UID.to_uppercase()),
            format!("plain-{}-2026-11-23T05-58-54Z.tar.gz", UID.replace('-', "0")),
            "-é-2026-11-23T05-58-54Z.tar.gz".to_owned(),
        ] {
            assert_eq!(parts(&name), None, "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(256);
        let said: Vec<String> = ["", ".", "..", "a/b", "../b", "a\\b", "a\nb", &long]
            .iter()
            .map(|name| BackupName::new(name).unwrap_err().to_string().replace(&"x".repeat(200), "x…x"))
            .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        `` is not the file name of a backup: it is empty
        `.` is not the file name of a backup: it names a folder
        `..` is not the file name of a backup: it names a folder
        `a/b` is not the file name of a backup: it has a slash; the folder is part of the storage location
        `../b` is not the file name of a backup: it has a slash; the folder is part of the storage location
        `a\b` is not the file name of a backup: it has a slash; the folder is part of the storage location
        `a\nb` is not the file name of a backup: it has control characters
        `x…x…` is not the file name of a backup: it is longer than 255 bytes
        ");
        for fine in ["a", "..a", "a..tar.gz", "with space.tar.gz", &"x".repeat(255)] {
            assert_eq!(BackupName::new(fine).unwrap().as_str(), fine);
        }
    }
}
