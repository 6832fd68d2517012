//! Two agents, one of which stood still: what it sends too late undoes nothing.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::rancher::{self, Disturbance};
use crate::harness::{AuditEvent, eventually};
use crate::killed::SLOWLY;
use crate::process::{Moment, Process, Round, lease_holder, object_writes};
use crate::proxy::{Fault, Proxy};
use crate::world::World;

/// Shorter than it is by default, and long enough that a machine that is busy with other tests renews it in time.
const LEASE: &[&str] = &["--lease-duration", "12", "--lease-renew", "3"];
/// Two thirds of the duration.
const RENEW_DEADLINE: Duration = Duration::from_secs(8);
/// Longest that the agent lets one fenced request take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a second agent, as the user `second` who may do everything, and waits until it has taken the lease.
async fn take_over(world: &World) -> Process {
    let second = world.cluster.user("second");
    let bind = ["create", "clusterrolebinding", "second", "--clusterrole=cluster-admin", "--user=second"];
    world.cluster.kubectl(&bind, "").expect("bound");
    let holder = lease_holder(world).await.expect("a lease");
    let data = world.folder().join("second").display().to_string();
    let second = Process::start_as(world, &second.kubeconfig, &[LEASE, &["--data-dir", &data]].concat());
    eventually(Duration::from_secs(60), || async {
        ensure!(lease_holder(world).await? != holder, "the first still holds the lease");
        Ok(())
    })
    .await;
    second
}

/// What the agent of this user asked to change, refused or not, but for the lease and Events.
fn writes_of<'a>(events: &'a [AuditEvent], user: &str) -> Vec<&'a AuditEvent> {
    let is_theirs = |event: &&AuditEvent| {
        event.user.username == user && event.user_agent.starts_with("reinback/") && event.writes()
    };
    let is_kept = |event: &&AuditEvent| !["leases", "events"].contains(&event.object_ref.resource.as_str());
    events.iter().filter(is_theirs).filter(is_kept).collect()
}

/// Panics where the first agent's request was let through after the second had changed the same object.
fn assert_nothing_undone(events: &[AuditEvent]) {
    let ours = object_writes(events);
    let place = |event: &AuditEvent| {
        let object = &event.object_ref;
        [&object.api_group, &object.resource, &object.namespace, &object.name].map(Clone::clone)
    };
    let (second, first): (Vec<&AuditEvent>, Vec<_>) =
        ours.into_iter().partition(|event| event.user.username == "second");
    assert!(!first.is_empty() && !second.is_empty(), "both have written: {} and {}", first.len(), second.len());
    for early in second {
        let undone = first
            .iter()
            .find(|late| place(late) == place(early) && late.stage_timestamp >= early.request_received_timestamp);
        assert!(undone.is_none(), "{early:?} was followed by {undone:?}");
    }
}

