//! What an agent needs in the cluster before its first pass: its namespace, and the definition of `Run`.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::ledger::list_runs;
use super::{Agent, PassError};
use crate::cluster::{ClusterWriter, FailureKind, Target};
use crate::object::Resource;
use crate::run::{NAMESPACE, Run};
use crate::store::Sha256;

/// Digest of the definition of `Run` that an agent wrote: an equal one is not written again.
const DEFINITION_ANNOTATION: &str = "reinback.io/definition";

/// Some hundred milliseconds on an API server that has nothing else to do.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// The definition of `Run` with its digest as an annotation. The server fills in defaults, so that two definitions are told
/// apart by what was written.
struct Definition {
    name: String,
    digest: String,
    crd: Value,
}

static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
    let mut crd = <Run as kube::CustomResourceExt>::crd();
    let digest = Sha256::of(&serde_json::to_vec(&crd).unwrap_or_default()).to_string();
    crd.metadata.annotations.get_or_insert_default().insert(DEFINITION_ANNOTATION.to_owned(), digest.clone());
    let name = crd.metadata.name.clone().unwrap_or_default();
    Definition { name, digest, crd: serde_json::to_value(&crd).unwrap_or_default() }
});

impl Agent {
    /// Makes our namespace, and our CRD when told to.
    pub(super) async fn make_ready(&mut self) -> Result<(), PassError> {
        if self.ready {
            return Ok(());
        }
        let writer = self.cluster.writer();
        let namespaces = Resource::new("", "v1", "namespaces");
        let reader = self.cluster.reader();
        let target = Target::new(&namespaces, None, NAMESPACE);
        if reader.get(&target).await.map_err(PassError::Runs)?.is_none() {
            let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
            tolerate_existing(writer.create(&target, body.to_string().into()).await)?;
        }
        if self.options.install_crd {
            self.install_crd(&writer).await?;
            self.until_served().await?;
        }
        self.ready = true;
        Ok(())
    }

    async fn install_crd(&self, writer: &ClusterWriter) -> Result<(), PassError> {
        let Definition { name, digest, crd } = &*DEFINITION;
        let crds = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let target = Target::new(&crds, None, name);
        let reader = self.cluster.reader();
        match reader.get(&target).await.map_err(PassError::Runs)? {
            Some(live) => {
                let mut ours = crd.clone();
                let theirs = live.value().unwrap_or_default();
                if theirs["metadata"]["annotations"][DEFINITION_ANNOTATION] == digest.as_str() {
                    return Ok(());
                }
                ours["metadata"]["resourceVersion"] = theirs["metadata"]["resourceVersion"].clone();
                writer.replace(&target, ours.to_string().into()).await.map(drop).map_err(PassError::Setup)?;
            }
            None => tolerate_existing(writer.create(&target, crd.to_string().into()).await)?,
        }
        Ok(())
    }

    /// A type is served a moment after its definition says `Established`, so what is asked for is the type.
    async fn until_served(&self) -> Result<(), PassError> {
        let end = Instant::now() + SERVED_WITHIN;
        let reader = self.cluster.reader();
        loop {
            match list_runs(&reader).await {
                Err(PassError::NoCrd) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
                listed => return listed.map(drop),
            }
        }
    }
}

fn tolerate_existing(answer: Result<crate::cluster::Answer, crate::cluster::WriteError>) -> Result<(), PassError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == Some(FailureKind::AlreadyExists) => Ok(()),
        Err(error) => Err(PassError::Setup(error)),
    }
}
