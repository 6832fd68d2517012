//! The packaged chart that a Rollback names: what is found at its path in the source.

use crate::execute::{Chart, OTHER_ARCHIVE};
use crate::git::{CommitId, FileAt, GitError};
use crate::observe::ChartFound;
use crate::observed::{ChartFacts, ChartSeen};
use crate::release::{ChartArchive, MAX_ARCHIVE_BYTES};
use crate::store::Sha256;

/// What a file begins with that Git LFS keeps elsewhere (git-lfs, `docs/spec.md`).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Judges what lies at the chart's path. Nothing of its content is told but what the chart says of itself.
pub fn found(commit: &CommitId, file: FileAt) -> ChartFound {
    let content = match file {
        FileAt::Content(content) => content,
        FileAt::Missing => return unusable(format!("there is no such file at commit {}", commit.short())),
        FileAt::Other { path, problem } => {
            return unusable(format!("at commit {}, {path} {problem}", commit.short()));
        }
        FileAt::TooLarge { bytes } => {
            return unusable(format!("it has {bytes} bytes, and Helm takes no archive beyond {MAX_ARCHIVE_BYTES}"));
        }
    };
    if content.starts_with(LFS_POINTER) {
        return unusable("it is a pointer of Git LFS, which is not followed: commit the archive itself");
    }
    match ChartArchive::read(&content) {
        Ok(about) => {
            let facts = ChartFacts { about, sha256: Sha256::of(&content).to_string(), commit: commit.to_string() };
            ChartFound { seen: ChartSeen::Packaged(facts), archive: Some(content.into()) }
        }
        Err(not_one) => unusable(not_one.to_string()),
    }
}

/// It is not there, or not one.
pub fn unusable(why: impl Into<String>) -> ChartFound {
    ChartFound { seen: ChartSeen::Unusable(why.into()), archive: None }
}

/// The chart of a run that is gone on with, from what it is found to be now, and the digest that it was planned by.
pub fn again(found: Result<ChartFound, GitError>, sha256: &str) -> Chart {
    match found {
        Ok(ChartFound { seen: ChartSeen::Packaged(facts), archive: Some(archive) }) if facts.sha256 == sha256 => {
            Chart::AtHand(archive)
        }
        Ok(ChartFound { seen: ChartSeen::Unusable(why), archive: _ }) => Chart::Gone(why),
        Ok(_) => Chart::Gone(OTHER_ARCHIVE.to_owned()),
        Err(error @ (GitError::Revision { .. } | GitError::Path { .. })) => Chart::Gone(error.to_string()),
        // Credentials are given anew, and networks come back; the run's own time-out ends it.
        Err(error) => Chart::Away(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> CommitId {
        "1f12ea5d".repeat(5).parse().expect("40 digits")
    }

    fn packaged() -> Vec<u8> {
        use flate2::Compression;
        use flate2::write::GzEncoder;
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let about = b"apiVersion: v2\nname: rancher\nversion: 2.9.3\nappVersion: v2.9.3\n";
        let mut header = tar::Header::new_gnu();
        header.set_size(about.len() as u64);
        tar.append_data(&mut header, "rancher/Chart.yaml", &about[..]).expect("memory");
        tar.into_inner().and_then(GzEncoder::finish).expect("memory")
    }

    #[test]
    fn what_is_no_packaged_chart_is_told_by_what_it_is() {
        let told = |file: FileAt| match found(&commit(), file) {
            ChartFound { seen: ChartSeen::Unusable(why), archive: None } => why,
            other => panic!("{other:?}"),
        };
        let other = FileAt::Other { path: "charts".to_owned(), problem: "is a file, not a folder" };
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".to_vec();
        let lines = [
            told(FileAt::Missing),
            told(other),
            told(FileAt::TooLarge { bytes: 20_000_000 }),
            told(FileAt::Content(pointer)),
            told(FileAt::Content(b"hunter2".to_vec())),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        there is no such file at commit 1f12ea5d1f12
        at commit 1f12ea5d1f12, charts is a file, not a folder
        it has 20000000 bytes, and Helm takes no archive beyond 16777216
        it is a pointer of Git LFS, which is not followed: commit the archive itself
        it is not a packaged chart: its gzip or tar is broken, or unpacks to more than 100 MiB; `helm package` makes one
        ");
    }

    #[test]
    fn a_packaged_chart_is_told_by_its_digest_and_where_it_was_read() {
        let content = packaged();
        let ChartFound { seen: ChartSeen::Packaged(facts), archive } =
            found(&commit(), FileAt::Content(content.clone()))
        else {
            panic!("it is one");
        };
        assert_eq!(archive.as_deref(), Some(content.as_slice()));
        assert_eq!((facts.about.name.as_str(), facts.about.app_version.as_str()), ("rancher", "v2.9.3"));
        assert_eq!((facts.sha256, facts.commit), (Sha256::of(&content).to_string(), commit().to_string()));
    }

    #[test]
    fn a_run_that_is_gone_on_with_takes_the_same_archive_and_waits_for_git_alone() {
        let content = packaged();
        let planned = Sha256::of(&content).to_string();
        let told = |found: Result<ChartFound, GitError>, sha256: &str| match again(found, sha256) {
            Chart::AtHand(archive) => format!("at hand: {} bytes", archive.len()),
            Chart::Away(why) => format!("away: {why}"),
            Chart::Gone(why) => format!("gone: {why}"),
        };
        let found = |file: FileAt| Ok(found(&commit(), file));
        assert_eq!(
            told(found(FileAt::Content(content.clone())), &planned),
            format!("at hand: {} bytes", content.len())
        );
        let unreachable =
            GitError::Unreachable { url: "https://git.example.org".to_owned(), detail: "timed out".to_owned() };
        let no_commit = GitError::Revision { revision: commit().to_string(), problem: "is no commit of the branch" };
        let lines = [
            told(found(FileAt::Content(content)), "sha256:00"),
            told(found(FileAt::Missing), &planned),
            told(Err(unreachable), &planned),
            told(Err(no_commit), &planned),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        gone: it is not the archive that was planned
        gone: there is no such file at commit 1f12ea5d1f12
        away: https://git.example.org cannot be reached: timed out
        gone: "1f12ea5d1f12ea5d1f12ea5d1f12ea5d1f12ea5d" is no commit of the branch
        "#);
    }
}
