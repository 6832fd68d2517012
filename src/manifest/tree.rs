//! All files under the watched path together.

use std::collections::BTreeMap;

use super::document::{Document, parse};
use super::report::Problem;
use super::text::printable;
use super::{Limits, Manifest, ManifestId};

/// A file as it lies in Git, or in a folder.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// The path that messages name.
    pub path: &'a str,
    /// The object id in Git, in hexadecimal; empty outside Git.
    pub blob: &'a str,
    pub content: &'a [u8],
}

/// What the watched path holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Every document that names itself as one of ours; of valid ones whose kind and name stand once, the manifest.
    pub documents: Vec<Document>,
    pub problems: Vec<Problem>,
    hides: bool,
}

/// Takes files one after the other, so that only one has to be in memory.
#[derive(Debug)]
pub struct TreeReader {
    limits: Limits,
    files: usize,
    tree: Tree,
}

impl TreeReader {
    pub fn new(limits: Limits) -> Self {
        Self { limits, files: 0, tree: Tree::default() }
    }

    /// Past the limit of files none of them counts, since which manifest is the newest cannot be known.
    pub fn add(&mut self, file: SourceFile<'_>) {
        self.files += 1;
        if self.files <= self.limits.files {
            self.tree.add(file, &self.limits);
        } else if self.files == self.limits.files + 1 {
            let message =
                format!("more than {} YAML files under the watched path: watch a narrower one", self.limits.files);
            let problems = vec![Problem::error(file.path, None, message)];
            self.tree = Tree { documents: Vec::new(), problems, hides: true };
        }
    }

    /// No file that is added now will be read.
    pub fn is_full(&self) -> bool {
        self.files > self.limits.files
    }

    pub fn finish(mut self) -> Tree {
        self.tree.refuse_duplicates();
        self.tree
    }
}

impl Tree {
    /// Reads files, in the order given.
    pub fn read<'a>(files: impl IntoIterator<Item = SourceFile<'a>>, limits: &Limits) -> Self {
        let mut reader = TreeReader::new(*limits);
        files.into_iter().for_each(|file| reader.add(file));
        reader.finish()
    }

    /// The manifests that count.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.documents.iter().filter_map(|document| document.manifest.as_ref())
    }

    /// No part that could not be read may be a manifest: one that is not here is not in Git.
    pub fn is_whole(&self) -> bool {
        !self.hides
    }

    fn add(&mut self, file: SourceFile<'_>, limits: &Limits) {
        let parsed = parse(file.path, file.content, limits);
        self.problems.extend(parsed.problems);
        self.hides |= parsed.hides;
        self.documents.extend(parsed.documents.into_iter().map(|mut document| {
            if let Some(manifest) = &mut document.manifest {
                manifest.blob = file.blob.to_owned();
            }
            document
        }));
    }

    /// Neither of two documents of one kind and name counts: which of them was meant cannot be known.
    fn refuse_duplicates(&mut self) {
        let mut first: BTreeMap<ManifestId, usize> = BTreeMap::new();
        for index in 0..self.documents.len() {
            let Some(&earlier) = first.get(&self.documents[index].id) else {
                first.insert(self.documents[index].id.clone(), index);
                continue;
            };
            let (there, here) = (&self.documents[earlier], &self.documents[index]);
            let message = format!(
                "{} stands twice, here and at {}:{}: neither counts; rename or remove one",
                here.id,
                printable(&there.file),
                there.at.line
            );
            self.hides = true;
            self.problems.push(Problem::error(&here.file, Some(here.at), message));
            self.documents[earlier].manifest = None;
            self.documents[index].manifest = None;
        }
    }
}
