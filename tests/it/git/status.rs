//! The status branch: nothing lost, nothing forced.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use reinback::git::{Author, FileEdit, GitError, Published, StatusBranch, TreeLimits};

use super::{file_url, on_both, patient, room, secret_dir};
use crate::git_server::{Fault, GitServer, Options, Work, git, make_bare, try_git};

const BRANCH: &str = "reinback/prod";

fn now() -> Timestamp {
    "2026-11-23T09:00:00Z".parse().unwrap()
}

fn author() -> Author {
    Author { name: "reinback".to_owned(), email: "reinback@localhost".to_owned() }
}

fn open(cache: &Path, url: String, secret_dir: Option<PathBuf>) -> StatusBranch {
    StatusBranch::open(cache, patient(url, secret_dir), BRANCH, author()).unwrap()
}

fn put(path: &str, content: &str) -> FileEdit {
    FileEdit { path: path.to_owned(), content: Some(content.as_bytes().to_vec()) }
}

fn publish(branch: &mut StatusBranch, message: &str, edits: &[FileEdit]) -> Result<Published, GitError> {
    branch.publish(message, now(), &mut |_| Ok(edits.to_vec()))
}

#[test]
fn a_missing_branch_is_made_as_an_orphan_and_then_added_to() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("a.yaml", "1").commit("the source");
        work.push(&["origin", "main"]);
        let mut branch = open(cache, url, None);
        assert_eq!(branch.fetch().unwrap(), None);
        assert_eq!(publish(&mut branch, "nothing", &[]).unwrap(), Published::Unchanged { tip: None });
        let first =
            publish(&mut branch, "restore a: started\n\nReinback-Run: a\n", &[put("runs/a.yaml", "phase: Running\n")])
                .unwrap();
        assert!(matches!(first, Published::Pushed { tries: 1, .. }));
        publish(&mut branch, "restore b: held", &[put("runs/b.yaml", "phase: Held\n"), put("README.md", "# prod\n")])
            .unwrap();
        let gone = FileEdit { path: "runs/gone.yaml".to_owned(), content: None };
        let same = publish(&mut branch, "again", &[put("README.md", "# prod\n"), gone]).unwrap();
        assert!(matches!(same, Published::Unchanged { tip: Some(_) }), "an identical tree is no commit");
        publish(&mut branch, "away", &[FileEdit { path: "runs/b.yaml".to_owned(), content: None }]).unwrap();

        let log = git(bare, &["log", "--format=%an <%ae> %at %ct %cn|%s", BRANCH]);
        insta::allow_duplicates! {
            insta::assert_snapshot!(log, @r"
            reinback <reinback@localhost> 1795424400 1795424400 reinback|away
            reinback <reinback@localhost> 1795424400 1795424400 reinback|restore b: held
            reinback <reinback@localhost> 1795424400 1795424400 reinback|restore a: started
            ");
        }
        assert_eq!(git(bare, &["ls-tree", "-r", "--name-only", BRANCH]), "README.md\nruns/a.yaml");
        assert_eq!(
            git(bare, &["log", "-1", "--format=%(trailers:key=Reinback-Run,valueonly)", &format!("{BRANCH}~2")]).trim(),
            "a"
        );
        assert_eq!(
            branch.read("runs", &TreeLimits::default()).unwrap(),
            [("runs/a.yaml".to_owned(), b"phase: Running\n".to_vec())]
        );
        assert_eq!(branch.read("nothing", &TreeLimits::default()).unwrap(), []);
        git(bare, &["fsck", "--strict"]);
    });
}

#[test]
fn the_edit_sees_the_tip_that_it_is_made_on() {
    on_both(|cache, url, bare| {
        let mut branch = open(cache, url, None);
        publish(&mut branch, "one", &[put("runs/a.yaml", "1"), put("runs/b.yaml", "2")]).unwrap();
        branch
            .publish("two", now(), &mut |tree| {
                assert_eq!(
                    (tree.get("runs/a.yaml", 10)?, tree.get("runs/c.yaml", 10)?, tree.get("runs", 10)?),
                    (Some(b"1".to_vec()), None, None)
                );
                assert!(matches!(tree.get("runs/a.yaml", 0), Err(GitError::TooLarge { .. })));
                Ok(vec![put("seen", "yes")])
            })
            .unwrap();
        for path in ["../x", "/x", "runs/", "", ".git/config", "a//b"] {
            assert!(
                matches!(publish(&mut branch, "bad", &[put(path, "x")]).unwrap_err(), GitError::Path { .. }),
                "{path}"
            );
        }
        assert!(matches!(
            publish(&mut branch, "twice", &[put("x", "1"), put("x", "2")]).unwrap_err(),
            GitError::Path { .. }
        ));
        assert_eq!(git(bare, &["rev-list", "--count", BRANCH]), "2");
    });
}

