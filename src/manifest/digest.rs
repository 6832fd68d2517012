//! Digests that must come out the same for ever.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::text::quoted;
use super::yaml::{Node, Value};

/// A sha256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(nibble(*high)? * 16 + nibble(*low)?)).collect();
        bytes.filter(|_| rest.is_empty())?.try_into().ok().map(Self)
    }
}

/// `sha256:` and 64 hexadecimal digits, as people pin it.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a digest: {}; write `sha256:` and the 64 hexadecimal digits that `sha256sum` prints", quoted(.0))]
pub struct NotADigest(pub String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
        hex.and_then(Self::from_hex).ok_or_else(|| NotADigest(text.to_owned()))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of what a document says: comments, quotes, the order of keys and what `ignored` names do not count.
pub fn of_document(root: &Node, ignored: &dyn Fn(&[&str]) -> bool) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"reinback document v1\n");
    feed(&mut hasher, root, &mut Vec::new(), ignored);
    Digest(hasher.finalize().into())
}

/// Every value is written as a mark, its length and its bytes, so that no two trees are written alike.
fn feed<'a>(hasher: &mut Sha256, node: &'a Node, path: &mut Vec<&'a str>, ignored: &dyn Fn(&[&str]) -> bool) {
    match &node.value {
        Value::Null => hasher.update(b"null\n"),
        Value::Text(text) => feed_word(hasher, "text", text),
        Value::Bare(word) => feed_word(hasher, "bare", word),
        Value::List(items) => {
            hasher.update(format!("list {}\n", items.len()));
            for item in items {
                feed(hasher, item, path, ignored);
            }
        }
        Value::Map(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by_key(|entry| &entry.key);
            hasher.update(b"map\n");
            for entry in sorted {
                path.push(&entry.key);
                if !ignored(path) {
                    feed_word(hasher, "key", &entry.key);
                    feed(hasher, &entry.value, path, ignored);
                }
                path.pop();
            }
            hasher.update(b"end\n");
        }
    }
}

fn feed_word(hasher: &mut Sha256, mark: &str, word: &str) {
    hasher.update(format!("{mark} {}\n", word.len()));
    hasher.update(word);
    hasher.update(b"\n");
}
