//! The status branch: written beside others, never lost, and never taken for what it is not.

use std::time::Duration;

use anyhow::ensure;

use crate::git_server::{Authority, GitServer, Options, Work, git, try_git};
use crate::harness::eventually;
use crate::once::{Watching, ended, restore};
use crate::world::World;

const BRANCH: &str = "reinback/test";

/// A clone with the status branch checked out.
fn clone_of_status(world: &World, branch: &str) -> Work {
    let work = Work::clone(&world.remote());
    work.git(&["checkout", "--quiet", branch]);
    work
}

/// Pushes what is committed, on top of whoever was faster; never by force.
fn push_patiently(work: &Work, branch: &str) {
    for _ in 0..50 {
        let refspec = format!("HEAD:{branch}");
        if try_git(work.path(), &["push", "--quiet", "origin", &refspec]).0 {
            return;
        }
        work.git(&["fetch", "--quiet", "origin", branch]);
        work.git(&["rebase", "--quiet", "FETCH_HEAD"]);
    }
    panic!("50 pushes lost the race");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_somebody_pushes_to_the_status_branch_at_the_same_time() {
    let world = World::start().await;
    world.settle().await;
    let before = git(&world.remote(), &["rev-parse", BRANCH]);
    let other = clone_of_status(&world, BRANCH);
    world.commit_held("first");
    let agent = Watching::start(&world, &["--log-level", "info,reinback::agent=debug"]);
    world.commit_change("back", &[], "");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20 {
                other.write(&format!("notes/{number}.md"), "by somebody else\n").commit(&format!("note {number}"));
                push_patiently(&other, BRANCH);
            }
        });
    });
    eventually(Duration::from_secs(90), async || {
        let text = git(&world.remote(), &["log", "--format=%s", BRANCH]);
        ensure!(text.contains("restore back: succeeded"), "{text}");
        Ok(())
    })
    .await;
    let log = git(&world.remote(), &["log", "--format=%p|%s", BRANCH]);
    let notes = log.lines().filter(|line| line.contains("|note ")).count();
    assert_eq!(notes, 20, "{log}");
    assert!(log.lines().all(|line| !line.split_once('|').expect("a mark").0.contains(' ')), "no merges: {log}");
    let files = git(&world.remote(), &["ls-tree", "-r", "--name-only", BRANCH]);
    assert_eq!(files.lines().filter(|path| path.starts_with("notes/")).count(), 20, "{files}");
    assert!(try_git(&world.remote(), &["merge-base", "--is-ancestor", &before, BRANCH]).0, "nothing was forced");
    for step in ["started", "quiesce", "resume", "verify", "succeeded"] {
        assert!(log.contains(&format!("|restore back: {step}")), "{step}: {log}");
    }

    // Status commits and commits outside the path are no news.
    let looks = || world.log().matches("reading the manifests of commit").count();
    let passes = || world.log().matches("pass ended").count();
    let (read, passed) = (looks(), passes());
    for number in 0..50 {
        other.write("notes/many.md", &number.to_string()).commit(&format!("more {number}"));
        push_patiently(&other, BRANCH);
        world.work.write("elsewhere.yaml", &format!("number: {number}\n")).commit("elsewhere");
        world.work.push(&["origin", "HEAD:main"]);
    }
    eventually(Duration::from_secs(60), async || {
        ensure!(passes() >= passed + 3, "{} passes", passes() - passed);
        Ok(())
    })
    .await;
    assert_eq!(looks(), read, "{}", world.log());
    agent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_branch_may_be_the_source_branch_at_its_root() {
    let world = World::start().await;
    world.work.write("there.yaml", &restore("there", &world.backup, "{}")).commit("It was there");
    world.work.push(&["origin", "HEAD:main"]);
    let shared = ["--status-branch", "main", "--source-path", "/"];
    let once = async || world.reinback(&[&["agent", "--once", "--install-crd"][..], &shared].concat()).await;
    ended(&once().await, 0);
    assert_eq!(world.told(&shared).await, ["there Superseded FirstLook"], "a branch that is not ours is no ledger");
    let show = |path: &str| git(&world.remote(), &["show", &format!("main:{path}")]);
    assert_eq!(show("README.md"), "manifests", "a README that is not ours stays");
    assert!(show("REINBACK.md").starts_with("# reinback on test"));

    let pull = || world.work.git(&["pull", "--quiet", "--rebase", "origin", "main"]);
    pull();
    world.work.write("back.yaml", &restore("back", &world.backup, "{}")).commit("Restore back");
    world.touch();
    world.work.push(&["origin", "HEAD:main"]);
    ended(&once().await, 0);
    assert_eq!(world.told(&shared).await, ["back Succeeded Succeeded", "there Superseded FirstLook"]);

    let agent = Watching::start(&world, &[&shared[..], &["--log-level", "info,reinback::agent=debug"]].concat());
    let looks = || world.log().matches("reading the manifests of commit").count();
    let passes = || world.log().matches("pass ended").count();
    eventually(Duration::from_secs(30), async || {
        ensure!(passes() >= 1, "no pass yet");
        Ok(())
    })
    .await;
    pull();
    let runs = git(&world.remote(), &["ls-tree", "--name-only", "main", "runs/"]);
    let file = runs.lines().find(|path| path.contains("there")).expect("a status file");
    let text = show(file);
    let (read, passed) = (looks(), passes());
    for number in 0..50 {
        let changed = format!("# {number}\n{text}\n");
        world.work.write(file, &changed).commit("status");
        world.work.push(&["origin", "HEAD:main"]);
    }
    eventually(Duration::from_secs(60), async || {
        ensure!(passes() >= passed + 3, "{} passes", passes() - passed);
        Ok(())
    })
    .await;
    assert_eq!(looks(), read, "{}", world.log());
    agent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_branch_may_lie_in_another_repository_with_other_credentials() {
    let world = World::start().await;
    let authority = Authority::new();
    let identity = || Some(authority.issue("localhost", 2096));
    let source = GitServer::start(Options {
        tls: identity(),
        bearer: Some("token-of-source".to_owned()),
        read_only: true,
        ..Options::default()
    });
    let status = GitServer::start(Options {
        tls: identity(),
        basic: Some(("agent".to_owned(), "pass:word".to_owned())),
        ..Options::default()
    });
    let (bare, reports) = (source.bare("source.git"), status.bare("reports.git"));
    let secret = |name: &str, files: &[(&str, &str)]| {
        let folder = world.folder().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (file, content) in files {
            std::fs::write(folder.join(file), content).expect("writable");
        }
        folder.display().to_string()
    };
    let pem = authority.pem();
    let of_source = secret("of-source", &[("bearerToken", "token-of-source"), ("ca.crt", &pem)]);
    let of_status = secret("of-status", &[("username", "agent"), ("password", "pass:word\n"), ("ca.crt", &pem)]);
    let (source_url, status_url) = (source.url("source.git"), status.url("reports.git"));
    let flags = [
        "--source-url",
        &source_url,
        "--source-secret-dir",
        &of_source,
        "--status-url",
        &status_url,
        "--status-secret-dir",
        &of_status,
    ];
    let once = async || world.reinback(&[&["agent", "--once", "--install-crd"][..], &flags].concat()).await;
    world.work.git(&["remote", "set-url", "origin", &bare.display().to_string()]);
    world.work.push(&["origin", "HEAD:main"]);
    ended(&once().await, 0);
    world.commit_change("back", &[], "");
    ended(&once().await, 0);
    assert_eq!(world.told(&flags).await, ["back Succeeded Succeeded"]);
    let log = git(&reports, &["log", "--format=%s", BRANCH]);
    assert!(log.starts_with("restore back: succeeded"), "{log}");
    assert_eq!(git(&bare, &["branch", "--format=%(refname)"]), "refs/heads/main");

    // The wrong password is told without a word of it.
    std::fs::write(world.folder().join("of-status/password"), "pass:wrong").expect("writable");
    world.commit_held("unseen");
    let said = once().await;
    ended(&said, 1);
    assert!(said.stderr.contains("refuses the credentials"), "{}", said.stderr);
    assert!(!said.stderr.contains("pass:w"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_this_clusters_holds_until_that_is_accepted() {
    let world = World::start().await;
    world.settle().await;
    world.commit_change("first", &[], "");
    ended(&world.once().await, 0);
    let scalings = world.scalings();

    // Gone, though there are runs: it is made again, and that alone settles nothing.
    git(&world.remote(), &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    world.commit_change("second", &[("requested-at", "2026-11-24T09:00:00Z")], "");
    for _ in 0..2 {
        ended(&world.once().await, 3);
        assert_eq!(world.told(&[]).await, ["first Succeeded Succeeded", "second Held LedgerMismatch"]);
    }
    assert!(world.dashboard().contains("kube-system UID: `unknown`"), "{}", world.dashboard());
    world.commit_change("second", &[("requested-at", "2026-11-24T09:00:00Z"), ("accept", "LedgerMismatch")], "");
    ended(&world.once().await, 0);
    assert_eq!(world.told(&[]).await, ["first Succeeded Succeeded", "second Succeeded Succeeded"]);
    let claim = format!("kube-system UID: `{}`", world.cluster.uid());
    assert!(world.dashboard().contains(&claim), "{}", world.dashboard());
    assert_eq!(world.scalings(), 2 * scalings);
    // The claim stands: nobody has to accept it again.
    world.commit_change("second", &[("requested-at", "2026-11-24T10:00:00Z")], "");
    ended(&world.once().await, 0);
    assert!(world.dashboard().contains(&claim), "{}", world.dashboard());
    assert_eq!(world.scalings(), 3 * scalings);
    let files = git(&world.remote(), &["ls-tree", "-r", "--name-only", BRANCH]);
    assert!(files.contains("first"), "what the cluster knows is written again: {files}");

    // Written by another cluster, which has a run under way.
    let other = clone_of_status(&world, BRANCH);
    let uid = "0000aaaa-1111-2222-3333-444455556666";
    other.write("README.md", &world.dashboard().replace(world.cluster.uid(), uid));
    let file = files.lines().find(|path| path.contains("first")).expect("a status file");
    let run = git(&world.remote(), &["show", &format!("{BRANCH}:{file}")]);
    let key = run.lines().find_map(|line| line.trim().strip_prefix("key: ")).expect("a key");
    let theirs = run
        .replace(key, &"ab".repeat(32))
        .replace("name: first", "name: theirs")
        .replace("phase: Succeeded", "phase: Running")
        .replace("\n  name: 2026", "\n  name: theirs-2026");
    other.write("runs/2026-11-23-theirs.yaml", &theirs).commit("Another cluster");
    push_patiently(&other, BRANCH);
    world.commit_change("third", &[("requested-at", "2026-11-25T09:00:00Z")], "");
    for _ in 0..2 {
        ended(&world.once().await, 3);
        assert!(world.dashboard().contains(uid), "{}", world.dashboard());
    }
    assert_eq!(world.run_of("third").expect("a run")["status"]["reason"], "LedgerMismatch");
    assert!(world.run_of("theirs").is_err(), "what another cluster began is not gone on with here");
    world.commit_change("third", &[("requested-at", "2026-11-25T09:00:00Z"), ("accept", "LedgerMismatch")], "");
    ended(&world.once().await, 0);
    let told = world.told(&[]).await;
    assert!(told.contains(&"third Succeeded Succeeded".to_owned()), "{told:?}");
    assert!(told.contains(&"theirs Cancelled LedgerMismatch".to_owned()), "{told:?}");

    // A file that nobody can read may stand for anything.
    other.git(&["pull", "--quiet", "--rebase", "origin", BRANCH]);
    other.write("runs/2026-11-23-x.yaml", "kind: [").commit("Broken");
    push_patiently(&other, BRANCH);
    world.commit_change("fourth", &[("requested-at", "2026-11-26T09:00:00Z")], "");
    ended(&world.once().await, 3);
    let run = world.run_of("fourth").expect("a run");
    assert_eq!(run["status"]["reason"], "LedgerMismatch");
    assert!(run["status"]["gates"][0]["message"].as_str().is_some_and(|text| text.contains("runs/2026-11-23-x.yaml")));
    other.git(&["revert", "--no-edit", "HEAD"]);
    push_patiently(&other, BRANCH);
    ended(&world.once().await, 0);
    assert_eq!(world.run_of("fourth").expect("a run")["status"]["phase"], "Succeeded");
    assert_eq!(world.scalings(), 5 * scalings);
}
