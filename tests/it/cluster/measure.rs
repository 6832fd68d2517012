//! What a list and a write cost. Run by hand: `cargo test --test it cluster::measure -- --ignored --nocapture`.

use std::time::Instant;

use futures::stream::{self, StreamExt as _};
use reinback::cluster::{ListOptions, Target};
use serde_json::value::RawValue;

use super::{admin, body, config_map, config_maps};
use crate::harness::{Cluster, Options, fixture, rancher};

const LARGE: &str = "large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, run by hand"]
async fn lists_and_writes() {
    let cluster = Cluster::start(Options { controllers: false, audit: false, ..Options::default() });
    let seeded =
        rancher::seed_objects(&cluster.client().await, &rancher::read(&fixture(LARGE)).unwrap()).await.unwrap();
    let ours = admin(&cluster).await;
    let reader = ours.reader();
    let started = Instant::now();
    let catalog = reader.discover().await.unwrap();
    println!("discovery: {} resources in {:?}", catalog.resources.len(), started.elapsed());
    let listable: Vec<_> = catalog.resources.iter().filter(|r| r.can("list") && r.served_preferred).collect();
    for at_once in [1, 4, 16] {
        let started = Instant::now();
        let lists = stream::iter(&listable).map(|served| {
            let length = |item: &RawValue| Ok(Some(item.get().len()));
            reader.list(&served.resource, ListOptions::default(), length)
        });
        let lists: Vec<_> = lists.buffer_unordered(at_once).collect().await;
        let lists = lists.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        let count: usize = lists.iter().map(|list| list.items.len()).sum();
        let bytes: usize = lists.iter().flat_map(|list| &list.items).sum();
        let pages: usize = lists.iter().map(|list| list.pages).sum();
        println!(
            "{at_once} lists at once: {count} of {seeded} objects, {bytes} bytes, {pages} pages in {:?}",
            started.elapsed()
        );
    }
    let (writer, resource) = (ours.writer(), config_maps());
    for at_once in [1, 8, 16, 32, 64] {
        let (started, cpu) = (Instant::now(), own_cpu_seconds());
        let count = 2_000;
        let writes = stream::iter(0..count).map(|n| {
            let (writer, resource, name) = (&writer, &resource, format!("measure-{at_once}-{n}"));
            async move {
                let map = config_map("default", &name, &"x".repeat(1 << 10));
                writer.create(&Target::new(resource, Some("default"), &name), body(&map)).await
            }
        });
        let made: Vec<_> = writes.buffer_unordered(at_once).collect().await;
        assert!(made.iter().all(Result::is_ok));
        let rate = f64::from(count) / started.elapsed().as_secs_f64();
        let own_micros = (own_cpu_seconds() - cpu) / f64::from(count) * 1e6;
        println!("{at_once} creations at once: {rate:.0} a second, {own_micros:.0} µs of our CPU each");
    }
}

/// CPU time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn own_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
