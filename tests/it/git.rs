//! The Git room against real servers and real repositories.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reinback::git::{self, CommitId, FileAt, GitError, Mirror, Remote, Timeouts, TreeLimits};

use crate::git_server::{GitServer, Options, Work, make_bare};

mod cache;
mod http;
mod leaks;
mod status;

/// A folder for caches and secrets, and libgit2 set up.
fn room() -> tempfile::TempDir {
    git::init_process().unwrap();
    tempfile::tempdir().unwrap()
}

fn file_url(path: &Path) -> String {
    url::Url::from_file_path(path).unwrap().to_string()
}

fn patient(url: String, secret_dir: Option<PathBuf>) -> Remote {
    Remote {
        url,
        secret_dir,
        timeouts: Timeouts { connect: Duration::from_secs(60), data: Duration::from_secs(120), ..Timeouts::default() },
    }
}

fn secret_dir(room: &Path, files: &[(&str, &str)]) -> PathBuf {
    let dir = room.join("secret");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
    }
    dir
}

/// Runs a test on a `file://` remote and on an HTTP one.
fn on_both(test: impl Fn(&Path, String, &Path)) {
    let room = room();
    let bare = room.path().join("a remote:1.git");
    make_bare(&bare);
    test(&room.path().join("cache"), file_url(&bare), &bare);
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    test(&room.path().join("cache-http"), server.url("remote.git"), &bare);
}

fn commits(mirror: &mut Mirror, tip: &CommitId, path: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let all = mirror.changes(tip, path, &TreeLimits::default(), &mut |change| {
        let files: Vec<_> = change
            .files
            .iter()
            .map(|file| {
                let mark = match (&file.before, &file.after) {
                    (None, Some(_)) => "+",
                    (Some(_), None) => "-",
                    (_, _) => "~",
                };
                format!("{mark}{}", file.path)
            })
            .collect();
        seen.push(format!("{} {}: {}", change.commit.position, change.commit.subject, files.join(" ")));
        ControlFlow::Continue(())
    });
    assert_eq!(all.unwrap(), git::Completeness::Whole);
    seen
}

#[test]
fn the_manifests_under_the_path_are_read_and_nothing_else() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("clusters/prod/a.yaml", "a: 1\n").write("clusters/prod/deep/b.yml", "b: 1\n");
        work.write("clusters/prod/README.md", "text").write("clusters/test/c.yaml", "c: 1\n");
        let tip = work.commit("first");
        work.push(&["origin", "main"]);

        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        let fetched = mirror.fetch().unwrap();
        assert_eq!((fetched.tip.to_string(), fetched.rewritten), (tip, false));
        let snapshot = mirror.snapshot(&fetched.tip, "clusters/prod/", &TreeLimits::default()).unwrap();
        let files: Vec<_> = snapshot.files.iter().map(|file| (file.path.as_str(), file.content.as_slice())).collect();
        assert_eq!(files, [("clusters/prod/a.yaml", &b"a: 1\n"[..]), ("clusters/prod/deep/b.yml", b"b: 1\n")]);
        assert_eq!(snapshot.tree.unwrap().to_string(), work.git(&["rev-parse", "HEAD:clusters/prod"]));
        assert_eq!(mirror.read_blob(&snapshot.files[0].blob, 100).unwrap(), b"a: 1\n");
        assert!(matches!(mirror.read_blob(&snapshot.files[0].blob, 4), Err(GitError::TooLarge { .. })));
        let all = mirror.snapshot(&fetched.tip, "", &TreeLimits::default()).unwrap();
        assert_eq!(all.files.len(), 3);
        let none = mirror.snapshot(&fetched.tip, "clusters/dev", &TreeLimits::default()).unwrap();
        assert_eq!((none.tree, none.files.len()), (None, 0));
    });
}

