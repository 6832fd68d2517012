//! Names of Git objects, one type for each kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the name of a Git object.
#[derive(Debug, thiserror::Error)]
#[error("not a Git object id: expected 40 hexadecimal digits in lower case, found {length} characters")]
pub struct InvalidId {
    length: usize,
}

fn parse(text: &str) -> Result<git2::Oid, InvalidId> {
    let invalid = || InvalidId { length: text.chars().count() };
    let hex = text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !hex {
        return Err(invalid());
    }
    git2::Oid::from_str(text).map_err(|_| invalid())
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub(super) git2::Oid);

        impl $name {
            /// The first 12 digits, for people.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(12);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

object_id!(
    /// A commit: 40 hexadecimal digits in lower case.
    CommitId
);
object_id!(
    /// A tree: the content of a folder, 40 hexadecimal digits in lower case.
    TreeId
);
object_id!(
    /// A blob: the content of a file, 40 hexadecimal digits in lower case.
    BlobId
);

impl BlobId {
    /// The id that Git gives to this content; `None` when libgit2 cannot hash, for want of memory.
    pub fn of(content: &[u8]) -> Option<Self> {
        git2::Oid::hash_object(git2::ObjectType::Blob, content).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_exactly_forty_lower_case_digits() {
        let whole = "0123456789abcdef0123456789abcdef01234567";
        let id: CommitId = whole.parse().unwrap();
        assert_eq!(id.to_string(), whole);
        assert_eq!(id.short(), "0123456789ab");
        for bad in ["", "0123456789ab", &whole.to_uppercase(), &format!("{whole}0"), &whole.replace('0', "g")] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{whole}\""));
        assert!(serde_json::from_str::<CommitId>("\"main\"").is_err());
    }
}
