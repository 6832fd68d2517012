use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream;
use tokio::time::advance;
use tower::ServiceExt as _;

use super::*;
use crate::clock::Clock;
use crate::cluster::{Cluster, Limits, Lost};
use crate::sim::{Sim, SimOptions};

fn record(holder: Option<&str>, seconds: u64) -> Record {
    Record::read(
        json!({"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds}}),
    )
}

const TIMES: LeaseTimes = LeaseTimes {
    duration: Duration::from_secs(15),
    renew_every: Duration::from_secs(5),
    renew_deadline: Duration::from_secs(10),
    write_timeout: Duration::from_secs(30),
};

#[test]
fn a_lease_is_taken_only_when_its_holders_last_request_is_over() {
    let other = record(Some("other"), 15);
    let decision = |seconds| decide(&other, "me", Duration::from_secs(seconds), &TIMES);
    assert_eq!(decision(0), Decision::Wait { at_most: Duration::from_secs(41) });
    assert_eq!(decision(40), Decision::Wait { at_most: Duration::from_secs(1) });
    assert_eq!(decision(41), Decision::Take);
}

#[test]
fn a_holder_that_states_a_longer_lease_is_given_it() {
    assert_eq!(
        decide(&record(Some("other"), 60), "me", Duration::from_secs(59), &TIMES),
        Decision::Wait { at_most: Duration::from_secs(1) }
    );
}

#[test]
fn a_lease_given_back_or_our_own_is_taken_at_once() {
    for holder in [None, Some(""), Some("me")] {
        assert_eq!(decide(&record(holder, 15), "me", Duration::ZERO, &TIMES), Decision::Take);
    }
}

#[test]
fn a_new_holder_keeps_what_others_wrote_and_counts_the_change() {
    let mut object =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"holderIdentity": "x", "leaseTransitions": 3}});
    held(&mut object, "me", &TIMES, "2026-11-23T09:00:00Z".parse().unwrap());
    assert_eq!(
        object,
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "holderIdentity": "me", "leaseDurationSeconds": 41, "leaseTransitions": 4,
            "acquireTime": "2026-11-23T09:00:00.000000Z", "renewTime": "2026-11-23T09:00:00.000000Z",
        }})
    );
}

/// Requests at a time: behind so many a renewal would wait for its whole lease.
const IN_FLIGHT: usize = 20;

/// A simulated cluster that is asked once a second, and counts what arrives.
fn slow(latency: Duration) -> (Cluster, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sim = Sim::new(SimOptions { latency, ..SimOptions::default() });
    let service = sim.service().map_request(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        request
    });
    let limits = Limits { qps: 1, ..Limits::default() };
    let client = kube::Client::new(service, "default");
    (Cluster::over(client, "https://sim".to_owned(), limits, Clock::system()), sent)
}

fn candidate(cluster: &Cluster) -> Candidate {
    let name = LeaseName { namespace: "default".to_owned(), name: "reinback".to_owned() };
    Candidate::new(cluster.reader(), cluster.writer(), name, TIMES, "me".to_owned())
}

async fn held_lease(cluster: &Cluster) -> LeaseGuard {
    taken(&mut candidate(cluster)).await
}

async fn taken(candidate: &mut Candidate) -> LeaseGuard {
    match candidate.acquire(Duration::ZERO).await.unwrap() {
        Acquired::Held(guard) => guard,
        Acquired::Busy { holder, .. } => panic!("held by {holder}"),
    }
}

/// As many writes as are let through, [`IN_FLIGHT`] at a time.
async fn bulk(writer: ClusterWriter, writes: usize) -> Vec<Result<(), WriteError>> {
    let resource = Resource::new("", "v1", "configmaps");
    let (writer, resource) = (&writer, &resource);
    let write = |number: usize| async move {
        let name = format!("bulk-{number}");
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "default", "name": name}});
        writer.create(&Target::new(resource, Some("default"), &name), json_body(&object)).await.map(drop)
    };
    stream::iter(0..writes).map(write).buffered(IN_FLIGHT).collect().await
}

