//! The agent holds what the plan holds: it says so, exits 3, and touches nothing.

use super::cluster::rancher;
use super::{Asked, apply, define, kubectl, set};
use crate::once::ended;
use crate::process::{object_writes, phase, runs_of};
use crate::world::World;

/// One pass with the flags of the question.
async fn is_held(ask: &Asked<'_>, code: &str) {
    let Asked { world, flags, .. } = ask;
    ask.commit();
    let flags = flags.iter().map(String::as_str);
    let args: Vec<&str> = ["agent", "--once", "--install-crd"].into_iter().chain(flags).collect();
    let said = world.reinback(&args).await;
    assert_eq!(said.code, Some(3), "{code}: {}", said.stderr);
    let told = world.told(&[]).await;
    let held: Vec<&String> = told.iter().filter(|line| line.contains(" Held ")).collect();
    assert_eq!(held, [&format!("gate Held {code}")]);
    let dashboard = world.dashboard();
    assert!(dashboard.contains(code), "{code}: {dashboard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_leaves_something_held_exits_3_and_writes_nothing_whatever_the_gate() {
    let world = World::start().await;
    world.settle().await;
    let ask = Asked::of(&world);
    let whole = std::fs::read(world.store().join(&world.backup)).expect("the backup is there");
    let short = "short-0-2026-11-23T05-58-54Z.tar.gz";
    std::fs::write(world.store().join(short), &whole[..whole.len() / 2]).expect("the store is ours");
    let elsewhere = world.repack("url", |entries| set(entries, "server-url", "https://other.example.org"));
    let older = world.repack("older", |entries| set(entries, "server-version", "v2.9.2"));
    let ancient = world.repack("ancient", |entries| set(entries, "server-version", "v2.4.9"));
    let unserved = world.repack("widgets", |entries| {
        let widget = serde_json::json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "one"}});
        entries.push(("widgets.example.org#v1/one".to_owned(), widget));
    });
    let kubeconfig = std::fs::read_to_string(world.cluster.kubeconfig()).expect("the kubeconfig is there");
    let server = kubeconfig.lines().find_map(|line| line.split('"').find(|word| word.starts_with("https://")));
    let server = server.expect("it names a server");
    let digest = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("BackupCorrupt", ask.backup(short)),
        ("DigestMismatch", ask.annotated("reinback.io/backup-digest", &digest)),
        ("DifferentServerUrl", ask.backup(&elsewhere)),
        ("VersionMismatch", ask.backup(&older)),
        (
            "UnsupportedVersion",
            ask.backup(&ancient).annotated("reinback.io/accept", "VersionMismatch, VersionBoundary"),
        ),
        ("ResourceNotServed", ask.backup(&unserved)),
        ("NotSupported", ask.annotated("reinback.io/on-failure", "Undo").flag("--policy-safety-backup=false")),
        ("OperatorMissing", ask.annotated("reinback.io/engine", "operator")),
        ("AccessThroughRancher", ask.flag(&format!("--rancher-url={server}"))),
        ("ApprovalMissing", ask.flag("--policy-require-approval=Restore")),
    ];
    // So that each would have something to do.
    world.touch();
    let at = |second: usize| format!("2026-11-23T09:00:{second:02}Z");
    for (second, (code, ask)) in cases.iter().enumerate() {
        // What was edited away has ended, and asks again by another time.
        is_held(&ask.annotated("reinback.io/requested-at", &at(second)), code).await;
    }
    define(&world, "resources.cattle.io", "v1", "restores", "Restore", "Cluster");
    apply(&world, "{apiVersion: resources.cattle.io/v1, kind: Restore, metadata: {name: theirs}, spec: {}}");
    is_held(&ask.annotated("reinback.io/requested-at", &at(59)), "RunInProgress").await;
    kubectl(&world, &["delete", "restores.resources.cattle.io", "theirs"]);
    assert_eq!(world.scalings(), 0);
    assert_eq!(object_writes(&world.cluster.audit()).len(), 0);

    // The last of them goes when its reason goes, without a commit. What Rancher had is what the annotation says.
    rancher(&world, "scale", &["--replicas=0"]);
    rancher(&world, "annotate", &["reinback.io/replicas=2"]);
    ended(&world.once().await, 0);
    assert!(world.told(&[]).await.contains(&"gate Succeeded Succeeded".to_owned()));
    assert_eq!(world.differences().await, Vec::<String>::new());
    assert_eq!(world.replicas("cattle-system", "rancher").await.expect("it is there"), (2, 2));
    let runs = runs_of(&world, "gate").await.expect("the cluster answers");
    let run = runs.iter().find(|run| phase(run) == "Succeeded").expect("one ran");
    let replicas = run["status"]["replicas"].as_array().cloned().unwrap_or_default();
    let had = serde_json::json!({"workload": "deployments/cattle-system/rancher", "replicas": 2});
    assert!(replicas.contains(&had), "{replicas:?}");
}
