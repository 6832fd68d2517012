//! The repository of the demo: a real, bare one, in which a person commits and the agent reports.

use std::path::{Path, PathBuf};

use anyhow::Context;
use git2::{Commit, RepositoryInitOptions, Sort};
use jiff::Timestamp;

use crate::git::{Author, FileEdit, Remote, StatusBranch, blocking, init_process};

/// The branch that people merge into.
pub const MAIN: &str = "main";

pub struct Repository {
    /// The bare repository.
    folder: PathBuf,
    /// The person's own copy.
    copy: PathBuf,
}

/// A commit in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// In full, 40 hexadecimal digits.
    pub id: String,
    pub time: Timestamp,
    pub author: String,
    pub subject: String,
}

impl Repository {
    /// Makes an empty one in `folder`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        init_process()?;
        let repository = folder.join("rancher.git");
        let mut options = RepositoryInitOptions::new();
        options.bare(true).initial_head(MAIN).external_template(false);
        git2::Repository::init_opts(&repository, &options).context("cannot make a repository")?;
        Ok(Self { folder: repository, copy: folder.join("ada") })
    }

    /// For a configuration.
    ///
    /// # Errors
    ///
    /// When the folder has no absolute path.
    pub fn url(&self) -> anyhow::Result<String> {
        let url = url::Url::from_file_path(&self.folder);
        url.map(String::from).map_err(|()| anyhow::anyhow!("{} is no absolute path", self.folder.display()))
    }

    /// Ada pushes a commit that writes one file to [`MAIN`].
    ///
    /// # Errors
    ///
    /// When it cannot be pushed.
    pub async fn merge(&self, path: &str, content: &str, message: &str, now: Timestamp) -> anyhow::Result<()> {
        let (copy, remote) = (self.copy.clone(), Remote::new(self.url()?, None));
        let message = format!("{message}\n");
        let edit = FileEdit { path: path.to_owned(), content: Some(content.as_bytes().to_vec()) };
        let pushed = blocking(move || {
            let author = Author { name: "Ada".to_owned(), email: "ada@example.org".to_owned() };
            let mut branch = StatusBranch::open(&copy, remote, MAIN, author)?;
            branch.publish(&message, now, &mut |_| Ok(vec![edit.clone()]))
        });
        pushed.await.map(drop).context("cannot push")
    }

    /// The commits of a branch, newest first; none when there is no such branch.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read.
    pub fn log(&self, branch: &str) -> anyhow::Result<Vec<Line>> {
        let repository = git2::Repository::open_bare(&self.folder)?;
        let Some(tip) = tip(&repository, branch)? else { return Ok(Vec::new()) };
        let mut walk = repository.revwalk()?;
        walk.set_sorting(Sort::TOPOLOGICAL)?;
        walk.push(tip.id())?;
        walk.map(|id| Ok(line(&repository.find_commit(id?)?))).collect()
    }

    /// A file at the tip of a branch.
    ///
    /// # Errors
    ///
    /// When the repository cannot be read, or the file is no text.
    pub fn file(&self, branch: &str, path: &str) -> anyhow::Result<Option<String>> {
        let repository = git2::Repository::open_bare(&self.folder)?;
        let Some(tip) = tip(&repository, branch)? else { return Ok(None) };
        let entry = match tip.tree()?.get_path(Path::new(path)) {
            Ok(entry) => entry,
            Err(error) if error.code() == git2::ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let blob = repository.find_blob(entry.id())?;
        Ok(Some(std::str::from_utf8(blob.content()).with_context(|| format!("{path} is no text"))?.to_owned()))
    }
}

fn tip<'a>(repository: &'a git2::Repository, branch: &str) -> anyhow::Result<Option<Commit<'a>>> {
    match repository.find_reference(&format!("refs/heads/{branch}")) {
        Ok(reference) => Ok(Some(reference.peel_to_commit()?)),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn line(commit: &Commit<'_>) -> Line {
    Line {
        id: commit.id().to_string(),
        time: Timestamp::from_second(commit.time().seconds()).unwrap_or_default(),
        author: String::from_utf8_lossy(commit.author().name_bytes()).into_owned(),
        subject: commit.summary_bytes().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_merged_is_read_back_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::make(folder.path()).unwrap();
        assert_eq!(repository.log(MAIN).unwrap(), []);
        assert_eq!(repository.file(MAIN, "a/b.yaml").unwrap(), None);
        let time: Timestamp = "2026-11-23T03:00:00Z".parse().unwrap();
        repository.merge("README.md", "manifests\n", "Begin", time).await.unwrap();
        repository.merge("a/b.yaml", "kind: Restore\n", "Restore", time).await.unwrap();
        let subjects: Vec<_> = repository.log(MAIN).unwrap().into_iter().map(|line| line.subject).collect();
        assert_eq!(subjects, ["Restore", "Begin"]);
        assert_eq!(repository.file(MAIN, "a/b.yaml").unwrap().as_deref(), Some("kind: Restore\n"));
        assert_eq!(repository.file(MAIN, "a/c.yaml").unwrap(), None);
        assert_eq!(repository.log("elsewhere").unwrap(), []);
    }
}