#[test]
fn a_commit_outside_the_path_leaves_the_tree_as_it_was() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("prod/a.yaml", "a: 1\n").commit("first");
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        let first = mirror.fetch().unwrap().tip;
        work.write("other/x", "x").commit("elsewhere");
        work.push(&["origin", "main"]);
        let second = mirror.fetch().unwrap();
        assert!(!second.rewritten && second.tip != first);
        let tree = |tip| mirror.snapshot(tip, "prod", &TreeLimits::default()).unwrap().tree.unwrap();
        assert_eq!(tree(&first), tree(&second.tip));
    });
}

#[test]
fn changes_are_told_newest_first_as_far_back_as_they_go() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("prod/a.yaml", "1").write("prod/b.yaml", "1").write("prod/notes.txt", "1").commit("add both");
        for number in 0..40 {
            work.write("other", &number.to_string()).commit("noise");
        }
        work.write("prod/a.yaml", "2").commit("edit a");
        work.write("prod/notes.txt", "2").commit("no manifest");
        std::fs::remove_file(work.path().join("prod/b.yaml")).unwrap();
        work.commit("remove b");
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        let tip = mirror.fetch().unwrap().tip;
        assert_eq!(
            commits(&mut mirror, &tip, "prod"),
            ["0 remove b: -prod/b.yaml", "2 edit a: ~prod/a.yaml", "43 add both: +prod/a.yaml +prod/b.yaml"]
        );
    });
}

#[test]
fn a_merge_of_an_old_branch_counts_as_made_by_the_merge() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("a.yaml", "1").commit("base");
        work.git(&["checkout", "--quiet", "-b", "old"]);
        work.write("old.yaml", "1").commit("written long ago");
        work.git(&["checkout", "--quiet", "main"]);
        for number in 0..12 {
            work.write("a.yaml", &format!("new {number}")).commit(&format!("edit {number}"));
        }
        work.push(&["origin", "main"]);
        // What was fetched before is shallow; the old branch forks off below its end.
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        mirror.fetch().unwrap();
        work.git(&["merge", "--quiet", "--no-ff", "--message", "merge the old branch", "old"]);
        work.push(&["origin", "main"]);
        let fetched = mirror.fetch().unwrap();
        assert!(!fetched.rewritten);
        let told = commits(&mut mirror, &fetched.tip, "");
        assert_eq!(told[0], "0 merge the old branch: +old.yaml");
        assert_eq!(told[1], "1 edit 11: ~a.yaml");
        assert_eq!(told.len(), 14);
        assert!(!told.iter().any(|line| line.contains("long ago")));
    });
}

#[test]
fn the_visitor_stops_the_walk_before_more_history_is_fetched() {
    let room = room();
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let work = Work::clone(&bare);
    for number in 0..30 {
        work.write("a.yaml", &number.to_string()).commit(&format!("edit {number}"));
    }
    work.push(&["origin", "main"]);
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), None), "main").unwrap();
    let tip = mirror.fetch().unwrap().tip;
    let shallow = room.path().join("cache/repo.git/shallow");
    assert_eq!(std::fs::read_to_string(&shallow).unwrap().lines().count(), 1, "the first fetch is shallow");
    let mut seen = Vec::new();
    let walked = mirror.changes(&tip, "", &TreeLimits::default(), &mut |change| {
        assert_eq!(
            (change.commit.author_name.as_str(), change.commit.author_email.as_str()),
            ("Ada", "ada@example.org")
        );
        assert!(change.commit.time > jiff::Timestamp::UNIX_EPOCH);
        seen.push(change.commit.subject);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(walked.unwrap(), git::Completeness::Stopped);
    assert_eq!(seen, ["edit 29", "edit 28", "edit 27"]);
    assert!(shallow.exists() && !std::fs::read_to_string(&shallow).unwrap().is_empty(), "eight commits were enough");
    assert_eq!(commits(&mut mirror, &tip, "").len(), 30);
}

#[test]
fn a_force_push_is_told_and_a_later_commit_is_none() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("a.yaml", "1").commit("one");
        let base = work.git(&["rev-parse", "HEAD"]);
        work.write("a.yaml", "2").commit("two");
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        let old = mirror.fetch().unwrap().tip;
        work.git(&["reset", "--quiet", "--hard", &base]);
        work.write("a.yaml", "3").commit("two, again");
        work.push(&["--force", "origin", "main"]);
        let fetched = mirror.fetch().unwrap();
        assert!(fetched.rewritten);
        assert!(!mirror.is_ancestor(&old, &fetched.tip).unwrap());
        assert_eq!(commits(&mut mirror, &fetched.tip, ""), ["0 two, again: ~a.yaml", "1 one: +a.yaml"]);
        work.write("a.yaml", "4").commit("three");
        work.push(&["origin", "main"]);
        assert!(!mirror.fetch().unwrap().rewritten);
    });
}

