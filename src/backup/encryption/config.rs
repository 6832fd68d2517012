//! Reads an `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`).
//!
//! What the API server refuses is refused here, by its own rules (`k8s.io/apiserver`, `apis/apiserver/validation`), for the
//! operator loads the file with the API server's code. A message names the way to a field, the line, and the key where its
//! name looks like one: a value, and what stands where a name belongs, may be key material.

use std::sync::Arc;

use base64::Engine as _;
use secrecy::zeroize::Zeroizing;

use super::cipher::{AES_KEY_BYTES, AesKey, Cipher, SECRETBOX_KEY_BYTES, SecretboxKey};
use super::{BASE64, ConfigurationError, Encryption, Key, Providers, Rule, Slot};
use crate::manifest::yaml::{self, Bounds, Node, Place, Value};

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
const PROVIDERS: &[&str] = &["aesgcm", "aescbc", "secretbox", "identity", "kms"];

/// Largest configuration, in bytes: what a Secret holds at most (Kubernetes, `MaxSecretSize`).
const MAX_BYTES: usize = 1024 * 1024;
/// The deepest field, `resources[].providers[].aescbc.keys[].secret`, lies 8 levels deep.
const MAX_DEPTH: usize = 16;
/// Text that aliases may repeat: keys, mostly.
const MAX_ALIAS_BYTES: usize = 64 * 1024;
/// Most keys that may be tried on one entry.
const MAX_KEYS: usize = 1000;

type Parsed<T> = Result<T, ConfigurationError>;

pub(super) fn parse(content: &[u8]) -> Parsed<Encryption> {
    let root = Field { path: String::new(), node: &document(content)? };
    root.only(&["apiVersion", "kind", "resources"])?;
    for (name, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let field = root.required(name)?;
        if field.text()? != expected {
            return Err(field.fault(format!("must be `{expected}`")));
        }
    }
    let mut rules: Vec<Rule> = Vec::new();
    for entry in root.required("resources")?.items()? {
        entry.only(&["resources", "providers"])?;
        let providers = Arc::new(providers(&entry.required("providers")?)?);
        let names = entry.required("resources")?;
        let mut here: Vec<(String, String)> = Vec::new();
        for name in names.items()? {
            let (plural, group) = group_resource(&name)?;
            let masks = |rule: &&Rule| rule.plural == "*" && (rule.group == "*" || rule.group == group);
            if let Some(Rule { plural, group, .. }) = rules.iter().find(masks) {
                return Err(name.fault(format!("is masked by the earlier `{plural}.{group}`")));
            }
            overlaps(&name, &plural, &group, &here)?;
            here.push((plural, group));
        }
        for (plural, group) in here {
            match rules.iter_mut().find(|rule| rule.plural == plural && rule.group == group) {
                Some(rule) => rule.more.push(Arc::clone(&providers)),
                None => rules.push(Rule { plural, group, first: Arc::clone(&providers), more: Vec::new() }),
            }
        }
    }
    Ok(Encryption { rules })
}

/// The one document of the file.
fn document(content: &[u8]) -> Parsed<Node> {
    let whole = |problem: String| ConfigurationError { place: "the configuration".to_owned(), problem };
    if content.len() > MAX_BYTES {
        return Err(whole(format!("has {} bytes, more than {MAX_BYTES}", content.len())));
    }
    let text = std::str::from_utf8(content).map_err(|_| whole("is not UTF-8".to_owned()))?;
    let bounds = Bounds { documents: 2, depth: MAX_DEPTH, alias_bytes: MAX_ALIAS_BYTES };
    let at = |Place { line, .. }: Place, problem: String| ConfigurationError {
        place: format!("the configuration (line {line})"),
        problem,
    };
    let trees = yaml::read(text, &bounds)
        .map_err(|broken| at(broken.at, format!("cannot be read: {}", without_values(&broken.message))))?;
    let Ok([tree]) = <[yaml::Tree; 1]>::try_from(trees) else {
        return Err(whole(format!("must be one document of the kind {KIND}")));
    };
    match tree.defects.first() {
        Some(defect) => Err(at(defect.at, format!("cannot be read: {}", without_values(&defect.message)))),
        None => Ok(tree.root),
    }
}

fn providers(list: &Field<'_>) -> Parsed<Providers> {
    let mut slots = Vec::new();
    for provider in list.items()? {
        provider.only(PROVIDERS)?;
        let given: Vec<&str> = PROVIDERS.iter().copied().filter(|name| provider.get(name).is_some()).collect();
        let [name] = given[..] else {
            let problem = match given.len() {
                0 => "names no provider: write `secretbox`, `aesgcm`, `aescbc`, or `identity: {}`".to_owned(),
                _ => format!("names several providers ({}): write an item for each", given.join(", ")),
            };
            return Err(provider.fault(problem));
        };
        let field = provider.required(name)?;
        match name {
            "identity" => {
                field.only(&[])?;
                slots.push(Slot::Identity);
            }
            "kms" => {
                return Err(field.fault(
                    "needs a KMS plugin, which runs beside an API server only: reinback reads what secretbox, aesgcm, \
                     aescbc and identity write",
                ));
            }
            _ => slots.append(&mut keys(&field, name)?),
        }
        if slots.len() > MAX_KEYS {
            return Err(list.fault(format!("has more than {MAX_KEYS} keys")));
        }
    }
    let mut slots = slots.into_iter();
    let first = slots.next().ok_or_else(|| list.fault("is empty: name a provider"))?;
    Ok(Providers { first, more: slots.collect() })
}

