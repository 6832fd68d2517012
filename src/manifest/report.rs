//! Problems, and the reader of a mapping that collects all of them instead of stopping at the first.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::MAX_PROBLEMS;
use super::text::{choices, nearest, printable, quoted, suggestion};
use super::yaml::{Node, Place, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document, or the file when no line is named, does not count.
    Error,
    /// Something is ignored.
    Warning,
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// The path as the caller gave it.
    pub file: String,
    #[serde(flatten)]
    pub at: Option<Place>,
    /// What is wrong and what to do; no secret is in it.
    pub message: String,
}

impl Problem {
    pub fn error(file: &str, at: Option<Place>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, file: file.to_owned(), at, message: message.into() }
    }
}

/// `clusters/prod/a.yaml:7: unknown field …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, at, message } = self;
        f.write_str(&printable(file))?;
        if let Some(Place { line, .. }) = at {
            write!(f, ":{line}")?;
        }
        match severity {
            Severity::Error => write!(f, ": {message}"),
            Severity::Warning => write!(f, ": warning: {message}"),
        }
    }
}

/// Collects the problems of one file.
pub struct Report<'a> {
    file: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Report<'a> {
    pub fn new(file: &'a str) -> Self {
        Self { file, problems: RefCell::default() }
    }

    pub fn error(&self, at: Place, message: impl Into<String>) {
        if !self.is_full() {
            self.problems.borrow_mut().push(Problem::error(self.file, Some(at), message));
        }
    }

    /// A person has enough to mend; a hostile file gets no more of our time.
    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MAX_PROBLEMS
    }

    pub fn warning(&self, at: Place, message: impl Into<String>) {
        let problem = Problem { severity: Severity::Warning, ..Problem::error(self.file, Some(at), message) };
        self.problems.borrow_mut().push(problem);
    }

    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.at);
        problems
    }
}

/// Reads the fields of one mapping.
///
/// Every method reports what is wrong and answers `None`, so that reading goes on to the next field. A field that is
/// null counts as left out, as it does for the API server.
pub struct Fields<'a> {
    /// The way from the document's root, such as `spec.storageLocation`; empty at the root.
    path: String,
    node: &'a Node,
    known: &'static [&'static str],
    report: &'a Report<'a>,
}

