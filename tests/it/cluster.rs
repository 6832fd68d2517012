//! The cluster room on a real API server: reads, writes, waits and the lease.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use reinback::cluster as api;
use reinback::object::Resource;
use reinback::sim::{Sim, SimOptions};
use serde_json::{Value, json};

use crate::harness::Cluster;

/// Makes two tests of each function: on the real API server, and on the simulated one, whose time runs ahead.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod real {
            $(#[tokio::test]
            async fn $case() {
                super::$case(&crate::cluster::admin(crate::harness::Cluster::shared()).await).await;
            })*
        }

        mod simulated {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::$case(&crate::cluster::simulated()).await;
            })*
        }
    };
}

mod lease;
mod measure;
mod read;
mod wait;
mod write;

/// Limits of a test: patient enough for a busy machine.
pub fn limits() -> api::Limits {
    api::Limits { retry_for: Duration::from_secs(20), ..api::Limits::default() }
}

pub async fn connect(kubeconfig: &Path, limits: api::Limits) -> api::Cluster {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the harness wrote it");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    api::Cluster::with_config(config.expect("it is whole"), limits).await.expect("a client can be built")
}

pub async fn admin(cluster: &Cluster) -> api::Cluster {
    connect(cluster.kubeconfig(), limits()).await
}

fn simulated() -> api::Cluster {
    Sim::new(SimOptions::default()).cluster(limits())
}

/// The URL in the kubeconfig.
fn server(cluster: &Cluster) -> String {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("the harness wrote it");
    let named = kubeconfig.clusters.into_iter().next().and_then(|named| named.cluster);
    named.and_then(|cluster| cluster.server).expect("it names a server")
}

/// A namespace of the test's own.
async fn namespace(cluster: &api::Cluster, name: &str) {
    let namespaces = Resource::new("", "v1", "namespaces");
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    cluster.writer().create(&api::Target::new(&namespaces, None, name), body(&object)).await.expect("it is new");
}

fn config_maps() -> Resource {
    Resource::new("", "v1", "configmaps")
}

fn config_map(namespace: &str, name: &str, value: &str) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}})
}

fn body(object: &Value) -> Bytes {
    Bytes::from(object.to_string())
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("an object has a name").to_owned()
}
