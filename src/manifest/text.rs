//! Text from outside, made fit for a message.

/// The longest piece of a file that a message repeats, in characters.
const MOST: usize = 60;

/// `text` between backticks, cut, and without characters that move the cursor or hide.
pub fn quoted(text: &str) -> String {
    let cut = text.chars().nth(MOST).is_some();
    let shown: String = text.chars().take(MOST).collect();
    format!("`{}{}`", printable(&shown), if cut { "…" } else { "" })
}

/// `text` with control and format characters written as escapes, so that a file name cannot forge a line of a report.
pub fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if hidden(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// ", did you mean `…`?" when one of `known` is near to `word`, else "".
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}

/// The known word that `word` was probably meant to be: the same but for case, `-` and `_`, or few letters away.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// At most 64 characters count: the distance takes time by the product of the lengths.
fn fold(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_')).take(64).flat_map(char::to_lowercase).collect()
}

/// "`a`, `b` or `c`".
pub fn choices(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_escaped_and_long_text_is_cut() {
        assert_eq!(quoted("a\x1b[2Jb\nc\u{202e}"), "`a\\u{1b}[2Jb\\nc\\u{202e}`");
        assert_eq!(quoted(&"é".repeat(61)), format!("`{}…`", "é".repeat(60)));
    }

    #[test]
    fn a_suggestion_is_near_or_is_not_made() {
        assert_eq!(nearest("backupFileName", ["prune", "backupFilename"]), Some("backupFilename"));
        assert_eq!(nearest("delete_timeout_seconds", ["deleteTimeoutSeconds"]), Some("deleteTimeoutSeconds"));
        assert_eq!(nearest("purne", ["prune", "region"]), Some("prune"));
        assert_eq!(nearest("schedule", ["prune", "region"]), None);
    }
}
