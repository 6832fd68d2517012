//! Finds secrets in whatever was said or stored, however they are spelt.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A spelling is looked up by its first bytes; shorter values are no secrets that a search could tell from chance.
const KEY: usize = 6;
/// Of a value longer than twice this, its middle is looked for, too: what was cut out of it leaks as well.
const PIECE: usize = 24;

/// The secrets to look for.
#[derive(Default)]
pub struct Searcher {
    labels: BTreeSet<String>,
    /// Spellings by their first bytes, with what they spell and how.
    spellings: HashMap<[u8; KEY], BTreeSet<(Vec<u8>, String)>>,
}

impl Searcher {
    /// Looks for `value` from now on, unless it has 6 bytes or less.
    pub fn add(&mut self, label: &str, value: &[u8]) {
        let value = value.trim_ascii();
        if value.len() <= KEY {
            return;
        }
        self.labels.insert(label.to_owned());
        self.add_spellings(label, value);
        if value.len() > 2 * PIECE {
            let start = (value.len() - PIECE) / 2;
            self.add_spellings(&format!("a piece of {label}"), &value[start..start + PIECE]);
        }
    }

    /// How many secrets are looked for.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// What of the secrets is in `text`.
    pub fn find(&self, text: &[u8]) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (at, window) in text.windows(KEY).enumerate() {
            let key: [u8; KEY] = window.try_into().expect("a window is as long as a key");
            let Some(spellings) = self.spellings.get(&key) else { continue };
            for (spelling, what) in spellings.iter().filter(|(spelling, _)| text[at..].starts_with(spelling)) {
                found.insert(format!("{what} at byte {at}, {} bytes of it", spelling.len()));
            }
        }
        found.into_iter().collect()
    }

    fn add_spellings(&mut self, label: &str, value: &[u8]) {
        let mut add = |how: &str, spelling: Vec<u8>| {
            if let Some(key) = spelling.first_chunk::<KEY>() {
                self.spellings.entry(*key).or_default().insert((spelling.clone(), format!("{label}, {how}")));
            }
        };
        add("raw", value.to_vec());
        let form: String = url::form_urlencoded::byte_serialize(value).collect();
        let percent = form.replace('+', "%20");
        let all: String = value.iter().map(|byte| format!("%{byte:02X}")).collect();
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        for (how, text) in [("as a form", form), ("percent-encoded", percent), ("percent-encoded whole", all)] {
            add(how, with_lower_escapes(&text).into_bytes());
            add(how, text.into_bytes());
        }
        add("in hexadecimal", hex.to_uppercase().into_bytes());
        add("in hexadecimal", hex.into_bytes());
        if let Ok(text) = std::str::from_utf8(value) {
            add("escaped", text.escape_debug().to_string().into_bytes());
            let json = serde_json::to_string(text).expect("a text is JSON");
            add("in JSON", json.trim_matches('"').as_bytes().to_vec());
        }
        for offset in 0..3 {
            for (how, engine) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)] {
                add(
                    &format!("{how} at offset {offset}"),
                    certain(&engine.encode(shifted(value, offset)), offset, value),
                );
            }
        }
    }
}

/// `value` behind `offset` other bytes.
fn shifted(value: &[u8], offset: usize) -> Vec<u8> {
    [&[0_u8; 2][..offset], value].concat()
}

/// The characters that depend on nothing beside `value`, whatever stands before and behind it.
fn certain(encoded: &str, offset: usize, value: &[u8]) -> Vec<u8> {
    let start = [0, 2, 3][offset];
    let open_end = !(offset + value.len()).is_multiple_of(3);
    encoded.as_bytes()[start..encoded.len() - usize::from(open_end)].to_vec()
}

/// `%2F` becomes `%2f`; the rest stays.
fn with_lower_escapes(text: &str) -> String {
    let inside = |left: &mut u8, c: char| {
        let inside = *left > 0;
        *left = if c == '%' { 2 } else { left.saturating_sub(1) };
        Some(if inside { c.to_ascii_lowercase() } else { c })
    };
    text.chars().scan(0, inside).collect()
}

#[test]
fn a_planted_value_is_found_in_every_spelling_and_wherever_it_stands() {
    const VALUE: &str = "p\u{e4}ss/+ =\"w0rd\"\n&end?";
    let mut searcher = Searcher::default();
    searcher.add("the password", VALUE.as_bytes());
    searcher.add("too short", b"abc123");
    assert_eq!(searcher.len(), 1);
    assert_eq!(searcher.find(b"nothing of it, only abc123 and p\xc3\xa4ss/+"), Vec::<String>::new());
    let form: String = url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect();
    let planted = [
        VALUE.to_owned(),
        form.clone(),
        form.replace('+', "%20"),
        with_lower_escapes(&form.replace('+', "%20")),
        VALUE.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        VALUE.bytes().map(|byte| format!("{byte:02X}")).collect(),
        format!("{VALUE:?}"),
        serde_json::json!({ "data": VALUE }).to_string(),
    ];
    for text in planted {
        assert!(!searcher.find(format!("before {text} behind").as_bytes()).is_empty(), "{text:?}");
    }
    for (before, behind) in [("", ""), ("a", ""), ("ab", "c"), ("user:", "xy"), ("{\"a\":", "}"), ("\u{fc}", "\u{fc}z")]
    {
        let text = format!("{before}{VALUE}{behind}");
        for engine in [base64::prelude::BASE64_STANDARD, base64::prelude::BASE64_URL_SAFE] {
            let padded = engine.encode(&text);
            for encoded in [padded.as_str(), padded.trim_end_matches('=')] {
                assert!(!searcher.find(encoded.as_bytes()).is_empty(), "{text:?} as {encoded}");
            }
        }
    }
}

#[test]
fn a_piece_of_a_long_value_is_found_and_every_length_of_a_value_is() {
    let long: String = (0..200).map(|n| char::from(b'a' + n % 26)).collect::<String>().replace('m', "7");
    let mut searcher = Searcher::default();
    searcher.add("the key", long.as_bytes());
    assert!(!searcher.find(format!("cut: {}…", &long[60..140]).as_bytes()).is_empty());
    for length in 7..40 {
        let value: String = (0..length).map(|n| char::from(b'A' + (n * 7 % 26) as u8)).collect();
        let mut searcher = Searcher::default();
        searcher.add("it", value.as_bytes());
        for before in ["", "x", "xy"] {
            let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{before}{value}z"));
            assert!(!searcher.find(encoded.as_bytes()).is_empty(), "{length} bytes behind {before:?}");
        }
    }
}
