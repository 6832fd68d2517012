use std::collections::BTreeMap;
use std::convert::Infallible;

use serde_json::{Value, json};

use super::super::testing::{Tar, secret};
use super::super::{BackupWriter, Entry, Limits, ReadError, read, reread};
use super::*;

/// 32 bytes each, in base64, of the letters `A` and `B`.
const A: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const B: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

fn fixture(file: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(folder.join(file)).unwrap()
}

fn configuration(resources: &str, providers: &[&str]) -> String {
    let providers: String = providers.iter().map(|provider| format!("      - {provider}\n")).collect();
    format!("  - resources: [{resources}]\n    providers:\n{providers}")
}

fn parse(items: &[String]) -> Result<Encryption, ConfigurationError> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{}",
        items.concat()
    );
    Encryption::parse(text.as_bytes())
}

/// For all types.
fn with(providers: &[&str]) -> Encryption {
    parse(&[configuration("'*.*'", providers)]).unwrap()
}

fn key(provider: &str, name: &str, secret: &str) -> String {
    format!("{provider}: {{keys: [{{name: '{name}', secret: {secret}}}]}}")
}

/// An object and whether it was encrypted, or why it is closed.
type Told = Result<(Value, bool), String>;

/// All objects by their path, or what is wrong with the backup.
fn told(backup: &[u8], encryption: Option<&Encryption>) -> Result<BTreeMap<String, Told>, String> {
    let mut told = BTreeMap::new();
    let outcome = read(backup, backup.len() as u64, &Limits::default(), encryption, |entry| {
        match entry {
            Entry::Object { key, value, encrypted } => drop(told.insert(key.to_string(), Ok((value, encrypted)))),
            Entry::Filters(_) => {}
            Entry::Encrypted { key, provider, problem } => {
                told.insert(key.to_string(), Err(format!("{provider}: {problem}")));
            }
        }
        Ok::<(), Infallible>(())
    });
    outcome.map(|_| told).map_err(|error| match error {
        ReadError::Corrupt(error) => error.to_string(),
        other => format!("{other:?}"),
    })
}

fn object_key(name: &str) -> ObjectKey {
    ObjectKey::new(&Arc::new(Resource::new("", "v1", "secrets")), Some("ns"), name)
}

/// The content of the entry of the Secret `name`.
fn sealed(encryption: &Encryption, name: &str) -> String {
    String::from_utf8(encryption.encrypt(&object_key(name), secret(name).into_bytes()).unwrap()).unwrap()
}

fn payload(entry: &str) -> Vec<u8> {
    BASE64.decode(entry.trim_matches('"')).unwrap()
}

/// The entry of the Secret `a` with this payload.
fn entry_of(payload: &[u8]) -> Vec<u8> {
    Tar::default().file("secrets.#v1/ns/a.json", &format!("\"{}\"", BASE64.encode(payload))).end()
}

/// What a reader with `encryption` says of the Secret `a` with this payload.
fn judged(encryption: &Encryption, payload: &[u8]) -> String {
    match told(&entry_of(payload), Some(encryption)) {
        Ok(told) => match &told["secrets.#v1/ns/a"] {
            Ok((_, encrypted)) => format!("read, encrypted: {encrypted}"),
            Err(problem) => problem.clone(),
        },
        Err(corrupt) => corrupt,
    }
}

#[test]
fn backups_of_the_operator_are_opened_and_hold_the_same_whatever_encrypted_them() {
    let plain = fixture("plain-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-54Z.tar.gz");
    let plain = told(&plain, None).unwrap();
    for (provider, time) in [("secretbox", "54"), ("aescbc", "55"), ("aesgcm", "56")] {
        let backup =
            fixture(&format!("{provider}-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-{time}Z.tar.gz.enc"));
        let encryption = Encryption::parse(&fixture(&format!("enc-{provider}.yaml"))).unwrap();
        let objects = told(&backup, Some(&encryption)).unwrap();
        assert_eq!(objects.len(), 464, "{provider}");
        for (key, object) in objects {
            let (value, encrypted) = object.unwrap();
            assert!(encrypted, "{key} by {provider}");
            assert_eq!(plain[&key], Ok((value, false)), "{key} by {provider}");
        }
        let unopened = told(&backup, None).unwrap();
        let expected = format!("{provider}: no encryption configuration was given");
        assert!(unopened.values().all(|object| *object == Err(expected.clone())), "{provider}");
    }
}

