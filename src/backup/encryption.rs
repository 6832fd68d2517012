//! Encryption of entries, both ways, by an `EncryptionConfiguration` of Kubernetes.
//!
//! rancher-backup encrypts an entry as an API server encrypts what it stores in etcd, and with its code (`k8s.io/apiserver`,
//! `server/options/encryptionconfig` and `storage/value`): the first provider of the object's type writes
//! `k8s:enc:<provider>:v1:<key>:` and its payload, and the entry is a JSON string of that in base64.
//!
//! | provider | payload | the name of the object is authenticated |
//! |---|---|---|
//! | `secretbox` | 24 bytes of nonce, 16 of tag, ciphertext (XSalsa20-Poly1305) | no |
//! | `aesgcm` | 12 bytes of nonce, ciphertext, 16 of tag | yes: `name`, or `namespace#name`, from the path |
//! | `aescbc` | 16 bytes of IV, ciphertext (PKCS #7) | no, and neither is anything else |
//! | `identity` | the object in the open, no prefix and no base64 | no |
//!
//! What an entry says of itself is compared with its path all the same once it is open, so that none can be put in the place of
//! another by any provider.
//!
//! Which providers a type has: those of `<plural>.<group>`, else of `*.<group>`, else of `*.*`, else `identity`. Several items
//! of the configuration that name the same type add up, in their order. Reading tries each key whose prefix the payload has,
//! in the order of the file, and goes on where one fails: two keys may have the same name, and one name may begin another.

mod cipher;
mod config;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::error::shown;
use crate::object::{ObjectKey, Resource};
use cipher::Cipher;

/// The key of a Secret that holds a configuration, as rancher-backup has it.
pub const CONFIGURATION_KEY: &str = "encryption-provider-config.yaml";

/// Begins what an encryption provider wrote.
const PREFIX: &str = "k8s:enc:";
/// Longest part of a payload's prefix that a message repeats, in bytes.
const MAX_WORD_BYTES: usize = 63;

/// As Go reads it: bits that the last character has too many mean nothing.
pub(super) const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Which keys open and close the entries of which types. Shows no key material, in `Debug` either.
#[derive(Debug)]
pub struct Encryption {
    /// Each type once.
    rules: Vec<Rule>,
}

/// Why a configuration is not one. No key material is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} {problem}")]
pub struct ConfigurationError {
    place: String,
    problem: String,
}

/// Why an entry was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("no encryption configuration was given")]
    NoConfiguration,
    #[error("its key is kept by a KMS plugin, which runs beside an API server only")]
    Kms,
    #[error("Kubernetes has no such provider, or not in this form")]
    UnknownProvider,
    #[error("the configuration has no such provider for `{resource}`")]
    NoProvider { resource: String },
    #[error("the configuration has no key named `{key}` for it")]
    NoKey { key: String },
    /// All keys of that name were tried.
    #[error(
        "the key `{key}` does not open it: it was written with another key of that name, or changed since, or put under another name"
    )]
    WrongKey { key: String },
    #[error("it ends before its nonce and its tag do")]
    Short,
}

/// Why an object was not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the system gives no random bytes")]
    NoRandomBytes,
    #[error("it is too long")]
    TooLong,
}

/// The providers of one type, or of all types of a group.
#[derive(Debug)]
struct Rule {
    /// `*` for all.
    plural: String,
    /// Empty for the core group; `*` for all.
    group: String,
    first: Arc<Providers>,
    /// Of further items that name the same.
    more: Vec<Arc<Providers>>,
}

/// The keys of all providers of one item, in the order in which they are tried. The first writes.
#[derive(Debug)]
struct Providers {
    first: Slot,
    more: Vec<Slot>,
}

#[derive(Debug)]
enum Slot {
    Identity,
    Key(Key),
}

struct Key {
    /// `k8s:enc:<provider>:v1:<name>:`
    prefix: String,
    name: String,
    cipher: Cipher,
}

