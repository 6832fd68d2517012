//! From the bytes of a file to its documents.

use super::digest::{self, Digest};
use super::options::{self, ANNOTATION_PREFIX};
use super::report::{Fields, Problem, Report, Severity};
use super::text::{nearest, quoted, suggestion};
use super::yaml::{self, Bounds, Defect, Entry, Node, Place, Tree, Value};
use super::{Body, Kind, Limits, MAX_PROBLEMS, Manifest, ManifestId, restore, rollback};

/// A document that says it is one of ours and how it is called, valid or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub id: ManifestId,
    pub file: String,
    /// Where it begins, from 1.
    pub at: Place,
    pub digest: Digest,
    /// `None` when a problem says what is wrong with it.
    pub manifest: Option<Manifest>,
}

/// What one file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    pub documents: Vec<Document>,
    /// In the order of the file.
    pub problems: Vec<Problem>,
    /// What could not be read may be a manifest.
    pub hides: bool,
}

/// Reads every manifest of a file. `file` is the path that messages name.
pub fn parse(file: &str, content: &[u8], limits: &Limits) -> Parsed {
    let trees = match trees(content, limits) {
        Ok(trees) => trees,
        Err((at, message)) => {
            let problems = vec![Problem::error(file, at, message)];
            return Parsed { documents: Vec::new(), problems, hides: may_be_ours(content, limits) };
        }
    };
    let mut parsed = Parsed::default();
    for tree in &trees {
        let report = Report::new(file);
        let document = document(file, tree, &report);
        let problems = report.into_problems();
        let valid = problems.iter().all(|problem| problem.severity == Severity::Warning);
        parsed.problems.extend(problems);
        parsed.hides |= !valid;
        parsed.documents.extend(document.map(|document| {
            let manifest = document.manifest.filter(|_| valid);
            Document { manifest, ..document }
        }));
    }
    cut(file, &mut parsed.problems);
    parsed
}

/// A Helm template or a broken values file beside the manifests hides none of them.
fn may_be_ours(content: &[u8], limits: &Limits) -> bool {
    const WORDS: [&[u8]; 4] = [b"resources.cattle.io", b"reinback.io", b"Restore", b"Rollback"];
    content.len() > limits.file_bytes || WORDS.iter().any(|word| content.windows(word.len()).any(|part| part == *word))
}

/// Keeps what fits and says how much does not.
fn cut(file: &str, problems: &mut Vec<Problem>) {
    if let more @ 1.. = problems.len().saturating_sub(MAX_PROBLEMS) {
        problems.truncate(MAX_PROBLEMS);
        problems.push(Problem::error(file, None, format!("{more} more problems are not shown: mend these first")));
    }
}

fn trees(content: &[u8], limits: &Limits) -> Result<Vec<Tree>, (Option<Place>, String)> {
    let Limits { file_bytes, files: _, documents, depth, alias_bytes } = *limits;
    if content.len() > file_bytes {
        let message = format!(
            "more than the {file_bytes} bytes that are read of one file: split it, or keep it out of the watched path"
        );
        return Err((None, message));
    }
    let text = std::str::from_utf8(content).map_err(|error| {
        let line = content.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        (Some(Place { line, column: 1 }), "not UTF-8: save the file as UTF-8".to_owned())
    })?;
    yaml::read(text, &Bounds { documents, depth, alias_bytes }).map_err(|broken| (Some(broken.at), broken.message))
}

fn document(file: &str, tree: &Tree, report: &Report<'_>) -> Option<Document> {
    let kind = classify(&tree.root, report)?;
    for Defect { at, message } in &tree.defects {
        report.error(*at, message.clone());
    }
    let known = match kind {
        Kind::Restore => RESTORE_ROOT,
        Kind::Rollback => ROLLBACK_ROOT,
    };
    let root = Fields::open(&tree.root, "", known, report)?;
    let (name, options) = metadata(&root, kind);
    let body = match kind {
        Kind::Restore => restore::read_field(&root, "spec").map(Body::Restore),
        Kind::Rollback => rollback::read_field(&root, "spec").map(Body::Rollback),
    };
    let id = ManifestId { kind, name: name? };
    let digest = digest::of_document(&tree.root, &set_by_server);
    let at = tree.root.at;
    let manifest = body.zip(options).map(|(body, options)| Manifest {
        id: id.clone(),
        file: file.to_owned(),
        line: at.line,
        blob: String::new(),
        body,
        options,
        document_digest: digest,
    });
    Some(Document { id, file: file.to_owned(), at, digest, manifest })
}

/// `status` is what `kubectl get -o yaml` adds; a Rollback has none anywhere.
const RESTORE_ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const ROLLBACK_ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec"];

const METADATA: &[&str] = &[
    "name",
    "labels",
    "annotations",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "managedFields",
    "ownerReferences",
    "selfLink",
];

/// What a server adds to an object says nothing that a person asks for.
fn set_by_server(path: &[&str]) -> bool {
    match path {
        ["status"] => true,
        ["metadata", field] => !matches!(*field, "name" | "labels" | "annotations"),
        _ => false,
    }
}

