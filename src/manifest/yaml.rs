//! YAML as a tree that knows the line of everything in it.
//!
//! What a person wrote is read through this tree, because an error without its line is half an error. A defect of a
//! document (a duplicate key, a tag, an alias that grows too large) is kept beside its tree and not reported here:
//! only the caller knows whether the document is ours to judge.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::text::quoted;

/// Where something begins in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    fn of(span: &Span) -> Self {
        Self { line: span.start.line().max(1), column: span.start.col() + 1 }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`, unquoted.
    Null,
    /// Text that no reader of YAML takes for anything else.
    Text(String),
    /// An unquoted word that YAML, 1.1 as kubectl reads it or 1.2, takes for a boolean or a number.
    Bare(String),
    List(Vec<Node>),
    /// In the order of the file; a key stands once.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub at: Place,
    pub value: Node,
}

impl Node {
    /// The entries of a mapping; of anything else, none.
    pub fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text of a scalar as it is written, whatever it means.
    pub fn word(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Bare(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }
}

/// What is at a place, for "expected …, found …".
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Text(text) => write!(f, "the text {}", quoted(text)),
            Self::Bare(text) if is_number(text) => write!(f, "the number {}", quoted(text)),
            Self::Bare(text) => write!(f, "the boolean {}", quoted(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Something wrong inside one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    pub at: Place,
    pub message: String,
}

/// One document of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub root: Node,
    pub defects: Vec<Defect>,
}

/// Why a stream is not YAML, or more of it than is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub at: Place,
    pub message: String,
}

/// How much of a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub documents: usize,
    /// Mappings and lists inside each other.
    pub depth: usize,
    /// Bytes of text, and 16 for each value, that the aliases of one document may repeat.
    pub alias_bytes: usize,
}

/// The parser's own limit on nesting; what lies between ours and this is a defect of one document only.
const PARSER_DEPTH: usize = 255;

/// Reads every document of a stream, or says where the stream breaks.
pub fn read(text: &str, bounds: &Bounds) -> Result<Vec<Tree>, Broken> {
    let options = granit_parser::options! {
        flow_nesting_limit: PARSER_DEPTH,
        block_nesting_limit: PARSER_DEPTH,
        emit_comments: false,
        // An unknown alias in a document of someone else's must not hide ours.
        emit_unresolved_aliases: true,
    };
    let mut trees = Vec::new();
    let mut builder = Builder::new(*bounds);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| broken(&error))?;
        if matches!(event, Event::DocumentStart(..)) && trees.len() == bounds.documents {
            let message = format!("more than {} documents in one file: split the file", bounds.documents);
            return Err(Broken { at: Place::of(&span), message });
        }
        if let Some(tree) = builder.take(event, &span) {
            trees.push(tree);
        }
    }
    Ok(trees)
}

fn broken(error: &ScanError) -> Broken {
    let at = Place { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    let message = match error.kind() {
        ErrorKind::RecursionLimitExceeded => format!("nested more than {PARSER_DEPTH} levels deep"),
        _ => format!("not YAML: {}", error.info()),
    };
    Broken { at, message }
}

/// A mapping or list that is still open.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(Option<String>, Place)>,
    keys: BTreeSet<String>,
    size: Size,
}

/// How large a value is with all that it holds.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Text, and 16 for each value.
    bytes: usize,
    /// Mappings and lists inside each other.
    height: usize,
}

impl Size {
    fn leaf(text: &str) -> Self {
        Self { bytes: 16 + text.len(), height: 0 }
    }

    fn hold(&mut self, child: Self) {
        self.bytes += child.bytes;
        self.height = self.height.max(child.height + 1);
    }
}

/// A value that an alias may repeat; `None` where even keeping it was too much.
struct Anchored {
    value: Option<Value>,
    size: Size,
}

struct Builder {
    bounds: Bounds,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    repeated_bytes: usize,
    defects: Vec<Defect>,
    root: Option<Node>,
}

impl Builder {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, open: Vec::new(), anchors: HashMap::new(), repeated_bytes: 0, defects: Vec::new(), root: None }
    }

    /// Takes one event; the end of a document gives its tree.
    fn take(&mut self, event: Event<'_>, span: &Span) -> Option<Tree> {
        let at = Place::of(span);
        match event {
            Event::DocumentStart(..) => {
                *self = Self::new(self.bounds);
                self.root = Some(Node { at, value: Value::Null });
            }
            Event::DocumentEnd => {
                let root = self.root.take()?;
                return Some(Tree { root, defects: std::mem::take(&mut self.defects) });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), at);
                self.close(Node { at, value }, anchor, Size::leaf(&text));
            }
            Event::SequenceStart(_, anchor, tag) => self.start(Value::List(Vec::new()), anchor, tag.as_deref(), at),
            Event::MappingStart(_, anchor, tag) => self.start(Value::Map(Vec::new()), anchor, tag.as_deref(), at),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { node, anchor, size, .. }) = self.open.pop() {
                    self.close(node, anchor, size);
                }
            }
            Event::Alias(id) => self.alias(id, at),
            Event::UnresolvedAlias(name) => {
                self.defect(at, format!("the alias `*{name}` has no anchor before it"));
                self.add(Node { at, value: Value::Null }, Size::default());
            }
            // Stream marks, and events that `read` does not ask for.
            _ => {}
        }
        None
    }

    fn defect(&mut self, at: Place, message: String) {
        self.defects.push(Defect { at, message });
    }

    fn start(&mut self, value: Value, anchor: usize, tag: Option<&Tag>, at: Place) {
        if tag.is_some_and(|tag| !matches!(tag.core_suffix(), Some("map" | "seq"))) {
            self.tagged(at);
        }
        if self.open.len() == self.bounds.depth {
            self.too_deep(at);
        }
        let node = Node { at, value };
        self.open.push(Open { node, anchor, key: None, keys: BTreeSet::new(), size: Size { bytes: 16, height: 1 } });
    }

    fn tagged(&mut self, at: Place) {
        self.defect(at, "YAML tags (`!…`) are not read: remove the tag".to_owned());
    }

    fn too_deep(&mut self, at: Place) {
        let message = format!("nested more than {} levels deep", self.bounds.depth);
        self.defect(at, message);
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Place) -> Value {
        let as_text = match tag.map(Tag::core_suffix) {
            None => style != ScalarStyle::Plain,
            Some(Some("str")) => true,
            Some(_) => {
                self.tagged(at);
                true
            }
        };
        if as_text { Value::Text(text.to_owned()) } else { plain(text) }
    }

    /// Repeats an anchored value, unless that makes the document too large or too deep.
    fn alias(&mut self, id: usize, at: Place) {
        let (value, size) = match self.anchors.get(&id) {
            None => {
                self.defect(at, "an alias inside the value that it repeats".to_owned());
                (Value::Null, Size::default())
            }
            Some(Anchored { value: Some(value), size }) if self.affordable(*size) => {
                self.repeated_bytes += size.bytes;
                (value.clone(), *size)
            }
            Some(_) => {
                let message = format!("aliases repeat more than {} bytes: write less", self.bounds.alias_bytes);
                self.defect(at, message);
                (Value::Null, Size::default())
            }
        };
        if self.open.len() + size.height > self.bounds.depth {
            self.too_deep(at);
            return self.add(Node { at, value: Value::Null }, Size::default());
        }
        // The place of use, not of the anchor: a wrong type is seen, and mended, where it is used.
        self.add(Node { at, value }, size);
    }

    fn affordable(&self, size: Size) -> bool {
        self.repeated_bytes + size.bytes <= self.bounds.alias_bytes
    }

    /// Puts a whole value into what is open, and keeps a copy when it is anchored. Copies count like repetitions:
    /// anchors inside anchors would cost a copy a level.
    fn close(&mut self, node: Node, anchor: usize, size: Size) {
        if anchor != 0 {
            let value = self.affordable(size).then(|| node.value.clone());
            self.repeated_bytes += value.as_ref().map_or(0, |_| size.bytes);
            self.anchors.insert(anchor, Anchored { value, size });
        }
        self.add(node, size);
    }

    fn add(&mut self, node: Node, size: Size) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.size.hold(size);
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => {
                    let at = node.at;
                    let message = key_defect(&node, &open.keys);
                    let key = node.word().filter(|_| message.is_none()).map(str::to_owned);
                    open.keys.extend(key.clone());
                    open.key = Some((key, at));
                    self.defects.extend(message.map(|message| Defect { at, message }));
                }
                Some((Some(key), at)) => entries.push(Entry { key, at, value: node }),
                // The value of a key that was refused.
                Some((None, _)) => {}
            },
            Value::Null | Value::Text(_) | Value::Bare(_) => {}
        }
    }
}

fn key_defect(node: &Node, seen: &BTreeSet<String>) -> Option<String> {
    match (&node.value, node.word()) {
        (Value::Text(key), _) if key == "<<" => Some("merge keys (`<<`) are not read: write the fields out".to_owned()),
        (_, Some(key)) if seen.contains(key) => Some(format!("duplicate key {}: remove one", quoted(key))),
        (_, Some(_)) => None,
        (_, None) => Some("a key must be a word".to_owned()),
    }
}

impl Value {
    /// What an unquoted word means.
    pub fn of_word(text: &str) -> Self {
        plain(text)
    }
}

/// An unquoted word as kubectl's YAML (1.1) or YAML 1.2 reads it; where they differ it is `Bare` and the reader of the
/// field decides, so that `prune: no` is never quietly something else.
fn plain(text: &str) -> Value {
    const BOOLEANS: &[&str] = &["true", "false", "yes", "no", "on", "off", "y", "n"];
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ if BOOLEANS.iter().any(|word| word.eq_ignore_ascii_case(text)) || is_number(text) => {
            Value::Bare(text.to_owned())
        }
        _ => Value::Text(text.to_owned()),
    }
}

/// YAML 1.1 and 1.2 together: decimal, octal, hexadecimal, binary, floats, infinities, and `_` between digits.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase().replace('_', "");
    if matches!(lower.as_str(), ".inf" | ".nan") {
        return true;
    }
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, radix)| {
        let digits = lower.strip_prefix(prefix)?;
        Some(!digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix)))
    });
    // Rust's parser also takes "inf" and "nan", which are words.
    radix.unwrap_or_else(|| lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') && lower.parse::<f64>().is_ok())
}