#[test]
fn twenty_pushes_by_someone_else_and_twenty_of_ours_all_arrive() {
    on_both(|cache, url, bare| {
        let mut branch = open(cache, url, None);
        publish(&mut branch, "start", &[put("README.md", "0")]).unwrap();
        let theirs = std::thread::spawn({
            let bare = bare.to_owned();
            move || {
                let work = Work::clone(&bare);
                work.git(&["checkout", "--quiet", BRANCH]);
                (0..20)
                    .map(|number| {
                        work.write(&format!("theirs/{number}"), "x");
                        let mut commit = work.commit(&format!("theirs {number}"));
                        while !try_git(work.path(), &["push", "--quiet", "origin", BRANCH]).0 {
                            work.git(&["pull", "--quiet", "--rebase", "origin", BRANCH]);
                            commit = work.git(&["rev-parse", "HEAD"]);
                        }
                        commit
                    })
                    .collect::<Vec<_>>()
            }
        });
        let mut ours = Vec::new();
        let mut number = 0;
        while number < 20 {
            match publish(
                &mut branch,
                &format!("ours {number}"),
                &[put(&format!("runs/{number}.yaml"), "x"), put("README.md", &number.to_string())],
            ) {
                Ok(Published::Pushed { commit, .. }) => {
                    ours.push(commit.to_string());
                    number += 1;
                }
                Ok(Published::Unchanged { .. }) => panic!("every publication changes something"),
                // Ten losses in a row, on a busy machine; the agent would come again, too.
                Err(error) => assert!(matches!(error, GitError::Contended { .. }), "{error}"),
            }
        }
        let theirs = theirs.join().unwrap();
        let linear = git(bare, &["rev-list", BRANCH]);
        let linear: Vec<_> = linear.lines().collect();
        assert_eq!(linear.len(), 41, "a line of 1 + 20 + 20 commits");
        assert_eq!(git(bare, &["rev-list", "--merges", "--count", BRANCH]), "0");
        for commit in ours.iter().chain(&theirs) {
            assert!(linear.contains(&commit.as_str()), "{commit} is in the history");
        }
        let files = git(bare, &["ls-tree", "-r", "--name-only", BRANCH]);
        assert_eq!(files.lines().count(), 41);
        git(bare, &["fsck", "--strict"]);
    });
}

/// Git's own lock on the branch, as another push holds it; left behind, it is what a killed one leaves.
fn lock(bare: &Path) -> PathBuf {
    let lock = bare.join(format!("refs/heads/{BRANCH}.lock"));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    std::fs::write(&lock, "").unwrap();
    lock
}

/// How many files lie in a folder and those in it.
fn files_under(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_under(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_branch_that_somebody_is_writing_is_waited_for() {
    on_both(|cache, url, bare| {
        let mut branch = open(cache, url, None);
        publish(&mut branch, "one", &[put("a", "1")]).unwrap();
        let lock = lock(bare);
        let held = lock.clone();
        let objects = bare.join("objects");
        let before = files_under(&objects);
        let unlock = std::thread::spawn(move || {
            // Objects are there before the branch is asked for, which is refused at once.
            while files_under(&objects) == before {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
            std::fs::remove_file(lock).unwrap();
        });
        let published = publish(&mut branch, "two", &[put("a", "2")]).unwrap();
        assert!(!held.exists(), "it was pushed over the lock: {published:?}");
        unlock.join().unwrap();
        assert_eq!(git(bare, &["log", "--format=%s", BRANCH]), "two\none");
    });
}

#[test]
fn a_branch_that_stays_locked_is_given_up_with_the_servers_words() {
    let room = room();
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let mut branch = open(&room.path().join("cache"), server.url("remote.git"), None);
    publish(&mut branch, "one", &[put("a", "1")]).unwrap();
    let lock = lock(&bare);
    let error = publish(&mut branch, "two", &[put("a", "2")]).unwrap_err();
    assert!(matches!(&error, GitError::Contended { tries: 10, detail, .. } if detail.contains("lock")), "{error}");
    assert!(error.transient());
    std::fs::remove_file(lock).unwrap();
    publish(&mut branch, "two", &[put("a", "2")]).unwrap();
    assert_eq!(git(&bare, &["log", "--format=%s", BRANCH]), "two\none");
}

#[test]
fn two_of_us_making_the_branch_at_once_make_one() {
    on_both(|cache, url, bare| {
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let (cache, url) = (cache.with_extension(name), url.clone());
                scope.spawn(move || publish(&mut open(&cache, url, None), name, &[put(name, name)]).unwrap());
            }
        });
        assert_eq!(git(bare, &["rev-list", "--count", BRANCH]), "3");
        assert_eq!(git(bare, &["ls-tree", "--name-only", BRANCH]), "a\nb\nc");
    });
}