impl Key {
    fn new(name: &str, cipher: Cipher) -> Self {
        Self { prefix: format!("{PREFIX}{}:v1:{name}:", cipher.provider()), name: name.to_owned(), cipher }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What an object is called: which keys are its own, and what some of them authenticate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub plural: &'a str,
    pub group: &'a str,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

impl<'a> Place<'a> {
    fn of(key: &'a ObjectKey) -> Self {
        let Resource { group, version: _, plural } = &*key.resource;
        Self { plural, group, namespace: key.namespace.as_deref(), name: &key.name }
    }

    fn resource(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `name` or `namespace#name`, as rancher-backup has it.
    fn authenticated(self) -> String {
        match self.namespace {
            Some(namespace) => format!("{namespace}#{}", self.name),
            None => self.name.to_owned(),
        }
    }
}

impl Encryption {
    /// Reads the content of `encryption-provider-config.yaml`.
    ///
    /// # Errors
    ///
    /// What is wrong, with the way to the field. Unknown fields, keys of a wrong length and KMS are errors.
    pub fn parse(content: &[u8]) -> Result<Self, ConfigurationError> {
        config::parse(content)
    }

    /// Whether entries of this type are written encrypted.
    pub fn encrypts(&self, resource: &Resource) -> bool {
        let first = self.rule(&resource.plural, &resource.group).map(|rule| &rule.first.first);
        matches!(first, Some(Slot::Key(_)))
    }

    /// The content of an entry, from the JSON of its object: a JSON string of base64, or `plain` itself where nothing
    /// encrypts its type.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes, or beyond 64 GiB.
    pub fn encrypt(&self, key: &ObjectKey, plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let place = Place::of(key);
        let Some(Slot::Key(Key { prefix, cipher, .. })) =
            self.rule(place.plural, place.group).map(|rule| &rule.first.first)
        else {
            return Ok(plain);
        };
        let mut bytes = prefix.clone().into_bytes();
        cipher.seal(&plain, place.authenticated().as_bytes(), &mut bytes)?;
        let mut entry = String::with_capacity(bytes.len() / 3 * 4 + 6);
        entry.push('"');
        BASE64.encode_string(&bytes, &mut entry);
        entry.push('"');
        Ok(entry.into_bytes())
    }

    /// Opens an entry, whose base64 is `text`; `bytes` holds the same decoded, and then the object.
    pub(super) fn open(&self, place: Place<'_>, text: &str, bytes: &mut Vec<u8>) -> Result<Opened<'_>, Unopened> {
        let Some(form) = Form::of(bytes) else { return Err(Unopened::UnknownProvider) };
        if form.provider == "kms" {
            return Err(Unopened::Kms);
        }
        if !Cipher::PROVIDERS.contains(&form.provider.as_str()) || !bytes.starts_with(form.prefix().as_bytes()) {
            return Err(Unopened::UnknownProvider);
        }
        let prefix = form.prefix();
        let keys: Vec<&Key> = self.keys(place).filter(|key| key.prefix.starts_with(&prefix)).collect();
        if keys.is_empty() {
            return Err(Unopened::NoProvider { resource: place.resource() });
        }
        let mut problem = Unopened::NoKey { key: named_key(&bytes[prefix.len()..]) };
        let authenticated = place.authenticated();
        let mut spoilt = false;
        for key in keys {
            if std::mem::take(&mut spoilt) {
                bytes.clear();
                // It was decoded before.
                BASE64.decode_vec(text, bytes).map_err(|_| Unopened::UnknownProvider)?;
            }
            let Some(payload) = bytes.strip_prefix(key.prefix.as_bytes()).map(<[u8]>::len) else { continue };
            let start = bytes.len() - payload;
            match key.cipher.open(&mut bytes[start..], authenticated.as_bytes()) {
                Ok(range) => return Ok(Opened { range: start + range.start..start + range.end, key }),
                Err(cipher::Failure::Short) => problem = Unopened::Short,
                Err(cipher::Failure::Wrong) => problem = Unopened::WrongKey { key: shown(&key.name) },
            }
            spoilt = true;
        }
        Err(problem)
    }

    /// By the API server's rules.
    fn rule(&self, plural: &str, group: &str) -> Option<&Rule> {
        let named =
            |plural: &str, group: &str| self.rules.iter().find(|rule| rule.plural == plural && rule.group == group);
        named(plural, group).or_else(|| named("*", group)).or_else(|| named("*", "*"))
    }

    fn keys<'e>(&'e self, place: Place<'_>) -> impl Iterator<Item = &'e Key> {
        let rule = self.rule(place.plural, place.group);
        let providers = rule.into_iter().flat_map(|rule| std::iter::once(&rule.first).chain(&rule.more));
        let slots = providers.flat_map(|providers| std::iter::once(&providers.first).chain(&providers.more));
        slots.filter_map(|slot| match slot {
            Slot::Identity => None,
            Slot::Key(key) => Some(key),
        })
    }
}

/// An entry that a key has opened.
#[derive(Debug)]
pub(super) struct Opened<'e> {
    /// Where the object lies.
    pub range: Range<usize>,
    key: &'e Key,
}

impl Opened<'_> {
    /// What it means when the object is no JSON: by a provider that authenticates nothing, that the key is a wrong one after all.
    pub fn doubt(&self) -> Option<Unopened> {
        match self.key.cipher {
            Cipher::Secretbox(_) | Cipher::AesGcm(_) => None,
            Cipher::AesCbc(_) => Some(Unopened::WrongKey { key: shown(&self.key.name) }),
        }
    }
}

/// What the prefix of a payload says: `k8s:enc:<provider>:`.
pub(super) struct Form {
    pub provider: String,
}

impl Form {
    /// `None`: it is not what a provider of Kubernetes wrote.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(PREFIX.as_bytes())?;
        let end = rest.iter().take(MAX_WORD_BYTES + 1).position(|byte| *byte == b':')?;
        let provider = std::str::from_utf8(&rest[..end]).ok()?;
        let is_name = !provider.is_empty() && provider.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        is_name.then(|| Self { provider: provider.to_owned() })
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{}:v1:", self.provider)
    }
}

/// The key that a payload names, as far as that can be told: a name may hold the colon that ends it.
fn named_key(rest: &[u8]) -> String {
    let rest = &rest[..rest.len().min(MAX_WORD_BYTES)];
    let end = rest.iter().position(|byte| *byte == b':').unwrap_or(0);
    shown(&String::from_utf8_lossy(&rest[..end]))
}