#[test]
fn a_branch_deleted_or_replaced_during_the_walk_ends_the_walk() {
    let room = room();
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let work = Work::clone(&bare);
    for number in 0..12 {
        work.write("a.yaml", &number.to_string()).commit("edit");
    }
    work.push(&["origin", "main"]);
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), None), "main").unwrap();
    let tip = mirror.fetch().unwrap().tip;
    crate::git_server::git(&bare, &["update-ref", "-d", "refs/heads/main"]);
    let walk =
        |mirror: &mut Mirror| mirror.changes(&tip, "", &TreeLimits::default(), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(walk(&mut mirror).unwrap_err(), GitError::BranchMissing { .. }));
    work.git(&["checkout", "--quiet", "--orphan", "new"]);
    let new = work.write("a.yaml", "new").commit("all new");
    work.push(&["origin", "new:main"]);
    // Until then the server still has the old commits, and gives them to whoever knows their names.
    crate::git_server::git(&bare, &["gc", "--quiet", "--prune=now"]);
    let error = walk(&mut mirror).unwrap_err();
    assert!(matches!(error, GitError::Moved { .. }) && error.transient(), "{error}");
    let fetched = mirror.fetch().unwrap();
    assert_eq!((fetched.tip.to_string(), fetched.rewritten), (new, true));
    assert_eq!(commits(&mut mirror, &fetched.tip, ""), ["0 all new: +a.yaml"]);
}

#[test]
fn links_and_submodules_are_skipped_and_reported() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("prod/real.yaml", "1").write("secret/outside.yaml", "s");
        std::os::unix::fs::symlink("../secret/outside.yaml", work.path().join("prod/link.yaml")).unwrap();
        std::os::unix::fs::symlink("../secret", work.path().join("prod/folder")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", work.path().join("prod/passwd.yaml")).unwrap();
        std::os::unix::fs::symlink("prod", work.path().join("current")).unwrap();
        let head = work.commit("links");
        work.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},prod/module")]);
        work.git(&["commit", "--quiet", "--message", "submodule"]);
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        let tip = mirror.fetch().unwrap().tip;
        let snapshot = mirror.snapshot(&tip, "prod", &TreeLimits::default()).unwrap();
        assert_eq!(snapshot.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["prod/real.yaml"]);
        let skipped: Vec<_> =
            snapshot.skipped.iter().map(|skipped| format!("{}: {}", skipped.path, skipped.reason)).collect();
        insta::allow_duplicates! {
            insta::assert_snapshot!(skipped.join("\n"), @r"
            prod/folder: it is a symbolic link, and links are not followed
            prod/link.yaml: it is a symbolic link, and links are not followed
            prod/module: it is a submodule, and other repositories are not read
            prod/passwd.yaml: it is a symbolic link, and links are not followed
            ");
            for path in ["current", "current/deep", "prod/folder", "prod/real.yaml", "prod/module"] {
                let error = mirror.snapshot(&tip, path, &TreeLimits::default()).unwrap_err();
                assert!(matches!(error, GitError::Path { .. }), "{path}: {error}");
            }
            let error = mirror.snapshot(&tip, "current/deep", &TreeLimits::default()).unwrap_err();
            insta::assert_snapshot!(error, @r#"the path "current" is a symbolic link, and links are not followed; write the path that it leads to"#);
        }
    });
}

