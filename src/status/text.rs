//! Numbers, times and foreign text, as people read them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::run::steers;

/// `8,631`.
pub fn humane_count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `512 B`, `42.1 KiB`, `1.5 GiB`.
pub fn humane_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64, "B");
    for next in UNITS {
        // Beyond it, one digit behind the point would round to 1024.0.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// `under 1 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`. A clock that went back counts as no time.
pub fn humane_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => "under 1 s".to_owned(),
        1..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// `2026-11-23 09:00:05`, in UTC.
pub fn utc(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `text` on one line, without characters that steer a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|character| if steers(character) { ' ' } else { character }).collect()
}

/// At most `width` characters; what is cut ends in `…`.
pub fn cut_width(text: &str, width: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= width {
        return text;
    }
    let mut kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// `text` in lines of at most `width` characters, each after `indent`; a longer word keeps a line of its own.
pub fn wrap(text: &str, width: usize, indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in clean(text).split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join("\n")
}

/// Text that Markdown shows as it is: no markup, no HTML, no link, one line.
pub fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in clean(text).trim().chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '!' | '|' | '~' | '@' | '$' => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    // GitHub's Markdown links bare addresses, whatever stands around them.
    let mut escaped = escaped.replace("://", "\\://").replace("www.", "www\\.");
    // A list or a rule only begins at the start of a line.
    let after_digits = escaped.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = after_digits.len() < escaped.len() && after_digits.starts_with(['.', ')']);
    if numbered || escaped.starts_with(['-', '+', '=']) {
        escaped.insert_str(0, "&#8203;");
    }
    escaped
}

/// A name as code, in which Markdown does nothing; also inside a table.
pub fn code(text: &str) -> String {
    let clean = clean(text).replace('`', "'").replace('|', "\\|");
    if clean.trim().is_empty() { "` `".to_owned() } else { format!("`{}`", clean.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_thousands_separators() {
        let told = [0, 7, 999, 1_000, 8_631, 1_234_567, u64::MAX].map(humane_count);
        assert_eq!(told, ["0", "7", "999", "1,000", "8,631", "1,234,567", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn sizes_have_a_unit_that_leaves_three_digits() {
        let told = [0, 1023, 1024, 43_154, 1_048_575, 1 << 20, 5 << 30, u64::MAX].map(humane_bytes);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "42.1 KiB", "1.0 MiB", "1.0 MiB", "5.0 GiB", "16777216.0 TiB"]);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let told = [-5, 0, 1, 59, 60, 185, 3_600, 7_805, 86_400, 356_400]
            .map(|s| humane_duration(SignedDuration::from_secs(s)));
        insta::assert_snapshot!(told.join(", "), @"under 1 s, under 1 s, 1 s, 59 s, 1 min, 3 min 5 s, 1 h, 2 h 10 min, 1 d, 4 d 3 h");
    }

    #[test]
    fn foreign_text_stays_text_in_markdown() {
        let hostile = [
            "<img src=x onerror=alert(1)>",
            "[click](javascript:alert(1))",
            "a|b\n# heading\n- item",
            "see https://evil.example or www.evil.example, @everyone",
            "`code` **bold** &lt; ~~x~~ ![i](u) \\| $x$",
            "- not a list",
            "1. nor this",
        ];
        insta::assert_snapshot!(hostile.map(markdown).join("\n"), @r"
        &lt;img src=x onerror=alert(1)&gt;
        \[click\](javascript:alert(1))
        a\|b \# heading - item
        see https\://evil.example or www\.evil.example, \@everyone
        \`code\` \*\*bold\*\* &amp;lt; \~\~x\~\~ \!\[i\](u) \\\| \$x\$
        &#8203;- not a list
        &#8203;1. nor this
        ");
        insta::assert_snapshot!(["a`b", "x|y", "", "<b>\r\nnext"].map(code).join("\n"), @r"
        `a'b`
        `x\|y`
        ` `
        `<b>  next`
        ");
    }

    #[test]
    fn lines_are_wrapped_and_cut_by_characters() {
        assert_eq!(wrap("one two  three\nfour", 9, "  "), "  one two\n  three\n  four");
        assert_eq!(cut_width("größer", 6), "größer");
        assert_eq!(cut_width("größere\u{1b}[2J", 6), "größe…");
    }
}
