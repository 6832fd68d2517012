//! Which cluster, and a client for it.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Config;
use kube::config::{KubeConfigOptions, KubeconfigError};

use super::request::Transport;
use super::{Cluster, ClusterError, client};
use crate::clock::Clock;

/// How fast and how patiently a cluster is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second; 0 for no limit of ours (the server's priority and fairness still holds). Those that keep the
    /// lease are not counted: behind a bulk of writes they would come too late.
    pub qps: u32,
    pub connect_timeout: Duration,
    /// From sending a request to the last byte of its answer.
    pub request_timeout: Duration,
    /// How long a request that may be repeated is repeated.
    pub retry_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            qps: 0,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(120),
        }
    }
}

/// Connects to the cluster of `KUBECONFIG` (or `~/.kube/config`), of `context` there, or of the pod's service account.
///
/// The service account is taken only where no kubeconfig is named and none lies in its usual place: a broken file is an
/// error, not another cluster. Nothing is sent yet.
///
/// # Errors
///
/// `Config` when no cluster is named, or the file that names it cannot be used; `Credentials`, `Client`.
pub async fn connect(context: Option<&str>, limits: Limits) -> Result<Cluster, ClusterError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match Config::from_kubeconfig(&options).await {
        Ok(config) => config,
        Err(error) if context.is_none() && is_absent(&error) => in_cluster()?,
        Err(error) => return Err(ClusterError::Config { problem: told(&error) }),
    };
    Cluster::with_config(config, limits).await
}

impl Cluster {
    /// Connects as `config` says, with our user agent, time-outs and retries instead of its own.
    pub async fn with_config(mut config: Config, limits: Limits) -> Result<Self, ClusterError> {
        let url = shown(&config.cluster_url);
        let agent = HeaderValue::from_static(concat!("reinback/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        // A credential plugin is a process that is waited for.
        let built = tokio::task::spawn_blocking(move || client::build(&config, limits.connect_timeout));
        let client = built.await.expect("building a client does not panic").map_err(|error| refused(&error, &url))?;
        Ok(Self::over(client, url, limits, Clock::system()))
    }

    /// Takes a client as it is. `url` is what people are told of it.
    pub fn over(client: kube::Client, url: String, limits: Limits, clock: Clock) -> Self {
        Self { transport: Transport::new(client, url, limits, clock) }
    }
}

fn in_cluster() -> Result<Config, ClusterError> {
    Config::incluster().map_err(|_not_in_a_pod| ClusterError::Config {
        problem: "there is no kubeconfig, and this is not a pod with a service account".to_owned(),
    })
}

/// Whether there is no kubeconfig, and nobody asked for one.
fn is_absent(error: &KubeconfigError) -> bool {
    let asked_for = std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty());
    let missing = match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(source, _) => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    };
    missing && !asked_for
}

/// The problem in our words. kube's texts may quote the file, and with it a token.
fn told(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) if source.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no kubeconfig {}", path.display())
        }
        KubeconfigError::ReadConfig(source, path) => format!("{} cannot be read ({})", path.display(), source.kind()),
        KubeconfigError::Parse(_) => "the kubeconfig is not valid YAML of a kubeconfig".to_owned(),
        KubeconfigError::CurrentContextNotSet => "the kubeconfig has no current context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => format!("the kubeconfig has no cluster {name:?}"),
        KubeconfigError::MissingClusterUrl => "the kubeconfig's cluster has no server".to_owned(),
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "the cluster's certificate authority cannot be read".to_owned()
        }
        KubeconfigError::LoadClientCertificate(_) => "the user's client certificate cannot be read".to_owned(),
        KubeconfigError::LoadClientKey(_) => "the user's client key cannot be read".to_owned(),
        KubeconfigError::ParseClusterUrl(_) => "the cluster's server is not a URL".to_owned(),
        _ => "the kubeconfig cannot be used".to_owned(),
    }
}

fn refused(error: &kube::Error, url: &str) -> ClusterError {
    let url = url.to_owned();
    match error {
        kube::Error::Auth(_) => ClusterError::Credentials {
            url,
            problem: "the credential plugin failed, or the token cannot be read; run it by hand to see why",
        },
        kube::Error::InferKubeconfig(_) => {
            ClusterError::Credentials { url, problem: "the client certificate or key cannot be read" }
        }
        kube::Error::ProxyProtocolDisabled { .. } | kube::Error::ProxyProtocolUnsupported { .. } => {
            ClusterError::Client { url, problem: "its proxy speaks neither http nor https" }
        }
        _ => ClusterError::Client { url, problem: "its certificates or key cannot be used for TLS" },
    }
}

/// The URL without user and password.
fn shown(uri: &http::Uri) -> String {
    let text = uri.to_string();
    let text = text.trim_end_matches('/');
    match (text.split_once("://"), uri.authority()) {
        (Some((scheme, rest)), Some(authority)) => match authority.as_str().rsplit_once('@') {
            Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let shown = |text: &str| shown(&text.parse().unwrap());
        assert_eq!(
            shown("https://user:secret@10.0.0.1:6443/k8s/clusters/local"),
            "https://10.0.0.1:6443/k8s/clusters/local"
        );
        assert_eq!(shown("https://127.0.0.1:6443/"), "https://127.0.0.1:6443");
    }

    #[test]
    fn a_broken_kubeconfig_is_told_without_quoting_it() {
        let error = kube::config::Kubeconfig::from_yaml("users: [{token: hunter2").unwrap_err();
        insta::assert_snapshot!(told(&error), @"the kubeconfig is not valid YAML of a kubeconfig");
    }
}