#[test]
fn a_file_is_read_at_the_commit_that_is_asked_for() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        let before = work.write("a.yaml", "first").commit("before");
        work.write("charts/rancher.tgz", "packaged").write("charts/deep/x", "");
        std::os::unix::fs::symlink("rancher.tgz", work.path().join("charts/link.tgz")).unwrap();
        std::os::unix::fs::symlink("charts", work.path().join("current")).unwrap();
        let with = work.commit("with the chart");
        for number in 0..12 {
            work.write("a.yaml", &number.to_string()).commit(&format!("edit {number}"));
        }
        work.git(&["rm", "-q", "charts/rancher.tgz"]);
        let tip = work.commit("without");
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url.clone(), None), "main").unwrap();
        let at = |mirror: &mut Mirror, commit: Option<&str>, path: &str| {
            let commit: Option<CommitId> = commit.map(|commit| commit.parse().unwrap());
            mirror.file(commit.as_ref(), path, 8).map(|(commit, file)| (commit.to_string(), file))
        };
        // Nothing was fetched yet: the tip is asked for, and history is brought as far as the commit is away.
        assert_eq!(at(&mut mirror, None, "charts/rancher.tgz").unwrap(), (tip, FileAt::Missing));
        let packaged = FileAt::Content(b"packaged".to_vec());
        assert_eq!(at(&mut mirror, Some(&with), "charts/rancher.tgz").unwrap(), (with.clone(), packaged.clone()));
        assert_eq!(at(&mut mirror, Some(&before), "charts/rancher.tgz").unwrap().1, FileAt::Missing);
        let seen = |mirror: &mut Mirror, path: &str| match at(mirror, Some(&with), path).unwrap().1 {
            FileAt::Content(content) => String::from_utf8(content).unwrap(),
            FileAt::Missing => "missing".to_owned(),
            FileAt::Other { path, problem } => format!("{path} {problem}"),
            FileAt::TooLarge { bytes } => format!("{bytes} bytes"),
        };
        let paths = ["charts/deep", "charts/link.tgz", "current/rancher.tgz", "a.yaml/x", "charts/no", "no/x"];
        let told: Vec<String> = paths.iter().map(|path| seen(&mut mirror, path)).collect();
        insta::allow_duplicates! {
            insta::assert_snapshot!(told.join("\n"), @r"
            charts/deep is a folder
            charts/link.tgz is a symbolic link, and links are not followed; write the path that it leads to
            current is a symbolic link, and links are not followed; write the path that it leads to
            a.yaml is a file, not a folder
            missing
            missing
            ");
        }
        let with_id: CommitId = with.parse().unwrap();
        assert_eq!(mirror.file(Some(&with_id), "charts/rancher.tgz", 7).unwrap().1, FileAt::TooLarge { bytes: 8 });
        let outside = at(&mut mirror, Some(&with), "../x").unwrap_err();
        assert!(matches!(outside, GitError::Path { .. }), "{outside}");
        let nowhere = at(&mut mirror, Some(&"0".repeat(40)), "a.yaml").unwrap_err();
        assert!(matches!(nowhere, GitError::Revision { .. }), "{nowhere}");

        // What was read before is at hand while the remote is away, for another process, too.
        std::fs::rename(bare, bare.with_extension("away")).unwrap();
        drop(mirror);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        assert_eq!(at(&mut mirror, Some(&with), "charts/rancher.tgz").unwrap().1, packaged);
    });
}

