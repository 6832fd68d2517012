//! What many objects, and large ones, cost in memory.

use std::io::BufWriter;
use std::sync::Arc;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reinback::backup::BackupWriter;
use reinback::object::{ObjectKey, Resource};
use serde_json::{Value, json};

use crate::measured::Measured;
use crate::world::{Filled, PLAIN, World};

const NAMESPACE: &str = "cattle-bench";
/// More than the largest Rancher that is known of has.
const MANY: usize = 100_000;
const LARGE: usize = 300;
/// Near the largest that the API server takes.
const LARGE_BYTES: usize = 700 << 10;

/// Restores both into clusters that have none of them, and prints the peak of the process.
pub async fn measure() -> Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    restored("100,000 objects", MANY, config_map).await?;
    restored("300 Secrets of 700 KiB", LARGE, |index| secret(index, &mut random)).await
}

async fn restored(name: &str, count: usize, mut object: impl FnMut(usize) -> (ObjectKey, Value)) -> Result<()> {
    let world = World::of(crate::options(), PLAIN, Filled::RancherOnly).await;
    world.settle().await;
    let backup = format!("bench-{}-2026-11-23T05-58-54Z.tar.gz", world.cluster.uid());
    let file = BufWriter::new(std::fs::File::create(world.store().join(&backup))?);
    let mut writer = BackupWriter::new(file, Timestamp::UNIX_EPOCH);
    let namespaces = Arc::new(Resource::new("", "v1", "namespaces"));
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    writer.object(&ObjectKey::new(&namespaces, None, NAMESPACE), &namespace)?;
    for index in 0..count {
        let (key, object) = object(index);
        writer.object(&key, &object)?;
    }
    writer.finish()?;
    world.commit_restore_of(&backup, "bench", &[crate::ACCEPT], "  prune: false\n");
    let measured = Measured::run(&world, "bench", "Succeeded").await?;
    ensure!(measured.counts.created > count as u64, "{:?}", measured.counts);
    let peak = measured.peak_bytes as f64 / (1024.0 * 1024.0);
    println!(
        "\n{name}\n  peak {peak:.1} MiB, {:.1} s, {:.1} s CPU",
        measured.wall.as_secs_f64(),
        measured.cpu.as_secs_f64()
    );
    Ok(())
}

fn config_map(index: usize) -> (ObjectKey, Value) {
    let resource = Arc::new(Resource::new("", "v1", "configmaps"));
    let name = format!("bench-{index:06}");
    let metadata = json!({ "name": name, "namespace": NAMESPACE, "labels": { "bench": "many" } });
    let object =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "text": "x".repeat(512) } });
    (ObjectKey::new(&resource, Some(NAMESPACE), &name), object)
}

/// Of random bytes, which no compression makes small.
fn secret(index: usize, random: &mut StdRng) -> (ObjectKey, Value) {
    let resource = Arc::new(Resource::new("", "v1", "secrets"));
    let name = format!("bench-{index:03}");
    let mut bytes = vec![0; LARGE_BYTES];
    random.fill_bytes(&mut bytes);
    let metadata = json!({ "name": name, "namespace": NAMESPACE });
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": { "bytes": STANDARD.encode(bytes) } });
    (ObjectKey::new(&resource, Some(NAMESPACE), &name), object)
}