fn keys(provider: &Field<'_>, scheme: &str) -> Parsed<Vec<Slot>> {
    provider.only(&["keys"])?;
    let key = |item: Field<'_>| {
        item.only(&["name", "secret"])?;
        let name = item.required("name")?.text()?;
        let shown = if looks_like_a_name(name) { format!(" of the key `{name}`") } else { String::new() };
        if name.is_empty() {
            return Err(item.required("name")?.fault("is empty"));
        }
        let secret = item.required("secret")?;
        let text: Zeroizing<String> =
            Zeroizing::new(secret.text()?.chars().filter(|c| !matches!(c, '\r' | '\n')).collect());
        let bytes = BASE64.decode(text.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| secret.fault(format!("{shown} is not base64")))?;
        let wrong = |right: &str| secret.fault(format!("{shown} has {} bytes, {right}", bytes.len()));
        let aes = || AesKey::new(&bytes).ok_or_else(|| wrong(&format!("and a key of {scheme} has {AES_KEY_BYTES}")));
        let cipher = match scheme {
            "secretbox" => {
                let right = format!("and a key of secretbox has {SECRETBOX_KEY_BYTES}");
                Cipher::Secretbox(SecretboxKey::new(&bytes).ok_or_else(|| wrong(&right))?)
            }
            "aesgcm" => Cipher::AesGcm(aes()?),
            _ => Cipher::AesCbc(aes()?),
        };
        Ok(Slot::Key(Key::new(name, cipher)))
    };
    provider.required("keys")?.items()?.into_iter().map(key).collect()
}

/// `secrets` is of the core group, `clusters.management.cattle.io` of its own; `*.` is all of the core group.
fn group_resource(field: &Field<'_>) -> Parsed<(String, String)> {
    let text = field.text()?;
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    let problem = match text {
        "" => "is empty",
        "*" => "names nothing: write `*.` for the core group, or `*.*` for all",
        _ if text.to_lowercase() != text => "has capital letters",
        _ if group == "*" && plural != "*" => {
            "names a type in all groups, which cannot be: name the group, or write `*.*`"
        }
        _ => return Ok((plural.to_owned(), group.to_owned())),
    };
    Err(field.fault(problem))
}

/// In one list, nothing may stand twice or be part of something else in it.
fn overlaps(field: &Field<'_>, plural: &str, group: &str, before: &[(String, String)]) -> Parsed<()> {
    let wide = |plural: &str, group: &str| plural == "*" && group == "*";
    for (other, other_group) in before {
        if (other.as_str(), other_group.as_str()) == (plural, group) {
            return Err(field.fault("is there twice"));
        }
        let same_group = group == other_group && (plural == "*" || other == "*");
        if same_group || wide(plural, group) || wide(other, other_group) {
            return Err(field.fault(format!("overlaps with `{other}.{other_group}` in the same list")));
        }
    }
    Ok(())
}

/// A value of the configuration, and the way to it.
struct Field<'a> {
    path: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    fn fault(&self, problem: impl Into<String>) -> ConfigurationError {
        let Place { line, .. } = self.node.at;
        let path = if self.path.is_empty() { "the configuration" } else { &self.path };
        ConfigurationError { place: format!("{path} (line {line})"), problem: problem.into().trim_start().to_owned() }
    }

    fn child(&self, name: &str, node: &'a Node) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, node }
    }

    /// It must be a mapping, with no fields but these.
    fn only(&self, known: &[&str]) -> Parsed<()> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.fault(format!("must be a mapping, not {}", kind_of(self.node))));
        };
        match entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
            None => Ok(()),
            Some(entry) if looks_like_a_name(&entry.key) => {
                Err(self.fault(format!("has the unknown field `{}`", entry.key)))
            }
            Some(_) => Err(self.fault("has an unknown field")),
        }
    }

    /// A field that is null is as one that is not there.
    fn get(&self, name: &str) -> Option<Self> {
        self.node.get(name).filter(|node| !node.is_null()).map(|node| self.child(name, node))
    }

    fn required(&self, name: &str) -> Parsed<Self> {
        self.get(name).ok_or_else(|| self.fault(format!("has no `{name}`")))
    }

    fn text(&self) -> Parsed<&'a str> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            Value::Bare(_) => Err(self.fault("must be text, not a number or a boolean: write it in quotes")),
            Value::Null | Value::List(_) | Value::Map(_) => {
                Err(self.fault(format!("must be text, not {}", kind_of(self.node))))
            }
        }
    }

    /// The items of a list that has at least one.
    fn items(&self) -> Parsed<Vec<Self>> {
        match &self.node.value {
            Value::List(items) if items.is_empty() => Err(self.fault("is empty")),
            Value::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(at, node)| Self { path: format!("{}[{at}]", self.path), node })
                .collect()),
            Value::Null | Value::Text(_) | Value::Bare(_) | Value::Map(_) => {
                Err(self.fault(format!("must be a list, not {}", kind_of(self.node))))
            }
        }
    }
}

fn kind_of(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "nothing",
        Value::Text(_) => "text",
        Value::Bare(_) => "a number or a boolean",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

/// Whether a word can be shown: the base64 of the shortest key has 24 characters, and no `-`, `_` or `.` among them.
fn looks_like_a_name(word: &str) -> bool {
    const MAX_BYTES: usize = 63;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let no_base64 = word.len() <= 20 || word.contains(['-', '_', '.']);
    word.len() <= MAX_BYTES && no_base64 && word.chars().all(plain)
}

/// The parser's messages quote what they find between backticks.
fn without_values(message: &str) -> String {
    let parts = message.split('`').enumerate();
    parts
        .map(|(n, part)| {
            if n % 2 == 0 {
                part.to_owned()
            } else if looks_like_a_name(part) {
                format!("`{part}`")
            } else {
                "`…`".to_owned()
            }
        })
        .collect()
}
