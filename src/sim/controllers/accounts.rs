//! Service accounts' tokens: filled, and removed with their account.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Work, delete, kind_key, soon};
use crate::sim::meta::{self, at, text};
use crate::sim::store::Key;
use crate::sim::world::World;

const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Nobody trusts it: nothing here speaks TLS.
pub const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\nc2ltdWxhdGVk\n-----END CERTIFICATE-----\n";

pub fn is_token(secret: &Value) -> bool {
    text(secret, "/type") == "kubernetes.io/service-account-token"
}

/// An account changed: so may its tokens, and its namespace may lack the default one.
pub fn react(world: &mut World, account: &Key) {
    let Some(namespace) = account.namespace() else { return };
    let Some(of) = world.kinds.find("", "secrets").map(|kind| kind.stored.clone()) else { return };
    let secrets = world.store.within(&of, namespace);
    let names = |secret: &Value| annotation(secret, ACCOUNT) == account.name();
    let tokens: Vec<Key> = secrets
        .filter(|(_, secret)| is_token(secret) && names(secret))
        .map(|(path, _)| Key { of: of.clone(), path: path.clone() })
        .collect();
    tokens.into_iter().for_each(|token| soon(world, Work::Token(token)));
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    let annotations = object.pointer("/metadata/annotations");
    annotations.and_then(|annotations| annotations.get(name)).and_then(Value::as_str).unwrap_or_default()
}

pub fn tend_token(world: &mut World, key: &Key) {
    let Some(secret) = world.store.get(key).cloned() else { return };
    let namespace = key.namespace().unwrap_or_default().to_owned();
    let account = kind_key(world, "", "serviceaccounts", Some(&namespace), annotation(&secret, ACCOUNT));
    let account = account.and_then(|account| world.store.get(&account));
    let uid = account.map(|account| meta::uid(account).to_owned());
    let stated = annotation(&secret, ACCOUNT_UID);
    match uid {
        Some(uid) if stated.is_empty() || stated == uid => fill(world, key, &namespace, &uid),
        _ => delete(world, key, None),
    }
}

fn fill(world: &mut World, key: &Key, namespace: &str, uid: &str) {
    let has_token = |secret: &Value| !text(secret, "/data/token").is_empty();
    if world.store.get(key).is_some_and(|secret| has_token(secret) && annotation(secret, ACCOUNT_UID) == uid) {
        return;
    }
    let token = STANDARD.encode(format!("simulated.{}", world.new_uid()));
    world.modify(key, |secret| {
        *at(secret, &["metadata", "annotations", ACCOUNT_UID]) = uid.into();
        let data = at(secret, &["data"]);
        for (field, value) in
            [("token", token), ("ca.crt", STANDARD.encode(AUTHORITY)), ("namespace", STANDARD.encode(namespace))]
        {
            meta::default(data, &[field], json!(value));
        }
    });
}
