//! `reinback check`: reads manifests as the agent would, without a cluster.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Output;
use crate::manifest::{Document, Kind, Limits, Problem, Severity, SourceFile, Tree, TreeReader, printable};

/// Read manifests as the agent would, without a cluster
///
/// Prints a line for each manifest, and on stderr what is wrong with them. Exits 0 when all are valid, else 1.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Files, folders (every .yaml and .yml below them; links are not followed) or - for the standard input
    #[arg(required = true, value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// Text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
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
    let mut collected = Collected::new(Limits::default());
    for path in &args.paths {
        collected.take(path, input);
    }
    let (tree, problems) = collected.finish();
    match args.output {
        Output::Text => print_text(&tree, &problems, out, err)?,
        Output::Json => print_json(&tree, &problems, out)?,
    }
    let invalid = problems.iter().any(|problem| problem.severity == Severity::Error);
    Ok(if invalid { Checked::Invalid } else { Checked::Valid })
}

/// Files that were read, and paths that could not be.
struct Collected {
    limits: Limits,
    reader: TreeReader,
    problems: Vec<Problem>,
    /// A file that two arguments lead to is one file, not a duplicate of itself.
    seen: BTreeSet<PathBuf>,
}

impl Collected {
    fn new(limits: Limits) -> Self {
        Self { limits, reader: TreeReader::new(limits), problems: Vec::new(), seen: BTreeSet::new() }
    }

    /// The tree, and all problems: of paths first, then of what is in them.
    fn finish(self) -> (Tree, Vec<Problem>) {
        let Self { limits: _, reader, mut problems, seen: _ } = self;
        let tree = reader.finish();
        problems.extend(tree.problems.iter().cloned());
        (tree, problems)
    }

    fn take(&mut self, path: &Path, input: &mut dyn Read) {
        if path == Path::new("-") {
            let content = read_some(input, &self.limits);
            self.keep("<stdin>", content);
        } else if path.is_dir() {
            self.take_folder(path);
        } else {
            self.take_file(path);
        }
    }

