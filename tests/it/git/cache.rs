//! The cache may be deleted or half written at any time.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reinback::git::{GitError, Mirror, TreeLimits};

use super::{commits, file_url, on_both, patient, room};
use crate::git_server::{Fault, GitServer, Options, Work, make_bare};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn history(bare: &Path) -> String {
    let work = Work::clone(bare);
    for number in 0..5 {
        work.write(&format!("prod/{number}.yaml"), &format!("n: {number}\n")).commit(&format!("add {number}"));
    }
    work.push(&["origin", "main"]);
    work.git(&["rev-parse", "HEAD"])
}

/// Uses the mirror until it works; a damaged cache may cost one look.
fn look(mirror: &mut Mirror, tip: &str) {
    for _ in 0..2 {
        let fetched = mirror.fetch().unwrap();
        assert_eq!((fetched.tip.to_string().as_str(), fetched.rewritten), (tip, false));
        match mirror.snapshot(&fetched.tip, "prod", &TreeLimits::default()) {
            Ok(snapshot) => {
                assert_eq!(snapshot.files.len(), 5);
                return;
            }
            Err(error) => assert!(matches!(error, GitError::Cache { .. }) && error.transient(), "{error}"),
        }
    }
    panic!("the cache was not made whole");
}

#[test]
fn a_cache_with_truncated_flipped_or_deleted_files_is_cloned_anew() {
    on_both(|cache, url, bare| {
        let tip = history(bare);
        for seed in 0..12 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut mirror = Mirror::open(cache, patient(url.clone(), None), "main").unwrap();
            look(&mut mirror, &tip);
            // Half of the time under the open mirror, half between two processes.
            let open = random.random_bool(0.5).then_some(mirror);
            for _ in 0..random.random_range(1..6) {
                let file = files(&cache.join("repo.git")).choose(&mut random).unwrap().clone();
                let content = fs::read(&file).unwrap();
                // Git makes its objects read-only; a new file takes the place.
                fs::remove_file(&file).unwrap();
                match random.random_range(0..3) {
                    0 => {}
                    1 => fs::write(&file, &content[..random.random_range(0..=content.len())]).unwrap(),
                    _ => fs::write(&file, content.iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>()).unwrap(),
                }
            }
            let mut mirror = open.unwrap_or_else(|| Mirror::open(cache, patient(url.clone(), None), "main").unwrap());
            look(&mut mirror, &tip);
            let limits = TreeLimits::default();
            let walk = |mirror: &mut Mirror| {
                mirror.changes(&tip.parse().unwrap(), "prod", &limits, &mut |_| ControlFlow::Continue(()))
            };
            // Damage to old history shows only here.
            if let Err(error) = walk(&mut mirror) {
                assert!(matches!(error, GitError::Cache { .. }), "seed {seed}: {error}");
                look(&mut mirror, &tip);
                walk(&mut mirror).unwrap();
            }
            assert_eq!(commits(&mut mirror, &tip.parse().unwrap(), "prod").len(), 5, "seed {seed}");
        }
    });
}

#[test]
fn a_deleted_cache_is_made_again_under_the_open_mirror() {
    on_both(|cache, url, bare| {
        let tip = history(bare);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        look(&mut mirror, &tip);
        fs::remove_dir_all(cache.join("repo.git")).unwrap();
        look(&mut mirror, &tip);
        fs::remove_dir_all(cache).unwrap();
        look(&mut mirror, &tip);
        assert!(cache.join("lock").exists());
    });
}

#[test]
fn lock_files_and_unfinished_packs_of_a_killed_process_are_swept() {
    on_both(|cache, url, bare| {
        let tip = history(bare);
        let mut mirror = Mirror::open(cache, patient(url.clone(), None), "main").unwrap();
        look(&mut mirror, &tip);
        drop(mirror);
        let git = cache.join("repo.git");
        let left = [
            "index.lock",
            "config.lock",
            "shallow.lock",
            "refs/reinback/tip.lock",
            "objects/pack/pack_git2_a1b2c3",
            "objects/tmp_object_git2_x",
        ];
        for name in left {
            fs::write(git.join(name), "").unwrap();
        }
        let mut mirror = Mirror::open(cache, patient(url.clone(), None), "main").unwrap();
        assert!(left.iter().all(|name| !git.join(name).exists()));
        let work = Work::clone(bare);
        let tip = work.commit("more");
        work.push(&["origin", "main"]);
        look(&mut mirror, &tip);
    });
}

