//! Asking a Service through the API server, which hands requests on to pods.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::request::{Call, Lost, push_segment};
use super::{ApiFailure, ClusterError, ClusterReader};

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Certificates are not checked behind the API server.
    pub https: bool,
}

impl ServicePort {
    /// `path` begins with a slash and is safe as it stands.
    fn path(&self, path: &str) -> Result<String, ClusterError> {
        let Self { namespace, name, port, https } = self;
        let mut whole = "/api/v1/namespaces".to_owned();
        push_segment(&mut whole, "namespace", namespace)?;
        whole.push_str("/services");
        let scheme = if *https { "https" } else { "http" };
        push_segment(&mut whole, "Service", &format!("{scheme}:{name}:{port}"))?;
        Ok(whole + "/proxy" + path)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, port, https: _ } = self;
        write!(f, "{namespace}/{name}:{port}")
    }
}

/// How asking through the API server came out.
#[derive(Debug)]
pub enum Proxied {
    /// What the pod said, whatever it was; of anything but a success the code alone.
    Answered { code: u16, body: String },
    /// The API server says no: we may not, there is no such Service, or no pod was reached.
    Refused(Box<ApiFailure>),
    /// Neither said anything that is an answer.
    Lost(Lost),
}

impl ClusterReader {
    /// One GET of a path of a Service, once, with an answer of at most `max_bytes` within `within`.
    ///
    /// # Errors
    ///
    /// `BadName`.
    pub async fn ask_service(
        &self,
        service: &ServicePort,
        path: &str,
        max_bytes: usize,
        within: Duration,
    ) -> Result<Proxied, ClusterError> {
        let mut call = Call::get(service.path(path)?);
        call.accept = "*/*";
        // Rancher sends those away to https who come to its http port, but for what came by https to somebody before it.
        let forwarded = HeaderName::from_static("x-forwarded-proto");
        call.headers.insert(forwarded, HeaderValue::from_static("https"));
        Ok(match self.transport.once(&call, Instant::now() + within, max_bytes).await {
            Ok(Ok(reply)) => {
                Proxied::Answered { code: reply.code, body: String::from_utf8_lossy(&reply.body).into_owned() }
            }
            // Only the API server gives reasons.
            Ok(Err(failure)) if failure.reason.is_empty() => {
                Proxied::Answered { code: failure.code, body: String::new() }
            }
            Ok(Err(failure)) => Proxied::Refused(Box::new(failure)),
            Err(lost) => Proxied::Lost(lost),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_by_scheme_name_and_port() {
        let service = |name: &str, https: bool| {
            let (namespace, name) = ("cattle-system".to_owned(), name.to_owned());
            ServicePort { namespace, name, port: 80, https }
        };
        let path = service("rancher", false).path("/healthz").expect("a path");
        assert_eq!(path, "/api/v1/namespaces/cattle-system/services/http:rancher:80/proxy/healthz");
        assert!(service("rancher", true).path("/").expect("a path").contains("/https:rancher:80/"));
        assert!(service("a/../b", false).path("/").is_err());
    }
}