/// Whose document this is. What looks like one of ours and is not quite is reported: to be ignored in silence is the
/// worst that can happen to a manifest.
fn classify(root: &Node, report: &Report<'_>) -> Option<Kind> {
    let entry = |key: &str| root.entries().iter().find(|entry| entry.key == key);
    let Some((kind, word)) = entry("kind").and_then(|kind| Some((kind, kind.value.word()?))) else {
        let ours = |word: &str| Kind::ALL.into_iter().find(|kind| kind.api_version() == word);
        if let Some(kind) = entry("apiVersion").and_then(|version| ours(version.value.word()?)) {
            report.error(root.at, format!("`kind` is missing: write `kind: {kind}`"));
        }
        return None;
    };
    let Some(version) = entry("apiVersion").filter(|entry| !entry.value.is_null()) else {
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            report.error(root.at, format!("`apiVersion` is missing: write `apiVersion: {}`", kind.api_version()));
        }
        return None;
    };
    let api_version = version.value.word()?;
    if word == "List" && api_version == "v1" {
        report_list(root, report);
        return None;
    }
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == word && kind.api_version() == api_version) {
        return Some(kind);
    }
    report_near_miss(kind, word, version, api_version, report);
    None
}

/// A kind or an API version that was probably meant to be ours.
fn report_near_miss(kind: &Entry, word: &str, version: &Entry, api_version: &str, report: &Report<'_>) {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let group_of = |ours: Kind| ours.api_version().split_once('/').map_or("", |(group, _)| group);
    if let Some(ours) = Kind::ALL.into_iter().find(|ours| ours.as_str() == word) {
        let same_group = group == group_of(ours);
        // `velero.io/v1 Restore` is somebody else's kind.
        if same_group || nearest(api_version, [ours.api_version()]).is_some() || group == group_of(other(ours)) {
            let message = format!(
                "{} of kind `{word}` is not known: write `apiVersion: {}`",
                quoted(api_version),
                ours.api_version()
            );
            report.error(version.value.at, message);
        }
        return;
    }
    if group == group_of(Kind::Rollback) {
        let message = match word {
            "Run" => "a `Run` is written by reinback and not read from Git: remove it".to_owned(),
            _ => format!("unknown kind {} of {group}{}", quoted(word), suggestion(word, ["Rollback"])),
        };
        report.error(kind.value.at, message);
    } else if group == group_of(Kind::Restore)
        && !matches!(word, "Backup" | "ResourceSet")
        && let Some(near) = nearest(word, ["Restore"])
    {
        report.error(kind.value.at, format!("unknown kind {}, did you mean `{near}`?", quoted(word)));
    }
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Restore => Kind::Rollback,
        Kind::Rollback => Kind::Restore,
    }
}

/// Ours inside a `List` would be carried out by kubectl and passed over by us.
fn report_list(root: &Node, report: &Report<'_>) {
    let Some(Value::List(items)) = root.get("items").map(|node| &node.value) else { return };
    for item in items {
        let word = |key: &str| item.get(key).and_then(Node::word);
        let ours = |kind: &Kind| word("kind") == Some(kind.as_str()) && word("apiVersion") == Some(kind.api_version());
        if let Some(kind) = Kind::ALL.iter().find(|kind| ours(kind)) {
            report.error(
                item.at,
                format!("a `{kind}` inside a `List` is not read: make it a document of its own, after `---`"),
            );
        }
    }
}

fn metadata(root: &Fields<'_>, kind: Kind) -> (Option<String>, Option<options::Options>) {
    if root.get("metadata").is_none() {
        root.missing("metadata", "write `metadata: {name: …}`");
        return (None, None);
    }
    let Some(metadata) = root.open_field("metadata", METADATA) else { return (None, None) };
    if let Some(node) = metadata.get("namespace") {
        root.report()
            .warning(node.at, format!("`metadata.namespace` is ignored: a `{kind}` belongs to the whole cluster"));
    }
    let name = match (metadata.get("name"), metadata.get("generateName")) {
        (Some(_), _) => metadata.parsed("name", name),
        (None, Some(_)) => {
            metadata.missing("name", "`generateName` would be a new run at every look; write a name");
            None
        }
        (None, None) => {
            metadata.missing("name", "it names the run in status and Git");
            None
        }
    };
    let options = match metadata.get("annotations") {
        None => Some(options::Options::default()),
        Some(node) if matches!(node.value, Value::Map(_)) => options::read(node, root.report()),
        Some(node) => {
            root.report().error(node.at, format!("`metadata.annotations` must be a mapping, not {}", node.value));
            None
        }
    };
    if let Some(labels) = metadata.get("labels") {
        for entry in labels.entries().iter().filter(|entry| entry.key.starts_with(ANNOTATION_PREFIX)) {
            root.report().error(
                entry.at,
                format!("{} is read from `metadata.annotations` only: move it there", quoted(&entry.key)),
            );
        }
    }
    (name, options)
}

/// A lower-case RFC 1123 subdomain, as names of custom resources are.
pub(super) fn name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(plain) && label.ends_with(plain) && label.chars().all(|c| plain(c) || c == '-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "is not a name of Kubernetes: {}; write lower-case letters, digits, `-` and `.`, at most 253, beginning and ending with a letter or digit",
        quoted(text)
    ))
}
