//! Regular expressions in Go's dialect (package `regexp/syntax`), on the crate `regex`.
//!
//! Both are unanchored, take no time that grows faster than the text, and have most of their syntax in common. What differs is rewritten:
//!
//! | written | in Go | in `regex` |
//! |---|---|---|
//! | `\d` `\s` `\w` `\b` and their opposites | ASCII; `\s` without vertical tab | Unicode |
//! | `\Q…\E` | the text itself | an error |
//! | `\<` `\>` | the characters | word boundaries |
//! | `{` that begins no repetition, `{,3}` | the character | an error, a repetition |
//! | `[a&&b]` `[a--b]` `[a~~b]` `[[a]` | characters | operations on sets |
//! | `\p{^Greek}` | `\P{Greek}` | an error |
//! | `\101` | a character in octal | an error |
//! | `(?x)` `(?R)` `(?u)` | an error | flags |
//!
//! What is left: Go refuses some that this takes (`a**`, more than 1,000 repetitions, `\p{Emoji}`). No operator writes them.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

use super::super::error::shown;

/// Longest expression, in bytes. Rancher's longest has 170.
const MAX_PATTERN_BYTES: usize = 16 * 1024;
/// Memory for one compiled expression, in bytes; 2,000 selectors with three each then stay below 1 GiB at the worst, and
/// Rancher's whole set takes less than 1 MiB.
const MAX_COMPILED_BYTES: usize = 128 * 1024;

/// # Errors
///
/// What is wrong with `pattern`, which is repeated.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let refused = |reason: &str| format!("`{}`: {}", shown(pattern), shown(reason));
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(refused("it is longer than 16 KiB"));
    }
    let translated = translate(pattern).map_err(refused)?;
    let mut builder = RegexBuilder::new(&translated);
    builder.size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => refused("it takes too much memory"),
        // The last line says what; those before draw where, in an expression that we rewrote.
        other => refused(other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
    })
}

/// Rewrites Go's syntax. Errors are only about what the crate would take and Go would not.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, Place::Outside)?,
            '[' => class(&mut chars, &mut out)?,
            '{' if !is_repetition(chars.clone()) => out.push_str(r"\{"),
            '(' if chars.peek() == Some(&'?') => {
                flags(chars.clone())?;
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    InClass,
}

type Rest<'p> = Peekable<Chars<'p>>;

/// Rewrites what follows a backslash.
fn escape(chars: &mut Rest<'_>, out: &mut String, place: Place) -> Result<(), &'static str> {
    let c = chars.next().ok_or("a backslash at its end")?;
    match (c, place) {
        ('d', Place::Outside) => out.push_str("[0-9]"),
        ('d', Place::InClass) => out.push_str("0-9"),
        ('s', Place::Outside) => out.push_str(r"[\t\n\f\r ]"),
        ('s', Place::InClass) => out.push_str(r"\t\n\f\r "),
        ('w', Place::Outside) => out.push_str("[0-9A-Za-z_]"),
        ('w', Place::InClass) => out.push_str("0-9A-Za-z_"),
        ('D', _) => out.push_str("[^0-9]"),
        ('S', _) => out.push_str(r"[^\t\n\f\r ]"),
        ('W', _) => out.push_str("[^0-9A-Za-z_]"),
        ('b', Place::Outside) => out.push_str(r"(?-u:\b)"),
        ('B', Place::Outside) => out.push_str(r"(?-u:\B)"),
        ('Q', Place::Outside) => quoted(chars, out),
        ('p' | 'P', _) => unicode_class(c, chars, out),
        ('0'..='7', _) => octal(c, chars, out)?,
        ('x', _) => {
            out.push_str(r"\x");
            out.extend(chars.next_if_eq(&'{')); // no repetition
        }
        ('A' | 'z', Place::Outside) | ('a' | 'f' | 'n' | 'r' | 't' | 'v', _) => out.extend(['\\', c]),
        (c, _) if c.is_ascii_punctuation() => literal(c, out),
        _ => return Err("an escape that Go does not have"),
    }
    Ok(())
}

/// One character, whatever it would mean. The crate takes `\x{…}` at every place.
fn literal(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() {
        return out.push(c);
    }
    out.push_str(&format!(r"\x{{{:X}}}", u32::from(c)));
}

/// `\Q…\E`: to the end when there is no `\E`.
fn quoted(chars: &mut Rest<'_>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            return;
        }
        literal(c, out);
    }
}

/// `\pL`, `\p{Greek}` and `\p{^Greek}`.
fn unicode_class(c: char, chars: &mut Rest<'_>, out: &mut String) {
    let mut ahead = chars.clone();
    if ahead.next() == Some('{') && ahead.next() == Some('^') {
        *chars = ahead;
        out.push_str(if c == 'p' { r"\P{" } else { r"\p{" });
        return;
    }
    out.extend(['\\', c]);
    out.extend(chars.next_if_eq(&'{')); // no repetition
}

