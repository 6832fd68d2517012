//! JSON as Go's `encoding/json` writes it, which is how every entry of the operator's is written.

use std::io;

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Compact, keys in the order of their bytes, no newline at the end, and safe within HTML.
pub(super) fn to_vec(value: &Value) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, AsGo))?;
    Ok(bytes)
}

struct AsGo;

impl Formatter for AsGo {
    /// Go escapes what could end a script in a page, and the two separators that JavaScript takes for ends of lines.
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = special.chars();
            if let Some(char) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(char))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    /// The shortest text that reads back as the same number, as in JavaScript: an exponent below 1e-6 and from 1e21 on.
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(writer, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
            _ => CompactFormatter.write_raw_fragment(writer, &text),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(value: &Value) -> String {
        String::from_utf8(to_vec(value).unwrap()).unwrap()
    }

    /// What Go 1.26 writes for the same values.
    #[test]
    fn texts_are_escaped_as_go_does() {
        let text = "<a href=\"x\">&amp;</a>\u{2028}\u{2029}\\ /\u{7f}é🦀\u{8}\u{c}\n\r\t\u{1}\u{1f}";
        let go = concat!(
            r#""\u003ca href=\"x\"\u003e\u0026amp;\u003c/a\u003e\u2028\u2029\\ /"#,
            "\u{7f}é🦀",
            r#"\b\f\n\r\t\u0001\u001f""#
        );
        assert_eq!(written(&json!(text)), go);
        assert_eq!(written(&json!({"b": [], "a<": {}, "B": null})), r#"{"B":null,"a\u003c":{},"b":[]}"#);
    }

    #[test]
    fn numbers_are_written_as_go_does() {
        let numbers = json!([
            1.0,
            -0.0,
            0.1,
            1.5e300,
            1e21,
            1e20,
            1e-6,
            1e-7,
            123456789.125,
            5e-324,
            9007199254740993_i64,
            u64::MAX,
            -1
        ]);
        assert_eq!(
            written(&numbers),
            "[1,-0,0.1,1.5e+300,1e+21,100000000000000000000,0.000001,1e-7,123456789.125,5e-324,9007199254740993,\
             18446744073709551615,-1]"
        );
    }
}