#[test]
fn the_status_branch_may_be_the_source_branch() {
    on_both(|cache, url, bare| {
        let work = Work::clone(bare);
        work.write("prod/a.yaml", "1").commit("the source");
        work.push(&["origin", "main"]);
        let mut source =
            reinback::git::Mirror::open(&cache.with_extension("source"), patient(url.clone(), None), "main").unwrap();
        let before = source.fetch().unwrap();
        let mut branch = StatusBranch::open(cache, patient(url, None), "main", author()).unwrap();
        for number in 0..3 {
            publish(&mut branch, "status", &[put("runs/a.yaml", &number.to_string())]).unwrap();
        }
        work.write("prod/b.yaml", "1").commit("from a person");
        work.git(&["pull", "--quiet", "--rebase", "origin", "main"]);
        work.push(&["origin", "main"]);
        publish(&mut branch, "status", &[put("runs/a.yaml", "last")]).unwrap();
        assert_eq!(git(bare, &["rev-list", "--count", "main"]), "6");
        let after = source.fetch().unwrap();
        assert!(!after.rewritten && after.tip != before.tip);
        let told = super::commits(&mut source, &after.tip, "prod");
        assert_eq!(
            told,
            ["1 from a person: +prod/b.yaml", "5 the source: +prod/a.yaml"],
            "our own commits are no changes"
        );
    });
}

#[test]
fn the_lock_that_a_killed_push_leaves_on_a_folder_holds_nobody_up_for_ever() {
    let room = room();
    let bare = room.path().join("remote.git");
    make_bare(&bare);
    let mut branch = open(&room.path().join("cache"), file_url(&bare), None);
    publish(&mut branch, "first", &[put("a", "1")]).unwrap();
    let lock = bare.join(format!("refs/heads/{BRANCH}.lock"));
    let file = std::fs::File::create(&lock).unwrap();
    // However long the tries take, it does not get old meanwhile.
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).unwrap();
    let refused = publish(&mut branch, "second", &[put("a", "2")]);
    assert!(matches!(refused, Err(GitError::Contended { .. })), "somebody may hold it: {refused:?}");
    assert!(lock.exists());
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(11)).unwrap();
    publish(&mut branch, "third", &[put("a", "3")]).unwrap();
    assert!(!lock.exists());
    assert_eq!(git(&bare, &["log", "--format=%s", BRANCH]), "third\nfirst");
}

#[test]
fn a_hook_that_refuses_is_quoted_and_not_tried_again() {
    let room = room();
    let server = GitServer::start(Options { bearer: Some("s3cr3t-token".to_owned()), ..Options::default() });
    let bare = server.bare("remote.git");
    let hook = bare.join("hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho 'only the release team may push here, not s3cr3t-token' >&2\nexit 1\n")
        .unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = secret_dir(room.path(), &[("bearerToken", "s3cr3t-token")]);
    let mut branch = open(&room.path().join("cache"), server.url("remote.git"), Some(dir));
    let error = publish(&mut branch, "one", &[put("a", "1")]).unwrap_err();
    let text = error.to_string().replace(&server.url("remote.git"), "URL");
    insta::assert_snapshot!(text, @"URL does not take the push to reinback/prod: hook declined: only the release team may push here, not ***; error: hook declined to update refs/heads/reinback/prod");
    assert!(!error.transient());
    assert_eq!(
        server.take_seen().iter().filter(|seen| seen.method == "POST" && seen.path.ends_with("receive-pack")).count(),
        1
    );
    std::fs::remove_file(hook).unwrap();
    publish(&mut branch, "one", &[put("a", "1")]).unwrap();
}

