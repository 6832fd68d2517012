//! The members of an archive, and what somebody can do to them.

use std::io::Read as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fastrand::Rng;
use flate2::read::GzDecoder;

use crate::harness::fixture;

/// Objects of a case beside the filters: enough to stand in each other's places.
const OBJECTS: usize = 14;
/// Larger ones would only make the cases slow.
const MAX_BYTES: usize = 64 * 1024;

const FILTERS: &[u8] = b"filters/filters.json";

/// A member of a tar archive, well made or not.
#[derive(Debug, Clone)]
pub struct Member {
    /// The letter of its type.
    pub kind: u8,
    pub path: Vec<u8>,
    pub content: Vec<u8>,
    /// What stands in the header's field for the size, when it is not the size.
    pub size: Option<Vec<u8>>,
}

impl Member {
    pub fn file(path: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Self {
        Self { kind: b'0', path: path.into(), content: content.into(), size: None }
    }

    pub fn of_kind(kind: u8, path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self { kind, ..Self::file(path, content) }
    }
}

/// Every file of a backup of the fixtures.
pub fn read(backup: &str) -> Vec<Member> {
    let file = std::fs::File::open(fixture(backup)).expect("the fixture is there");
    let mut members = Vec::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("it can be read");
            members.push(Member::file(entry.path_bytes().into_owned(), content));
        }
    }
    members
}

/// Some of them, and the filters.
pub fn choose(rng: &mut Rng, all: &[Member]) -> Vec<Member> {
    let small: Vec<&Member> = all.iter().filter(|member| member.content.len() < MAX_BYTES).collect();
    let mut chosen: Vec<Member> =
        rng.choose_multiple(small.iter(), OBJECTS).into_iter().map(|member| (*member).clone()).collect();
    chosen.retain(|member| member.path != FILTERS);
    chosen.extend(all.iter().find(|member| member.path == FILTERS).cloned());
    rng.shuffle(&mut chosen);
    chosen
}