    /// Walks a folder in the order of names. Links inside it are passed over, as in Git.
    fn take_folder(&mut self, folder: &Path) {
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
                if regular && is_yaml(&entry.path()) && !self.reader.is_full() {
                    self.take_file(&entry.path());
                }
            }
            let folders = folders.into_iter().rev().filter(|entry| entry.file_name() != OsStr::new(".git"));
            waiting.extend(folders.map(|entry| entry.path()));
        }
    }

    fn take_file(&mut self, path: &Path) {
        if path.canonicalize().is_ok_and(|real| !self.seen.insert(real)) {
            return;
        }
        let content = File::open(path).and_then(|mut file| read_some(&mut file, &self.limits));
        self.keep(&path.to_string_lossy(), content);
    }

    fn keep(&mut self, path: &str, content: io::Result<Vec<u8>>) {
        match content {
            Ok(content) => self.reader.add(SourceFile { path, blob: "", content: &content }),
            Err(error) => self.problem(Path::new(path), &error),
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown {
        out: String,
        err: String,
        checked: Checked,
    }

    fn check(paths: &[&Path], output: Output, mut input: &[u8]) -> Shown {
        let args = CheckArgs { paths: paths.iter().map(|path| path.to_path_buf()).collect(), output };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let checked = run(&args, &mut input, &mut out, &mut err).expect("memory takes everything");
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        Shown { out: text(out), err: text(err), checked }
    }

    const GOOD: &str =
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {name: good}\nspec: {backupFilename: b.tar.gz}\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }
        folder
    }

    fn examples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
    }

    #[test]
    fn every_example_is_valid() {
        let shown = check(&[&examples()], Output::Text, b"");
        let out = shown.out.replace(&format!("{}/", examples().display()), "");
        insta::assert_snapshot!(out, @"
        migration.yaml:3 Restore restore-migration ok
        restore-by-operator.yaml:6 Restore restore-by-operator ok
        restore-from-folder.yaml:3 Restore back-to-monday ok
        restore-from-s3.yaml:5 Restore restore-from-s3 ok
        rollback-by-chart.yaml:8 Rollback back-by-chart ok
        rollback-by-helm.yaml:5 Rollback back-to-2-9-3 ok
        rollback-by-image.yaml:6 Rollback back-by-image ok
        rollback-by-operator.yaml:3 Rollback back-by-operator ok
        undo.yaml:3 Rollback undo-back-by-image ok
        ");
        assert_eq!((shown.err.as_str(), shown.checked), ("", Checked::Valid));
    }

    #[test]
    fn every_example_of_a_configuration_is_valid() {
        use crate::config::Config;
        let mut count = 0;
        for entry in std::fs::read_dir(examples()).expect("the examples") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("reinback")) {
                let content = std::fs::read(&path).expect("it can be read");
                let parsed = Config::parse(Some(("example", &content)), &[], Path::new("/data"));
                assert!(parsed.is_ok(), "{}: {parsed:?}", path.display());
                count += 1;
            }
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn folders_are_walked_in_order_and_links_and_other_files_passed_over() {
        let other = folder(&[("linked.yaml", &GOOD.replace("good", "linked"))]);
        let folder = folder(&[
            ("b.yml", &GOOD.replace("good", "b")),
            ("a/z.yaml", &GOOD.replace("good", "z")),
            ("notes.txt", GOOD),
            (".git/x.yaml", GOOD),
        ]);
        std::os::unix::fs::symlink(other.path(), folder.path().join("link")).expect("a link");
        std::os::unix::fs::symlink(other.path().join("linked.yaml"), folder.path().join("c.yaml")).expect("a link");
        let shown = check(&[folder.path(), &folder.path().join("b.yml")], Output::Text, b"");
        let out = shown.out.replace(&format!("{}/", folder.path().display()), "");
        insta::assert_snapshot!(out, @"
        b.yml:1 Restore b ok
        a/z.yaml:1 Restore z ok
        ");
        assert_eq!(shown.checked, Checked::Valid);
    }

    #[test]
    fn what_is_wrong_goes_to_stderr_and_the_rest_is_told() {
        let bad = format!("{GOOD}---\n{}", GOOD.replace("good", "bad").replace("backupFilename", "backupFileName"));
        let shown = check(&[Path::new("-"), Path::new("/nowhere.yaml")], Output::Text, bad.as_bytes());
        insta::assert_snapshot!(shown.out, @"
        <stdin>:1 Restore good ok
        <stdin>:6 Restore bad invalid
        ");
        insta::assert_snapshot!(shown.err, @"
        /nowhere.yaml: cannot be read: No such file or directory (os error 2)
        <stdin>:9: unknown field `backupFileName` in `spec`, did you mean `backupFilename`?
        ");
        assert_eq!(shown.checked, Checked::Invalid);
    }

    #[test]
    fn json_says_the_same() {
        let bad = format!("{GOOD}---\n{}", GOOD.replace("good", "bad").replace("b.tar.gz", "a/b"));
        let shown = check(&[Path::new("-")], Output::Json, bad.as_bytes());
        insta::assert_snapshot!(shown.out, @r#"
        {
          "manifests": [
            {
              "kind": "Restore",
              "name": "good",
              "file": "<stdin>",
              "line": 1,
              "valid": true
            },
            {
              "kind": "Restore",
              "name": "bad",
              "file": "<stdin>",
              "line": 6,
              "valid": false
            }
          ],
          "problems": [
            {
              "severity": "error",
              "file": "<stdin>",
              "line": 9,
              "column": 24,
              "message": "`spec.backupFilename` must be a file name, not a path: `a/b`; the folder belongs to `storageLocation.s3.folder`"
            }
          ]
        }
        "#);
        assert_eq!((shown.err.as_str(), shown.checked), ("", Checked::Invalid));
    }

    #[test]
    fn nothing_to_check_is_told_and_no_error() {
        let shown = check(&[Path::new("-")], Output::Text, b"kind: ConfigMap\napiVersion: v1\n");
        assert_eq!((shown.out.as_str(), shown.err.as_str()), ("", "no Restore or Rollback found\n"));
        assert_eq!(shown.checked, Checked::Valid);
    }

    #[test]
    fn a_file_larger_than_the_limit_is_not_read_whole() {
        let folder = folder(&[("large.yaml", &"#".repeat(Limits::default().file_bytes + 5))]);
        let shown = check(&[folder.path()], Output::Text, b"");
        assert!(shown.err.contains("more than the 1048576 bytes"), "{}", shown.err);
    }
}
