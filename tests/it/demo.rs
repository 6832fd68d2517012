//! `reinback demo`: the story to its end, on a machine with nothing on it.

use std::fs::read_dir;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use regex::Regex;
use tempfile::TempDir;

use crate::git_server::git;
use crate::harness::{REINBACK, temp_dir};

/// A guard against hanging alone: how long it takes is the machine's affair.
const AT_MOST: Duration = Duration::from_secs(120);

/// A demo whose temporary folder is the test's.
fn demo(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(REINBACK);
    command.arg("demo").args(args).env_clear().env("TMPDIR", folder.path()).env("HOME", folder.path());
    command.env("HOSTNAME", "host").stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn played(mut command: Command) -> Output {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    while child.try_wait().expect("it is ours").is_none() {
        if began.elapsed() > AT_MOST {
            child.kill().expect("it is ours");
            panic!("it hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().expect("it ended")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it is text")
}

/// The story without what is another one each time. Of the commits between start and end, which is one for each step that
/// the remote took in time, only the others are kept.
fn masked(story: &str, folder: &Path) -> String {
    let mut masked = story.replace(&folder.display().to_string(), "TMP");
    for (pattern, mask) in [
        (r"reinback-demo-\w+", "FOLDER"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
        (r"upgrade-[0-9a-f]{8}", "upgrade-KEY"),
        (r"commit `[0-9a-f]{12}`", "commit `ID`"),
        (r"(?m)^     [0-9a-f]{7} \d\d:\d\d:\d\d ", "     ID TIME "),
        (r"(?m)^     ID TIME reinback rollback before-the-upgrade: [a-z-]+\n", ""),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
        (r"host_[0-9a-f]{8}", "HOLDER"),
        (r"(KEY-UID-2026-11-23T02-58-)\d\d", "${1}SS"),
        (r"after \d+\.\d s", "after N s"),
        (r"in \d+ s|under 1 s", "in N s"),
        (r"\| \d+ s \|", "| N s |"),
        (r"\d+\.\d KiB", "N KiB"),
    ] {
        masked = Regex::new(pattern).expect("a pattern").replace_all(&masked, mask).into_owned();
    }
    masked
}

fn is_empty(folder: &TempDir) -> bool {
    read_dir(folder.path()).expect("it is there").next().is_none()
}

#[test]
fn it_is_told_to_its_end_without_colours_and_leaves_nothing() {
    let folder = temp_dir();
    let Output { status, stdout, stderr } = played(demo(&folder, &[]));
    let story = text(&stdout);
    assert_eq!((status.code(), text(&stderr).as_str()), (Some(0), ""), "{story}");
    assert!(!story.contains('\x1b'), "colours without a terminal: {story}");
    assert!(is_empty(&folder), "its folder is still there");
    for phase in ["held by PruneShare", "started", "succeeded in"] {
        assert!(story.contains(&format!("rollback before-the-upgrade: {phase}")), "{phase}: {story}");
    }
    assert_snapshot!(masked(&story, folder.path()), @r"
       A rollback of a Rancher that is not there: the cluster is simulated, all else is real.
       Repository, backup and caches are in TMP/FOLDER.

    1. Monday, 2:58 a.m.: a backup
       Rancher v2.9.3 runs with 3 pods. 302 of its objects are saved, in rancher-backup's format:
         nightly-UID-2026-11-23T02-00-00Z.tar.gz

    2. An upgrade goes wrong
       Helm upgrades it to v2.10.1. Its migration loses 33 of 131 users, moves roles about, and
       the downstream cluster prod says: agent v2.10.1 does not connect.

    3. reinback is started
       The agent watches clusters/prod on main, and reports on reinback/prod. What lies there at its
       first look never runs: installing reinback restores nothing.
         ID TIME reinback dashboard: manifests or their problems changed

    4. Ada merges a Rollback
       clusters/prod/before-the-upgrade.yaml:
         apiVersion: reinback.io/v1alpha1
         kind: Rollback
         metadata:
           name: before-the-upgrade
         spec:
           toVersion: v2.9.3
           versionMethod: image
           restore:
             backupFilename: nightly-UID-2026-11-23T02-00-00Z.tar.gz
             prune: true
         ID TIME reinback rollback before-the-upgrade: held by PruneShare
       Nothing was touched yet. This is the plan:
         Rollback before-the-upgrade: 75 to create, 39 to update, 99 to delete, Rancher to v2.9.3; held by 1 gate

           backup       nightly-UID-2026-11-23T02-00-00Z.tar.gz (N KiB)
           sha256       sha256:DIGEST
           taken        2026-11-23T02:00:00Z, 58 minutes old
           Rancher      v2.10.1 here -> v2.9.3 in the backup
           cluster      this cluster (UID)
           server-url   https://rancher.example.org
           install-uuid UID
           engine       native; prune on
           version      from v2.10.1 to v2.9.3 by image rancher/rancher:v2.9.3, now rancher/rancher:v2.10.1

         held by
           PruneShare (can be accepted)
             prune would delete 99 of the 330 objects that the backup's selectors match: more than 20 %
             -> set `prune: false`, name a newer backup, or raise `policy.maxPruneShare`; or add to the manifest's annotations: `reinback.io/accept: PruneShare` (deletes them all)

                                                           create  update  delete  equal  protected
           clusterrepos.catalog.cattle.io                       2       .       .      .          .
           clusterrolebindings.rbac.authorization.k8s.io        1       .       .      1          .
           clusterroles.rbac.authorization.k8s.io               1       .       .      1          .
           clusters.management.cattle.io                        .       1       .      1          .
           configmaps                                           .       .       .      3          4
           customresourcedefinitions.apiextensions.k8s.io       1       .       .      6          .
           deployments.apps                                     1       1       .      .          .
           globalrolebindings.management.cattle.io             33      32      96     65          .
           globalroles.management.cattle.io                     .       .       .      1          1
           namespaces                                           .       .       .      4          .
           projects.management.cattle.io                        1       .       1      1          .
           rolebindings.rbac.authorization.k8s.io               .       .       .      1          .
           roles.rbac.authorization.k8s.io                      .       1       .      .          .
           secrets                                              1       1       1      2          .
           serviceaccounts                                      .       .       .      1          .
           settings.management.cattle.io                        1       2       1      3          .
           users.management.cattle.io                          33       1       .     97          .
           all                                                 75      39      99    187          5

         deletes
           globalrolebindings.management.cattle.io#v3/migrated-u-10397
           globalrolebindings.management.cattle.io#v3/migrated-u-10794
           globalrolebindings.management.cattle.io#v3/migrated-u-11191
           … and 96 more

         left as they are
           1: is built in and kept by Rancher
           4: is the CA of this cluster, which Kubernetes writes into every namespace

         scales to 0 first
           deployments/cattle-system/rancher (3 replicas)
           deployments/cattle-fleet-system/fleet-controller (2 replicas)

         mind
           the backup's selectors ask for catalog.cattle.io/v1, which the cluster does not serve: what they would choose there is not pruned

         plan sha256:DIGEST

    5. The gate
       PruneShare: Ada reads the plan; what goes is what the upgrade made. The dashboard on
       reinback/prod has the line that takes it, and she adds it:
         reinback.io/accept: PruneShare

    6. The rollback runs

    7. The agent is killed
       It dies after 108 of 213 changes, with Rancher down. What it knew is in its journal, in the cluster
       and in Git, and Rancher's Deployment itself says what it had:
         replicas: 0, reinback.io/replicas: 3
         Lease reinback-system/reinback: HOLDER
       A new agent starts. It waits until the lease has not been renewed for 6 s, and goes on:
         Lease reinback-system/reinback: HOLDER, after N s
         ID TIME reinback rollback before-the-upgrade: succeeded in N s (114 objects: 39 updated, 75 created, 99 deleted)

    8. What Git tells
       git log reinback/prod, newest first, is the audit trail:
         ID TIME reinback rollback before-the-upgrade: succeeded in N s (114 objects: 39 updated, 75 created, 99 deleted)
         ID TIME reinback rollback before-the-upgrade: held by PruneShare
         ID TIME reinback dashboard: manifests or their problems changed
       The dashboard, its README.md:
         # reinback on prod

         Written by reinback. Edits are overwritten; nothing here is read as a command.

         - Cluster: `prod`
         - kube-system UID: `UID`
         - Rules now: Rollback `before-the-upgrade` (`clusters/prod/before-the-upgrade.yaml`, commit `ID` by Ada &lt;ada\@example.org&gt;)
         - Runs now: nothing
         - Safety backup: `reinback-safety-2026-11-23-before-the-upgrade-KEY-UID-2026-11-23T02-58-SSZ.tar.gz`, 330 objects as they were before `2026-11-23-before-the-upgrade-KEY`

         ## Rancher after its version was set

         Rollback `before-the-upgrade` (`clusters/prod/before-the-upgrade.yaml`, commit `ID` by Ada &lt;ada\@example.org&gt;)

         - **rollout** (passed, required): 3 of 3 replicas run rancher/rancher:v2.9.3, and no old pod is left
         - **health** (passed, required): /healthz answers 200 and /ping says pong
         - **version** (passed, required): /rancherversion says v2.9.3
         - **settings** (passed): 6 settings are as the backup has them
         - **webhook** (passed): rancher-webhook is not installed, and no webhook configuration of it is there
         - **apiServices** (passed): 0 APIServices of Rancher are available
         - **systemCharts** (passed): 0 system charts are at the versions that Rancher's settings name
         - **clusters** (passed): no cluster was connected before

         ## Last runs

         | when (UTC) | manifest | result | took | objects | file |
         |---|---|---|---|---|---|
         | TIME | Rollback `before-the-upgrade` | Succeeded | N s | 114 objects: 39 updated, 75 created, 99 deleted | [`2026-11-23-before-the-upgrade-KEY`](runs/2026-11-23-before-the-upgrade-KEY.yaml) |

    9. Cluster and backup
       Planned once more: 301 objects are as in the backup, 1 as Rancher keeps it; 0 differ or are missing,
       0 are too many.
       Rancher v2.9.3 runs with 3 of 3 pods, on the data of its backup.
    ");
}

#[test]
fn with_keep_the_folder_stays_and_what_it_says_can_be_done() {
    let folder = temp_dir();
    let Output { status, stdout, stderr } = played(demo(&folder, &["--keep", "--pause", "--seed", "7"]));
    let story = text(&stdout);
    assert_eq!((status.code(), text(&stderr).as_str()), (Some(0), ""), "{story}");
    // Nobody is there to press it.
    assert_eq!(story.matches("Enter goes on.").count(), 8, "{story}");
    let kept = read_dir(folder.path()).expect("it is there").next().expect("a folder").expect("readable").path();
    let repository = kept.join("rancher.git");
    let log = git(&repository, &["log", "--format=%s", "reinback/prod"]);
    assert!(log.starts_with("rollback before-the-upgrade: succeeded"), "{log}");
    let files = git(&repository, &["ls-tree", "--name-only", "reinback/prod:runs"]);
    let run = git(&repository, &["show", &format!("reinback/prod:runs/{}", files.trim())]);
    assert!(run.contains("phase: Succeeded"), "{run}");
    let repository = repository.display();
    let said = format!("git -C {repository} show main:clusters/prod/before-the-upgrade.yaml | reinback check -");
    assert!(story.contains(&said), "{story}");
    let said = said.replace("reinback check", &format!("{REINBACK} check"));
    let checked = Command::new("sh").args(["-c", &said]).output().expect("it starts");
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn ctrl_c_ends_it_at_once_and_leaves_nothing() {
    let folder = temp_dir();
    let mut child =
        demo(&folder, &["--keep"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let is_under_way = |line: std::io::Result<String>| line.expect("text").contains("held by PruneShare");
    assert!(lines.any(is_under_way), "it ended before");
    let asked = Instant::now();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    let mut errors = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    let status = child.wait().expect("it ends");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!((status.code(), errors.as_str()), (Some(1), "stopped\n"));
    assert!(is_empty(&folder), "its folder is still there");
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let folder = temp_dir();
    let mut command = demo(&folder, &[]);
    let Output { status, stderr, .. } = played({
        command.env("TMPDIR", folder.path().join("missing"));
        command
    });
    assert_eq!(status.code(), Some(1));
    assert!(text(&stderr).starts_with("reinback: cannot make a folder"), "{}", text(&stderr));
}