/// When the first agent last renewed its lease, by the API server's clock.
fn last_renewal(events: &[AuditEvent]) -> Timestamp {
    let renewals = events.iter().filter(|event| {
        let is_let_through = event.writes() && event.response_status.code < 300;
        event.user.username == "admin"
            && event.user_agent.starts_with("reinback/")
            && is_let_through
            && event.object_ref.resource == "leases"
    });
    renewals.map(|event| event.request_received_timestamp).max().expect("it was renewed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_holder_writes_nothing_more_once_another_agent_has_taken_over() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "frozen", 14).await;
    let first = Process::start(&world, &[SLOWLY, LEASE].concat());
    round.reach(&Moment::Written(30)).await;
    first.signal("STOP");
    let _second = take_over(&world).await;
    let taken = world.cluster.audit_mark();
    let renewed = last_renewal(&world.cluster.audit_since(round.mark));
    first.signal("CONT");
    round.judge(Duration::ZERO).await;
    // Refused ones count, too: what the second has changed meanwhile is no fence.
    let events = world.cluster.audit_since(taken);
    let late: Vec<_> = writes_of(&events, "admin").iter().map(|event| (&event.verb, &event.request_uri)).collect();
    assert!(late.is_empty(), "{late:?}");
    let events = world.cluster.audit_since(round.mark);
    for write in writes_of(&events, "admin") {
        let received = write.request_received_timestamp;
        assert!(received <= renewed + RENEW_DEADLINE + WRITE_TIMEOUT, "renewed at {renewed}, and then {write:?}");
    }
    assert_nothing_undone(&events);
}

/// A kubeconfig of the world's administrator by way of a proxy.
fn through(world: &World, proxy: &Proxy) -> PathBuf {
    let text = std::fs::read_to_string(world.cluster.kubeconfig()).expect("a kubeconfig");
    let mut kubeconfig: Value = serde_json::from_str(&text).expect("the harness writes JSON");
    kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", proxy.address));
    let path = world.folder().join("through.kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).expect("the folder is writable");
    path
}

/// Waits until requests are on their way, those for objects among them.
async fn until_held(proxy: &Proxy) {
    // A connection has one request at a time. The lease, the run and Events may have one each.
    const OTHERS: usize = 3;
    eventually(Duration::from_secs(30), || async {
        ensure!(proxy.held() > OTHERS, "{} requests are held", proxy.held());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_network_delivers_after_another_agent_has_done_the_work_undoes_nothing_of_it() {
    let world = World::start().await;
    world.settle().await;
    let round = Round::begin(&world, "delivered", 19).await;
    let proxy = Proxy::start(api_address(&world), [], Fault::None);
    let args = [&["--install-crd", "--limits-qps", "100"], LEASE].concat();
    let first = Process::start_as(&world, &through(&world, &proxy), &args);
    round.reach(&Moment::Written(30)).await;
    proxy.hold(true);
    until_held(&proxy).await;
    // Nobody is left to close their connections.
    first.signal("STOP");
    let _second = take_over(&world).await;
    round.judge(Duration::ZERO).await;

    let done = world.cluster.audit_mark();
    proxy.hold(false);
    eventually(Duration::from_secs(10), || async {
        let events = world.cluster.audit_since(done);
        ensure!(!writes_of(&events, "admin").is_empty(), "nothing came late");
        Ok(())
    })
    .await;
    first.signal("CONT");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let events = world.cluster.audit_since(done);
    let late: Vec<_> =
        writes_of(&events, "admin").into_iter().filter(|event| event.response_status.code < 300).collect();
    assert!(late.is_empty(), "{late:?}");
    assert_nothing_undone(&world.cluster.audit_since(round.mark));
    assert_eq!(world.differences().await, Vec::<String>::new());
    round.judge_status_branch().await;
}

/// Settings that the backup does not have, and its selectors match.
const MADE_SINCE: usize = 160;

fn made_since() -> String {
    let setting = |number| {
        json!({
            "apiVersion": "management.cattle.io/v3", "kind": "Setting",
            "metadata": {"name": format!("made-since-{number}")}, "value": "new",
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": (0..MADE_SINCE).map(setting).collect::<Vec<_>>()}).to_string()
}

fn count_made_since(world: &World) -> usize {
    let names = world.cluster.kubectl(&["get", "settings.management.cattle.io", "-o", "name"], "").expect("listed");
    names.lines().filter(|name| name.contains("/made-since-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_network_delivers_late_spares_what_was_made_anew_under_the_name() {
    let world = World::start().await;
    world.settle().await;
    world.cluster.kubectl(&["create", "-f", "-"], &made_since()).expect("made");
    let few = Disturbance { changed_percent: 2, deleted_percent: 0, added: 0, seed: 3 };
    let disturbed = rancher::disturb(&world.client, &world.items, few).await.expect("disturbed");
    let round = Round::merge(&world, "deletions", 29, &[], "", disturbed).await;
    let proxy = Proxy::start(api_address(&world), [], Fault::None);
    // So slow that most deletions are still to come when the first is seen, also on a machine that is busy.
    let args = [&["--install-crd", "--limits-qps", "20"], LEASE].concat();
    let first = Process::start_as(&world, &through(&world, &proxy), &args);
    let deletions = |events: &[AuditEvent]| {
        let deletions = writes_of(events, "admin").into_iter().filter(|event| event.verb == "delete");
        deletions.map(|event| event.response_status.code).collect::<Vec<_>>()
    };
    eventually(Duration::from_secs(90), || async {
        ensure!(!deletions(&world.cluster.audit_of_ours(round.mark)).is_empty(), "nothing is deleted yet");
        Ok(())
    })
    .await;
    proxy.hold(true);
    until_held(&proxy).await;
    first.signal("STOP");
    let _second = take_over(&world).await;
    // No longer than that: the API server gives a new connection half a minute for its first request.
    eventually(Duration::from_secs(60), || async {
        ensure!(count_made_since(&world) == 0, "the second has not deleted them all");
        Ok(())
    })
    .await;
    world.cluster.kubectl(&["create", "-f", "-"], &made_since()).expect("made again");
    let done = world.cluster.audit_mark();
    proxy.hold(false);
    eventually(Duration::from_secs(10), || async {
        ensure!(!deletions(&world.cluster.audit_since(done)).is_empty(), "nothing came late");
        Ok(())
    })
    .await;
    first.signal("CONT");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = deletions(&world.cluster.audit_since(done));
    assert!(late.iter().all(|code| *code == 409), "another UID is no longer what was to be deleted: {late:?}");
    assert_eq!(count_made_since(&world), MADE_SINCE);
    round.judge(Duration::ZERO).await;
    assert_eq!(count_made_since(&world), MADE_SINCE);
}

fn api_address(world: &World) -> std::net::SocketAddr {
    let text = std::fs::read_to_string(world.cluster.kubeconfig()).expect("a kubeconfig");
    let kubeconfig: Value = serde_json::from_str(&text).expect("the harness writes JSON");
    let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().expect("it names a server");
    server.trim_start_matches("https://").parse().expect("an address")
}