/// Does something to one member or two; says what.
pub fn spoil(rng: &mut Rng, members: &mut Vec<Member>) -> String {
    let at = rng.usize(..members.len());
    let other = rng.usize(..members.len());
    let shown = String::from_utf8_lossy(&members[at].path).into_owned();
    let what = match rng.u8(..11) {
        0 => {
            let end = rng.usize(..=members[at].content.len());
            members[at].content.truncate(end);
            format!("cut at {end}")
        }
        1 => {
            let content = &mut members[at].content;
            let places: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(..content.len().max(1))).collect();
            for place in &places {
                if let Some(byte) = content.get_mut(*place) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
            format!("bits flipped at {places:?}")
        }
        2 => {
            let (what, content) = hostile_json(rng);
            members[at].content = content;
            what.to_owned()
        }
        3 => {
            let (what, payload) = hostile_payload(rng, &members[at].content);
            members[at].content = format!("\"{}\"", BASE64_STANDARD.encode(payload)).into_bytes();
            what.to_owned()
        }
        4 => {
            let path = hostile_path(rng, &members[at].path);
            let what = format!("path {}", path.escape_ascii());
            members[at].path = path;
            what
        }
        5 => {
            let content = std::mem::take(&mut members[at].content);
            let content = std::mem::replace(&mut members[other].content, content);
            members[at].content = content;
            "content swapped with another".to_owned()
        }
        6 => {
            let twin = twin(rng, &members[at]);
            members.insert(other, twin);
            "there twice".to_owned()
        }
        7 => {
            members.insert(at, administrator(rng.u32(..)));
            "an object put in before it".to_owned()
        }
        8 => {
            let (what, content) = hostile_filters(rng);
            members.retain(|member| member.path != FILTERS);
            members.push(Member::file(FILTERS, content));
            format!("filters: {what}")
        }
        9 => {
            let path = String::from_utf8_lossy(&members[at].path).replace(".json", "-else.json");
            members[at].path = path.into_bytes();
            "another name".to_owned()
        }
        _ => {
            let content = &mut members[at].content;
            for _ in 0..rng.usize(1..6).min(content.len()) {
                let place = rng.usize(..content.len());
                content[place] = *rng.choice(br#"{}[]",:\ 0e-9"#).expect("there are some");
            }
            "letters of JSON strewn in".to_owned()
        }
    };
    format!("{shown}: {what}")
}

/// The same object again, maybe by another spelling or at another version.
fn twin(rng: &mut Rng, of: &Member) -> Member {
    let path = match rng.u8(..3) {
        0 => of.path.clone(),
        1 => [b"./", &of.path[..]].concat(),
        _ => String::from_utf8_lossy(&of.path).replacen("#v", "#v9", 1).into_bytes(),
    };
    Member { path, ..of.clone() }
}

/// What an attacker would like to have restored.
fn administrator(number: u32) -> Member {
    let content = format!(
        r#"{{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{{"name":"eve-{number}"}},"roleRef":{{"kind":"ClusterRole","name":"cluster-admin"}}}}"#
    );
    Member::file(format!("clusterrolebindings.rbac.authorization.k8s.io#v1/eve-{number}.json"), content)
}

fn hostile_json(rng: &mut Rng) -> (&'static str, Vec<u8>) {
    let head = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"ns"},"x":"#;
    let with = |value: &str| format!("{head}{value}}}").into_bytes();
    match rng.u8(..17) {
        0 => ("10,000 lists in each other", "[".repeat(10_000).into_bytes()),
        1 => ("10,000 maps in each other", r#"{"a":"#.repeat(10_000).into_bytes()),
        2 => ("10,000 closed lists", with(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)))),
        3 => ("1e400", with("1e400")),
        4 => ("a number of a million digits", with(&"9".repeat(1_000_000))),
        5 => ("an exponent of a million digits", with(&format!("1e{}", "9".repeat(1_000_000)))),
        6 => ("a string of 4 MiB", with(&format!("\"{}\"", "a".repeat(4 << 20)))),
        7 => ("4 MiB of escapes", with(&format!("\"{}\"", r"\u0041".repeat(700_000)))),
        8 => ("half a surrogate", with(r#""\ud800""#)),
        9 => ("a zero byte", with("\"\0\"")),
        10 => ("a million zeros", with(&format!("[{}0]", "0,".repeat(1_000_000)))),
        11 => ("200,000 maps", with(&format!("[{}{{}}]", r#"{"":0},"#.repeat(200_000)))),
        12 => (
            "100,000 keys",
            with(&format!("{{{}\"z\":0}}", (0..100_000).map(|n| format!("\"{n}\":0,")).collect::<String>())),
        ),
        13 => ("no UTF-8", [b"\xff\xfe", &with("0")[..]].concat()),
        14 => ("spaces and no value", b" ".repeat(1 << 20)),
        15 => ("two documents", [with("0"), with("1")].concat()),
        _ => (
            "a key of serde_json's own",
            with(r#"{"$serde_json::private::RawValue":"{}","$serde_json::private::Number":"1"}"#),
        ),
    }
}

/// What stands behind the base64 of an entry.
fn hostile_payload(rng: &mut Rng, content: &[u8]) -> (&'static str, Vec<u8>) {
    let text = String::from_utf8_lossy(content);
    let before =
        BASE64_STANDARD.decode(text.trim_matches('"')).unwrap_or_else(|_| b"k8s:enc:secretbox:v1:key1:".to_vec());
    let prefix = before.windows(5).position(|window| window == b"key1:").map_or(0, |at| at + 5);
    let colon = b"k8s:enc:".len();
    match rng.u8(..14) {
        0 => ("a payload shorter than any nonce", before[..(prefix + rng.usize(..12)).min(before.len())].to_vec()),
        1 => ("a payload without its tag", before[..(prefix + rng.usize(12..40)).min(before.len())].to_vec()),
        2 => ("a prefix without a key", before[..prefix.saturating_sub(5)].to_vec()),
        3 => ("a prefix and nothing else", before[..prefix].to_vec()),
        4 => ("no provider", [b"k8s:enc:", &before[before.len().min(colon + 9)..]].concat()),
        5 => {
            ("a provider of 10,000 letters", [b"k8s:enc:".to_vec(), b"a".repeat(10_000), b":v1:k:x".to_vec()].concat())
        }
        6 => ("KMS", b"k8s:enc:kms:v2:vault:xxxxxxxxxxxxxxxxxxxxxxxx".to_vec()),
        7 => ("another version", String::from_utf8_lossy(&before).replacen(":v1:", ":v2:", 1).into_bytes()),
        8 => ("a payload in base64 again", BASE64_STANDARD.encode(&before).into_bytes()),
        9 => ("an object in the open in base64", br#"{"apiVersion":"v1","kind":"Secret"}"#.to_vec()),
        10 => ("base64 of nothing", Vec::new()),
        11 => ("a changed payload", {
            let mut bytes = before;
            if prefix < bytes.len() {
                let at = rng.usize(prefix..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
            bytes
        }),
        12 => ("4 MiB of payload", [&before[..prefix], &vec![7; 4 << 20]].concat()),
        _ => (
            "a key's name of other letters",
            [&before[..prefix.saturating_sub(5)], "k\u{202e}\x1b[2J:".as_bytes(), &before[prefix..]].concat(),
        ),
    }
}

fn hostile_path(rng: &mut Rng, path: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(path).into_owned();
    let (folder, name) = text.split_once('/').unwrap_or((&text, ""));
    match rng.u8(..18) {
        0 => format!("../{text}").into_bytes(),
        1 => format!("{folder}/../{name}").into_bytes(),
        2 => format!("/{text}").into_bytes(),
        3 => format!("{folder}//{name}").into_bytes(),
        4 => format!("{folder}/./{name}").into_bytes(),
        5 => format!("{folder}\\{name}").into_bytes(),
        6 => text.replace(".json", "\x1b[2J.json").into_bytes(),
        7 => text.replace(".json", "\0.json").into_bytes(),
        8 => [path, b"\xff"].concat(),
        9 => text.replace(".json", "\u{202e}nosj.json").into_bytes(),
        10 => text.replace('#', "##").into_bytes(),
        11 => text.replace('#', "").into_bytes(),
        12 => name.as_bytes().to_vec(),
        13 => format!("{text}/{}", "deeper/".repeat(50)).into_bytes(),
        14 => text.to_uppercase().into_bytes(),
        15 => text.replace(".json", &format!("{}.json", "x".repeat(5000))).into_bytes(),
        16 => Vec::new(),
        _ => b"filters/filters.json".to_vec(),
    }
}

fn hostile_filters(rng: &mut Rng) -> (&'static str, String) {
    let selector = |regexp: &str| {
        let regexp = serde_json::to_string(regexp).expect("a text is JSON");
        format!(r#"{{"resourceSelectors":[{{"apiVersion":"v1","kindsRegexp":{regexp}}}]}}"#)
    };
    match rng.u8(..12) {
        0 => ("an expression that explodes elsewhere", selector("^(a+)+$")),
        1 => ("repetitions in each other", selector("((((a{1000}){1000}){1000}){1000})")),
        2 => ("1,000 groups in each other", selector(&format!("{}a{}", "(".repeat(1000), ")".repeat(1000)))),
        3 => ("an open group", selector("(")),
        4 => ("a look behind", selector("(?<=a)b")),
        5 => ("a class of all letters, often", selector(&r"\p{L}{500}".repeat(20))),
        6 => ("an expression of a million letters", selector(&"a|".repeat(500_000))),
        7 => {
            let one = r#"{"apiVersion":"v1","kindsRegexp":"."}"#;
            ("20,000 selectors", format!(r#"{{"resourceSelectors":[{}]}}"#, vec![one; 20_000].join(",")))
        }
        8 => ("no map", "[]".to_owned()),
        9 => ("selectors that are a text", r#"{"resourceSelectors":"all"}"#.to_owned()),
        10 => ("labels that are none", r#"{"resourceSelectors":[{"apiVersion":"v1","labelSelectors":{"matchExpressions":[{"key":"","operator":"Is"}]}}]}"#.to_owned()),
        _ => ("encrypted", "\"azhzOmVuYzpzZWNyZXRib3g6djE6a2V5MTo=\"".to_owned()),
    }
}
