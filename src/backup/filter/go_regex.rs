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
//! What is left: Go refuses some that this takes (`a**`, more than 1,000 repetitions of repetitions, `\p{Emoji}`). No operator
//! writes them.

use std::cell::Cell;
use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

use super::super::error::shown;

/// Longest expression, in bytes. Rancher's longest has 170.
const MAX_PATTERN_BYTES: usize = 16 * 1024;
/// Memory for a compiled expression, in bytes. Rancher's take 1 to 20 KiB each.
const SMALL_BYTES: usize = 64 * 1024;
/// Memory for one that needs more, such as `^.{1,253}$`.
const LARGE_BYTES: usize = 4 * 1024 * 1024;
/// Most repetitions (`regexp/syntax`, `ErrInvalidRepeatSize`).
const MAX_REPETITIONS: u32 = 1000;
/// How many may need more, so that all together stay below 400 MiB with the 1,000 selectors that a set may have.
const MAX_LARGE: u32 = 32;

/// Compiles the expressions of one ResourceSet, within a bound for all of them.
pub(super) struct Compiler {
    large_left: Cell<u32>,
}

impl Compiler {
    pub fn new() -> Self {
        Self { large_left: Cell::new(MAX_LARGE) }
    }

    /// # Errors
    ///
    /// What is wrong with `pattern`, which is repeated.
    pub fn compile(&self, pattern: &str) -> Result<Regex, String> {
        let refused = |reason: &str| format!("`{}`: {}", shown(pattern), shown(reason));
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(refused("it is longer than 16 KiB"));
        }
        let translated = translate(pattern).map_err(refused)?;
        self.build(&translated).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => refused("it takes too much memory"),
            // The last line says what; those before draw where, in an expression that we rewrote.
            other => refused(other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
        })
    }

    fn build(&self, pattern: &str) -> Result<Regex, regex::Error> {
        let within = |bytes| RegexBuilder::new(pattern).size_limit(bytes).dfa_size_limit(SMALL_BYTES).build();
        match (within(SMALL_BYTES), self.large_left.get().checked_sub(1)) {
            (Err(regex::Error::CompiledTooBig(_)), Some(left)) => {
                self.large_left.set(left);
                within(LARGE_BYTES)
            }
            (built, _) => built,
        }
    }
}

/// Rewrites Go's syntax. Errors are only about what the crate would take and Go would not.
fn translate(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, Place::Outside)?,
            '[' => class(&mut chars, &mut out)?,
            '{' => match repetition(chars.clone()) {
                None => out.push_str(r"\{"),
                Some(most) if most > MAX_REPETITIONS => return Err("more than 1000 repetitions"),
                Some(_) => out.push(c),
            },
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
            argument(chars, out, 2);
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
    let negated = ahead.next() == Some('{') && ahead.next() == Some('^');
    out.push_str(if negated == (c == 'p') { r"\P" } else { r"\p" });
    if negated {
        *chars = ahead;
        out.push('{');
        return through_brace(chars, out);
    }
    argument(chars, out, 1);
}

/// What an escape takes: `{…}`, or so many characters.
fn argument(chars: &mut Rest<'_>, out: &mut String, bare: usize) {
    match chars.peek() {
        Some('{') => through_brace(chars, out),
        _ => out.extend(chars.take(bare)),
    }
}

