//! `reinback check`: reads manifests as the agent would, without a cluster.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::manifest::{Document, Kind, Limits, Problem, Severity, SourceFile, Tree, printable};

/// Read manifests as the agent would, without a cluster
///
/// Prints a line for each manifest, and on stderr what is wrong with them. Exits 0 when all are valid, else 1.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Files, folders (every .yaml and .yml below them; links are not followed) or - for the standard input
    #[arg(required = true, value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// Text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// What `check` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Exit code 0; warnings may have been told.
    Valid,
    /// Exit code 1.
    Invalid,
}

/// Checks what `args` name and prints the outcome.
///
/// # Errors
///
/// Only what writing to `out` and `err` gives; a file that cannot be read is a problem like any other.
pub fn run(args: &CheckArgs, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Checked> {
    let limits = Limits::default();
    let mut collected = Collected::default();
    for path in &args.paths {
        collected.take(path, input, &limits);
    }
    let files = collected.files.iter().map(|(path, content)| SourceFile { path, blob: "", content });
    let tree = Tree::read(files, &limits);
    let mut problems = collected.problems;
    problems.extend(tree.problems.iter().cloned());
    match args.output {
        Output::Text => print_text(&tree, &problems, out, err)?,
        Output::Json => print_json(&tree, &problems, out)?,
    }
    let invalid = problems.iter().any(|problem| problem.severity == Severity::Error);
    Ok(if invalid { Checked::Invalid } else { Checked::Valid })
}

/// Files that were read, and paths that could not be.
#[derive(Default)]
struct Collected {
    files: Vec<(String, Vec<u8>)>,
    problems: Vec<Problem>,
    /// A file that two arguments lead to is one file, not a duplicate of itself.
    seen: BTreeSet<PathBuf>,
}

impl Collected {
    fn take(&mut self, path: &Path, input: &mut dyn Read, limits: &Limits) {
        if path == Path::new("-") {
            let content = read_some(input, limits);
            self.keep("<stdin>".to_owned(), content);
        } else if path.is_dir() {
            self.take_folder(path, limits);
        } else {
            self.take_file(path, limits);
        }
    }

    /// Walks a folder in the order of names. Links inside it are passed over, as in Git.
    fn take_folder(&mut self, folder: &Path, limits: &Limits) {
        let mut waiting = vec![folder.to_owned()];
        while let Some(folder) = waiting.pop() {
            let mut entries: Vec<_> = match std::fs::read_dir(&folder).and_then(Iterator::collect) {
                Ok(entries) => entries,
                Err(error) => {
                    self.problem(&folder, &error);
                    continue;
                }
            };
            entries.sort_by_key(std::fs::DirEntry::file_name);
            let (folders, others): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for entry in others {
                let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
                // One more than the limit, so that the reader tells of it.
                if regular && is_yaml(&entry.path()) && self.files.len() <= limits.files {
                    self.take_file(&entry.path(), limits);
                }
            }
            let folders = folders.into_iter().rev().filter(|entry| entry.file_name() != OsStr::new(".git"));
            waiting.extend(folders.map(|entry| entry.path()));
        }
    }

    fn take_file(&mut self, path: &Path, limits: &Limits) {
        if path.canonicalize().is_ok_and(|real| !self.seen.insert(real)) {
            return;
        }
        let content = File::open(path).and_then(|mut file| read_some(&mut file, limits));
        self.keep(path.to_string_lossy().into_owned(), content);
    }

    fn keep(&mut self, name: String, content: io::Result<Vec<u8>>) {
        match content {
            Ok(content) => self.files.push((name, content)),
            Err(error) => self.problem(Path::new(&name), &error),
        }
    }

    fn problem(&mut self, path: &Path, error: &io::Error) {
        self.problems.push(Problem::error(&path.to_string_lossy(), None, format!("cannot be read: {error}")));
    }
}

/// The extensions that the agent reads.
fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// One byte more than the limit at most, so that the reader tells of it.
fn read_some(input: &mut dyn Read, limits: &Limits) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    input.take(limits.file_bytes as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn print_text(tree: &Tree, problems: &[Problem], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    for Document { id, file, at, manifest, .. } in &tree.documents {
        let state = if manifest.is_some() { "ok" } else { "invalid" };
        writeln!(out, "{}:{} {id} {state}", printable(file), at.line)?;
    }
    problems.iter().try_for_each(|problem| writeln!(err, "{problem}"))?;
    if tree.documents.is_empty() && problems.is_empty() {
        writeln!(err, "no Restore or Rollback found")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Line<'a> {
    kind: Kind,
    name: &'a str,
    file: &'a str,
    line: usize,
    valid: bool,
}

#[derive(Serialize)]
struct Outcome<'a> {
    manifests: Vec<Line<'a>>,
    problems: &'a [Problem],
}

fn print_json(tree: &Tree, problems: &[Problem], out: &mut dyn Write) -> io::Result<()> {
    let manifests = tree.documents.iter().map(|Document { id, file, at, digest: _, manifest }| Line {
        kind: id.kind,
        name: &id.name,
        file,
        line: at.line,
        valid: manifest.is_some(),
    });
    let outcome = Outcome { manifests: manifests.collect(), problems };
    serde_json::to_writer_pretty(&mut *out, &outcome)?;
    writeln!(out)
}
