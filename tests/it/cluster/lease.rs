//! The lease: one writer at a time, whatever happens to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use reinback::cluster::{self as api, Acquired, Candidate, LeaseGuard, LeaseName, LeaseTimes, Target, WriteError};
use reinback::object::Resource;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{admin, body, config_map, config_maps, namespace};
use crate::harness::{Cluster, Options, eventually};

on_both! {
    a_lease_has_one_holder_and_is_given_back,
    a_lease_left_behind_is_taken_only_when_its_holders_last_request_is_over,
    a_lease_that_is_touched_or_deleted_by_hand_is_kept,
    a_lease_that_someone_takes_is_lost_at_the_next_renewal_and_left_alone,
    of_many_candidates_one_at_a_time_holds_the_lease,
    a_missing_namespace_is_told_with_its_remedy,
    a_lease_is_renewed_while_it_is_held,
    who_takes_a_lease_as_it_was_seen_free_knows_that_nobody_had_it_since,
}

/// As the defaults, ten times faster. A lease left behind is taken after 3 s: 2.5 s, in whole seconds.
const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(1),
    renew_every: Duration::from_millis(500),
    renew_deadline: Duration::from_millis(1000),
    write_timeout: Duration::from_millis(500),
};
const LONG: Duration = Duration::from_secs(30);

fn candidate(ours: &api::Cluster, namespace: &str, identity: &str) -> Candidate {
    let name = LeaseName { namespace: namespace.to_owned(), name: "reinback".to_owned() };
    Candidate::new(ours.reader(), ours.writer(), name, TIMES, identity.to_owned())
}

fn held(acquired: Acquired) -> LeaseGuard {
    match acquired {
        Acquired::Held(guard) => guard,
        Acquired::Busy { holder, .. } => panic!("held by {holder}"),
    }
}

async fn lease(ours: &api::Cluster, namespace: &str) -> Value {
    let resource = Resource::new("coordination.k8s.io", "v1", "leases");
    let target = Target::new(&resource, Some(namespace), "reinback");
    ours.reader().get(&target).await.unwrap().expect("the lease exists").value().unwrap()
}

async fn patch_lease(ours: &api::Cluster, namespace: &str, patch: &Value) {
    let resource = Resource::new("coordination.k8s.io", "v1", "leases");
    ours.writer().merge_patch(&Target::new(&resource, Some(namespace), "reinback"), patch).await.unwrap();
}

async fn a_lease_has_one_holder_and_is_given_back(ours: &api::Cluster) {
    namespace(ours, "lease-one").await;
    let guard = held(candidate(ours, "lease-one", "first").try_acquire().await.unwrap());
    assert_eq!(lease(ours, "lease-one").await["spec"]["holderIdentity"], "first");
    let mut second = candidate(ours, "lease-one", "second");
    // Longer than a takeover takes: the renewals keep it.
    let Acquired::Busy { holder, .. } = second.acquire(Duration::from_secs(4)).await.unwrap() else {
        panic!("two holders")
    };
    assert_eq!(holder, "first");
    assert!(guard.is_valid(Instant::now()));

    let fence = guard.fence();
    let writer = ours.writer().fenced(&guard);
    guard.release().await.unwrap();
    assert!(!fence.is_valid(Instant::now()));
    timeout(LONG, fence.until_lost()).await.unwrap();
    let resource = config_maps();
    let target = Target::new(&resource, Some("lease-one"), "late");
    let error = writer.create(&target, body(&config_map("lease-one", "late", "1"))).await.unwrap_err();
    insta::allow_duplicates! { insta::assert_snapshot!(error, @"cannot create configmaps.#v1/lease-one/late: the lease is lost, another reinback may be at work"); }
    assert!(ours.reader().get(&target).await.unwrap().is_none());

    let guard = held(second.try_acquire().await.unwrap());
    let now = lease(ours, "lease-one").await;
    assert_eq!((&now["spec"]["holderIdentity"], guard.identity()), (&json!("second"), "second"));
    assert_eq!(now["spec"]["leaseDurationSeconds"], 3);
}

async fn a_lease_left_behind_is_taken_only_when_its_holders_last_request_is_over(ours: &api::Cluster) {
    namespace(ours, "lease-left").await;
    let guard = held(candidate(ours, "lease-left", "dead").try_acquire().await.unwrap());
    let last = guard.valid_until();
    drop(guard);
    let started = Instant::now();
    let guard = held(candidate(ours, "lease-left", "heir").acquire(LONG).await.unwrap());
    assert!(started.elapsed() >= TIMES.takeover_after(TIMES.duration), "{:?}", started.elapsed());
    assert!(Instant::now() > last + TIMES.write_timeout);
    assert_eq!(lease(ours, "lease-left").await["spec"]["leaseTransitions"], 1);
    guard.release().await.unwrap();
}

async fn a_lease_that_is_touched_or_deleted_by_hand_is_kept(ours: &api::Cluster) {
    namespace(ours, "lease-touched").await;
    let guard = held(candidate(ours, "lease-touched", "me").try_acquire().await.unwrap());
    patch_lease(ours, "lease-touched", &json!({"metadata": {"annotations": {"touched": "yes"}}})).await;
    sleep(2 * TIMES.renew_deadline).await;
    assert!(guard.is_valid(Instant::now()));
    assert_eq!(lease(ours, "lease-touched").await["metadata"]["annotations"]["touched"], "yes");

    let resource = Resource::new("coordination.k8s.io", "v1", "leases");
    let target = Target::new(&resource, Some("lease-touched"), "reinback");
    ours.writer().delete(&target, api::Preconditions::default(), None, None).await.unwrap();
    sleep(2 * TIMES.renew_deadline).await;
    assert!(guard.is_valid(Instant::now()));
    assert_eq!(lease(ours, "lease-touched").await["spec"]["holderIdentity"], "me");
    guard.release().await.unwrap();
}