#[test]
fn more_than_the_limits_is_refused_by_name() {
    let room = room();
    let bare = room.path().join("remote.git");
    make_bare(&bare);
    let work = Work::clone(&bare);
    for number in 0..10_001 {
        work.write(&format!("many/{number:05}.yaml"), "x: 1\n");
    }
    work.write("large/a.yaml", &"x".repeat(2000)).write("large/b.yaml", "small");
    work.write("deep/1/2/3/4/a.yaml", "x");
    work.commit("much");
    work.push(&["origin", "main"]);
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(file_url(&bare), None), "main").unwrap();
    let tip = mirror.fetch().unwrap().tip;
    let refused = |path: &str, limits: TreeLimits| mirror.snapshot(&tip, path, &limits).unwrap_err().to_string();
    insta::assert_snapshot!(refused("many", TreeLimits::default()), @"the number of files up to many/10000.yaml is larger than the limit of 10000");
    insta::assert_snapshot!(refused("many", TreeLimits { entries: 50, ..TreeLimits::default() }), @"the number of entries up to many is larger than the limit of 50");
    insta::assert_snapshot!(refused("deep", TreeLimits { depth: 3, ..TreeLimits::default() }), @"the depth of folders at deep/1/2/3 is larger than the limit of 3");
    insta::assert_snapshot!(refused("large", TreeLimits { total_bytes: 1000, ..TreeLimits::default() }), @"the size in bytes of all files up to large/a.yaml is larger than the limit of 1000");
    let limits = TreeLimits { file_bytes: 1000, ..TreeLimits::default() };
    let snapshot = mirror.snapshot(&tip, "large", &limits).unwrap();
    assert_eq!((snapshot.files.len(), snapshot.skipped.len()), (1, 1));
    insta::assert_snapshot!(snapshot.skipped[0].reason, @"it has 2000 bytes; the limit is 1000");
    // The same commit as a change: shown, cut, never an error that no later commit could take away.
    mirror
        .changes(&tip, "", &TreeLimits { file_bytes: 1000, ..TreeLimits::default() }, &mut |change| {
            assert!(change.cut && change.files.len() == 10_000);
            ControlFlow::Continue(())
        })
        .unwrap();
}

#[test]
fn a_missing_branch_or_repository_is_named() {
    on_both(|cache, url, bare| {
        let mut empty = Mirror::open(cache, patient(url.clone(), None), "main").unwrap();
        assert!(
            matches!(empty.fetch().unwrap_err(), GitError::BranchMissing { .. }),
            "an empty repository has no branch"
        );
        drop(empty);
        Work::clone(bare).write("a", "1").commit("one");
        let work = Work::clone(bare);
        work.write("a", "1").commit("one");
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(cache, patient(url.clone(), None), "production").unwrap();
        let error = mirror.fetch().unwrap_err();
        assert_eq!(error.to_string(), format!("{} has no branch \"production\"", url.replace("%20", " ")));
        assert!(!error.transient());
        drop(mirror);
        let mut mirror = Mirror::open(cache, patient(url.replace("remote", "nowhere"), None), "main").unwrap();
        let error = mirror.fetch().unwrap_err();
        assert!(matches!(error, GitError::NotFound { .. }) && !error.transient(), "{error}");
    });
}

#[tokio::test]
async fn blocking_work_keeps_the_callers_span_and_its_panic() {
    use tracing::Instrument as _;
    use tracing_subscriber::fmt::format::FmtSpan;
    let log = leaks::Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_span_events(FmtSpan::ENTER)
        .with_thread_ids(true)
        .with_writer(move || writer.clone());
    let guard = tracing::subscriber::set_default(lines.finish());
    let span = tracing::info_span!("outer");
    assert_eq!(git::blocking(|| 41 + 1).instrument(span).await, 42);
    drop(guard);
    let threads = regex::Regex::new(r"ThreadId\(\d+\)").unwrap();
    let entered: std::collections::BTreeSet<_> =
        threads.find_iter(&log.text()).map(|found| found.as_str().to_owned()).collect();
    assert_eq!(entered.len(), 2, "the span was entered here and on the blocking thread");
    let room = room();
    let server = GitServer::start(Options::default());
    server.bare("remote.git");
    let mut mirror = Mirror::open(&room.path().join("cache"), patient(server.url("remote.git"), None), "main").unwrap();
    let missing = git::blocking(move || mirror.fetch()).await;
    assert!(matches!(missing, Err(GitError::BranchMissing { .. })), "{missing:?}");
    let panicked = tokio::spawn(git::blocking(|| -> () { panic!("told on") })).await;
    assert!(panicked.unwrap_err().is_panic());
}
