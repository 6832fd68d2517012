use std::borrow::Cow;
use std::fmt;
use std::io;

use super::FilterError;

/// Longest part of an outside text that a message repeats, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Why a backup is not one, or not whole. No retry mends it: the file has to be another.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// An upload or a download was cut, or the disk of the operator was full.
    #[error("the backup ends early, after {unpacked_bytes} unpacked bytes{}", within(.entry))]
    Truncated { entry: Option<EntryName>, unpacked_bytes: u64 },
    #[error("the gzip stream is broken after {unpacked_bytes} unpacked bytes{}", within(.entry))]
    Gzip { entry: Option<EntryName>, unpacked_bytes: u64, source: io::Error },
    #[error("the tar block at unpacked byte {at_byte} {fault}")]
    Block { at_byte: u64, fault: Cow<'static, str> },
    #[error("entry {entry} {fault}")]
    Entry { entry: EntryName, fault: Cow<'static, str> },
    #[error("entry {entry} holds filters that cannot be used")]
    Filters { entry: EntryName, source: FilterError },
    /// Beyond one of [`super::Limits`], or of the fixed ones.
    #[error("the backup is too large: {what}{}", within(.entry))]
    TooLarge { entry: Option<EntryName>, what: String },
    #[error("the backup holds no object at all")]
    Empty,
}

/// Why a pass over a backup ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    #[error(transparent)]
    Corrupt(#[from] BackupError),
    /// The bytes could not be had; what they say is not judged. Another try may do.
    #[error("cannot read the bytes of the backup")]
    Source(#[source] io::Error),
    /// The visitor's own error.
    #[error(transparent)]
    Visit(E),
}

/// The path of an entry as the archive has it. Shown it is safe: control characters escaped, cut at 200 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// As cheap as a copy, since each entry of an archive has one and hardly any is shown.
    pub(super) fn new(path: &[u8]) -> Self {
        Self(path.into())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok("") => f.write_str("(without a name)"),
            Ok(text) => f.write_str(&shown(text)),
            Err(_) => f.write_str(&shown_chars(self.0.escape_ascii().map(char::from))),
        }
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text` with what a terminal or a log would act on escaped, cut at 200 characters.
pub(super) fn shown(text: &str) -> String {
    shown_chars(text.chars().flat_map(|c| {
        // Quotes and backslashes are harmless, and common in JSON's messages and in regular expressions.
        let plain = matches!(c, '"' | '\'' | '\\');
        let escaped = (!plain).then(|| c.escape_debug());
        escaped.into_iter().flatten().chain(plain.then_some(c))
    }))
}

fn shown_chars(mut chars: impl Iterator<Item = char>) -> String {
    let mut text: String = chars.by_ref().take(MAX_SHOWN_CHARS).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

fn within(entry: &Option<EntryName>) -> String {
    entry.as_ref().map(|entry| format!(", in entry {entry}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::EntryName;

    #[test]
    fn names_are_shown_without_what_a_terminal_would_act_on() {
        assert_eq!(EntryName::new(b"a\x1b[2Jb\n").to_string(), r"a\u{1b}[2Jb\n");
        assert_eq!(EntryName::new("right\u{202e}left".as_bytes()).to_string(), r"right\u{202e}left");
        assert_eq!(EntryName::new(b"\xff\x00x").to_string(), r"\xff\x00x");
        let long = EntryName::new(&[b'x'; 5000]).to_string();
        assert_eq!(long.chars().count(), 201);
        assert!(long.ends_with('…'));
    }
}