#[test]
fn a_cache_of_another_remote_or_branch_is_not_mistaken_for_this_one() {
    let room = room();
    let cache = room.path().join("cache");
    for name in ["one.git", "two.git"] {
        let bare = room.path().join(name);
        make_bare(&bare);
        let work = Work::clone(&bare);
        work.write("a.yaml", name).commit(name);
        work.push(&["origin", "main"]);
        let mut mirror = Mirror::open(&cache, patient(file_url(&bare), None), "main").unwrap();
        let fetched = mirror.fetch().unwrap();
        assert!(!fetched.rewritten);
        assert_eq!(
            mirror.snapshot(&fetched.tip, "", &TreeLimits::default()).unwrap().files[0].content,
            name.as_bytes()
        );
    }
}

#[test]
fn two_holders_never_share_a_cache() {
    let room = room();
    let bare = room.path().join("remote.git");
    make_bare(&bare);
    let cache = room.path().join("cache");
    let first = Mirror::open(&cache, patient(file_url(&bare), None), "main").unwrap();
    let error = Mirror::open(&cache, patient(file_url(&bare), None), "main").err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("the cache {} is in use by another process; give each process a folder of its own", cache.display())
    );
    drop(first);
    Mirror::open(&cache, patient(file_url(&bare), None), "main").unwrap();
}

#[test]
fn many_small_packs_are_answered_by_a_new_clone() {
    on_both(|cache, url, bare| {
        let tip = history(bare);
        let mut mirror = Mirror::open(cache, patient(url, None), "main").unwrap();
        look(&mut mirror, &tip);
        let packs = cache.join("repo.git/objects/pack");
        let more = |count: usize| {
            (0..count).for_each(|number| fs::write(packs.join(format!("pack-{number}.pack")), "").unwrap())
        };
        let count = || files(&packs).iter().filter(|path| path.extension().is_some_and(|name| name == "pack")).count();
        more(40);
        look(&mut mirror, &tip);
        assert_eq!(count(), 41);
        more(50);
        look(&mut mirror, &tip);
        assert_eq!(count(), 1);
    });
}

/// Not a test of its own: what a child process does for the ones below.
#[test]
#[ignore = "run by other tests in a process of its own"]
fn child_fetches() {
    let (Ok(url), Ok(cache)) = (std::env::var("CHILD_URL"), std::env::var("CHILD_CACHE")) else { return };
    reinback::git::init_process().unwrap();
    let secret = std::env::var("CHILD_SECRET").ok().map(PathBuf::from);
    let mut mirror = Mirror::open(Path::new(&cache), patient(url, secret), "main").unwrap();
    println!("fetched {}", mirror.fetch().unwrap().tip);
}

/// A process of this test binary that fetches `url` into `cache`.
pub(super) fn child(url: &str, cache: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "git::cache::child_fetches", "--ignored", "--nocapture"]);
    command.env("CHILD_URL", url).env("CHILD_CACHE", cache).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_process_killed_while_it_clones_leaves_nothing_in_the_way() {
    let room = room();
    let server = GitServer::start(Options::default());
    let bare = server.bare("remote.git");
    let tip = history(&bare);
    let cache = room.path().join("cache");
    for length in [100, 300, 600] {
        server.take_seen();
        server.fault(Fault::Stall(length));
        let mut child = child(&server.url("remote.git"), &cache).spawn().unwrap();
        let start = Instant::now();
        while server.take_seen().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "the child never asked");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(200));
        child.kill().unwrap();
        child.wait().unwrap();
        server.fault(Fault::None);
        let mut mirror = Mirror::open(&cache, patient(server.url("remote.git"), None), "main").unwrap();
        look(&mut mirror, &tip);
        let left = files(&cache).iter().filter(|path| path.to_string_lossy().contains("_git2_")).count();
        assert_eq!(left, 0, "killed after {length} bytes");
        drop(mirror);
        fs::remove_dir_all(cache.join("repo.git")).unwrap();
    }
}