async fn a_lease_that_someone_takes_is_lost_at_the_next_renewal_and_left_alone(ours: &api::Cluster) {
    namespace(ours, "lease-stolen").await;
    let guard = held(candidate(ours, "lease-stolen", "me").try_acquire().await.unwrap());
    patch_lease(ours, "lease-stolen", &json!({"spec": {"holderIdentity": "thief"}})).await;
    timeout(LONG, guard.fence().until_lost()).await.unwrap();
    assert!(!guard.is_valid(Instant::now()));
    guard.release().await.unwrap();
    assert_eq!(lease(ours, "lease-stolen").await["spec"]["holderIdentity"], "thief");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_sends_nothing_after_its_deadline() {
    let cluster = Cluster::start(Options { controllers: false, ..Options::default() });
    let ours = admin(&cluster).await;
    let guard = held(candidate(&ours, "default", "me").try_acquire().await.unwrap());
    let writer = ours.writer().fenced(&guard);
    let resource = config_maps();
    let target = Target::new(&resource, Some("default"), "cut-off");
    tokio::task::block_in_place(|| cluster.pause_api_server());
    let started = Instant::now();
    timeout(LONG, guard.fence().until_lost()).await.unwrap();
    assert!(started.elapsed() < TIMES.renew_deadline + Duration::from_millis(500), "{:?}", started.elapsed());
    let error = writer.create(&target, body(&config_map("default", "cut-off", "1"))).await.unwrap_err();
    assert!(matches!(error, WriteError::LeaseLost { .. }), "{error:?}");
    tokio::task::block_in_place(|| cluster.resume_api_server());
    assert!(ours.reader().get(&target).await.unwrap().is_none());
    // Lost is lost, also when the server is back.
    sleep(2 * TIMES.renew_every).await;
    assert!(!guard.is_valid(Instant::now()));
}

async fn of_many_candidates_one_at_a_time_holds_the_lease(ours: &api::Cluster) {
    namespace(ours, "lease-race").await;
    let (holders, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let racers = (0..6).map(|n| {
        let (ours, holders, turns) = (ours.clone(), holders.clone(), turns.clone());
        tokio::spawn(async move {
            let mut candidate = candidate(&ours, "lease-race", &format!("racer-{n}"));
            let guard = loop {
                match candidate.try_acquire().await.unwrap() {
                    Acquired::Held(guard) => break guard,
                    Acquired::Busy { .. } => sleep(Duration::from_millis(20)).await,
                }
            };
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold the lease");
            sleep(Duration::from_millis(100)).await;
            assert!(guard.is_valid(Instant::now()));
            holders.fetch_sub(1, Ordering::SeqCst);
            turns.fetch_add(1, Ordering::SeqCst);
            // Half of them die without giving it back.
            if n % 3 == 0 { drop(guard) } else { guard.release().await.unwrap() }
        })
    });
    for racer in racers.collect::<Vec<_>>() {
        timeout(LONG, racer).await.unwrap().unwrap();
    }
    assert_eq!(turns.load(Ordering::SeqCst), 6);
}

async fn who_takes_a_lease_as_it_was_seen_free_knows_that_nobody_had_it_since(ours: &api::Cluster) {
    namespace(ours, "lease-seen").await;
    let mut first = candidate(ours, "lease-seen", "first");
    assert_eq!(first.sight().await, None, "there is none");
    let guard = held(first.try_acquire().await.unwrap());
    assert_eq!(first.sight().await, None, "it is held");
    guard.release().await.unwrap();

    let mut second = candidate(ours, "lease-seen", "second");
    let seen = second.sight().await.expect("it was given back");
    let guard = held(second.try_acquire().await.unwrap());
    assert!(guard.follows(&seen));
    guard.release().await.unwrap();

    let seen = second.sight().await.expect("it was given back");
    held(first.try_acquire().await.unwrap()).release().await.unwrap();
    let guard = held(second.try_acquire().await.unwrap());
    assert!(!guard.follows(&seen), "the first had it in between");
    guard.release().await.unwrap();
}

async fn a_missing_namespace_is_told_with_its_remedy(ours: &api::Cluster) {
    let error = candidate(ours, "lease-nowhere", "me").try_acquire().await.unwrap_err();
    insta::allow_duplicates! { insta::assert_snapshot!(error, @"cannot take lease lease-nowhere/reinback: namespace lease-nowhere does not exist; create it, or let the agent create it"); }
}

async fn a_lease_is_renewed_while_it_is_held(ours: &api::Cluster) {
    namespace(ours, "lease-renewed").await;
    let guard = held(candidate(ours, "lease-renewed", "me").try_acquire().await.unwrap());
    let before = lease(ours, "lease-renewed").await;
    eventually(LONG, || async {
        let now = lease(ours, "lease-renewed").await;
        ensure!(now["spec"]["renewTime"] != before["spec"]["renewTime"], "not renewed");
        ensure!(now["spec"]["acquireTime"] == before["spec"]["acquireTime"], "acquired anew");
        Ok(())
    })
    .await;
    guard.release().await.unwrap();
}