#[test]
fn a_second_pass_opens_what_is_wanted() {
    let backup = fixture("aesgcm-6e9ee6a6-d4f2-46c2-bd99-75269cf041dc-2026-11-23T05-58-56Z.tar.gz.enc");
    let encryption = Encryption::parse(&fixture("enc-aesgcm.yaml")).unwrap();
    let objects = told(&backup, Some(&encryption)).unwrap();
    let mut seen = 0;
    let wanted = |place: u32| std::ops::ControlFlow::Continue(place.is_multiple_of(7));
    let size = backup.len() as u64;
    let outcome = reread(&backup[..], size, &Limits::default(), Some(&encryption), wanted, |_, key, value, _| {
        assert_eq!(objects[&key.to_string()], Ok((value, true)));
        seen += 1;
        Ok::<(), Infallible>(())
    });
    outcome.unwrap();
    assert_eq!(seen, 464_u32.div_ceil(7));
    let closed = reread(&backup[..], size, &Limits::default(), None, wanted, |_, _, _, _| Ok::<(), Infallible>(()));
    assert!(
        closed.unwrap_err().to_string().contains("is encrypted by aesgcm, and no encryption configuration was given")
    );
}

#[test]
fn what_is_encrypted_is_opened_again_by_every_provider_and_key_length() {
    let keys = ["QUFBQUFBQUFBQUFBQUFBQQ==", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB", A];
    let mut providers = vec![key("secretbox", "k", A)];
    for provider in ["aesgcm", "aescbc"] {
        providers.extend(keys.map(|secret| key(provider, "k", secret)));
    }
    for provider in providers {
        let encryption = Arc::new(with(&[&provider]));
        let mut writer =
            BackupWriter::new(Vec::new(), jiff::Timestamp::UNIX_EPOCH).encrypted_by(Arc::clone(&encryption));
        for length in 0..40 {
            let name = "x".repeat(length + 1);
            writer.object(&object_key(&name), &serde_json::from_str(&secret(&name)).unwrap()).unwrap();
        }
        writer.filters(&json!({"resourceSelectors": []})).unwrap();
        let backup = writer.finish().unwrap();
        let objects = told(&backup, Some(&encryption)).unwrap();
        assert_eq!(objects.len(), 40);
        for (path, object) in objects {
            let (object, encrypted) = object.unwrap();
            assert_eq!(object, serde_json::from_str::<Value>(&secret(path.rsplit_once('/').unwrap().1)).unwrap());
            assert!(encrypted, "{provider}");
        }
    }
}

/// Lengths by `k8s.io/apiserver`, `storage/value/encrypt`.
#[test]
fn an_entry_has_the_form_of_the_operators() {
    let plain = secret("a").len();
    let lengths = [("secretbox", 24 + 16 + plain), ("aesgcm", 12 + plain + 16), ("aescbc", 16 + (plain / 16 + 1) * 16)];
    for (provider, length) in lengths {
        let encryption = with(&[&key(provider, "key1", A)]);
        let entry = sealed(&encryption, "a");
        assert!(entry.starts_with('"') && entry.ends_with('"') && !entry.contains('\\'));
        let bytes = payload(&entry);
        let prefix = format!("k8s:enc:{provider}:v1:key1:");
        assert!(bytes.starts_with(prefix.as_bytes()), "{provider}");
        assert_eq!(bytes.len() - prefix.len(), length, "{provider}");
        assert_ne!(entry, sealed(&encryption, "a"), "a nonce is drawn for each entry");
    }
    let identity = with(&["identity: {}", &key("aesgcm", "key1", A)]);
    assert_eq!(sealed(&identity, "a"), secret("a"));
}

#[test]
fn a_type_has_the_providers_of_its_own_else_of_its_group_else_of_all() {
    let encryption = parse(&[
        configuration("secrets, tokens.management.cattle.io", &[&key("secretbox", "own", A)]),
        configuration("events, users.management.cattle.io", &["identity: {}"]),
        configuration("'*.', '*.apps'", &[&key("aesgcm", "group", A)]),
        configuration("'*.*'", &[&key("aescbc", "all", A)]),
    ])
    .unwrap();
    let writer = |group: &str, plural: &str| {
        let resource = Arc::new(Resource::new(group, "v1", plural));
        let key = ObjectKey::new(&resource, None, "a");
        let entry = String::from_utf8(encryption.encrypt(&key, b"{}".to_vec()).unwrap()).unwrap();
        assert_eq!(encryption.encrypts(&resource), entry != "{}");
        match entry.as_str() {
            "{}" => "nobody".to_owned(),
            sealed => String::from_utf8_lossy(&payload(sealed))
                .splitn(6, ':')
                .skip(2)
                .step_by(2)
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
        }
    };
    let said = [("", "secrets"), ("", "events"), ("", "configmaps"), ("apps", "secrets"), ("apps", "deployments")]
        .into_iter()
        .chain([
            ("management.cattle.io", "tokens"),
            ("management.cattle.io", "users"),
            ("management.cattle.io", "clusters"),
        ])
        .map(|(group, plural)| format!("{plural}.{group}: {}", writer(group, plural)));
    insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @r"
    secrets.: secretbox own
    events.: nobody
    configmaps.: aesgcm group
    secrets.apps: aesgcm group
    deployments.apps: aesgcm group
    tokens.management.cattle.io: secretbox own
    users.management.cattle.io: nobody
    clusters.management.cattle.io: aescbc all
    ");
    let partly = parse(&[configuration("secrets", &[&key("secretbox", "own", A)])]).unwrap();
    assert!(!partly.encrypts(&Resource::new("", "v1", "configmaps")));
}

#[test]
fn items_that_name_the_same_type_add_up() {
    let [old, new] = [key("secretbox", "old", A), key("secretbox", "new", B)];
    let encryption =
        parse(&[configuration("secrets", &[&new]), configuration("configmaps, secrets", &[&old])]).unwrap();
    assert!(payload(&sealed(&encryption, "a")).starts_with(b"k8s:enc:secretbox:v1:new:"));
    let by_old = payload(&sealed(&with(&[&old]), "a"));
    assert_eq!(judged(&encryption, &by_old), "read, encrypted: true");
}

#[test]
fn every_key_that_may_be_meant_is_tried_in_the_order_of_the_file() {
    for provider in ["secretbox", "aesgcm", "aescbc"] {
        let [a, b] = [key(provider, "k", A), key(provider, "k", B)];
        let by_b = payload(&sealed(&with(&[&b]), "a"));
        // The same name twice, in one provider and in two; `identity` first, as one who leaves encryption has it.
        let twice = format!("{provider}: {{keys: [{{name: k, secret: {A}}}, {{name: k, secret: {B}}}]}}");
        for providers in [vec![&a, &b], vec![&twice], vec![&"identity: {}".to_owned(), &twice]] {
            let providers: Vec<&str> = providers.into_iter().map(String::as_str).collect();
            assert_eq!(judged(&with(&providers), &by_b), "read, encrypted: true", "{providers:?}");
        }
        // A name that begins another.
        let long = key(provider, "k:1", B);
        let by_long = payload(&sealed(&with(&[&long]), "a"));
        assert_eq!(judged(&with(&[&a, &long]), &by_long), "read, encrypted: true");
    }
}

#[test]
fn what_no_key_opens_is_said_with_its_reason() {
    let mut said = Vec::new();
    for provider in ["secretbox", "aesgcm", "aescbc"] {
        let right = with(&[&key(provider, "key1", A)]);
        let bytes = payload(&sealed(&right, "a"));
        let prefix = format!("k8s:enc:{provider}:v1:key1:").len();
        let other = with(&["identity: {}", &key(if provider == "aescbc" { "aesgcm" } else { "aescbc" }, "key1", A)]);
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        said.extend([
            judged(&with(&[&key(provider, "key1", B)]), &bytes),
            judged(&with(&[&key(provider, "key2", A)]), &bytes),
            judged(&other, &bytes),
            judged(&right, &changed),
            judged(&right, &bytes[..prefix + 12]),
            judged(&right, &bytes[..prefix]),
            judged(&right, &bytes[..prefix - 5]),
            judged(&right, &payload(&sealed(&right, "b"))),
        ]);
    }
    let right = with(&[&key("secretbox", "key1", A)]);
    for foreign in
        ["k8s:enc:kms:v1:vault:x", "k8s:enc:kms:v2:vault:x", "k8s:enc:secretbox:v2:key1:x", "k8s:enc:rot13:v1:key1:x"]
    {
        said.push(judged(&right, foreign.as_bytes()));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    secretbox: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    secretbox: the configuration has no key named `key1` for it
    secretbox: the configuration has no such provider for `secrets`
    secretbox: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    secretbox: it ends before its nonce and its tag do
    secretbox: it ends before its nonce and its tag do
    secretbox: the configuration has no key named `` for it
    entry secrets.#v1/ns/a.json says the name `b` where its path says `a`
    aesgcm: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    aesgcm: the configuration has no key named `key1` for it
    aesgcm: the configuration has no such provider for `secrets`
    aesgcm: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    aesgcm: it ends before its nonce and its tag do
    aesgcm: it ends before its nonce and its tag do
    aesgcm: the configuration has no key named `` for it
    aesgcm: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    aescbc: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    aescbc: the configuration has no key named `key1` for it
    aescbc: the configuration has no such provider for `secrets`
    aescbc: the key `key1` does not open it: it was written with another key of that name, or changed since, or put under another name
    aescbc: it ends before its nonce and its tag do
    aescbc: it ends before its nonce and its tag do
    aescbc: the configuration has no key named `` for it
    entry secrets.#v1/ns/a.json says the name `b` where its path says `a`
    kms: its key is kept by a KMS plugin, which runs beside an API server only
    kms: its key is kept by a KMS plugin, which runs beside an API server only
    secretbox: Kubernetes has no such provider, or not in this form
    rot13: Kubernetes has no such provider, or not in this form
    ");
}

/// A changed IV changes the first block as one likes, and a wrong key comes out with a right padding once in 256 times.
#[test]
fn cbc_that_opens_to_no_json_is_a_wrong_key_and_no_corrupt_backup() {
    let [right, wrong] = [A, B].map(|secret| with(&[&key("aescbc", "key1", secret)]));
    let mut bytes = payload(&sealed(&right, "a"));
    bytes["k8s:enc:aescbc:v1:key1:".len() + 1] ^= 1;
    let said = judged(&right, &bytes);
    assert!(said.starts_with("aescbc: the key `key1` does not open it"), "{said}");
    for _ in 0..600 {
        assert_eq!(judged(&wrong, &payload(&sealed(&right, "a"))), said);
    }
}

#[test]
fn base64_around_an_object_in_the_open_is_read_as_former_operators_wrote_it() {
    let encryption = with(&["identity: {}"]);
    assert_eq!(judged(&encryption, secret("a").as_bytes()), "read, encrypted: false");
    assert_eq!(
        judged(&encryption, b"{"),
        "entry secrets.#v1/ns/a.json is not JSON: EOF while parsing an object at line 1 column 1"
    );
    assert_eq!(
        judged(&encryption, secret("b").as_bytes()),
        "entry secrets.#v1/ns/a.json says the name `b` where its path says `a`"
    );
}

const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";

fn refused(text: &str) -> String {
    let error = Encryption::parse(text.as_bytes()).unwrap_err();
    let shown = format!("{error} {error:?}");
    for secret in [A, B, "c2VjcmV0LXRoYXQtaXMtdG9vLXNob3J0", &A[..20]] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error.to_string()
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_with_its_place_and_without_key_material() {
    let keys = |keys: &str| {
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers:\n  - aescbc:\n      keys: {keys}\n")
    };
    let resources = |names: &str| format!("{HEAD}resources:\n{}", configuration(names, &["identity: {}"]));
    let said: Vec<String> = [
        String::new(),
        "a: 'b".to_owned(),
        "kind: EncryptionConfiguration\n".to_owned(),
        "apiVersion: v1\nkind: EncryptionConfig\nresources: []\n".to_owned(),
        format!("{HEAD}resources: []\n"),
        format!("{HEAD}resources: x\nmore: 1\n"),
        format!("{HEAD}---\n{HEAD}"),
        format!("{HEAD}kind: EncryptionConfiguration\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: []\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{}}]\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{identity: }}]\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{identity: {{a: 1}}}}]\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{identity: {{}}, {}}}]\n", key("aesgcm", "a", A)),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: unix:///x}}}}]\n"),
        format!("{HEAD}resources:\n- resources: [secrets]\n  providers: [{{rot13: {{}}}}]\n"),
        keys("[]"),
        keys("[{name: key1}]"),
        keys(&format!("[{{secret: {A}}}]")),
        keys(&format!("[{{name: '', secret: {A}}}]")),
        keys(&format!("[{{name: 1, secret: {A}}}]")),
        keys(&format!("[{{name: key1, secret: [{A}]}}]")),
        keys(&format!("[{{name: key1, secret: '{A}!'}}]")),
        keys("[{name: key1, secret: c2VjcmV0LXRoYXQtaXMtdG9vLXNob3J0}, {name: key2, secret: c2VjcmV0LXRoYXQtaXMtdG9vLXNob3J0}]").replace("aescbc", "secretbox"),
        keys("[{name: key-of-2024, secret: QUFB}]"),
        keys(&format!("[{{name: key1, secret: {A}, secret: {B}}}]")),
        keys(&format!("[{{name: key1, {A}: {A}}}]")),
        keys(&format!("[{{name: key1, secret: {A}, {A}: x, {A}: x}}]")),
        // Both in the other's place.
        keys(&format!("[{{name: {A}, secret: key1}}]")),
        keys(&format!("{{name: key1, secret: {A}}}")),
        keys(&format!("[{{name: key1, secret: !!binary {A}}}]")),
        resources("Secrets"),
        resources("'*'"),
        resources("''"),
        resources("secrets.*"),
        resources("secrets, secrets"),
        resources("secrets, '*.'"),
        resources("'*.*', tokens.management.cattle.io"),
        format!("{}{}", resources("'*.'"), configuration("secrets", &["identity: {}"])),
        format!("{}{}", resources("'*.*'"), configuration("'*.*'", &["identity: {}"])),
        format!("{HEAD}# {}\n", "x".repeat(1024 * 1024)),
        format!("{HEAD}resources: {}\n", "[".repeat(10_000)),
        format!("{HEAD}resources: {}1{}\n", "[".repeat(100), "]".repeat(100)),
    ]
    .iter()
    .map(|text| refused(text))
    .collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    the configuration must be one document of the kind EncryptionConfiguration
    the configuration (line 1) cannot be read: not YAML: unclosed quote
    the configuration (line 1) has no `apiVersion`
    apiVersion (line 1) must be `apiserver.config.k8s.io/v1`
    resources (line 3) is empty
    the configuration (line 1) has the unknown field `more`
    the configuration must be one document of the kind EncryptionConfiguration
    the configuration (line 3) cannot be read: duplicate key `kind`: remove one
    resources[0] (line 4) has no `providers`
    resources[0].providers (line 5) is empty
    resources[0].providers[0] (line 5) names no provider: write `secretbox`, `aesgcm`, `aescbc`, or `identity: {}`
    resources[0].providers[0] (line 5) names no provider: write `secretbox`, `aesgcm`, `aescbc`, or `identity: {}`
    resources[0].providers[0].identity (line 5) has the unknown field `a`
    resources[0].providers[0] (line 5) names several providers (aesgcm, identity): write an item for each
    resources[0].providers[0].kms (line 5) needs a KMS plugin, which runs beside an API server only: reinback reads what secretbox, aesgcm, aescbc and identity write
    resources[0].providers[0] (line 5) has the unknown field `rot13`
    resources[0].providers[0].aescbc.keys (line 7) is empty
    resources[0].providers[0].aescbc.keys[0] (line 7) has no `secret`
    resources[0].providers[0].aescbc.keys[0] (line 7) has no `name`
    resources[0].providers[0].aescbc.keys[0].name (line 7) is empty
    resources[0].providers[0].aescbc.keys[0].name (line 7) must be text, not a number or a boolean: write it in quotes
    resources[0].providers[0].aescbc.keys[0].secret (line 7) must be text, not a list
    resources[0].providers[0].aescbc.keys[0].secret (line 7) of the key `key1` is not base64
    resources[0].providers[0].secretbox.keys[0].secret (line 7) of the key `key1` has 24 bytes, and a key of secretbox has 32
    resources[0].providers[0].aescbc.keys[0].secret (line 7) of the key `key-of-2024` has 3 bytes, and a key of aescbc has 16, 24 or 32
    the configuration (line 7) cannot be read: duplicate key `secret`: remove one
    resources[0].providers[0].aescbc.keys[0] (line 7) has an unknown field
    the configuration (line 7) cannot be read: duplicate key `…`: remove one
    resources[0].providers[0].aescbc.keys[0].secret (line 7) has 3 bytes, and a key of aescbc has 16, 24 or 32
    resources[0].providers[0].aescbc.keys (line 7) must be a list, not a mapping
    the configuration (line 7) cannot be read: YAML tags (`…`) are not read: remove the tag
    resources[0].resources[0] (line 4) has capital letters
    resources[0].resources[0] (line 4) names nothing: write `*.` for the core group, or `*.*` for all
    resources[0].resources[0] (line 4) is empty
    resources[0].resources[0] (line 4) names a type in all groups, which cannot be: name the group, or write `*.*`
    resources[0].resources[1] (line 4) is there twice
    resources[0].resources[1] (line 4) overlaps with `secrets.` in the same list
    resources[0].resources[1] (line 4) overlaps with `*.*` in the same list
    resources[1].resources[0] (line 7) is masked by the earlier `*.`
    resources[1].resources[0] (line 7) is masked by the earlier `*.*`
    the configuration has 1048648 bytes, more than 1048576
    the configuration (line 3) cannot be read: nested more than 255 levels deep
    the configuration (line 3) cannot be read: nested more than 16 levels deep
    ");
}

#[test]
fn a_configuration_may_be_json_and_may_break_its_keys_into_lines() {
    let json = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["*.*"], "providers": [{"secretbox": {"keys": [{"name": "k", "secret": A}]}}]}],
    });
    let by_json = Encryption::parse(json.to_string().as_bytes()).unwrap();
    let folded = configuration(
        "'*.*'",
        &[&format!(
            "secretbox:\n          keys:\n          - name: k\n            secret: |\n              {}\n              {}\n",
            &A[..20],
            &A[20..]
        )],
    );
    let by_lines = parse(&[folded]).unwrap();
    assert_eq!(judged(&by_lines, &payload(&sealed(&by_json, "a"))), "read, encrypted: true");
}

#[test]
fn an_encryption_shows_names_and_no_keys() {
    let encryption = with(&[&key("secretbox", "key1", A), &key("aesgcm", "key2", B), &key("aescbc", "key3", A)]);
    let shown = format!("{encryption:?}");
    assert!(shown.contains("k8s:enc:aesgcm:v1:key2:"), "{shown}");
    for material in [A, B, "AAAA", "BBBB", "65, 65", "66, 66", "4141", "4242"] {
        assert!(!shown.contains(material), "{shown}");
    }
}
