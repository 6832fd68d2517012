//! JSON as a backup may hold it: what is read is what an API server would read, in bounded memory.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most memory that one entry may take when parsed, in bytes as [`Parse::spend`] counts. The 1.5 MiB that etcd takes for an object
/// (`--max-request-bytes`) come to 146 MiB if they are maps of one key and nothing else; 16 MiB of those would come to 1.5 GiB.
const MAX_PARSED_BYTES: usize = 160 * 1024 * 1024;
/// A `Value` in an array that doubles when it grows.
const VALUE_BYTES: usize = 2 * size_of::<Value>();
/// The least room that an array takes: four values.
const ARRAY_BYTES: usize = 4 * size_of::<Value>();
/// The first node of a map: 11 keys and values, whatever it holds.
const MAP_BYTES: usize = 11 * (size_of::<Value>() + size_of::<String>());

/// Parses one document.
///
/// Differs from `serde_json::from_slice::<Value>` in three ways. A key given twice is an error, for programs differ in which
/// one counts. Memory is bounded. And no key is special: with serde_json's feature `raw_value`, a map whose only key is
/// its private token would be replaced by what the value, a string, parses to.
///
/// Numbers: integers from −2⁶³ to 2⁶⁴−1 keep every digit, all others become the nearest `f64`, as in an API server
/// (which goes over to `f64` at 2⁶³ already). Depth: 128 levels, serde_json's own limit; the deepest CRD of Rancher has 27.
pub(super) fn parse(content: &[u8]) -> Result<Value, serde_json::Error> {
    let budget = Cell::new(MAX_PARSED_BYTES);
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    let value = Parse { budget: &budget }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Parse<'b> {
    budget: &'b Cell<usize>,
}

impl Parse<'_> {
    fn spend<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(bytes).ok_or_else(|| E::custom("too many values for one object"))?;
        self.budget.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Parse<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parse<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            self.spend(if values.is_empty() { ARRAY_BYTES } else { VALUE_BYTES })?;
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(key.len() + if values.is_empty() { MAP_BYTES } else { 2 * VALUE_BYTES })?;
            if values.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` is there twice")));
            }
            let value = map.next_value_seed(self)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(content: &str) -> String {
        parse(content.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn numbers_keep_their_digits() {
        for exact in
            ["9007199254740993", "-9223372036854775808", "18446744073709551615", "0.1", "1.7976931348623157e308"]
        {
            assert_eq!(parse(exact.as_bytes()).unwrap().to_string(), exact.replace("e308", "e+308"), "{exact}");
        }
    }

    #[test]
    fn numbers_beyond_64_bits_become_the_nearest_double_as_in_an_api_server() {
        assert_eq!(parse(b"18446744073709551616").unwrap(), json!(18446744073709551616.0));
        assert_eq!(parse(b"0.30000000000000004440892098500626").unwrap(), json!(0.30000000000000004));
        assert_eq!(parse(b"-9223372036854775809").unwrap(), json!(-9223372036854775808.0));
        assert_eq!(error("1e400"), "number out of range at line 1 column 5");
    }

    #[test]
    fn a_key_that_comes_twice_is_an_error_at_any_depth() {
        assert_eq!(error(r#"{"spec":{"a":1,"b":2,"a":3}}"#), "the key `a` is there twice at line 1 column 24");
    }

    #[test]
    fn no_key_is_special() {
        let tricked = r#"{"$serde_json::private::RawValue":"{\"kind\":\"Secret\"}"}"#;
        assert_eq!(
            parse(tricked.as_bytes()).unwrap(),
            json!({"$serde_json::private::RawValue": "{\"kind\":\"Secret\"}"})
        );
    }

    #[test]
    fn ten_thousand_levels_are_an_error_and_no_overflow() {
        assert_eq!(error(&"[".repeat(10_000)), "recursion limit exceeded at line 1 column 128");
        assert_eq!(error(&r#"{"a":"#.repeat(10_000)), "recursion limit exceeded at line 1 column 636");
        assert!(parse(format!("{}1{}", "[".repeat(127), "]".repeat(127)).as_bytes()).is_ok());
    }

    #[test]
    fn memory_is_bounded_for_json_that_swells() {
        let maps = format!("[{}{{}}]", r#"{"":0},"#.repeat(1_000_000));
        assert!(error(&maps).starts_with("too many values for one object"));
        let values = format!("[{}0]", "0,".repeat(6_000_000));
        assert!(error(&values).starts_with("too many values for one object"));
    }

    #[test]
    fn what_follows_the_document_is_an_error() {
        assert_eq!(error("{} {}"), "trailing characters at line 1 column 4");
        assert!(parse(b"{}\n").is_ok());
    }
}