impl<'a> Fields<'a> {
    /// Opens a mapping and reports every field that is not in `known`.
    pub fn open(
        node: &'a Node,
        path: impl Into<String>,
        known: &'static [&'static str],
        report: &'a Report<'a>,
    ) -> Option<Self> {
        let path = path.into();
        if !matches!(node.value, Value::Map(_)) {
            let what = if path.is_empty() { "the document".to_owned() } else { format!("`{path}`") };
            report.error(node.at, format!("{what} must be a mapping, not {}", node.value));
            return None;
        }
        let unknown = node.entries().iter().filter(|entry| !known.contains(&entry.key.as_str()));
        for entry in unknown.take_while(|_| !report.is_full()) {
            let within = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
            let hint = suggestion(&entry.key, known.iter().copied());
            report.error(entry.at, format!("unknown field {}{within}{hint}", quoted(&entry.key)));
        }
        Some(Self { path, node, known, report })
    }

    pub fn report(&self) -> &'a Report<'a> {
        self.report
    }

    /// The way to a field, as messages name it.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn get(&self, name: &str) -> Option<&'a Node> {
        debug_assert!(self.known.contains(&name), "{name} is read but not known");
        self.node.get(name).filter(|node| !node.is_null())
    }

    /// A mapping inside this one.
    pub fn open_field(&self, name: &str, known: &'static [&'static str]) -> Option<Fields<'a>> {
        Fields::open(self.get(name)?, self.path(name), known, self.report)
    }

    /// Reports a field that must be there; not where an unknown field was taken for it, which has been told.
    pub fn missing(&self, name: &str, remedy: &str) {
        let mistyped = |key: &str| !self.known.contains(&key) && nearest(key, self.known.iter().copied()) == Some(name);
        if !self.node.entries().iter().take(MAX_PROBLEMS).any(|entry| mistyped(&entry.key)) {
            self.report.error(self.node.at, format!("`{}` is missing: {remedy}", self.path(name)));
        }
    }

    fn wrong(&self, name: &str, node: &Node, message: &str) {
        self.report.error(node.at, format!("`{}` {message}", self.path(name)));
    }

    pub fn boolean(&self, name: &str) -> Option<bool> {
        let node = self.get(name)?;
        if let Value::Bare(word) = &node.value {
            match word.as_str() {
                "true" => return Some(true),
                "false" => return Some(false),
                _ => {}
            }
        }
        self.wrong(name, node, &format!("must be a boolean, not {}: write true or false", found_boolean(&node.value)));
        None
    }

    pub fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let node = self.get(name)?;
        let bare = if let Value::Bare(word) = &node.value { word.parse::<u64>().ok() } else { None };
        match bare {
            Some(number) if range.contains(&number) => return Some(number),
            _ => {
                let (least, most) = (range.start(), range.end());
                let bounds = if *most == u64::MAX || *most == u64::from(u32::MAX) {
                    format!("of {least} or more")
                } else {
                    format!("from {least} to {most}")
                };
                self.wrong(name, node, &format!("must be a whole number {bounds}, not {}", node.value));
            }
        }
        None
    }

    /// A list of words.
    pub fn words(&self, name: &str) -> Option<Vec<(&'a str, Place)>> {
        let node = self.get(name)?;
        let Value::List(items) = &node.value else {
            self.wrong(name, node, &format!("must be a list, not {}: write [a, b]", node.value));
            return None;
        };
        let word = |item: &'a Node| match &item.value {
            Value::Text(text) => Some((text.as_str(), item.at)),
            Value::Null | Value::Bare(_) | Value::List(_) | Value::Map(_) => {
                self.wrong(name, item, &format!("must list words, not {}", item.value));
                None
            }
        };
        items.iter().map(word).collect()
    }

    /// Text that `parse` takes; its error says what is wrong with the value and what to write instead.
    ///
    /// A number or boolean is not text even where it would parse; where it would not, its own error helps more.
    pub fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let node = self.get(name)?;
        let value = match &node.value {
            Value::Text(text) => parse(text),
            Value::Bare(word) => parse(word).and_then(|_| Err(not_text(&node.value))),
            Value::Null | Value::List(_) | Value::Map(_) => Err(not_text(&node.value)),
        };
        value.map_err(|message| self.wrong(name, node, &message)).ok()
    }
}

/// The end of "`…` must be text, …".
pub(super) fn not_text(value: &Value) -> String {
    match value {
        Value::Bare(word) => format!("must be text, not {value}: write it in quotes, \"{}\"", printable(word)),
        Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => format!("must be text, not {value}"),
    }
}

/// `no` is a boolean to kubectl and a word to others, so it is named without saying which.
fn found_boolean(value: &Value) -> String {
    match value {
        Value::Bare(word) => quoted(word),
        Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => value.to_string(),
    }
}

/// Reads one of a few words.
pub fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("must be {}, not {}{}", choices(&known), quoted(text), suggestion(text, known.iter().copied()))
    })
}

/// Reads a duration such as `45m` or `1h30m`, within bounds.
pub fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|signed| Duration::try_from(signed).ok());
    let Some(length) = parsed else {
        return Err(format!("is not a duration: {}; write it like 90s, 45m or 1h30m", quoted(text)));
    };
    if range.contains(&length) {
        return Ok(length);
    }
    let (least, most) = (humane(*range.start()), humane(*range.end()));
    Err(format!("must be from {least} to {most}, not {}", quoted(text)))
}

/// A duration as people write it: `45m`, `1h30m`, `0s`.
pub fn humane(length: Duration) -> String {
    let seconds = length.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds % 3600 / 60, "m"), (seconds % 60, "s")];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}