/// Up to three octal digits. A single one that is not zero would be a reference back, which Go does not have either.
fn octal(first: char, chars: &mut Rest<'_>, out: &mut String) -> Result<(), &'static str> {
    let digit = |c: &char| c.to_digit(8);
    let mut value = digit(&first).unwrap_or_default();
    if value != 0 && chars.peek().and_then(digit).is_none() {
        return Err("a reference back to a group");
    }
    for _ in 0..2 {
        let Some(next) = chars.peek().and_then(digit) else { break };
        chars.next();
        value = value * 8 + next;
    }
    out.push_str(&format!(r"\x{{{value:X}}}"));
    Ok(())
}

/// Rewrites a class, whose `[` has been taken: in Go all of it but `]`, `\`, `^` first, ranges and `[:name:]` is literal.
fn class(chars: &mut Rest<'_>, out: &mut String) -> Result<(), &'static str> {
    out.push('[');
    out.extend(chars.next_if_eq(&'^'));
    let mut first = true;
    while first || chars.peek() != Some(&']') {
        first = false;
        let is_range = class_item(chars, out)? && chars.peek() == Some(&'-') && chars.clone().nth(1) != Some(']');
        if is_range {
            out.extend(chars.next());
            if !class_item(chars, out)? {
                return Err("a range that does not end in a character");
            }
        }
    }
    out.extend(chars.next());
    Ok(())
}

/// One item of a class, and whether it is a single character, at which a range may begin and end.
fn class_item(chars: &mut Rest<'_>, out: &mut String) -> Result<bool, &'static str> {
    match chars.next().ok_or("a class without its end")? {
        '\\' => {
            let is_set = chars.peek().is_some_and(|c| matches!(c, 'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'p' | 'P'));
            escape(chars, out, Place::InClass)?;
            // The crate wants all of `\x{…}` here, for what follows is looked at.
            while out.ends_with(r"\x{") || (out.rfind(r"\x{") > out.rfind('}') && !is_set) {
                out.push(chars.next().ok_or("a class without its end")?);
            }
            Ok(!is_set)
        }
        '[' if posix(chars, out) => Ok(false),
        c => {
            literal(c, out);
            Ok(true)
        }
    }
}

/// `[:alpha:]` or `[:^alpha:]`, whose `[` has been taken. Without its end it is only characters.
fn posix(chars: &mut Rest<'_>, out: &mut String) -> bool {
    let mut ahead = chars.clone();
    if ahead.next() != Some(':') {
        return false;
    }
    let mut name: String = ahead.next_if_eq(&'^').into_iter().collect();
    name.extend(std::iter::from_fn(|| ahead.next_if(char::is_ascii_lowercase)));
    if ahead.next() != Some(':') || ahead.next() != Some(']') {
        return false;
    }
    *chars = ahead;
    out.push_str(&format!("[:{name}:]"));
    true
}

/// Whether `{` begins `{2}`, `{2,}` or `{2,3}`.
fn is_repetition(mut chars: Rest<'_>) -> bool {
    let mut number = || std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).count();
    if number() == 0 {
        return false;
    }
    match chars.next() {
        Some('}') => true,
        Some(',') => {
            while chars.next_if(char::is_ascii_digit).is_some() {}
            chars.next() == Some('}')
        }
        _ => false,
    }
}

/// Refuses flags that only the crate has. `(?P<name>` and `(?<name>` are the same in both.
fn flags(mut chars: Rest<'_>) -> Result<(), &'static str> {
    chars.next();
    if matches!(chars.peek(), Some('P' | '<')) {
        return Ok(());
    }
    let flags = chars.take_while(|c| !matches!(c, ':' | ')'));
    match flags.into_iter().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'U' | '-')) {
        true => Ok(()),
        false => Err("a flag that Go does not have"),
    }
}

#[cfg(test)]
mod differential {
    #[test]
    fn tmp_go_table() {
        let text = std::fs::read_to_string("/tmp/bkgo/table.jsonl").unwrap();
        let mut lines = text.lines();
        let inputs: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
        let (mut refused, mut taken, mut differ, mut same) = (vec![], vec![], vec![], 0);
        for line in lines {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let p = row["p"].as_str().unwrap();
            match (row["ok"].as_bool().unwrap(), super::compile(p)) {
                (true, Err(e)) => refused.push(format!("{p}   {e}  {:?}", super::translate(p))),
                (false, Ok(_)) => taken.push(p.to_owned()),
                (true, Ok(re)) => {
                    for (i, input) in inputs.iter().enumerate() {
                        if re.is_match(input) != row["m"][i].as_bool().unwrap() {
                            differ.push(format!("{p:?} on {input:?} go={} {:?}", row["m"][i], super::translate(p)));
                            break;
                        }
                    }
                    same += 1;
                }
                _ => same += 1,
            }
        }
        println!("same {same} refused {} taken {} differ {}", refused.len(), taken.len(), differ.len());
        for (name, list) in [("refused", refused), ("differ", differ), ("taken", taken)] {
            let mut list = list;
            list.sort_by_key(|l| l.len());
            for l in list.iter().take(40) {
                println!("{name}: {l}");
            }
        }
    }
}
