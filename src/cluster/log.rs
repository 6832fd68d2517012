//! Logs of pods.

use super::request::{Call, push_query};
use super::{ClusterError, ClusterReader, Target};
use crate::object::Resource;

/// Most that is read of a log, in bytes.
const MAX_LOG_BYTES: u32 = 256 << 10;

impl ClusterReader {
    /// The last `lines` of the log of a pod with one container; `None` when there is no such pod.
    ///
    /// # Errors
    ///
    /// As for a get. Anything may stand in a log: it is nothing to be passed on as it is.
    pub async fn log(&self, namespace: &str, pod: &str, lines: u32) -> Result<Option<String>, ClusterError> {
        let pods = Resource::new("", "v1", "pods");
        let target = Target::new(&pods, Some(namespace), pod);
        let mut path = target.path()?;
        path.push_str("/log");
        push_query(&mut path, &[("tailLines", &lines.to_string()), ("limitBytes", &MAX_LOG_BYTES.to_string())]);
        let what = || format!("read the log of {target}");
        match self.transport.read(&Call { accept: "*/*", ..Call::get(path) }, what).await? {
            Ok(reply) => Ok(Some(String::from_utf8_lossy(&reply.body).into_owned())),
            Err(failure) if failure.kind == super::FailureKind::NotFound => Ok(None),
            Err(failure) => Err(ClusterError::Api { what: what(), failure: Box::new(failure) }),
        }
    }
}