#[tokio::test(start_paused = true)]
async fn renewals_do_not_wait_behind_a_bulk_of_writes() {
    let (cluster, sent) = slow(Duration::ZERO);
    let guard = held_lease(&cluster).await;
    let (before, started) = (sent.load(Ordering::Relaxed), Instant::now());
    let written = bulk(cluster.writer().fenced(&guard), 60).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert!(guard.is_valid(Instant::now()));
    // The bulk keeps its pace all the same.
    let seconds = started.elapsed().as_secs() as usize;
    assert!(seconds >= 59, "60 writes took {seconds} s");
    let renewals = sent.load(Ordering::Relaxed) - before - 60;
    assert!((10..=12).contains(&renewals), "{renewals} renewals in {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn while_a_write_that_was_not_answered_may_be_carried_out_the_lease_is_neither_given_back_nor_taken_again() {
    let sim = Sim::new(SimOptions::default());
    let inner = sim.service();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (inner, is_lost) = (inner.clone(), request.uri().path().contains("/configmaps"));
        async move {
            let answer = inner.oneshot(request).await.map_err(|never| match never {})?;
            if is_lost { Err(tower::BoxError::from("connection reset by peer")) } else { Ok(answer) }
        }
    });
    let client = kube::Client::new(service, "default");
    let cluster = Cluster::over(client, "https://sim".to_owned(), Limits::default(), Clock::system());
    let holder = || {
        let lease = sim.object("leases.coordination.k8s.io", Some("default"), "reinback").expect("a lease");
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    };
    let mut candidate = candidate(&cluster);
    let guard = taken(&mut candidate).await;
    let written = bulk(cluster.writer().fenced(&guard), 1).await.remove(0);
    assert!(matches!(written, Err(WriteError::Unknown { .. })), "{written:?}");
    let lost = Instant::now();
    guard.release().await.unwrap();
    assert_eq!(holder(), "me");
    let guard = taken(&mut candidate).await;
    assert!(lost.elapsed() > TIMES.write_timeout - Duration::from_secs(1), "taken after {:?}", lost.elapsed());
    guard.release().await.unwrap();
    assert_eq!(holder(), "");
}

#[tokio::test(start_paused = true)]
async fn when_time_jumps_by_an_hour_the_fence_is_lost_and_nothing_more_is_sent() {
    // With a renewal under way at the jump, and without.
    for latency in [Duration::from_secs(1), Duration::ZERO] {
        let (cluster, sent) = slow(latency);
        let guard = held_lease(&cluster).await;
        let fence = guard.fence();
        let writer = cluster.writer().fenced(&guard);
        let writing = tokio::spawn(bulk(writer.clone(), 3 * IN_FLIGHT));
        sleep(TIMES.renew_every + Duration::from_millis(200)).await;
        assert!(fence.is_valid(Instant::now()));
        let before = sent.load(Ordering::Relaxed);
        assert!(before > 5, "only {before} requests before the jump");

        advance(Duration::from_secs(3600)).await;
        assert!(!fence.is_valid(Instant::now()));
        let written = writing.await.unwrap();
        let is_unsent = |written: &&Result<(), WriteError>| {
            matches!(
                written,
                Err(WriteError::LeaseLost { .. } | WriteError::Unreachable { source: Lost::NotInTurn, .. })
            )
        };
        let unsent = written.iter().filter(is_unsent).count();
        assert!(unsent + before >= written.len(), "what was not sent is known not to be done: {written:?}");
        let late = bulk(writer, 1).await.remove(0);
        assert!(matches!(late, Err(WriteError::LeaseLost { .. })), "{late:?}");
        timeout(Duration::from_secs(1), fence.until_lost()).await.unwrap();
        sleep(10 * TIMES.renew_deadline).await;
        guard.release().await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), before, "sent after the jump");
    }
}