#[test]
fn a_read_only_server_says_what_is_missing() {
    let room = room();
    let server = GitServer::start(Options {
        read_only: true,
        basic: Some(("ops".to_owned(), "hunter2".to_owned())),
        ..Options::default()
    });
    server.bare("remote.git");
    let dir = secret_dir(room.path(), &[("username", "ops"), ("password", "hunter2")]);
    let mut branch = open(&room.path().join("cache"), server.url("remote.git"), Some(dir));
    let error = publish(&mut branch, "one", &[put("a", "1")]).unwrap_err();
    let text = error.to_string().replace(&server.url("remote.git"), "URL");
    insta::assert_snapshot!(text, @"URL refuses the credentials (HTTP 403 Forbidden this server is read-only); give them the right to push to this repository");
}

#[test]
fn a_push_whose_answer_is_lost_is_there_once() {
    let room = room();
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let mut branch = open(&room.path().join("cache"), server.url("remote.git"), None);
    publish(&mut branch, "one", &[put("a", "1")]).unwrap();
    // The next answers break off: the advertisement is long enough to pass, so it is the report that is lost, or all of it.
    for length in [0, 5, 20, 500] {
        server.fault(Fault::Cut(length));
        let content = format!("cut {length}");
        if let Err(error) = publish(&mut branch, &content, &[put("a", &content)]) {
            assert!(error.transient(), "{error}");
        }
        server.fault(Fault::None);
        publish(&mut branch, &content, &[put("a", &content)]).unwrap();
        let messages = git(&bare, &["log", "--format=%s", BRANCH]);
        assert_eq!(messages.lines().filter(|line| **line == content).count(), 1, "{messages}");
    }
    assert_eq!(git(&bare, &["rev-list", "--count", BRANCH]), "5");
}

#[test]
fn the_cache_may_vanish_between_two_publications() {
    on_both(|cache, url, bare| {
        let mut branch = open(cache, url, None);
        publish(&mut branch, "one", &[put("a", "1")]).unwrap();
        std::fs::remove_dir_all(cache.join("repo.git")).unwrap();
        publish(&mut branch, "two", &[put("b", "1")]).unwrap();
        std::fs::remove_dir_all(cache).unwrap();
        publish(&mut branch, "three", &[put("c", "1")]).unwrap();
        assert_eq!(git(bare, &["log", "--format=%s", BRANCH]), "three\ntwo\none");
        assert_eq!(git(bare, &["ls-tree", "--name-only", BRANCH]), "a\nb\nc");
    });
}

#[test]
fn a_branch_deleted_on_the_remote_is_made_again_without_its_old_history() {
    on_both(|cache, url, bare| {
        let mut branch = open(cache, url, None);
        publish(&mut branch, "one", &[put("a", "1")]).unwrap();
        git(bare, &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
        publish(&mut branch, "two", &[put("b", "1")]).unwrap();
        assert_eq!(git(bare, &["log", "--format=%s", BRANCH]), "two");
        assert_eq!(git(bare, &["ls-tree", "--name-only", BRANCH]), "b");
    });
}

#[test]
fn status_may_lie_in_another_repository_with_other_credentials() {
    let room = room();
    let start = |token: &str| GitServer::start(Options { bearer: Some(token.to_owned()), ..Options::default() });
    let (source, status) = (start("source-token"), start("status-token"));
    let work = Work::clone(&source.bare("source.git"));
    work.write("a.yaml", "1").commit("one");
    work.push(&["origin", "main"]);
    status.bare("status.git");
    let secret = |name: &str| {
        let dir = room.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        secret_dir(&dir, &[("bearerToken", name)])
    };
    let remote = patient(source.url("source.git"), Some(secret("source-token")));
    let mut mirror = reinback::git::Mirror::open(&room.path().join("mirror"), remote, "main").unwrap();
    let mut branch = open(&room.path().join("status"), status.url("status.git"), Some(secret("status-token")));
    mirror.fetch().unwrap();
    publish(&mut branch, "one", &[put("a", "1")]).unwrap();
    mirror.fetch().unwrap();
}