fn through_brace(chars: &mut Rest<'_>, out: &mut String) {
    for c in chars {
        out.push(c);
        if c == '}' {
            return;
        }
    }
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

/// The larger number of `{2}`, `{2,}` or `{2,3}`, when that is what `{` begins.
fn repetition(mut chars: Rest<'_>) -> Option<u32> {
    let least = number(&mut chars)?;
    match chars.next()? {
        '}' => Some(least),
        ',' => {
            let most = number(&mut chars).unwrap_or(least);
            (chars.next()? == '}').then_some(least.max(most))
        }
        _ => None,
    }
}

/// Digits; more than fit are as many as there can be.
fn number(chars: &mut Rest<'_>) -> Option<u32> {
    let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
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
mod tests {
    use super::*;

    /// What Go 1.26 said: each expression with the texts in which it was found. Beside these, 167,000 expressions put together by
    /// chance were compared on 48 texts; none that both take differed.
    #[test]
    fn expressions_find_what_they_find_in_go() {
        let texts = [
            "",
            "a",
            "A",
            "b",
            "cattle-system",
            "clusters.management.cattle.io",
            "secrets",
            "0",
            "٣",
            "\u{b}",
            " ",
            "é",
            "aé",
            "\u{212a}",
            "γ",
            "&",
            "-",
            "[",
            "]",
            "{",
            "{}",
            "a{",
            "a{,3}",
            "<a>",
            "a\nb",
            "a.b",
            "axb",
            "aaa",
        ];
        let found: &[(&str, &[usize])] = &[
            (r"^cattle-|^p-|^c-|^user-|^u-", &[4]),
            (r"management.cattle.io$|project.cattle.io$", &[5]),
            (
                r"^.*$",
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27],
            ),
            (r"^secrets$", &[6]),
            (r"\d", &[7, 22]),
            (r"\D", &[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]),
            (r"\s", &[10, 24]),
            (r"[\s]", &[10, 24]),
            (r"\w", &[1, 2, 3, 4, 5, 6, 7, 12, 21, 22, 23, 24, 25, 26, 27]),
            (r"[^\w]", &[4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]),
            (r"\bé", &[12]),
            (r"\Ba", &[4, 5, 27]),
            (r"(?i)k", &[13]),
            (r"(?i)\w", &[1, 2, 3, 4, 5, 6, 7, 12, 13, 21, 22, 23, 24, 25, 26, 27]),
            (r"\Qa.b\E", &[25]),
            (r"^\Q{", &[19, 20]),
            (r"\<a\>", &[23]),
            (r"a{", &[21, 22]),
            (r"a{,3}", &[22]),
            (r"^a{1,2}$", &[1]),
            (r"[a&&b]", &[1, 3, 4, 5, 12, 15, 21, 22, 23, 24, 25, 26, 27]),
            (r"[+--]", &[4, 16, 22]),
            (r"[[a]", &[1, 4, 5, 12, 17, 21, 22, 23, 24, 25, 26, 27]),
            (r"[]a]", &[1, 4, 5, 12, 18, 21, 22, 23, 24, 25, 26, 27]),
            (r"[a-]", &[1, 4, 5, 12, 16, 21, 22, 23, 24, 25, 26, 27]),
            (r"^[^]a]$", &[2, 3, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19]),
            (r"[[:alpha:]]", &[1, 2, 3, 4, 5, 6, 12, 21, 22, 23, 24, 25, 26, 27]),
            (r"[[:^alpha:]]", &[4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]),
            (r"\p{Greek}", &[14]),
            (
                r"\p{^Greek}",
                &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27],
            ),
            (r"^\PL$", &[7, 8, 9, 10, 15, 16, 17, 18, 19]),
            (r"\x{e9}", &[11, 12]),
            (r"\xe9", &[11, 12]),
            (r"^[\x61-\x{63}]$", &[1, 3]),
            (r"\101", &[2]),
            (r"^[\101-\103]$", &[2]),
            (r"(?P<n>a)$", &[1, 27]),
            (r"(?<n>a)$", &[1, 27]),
            (r"a$", &[1, 27]),
            (r"(?m)a$", &[1, 24, 27]),
            (r"a\z", &[1, 27]),
            (r"a.b", &[25, 26]),
            (r"(?s)a.b", &[24, 25, 26]),
            (r"\{\}", &[20]),
            (r"}", &[20, 22]),
        ];
        for (pattern, expected) in found {
            let regex = Compiler::new().compile(pattern).unwrap();
            let found: Vec<usize> = (0..texts.len()).filter(|n| regex.is_match(texts[*n])).collect();
            assert_eq!(found, *expected, "{pattern}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_with_a_reason() {
        let long = "a".repeat(20_000);
        let bad = [
            "(",
            "[a",
            r"a\",
            r"\y",
            r"\1",
            "(?x)a",
            "(?u)a",
            "*",
            r"\C",
            "(?=a)",
            r"\p{",
            r"\x{",
            "[b-a]",
            "[a-\\d]",
            r"(\pL{1000}){1000}",
            "a{1001}",
            "a{2,99999999999}",
            &long,
        ];
        let said: Vec<String> = bad.iter().map(|pattern| Compiler::new().compile(pattern).unwrap_err()).collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        `(`: unclosed group
        `[a`: a class without its end
        `a\`: a backslash at its end
        `\y`: an escape that Go does not have
        `\1`: a reference back to a group
        `(?x)a`: a flag that Go does not have
        `(?u)a`: a flag that Go does not have
        `*`: repetition operator missing expression
        `\C`: an escape that Go does not have
        `(?=a)`: a flag that Go does not have
        `\p{`: incomplete escape sequence, reached end of pattern prematurely
        `\x{`: incomplete escape sequence, reached end of pattern prematurely
        `[b-a]`: invalid character class range, the start must be <= the end
        `[a-\d]`: a range that does not end in a character
        `(\pL{1000}){1000}`: it takes too much memory
        `a{1001}`: more than 1000 repetitions
        `a{2,99999999999}`: more than 1000 repetitions
        `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…`: it is longer than 16 KiB
        ");
    }

    #[test]
    fn a_few_large_expressions_are_taken_and_many_are_not() {
        let compiler = Compiler::new();
        assert!(compiler.compile(r"^.{1,253}$").unwrap().is_match("a"));
        let compiled = (0..100).filter(|n| compiler.compile(&format!(r"\pL{{20}}{n}")).is_ok()).count();
        assert!((16..=32).contains(&compiled), "{compiled}");
        assert!(compiler.compile("^small$").is_ok());
    }
}
