//! kube's layers over an HTTP client whose connections read into small buffers.
//!
//! kube builds its own client, which cannot be told so. hyper doubles what a connection reads at once while answers fill
//! it, up to 400 KiB, and keeps that: with some tens of connections it is more than all that is known of a cluster.

use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config, Error};
use tower::{BoxError, Service, ServiceBuilder};

/// What one read of a connection takes at most, in bytes: most answers to a write, and half a record of TLS.
const READ_BYTES: usize = 8 << 10;

/// Makes a client of `config`: its address, certificates, credentials, headers and proxy, but none of its time-outs and retries, since
/// every request has a deadline of its own.
///
/// # Errors
///
/// When certificates, keys or credentials cannot be used, or the proxy speaks neither `http` nor `https`.
pub(super) fn build(config: &Config, connect_timeout: Duration) -> Result<Client, Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let Some(proxy) = &config.proxy_url else { return over(tcp, config) };
    match proxy.scheme_str() {
        Some("http") => over(tunnel(proxy, tcp), config),
        Some("https") => over(tunnel(proxy, config.rustls_https_connector_with_connector(tcp)?), config),
        _ => Err(Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy.clone()) }),
    }
}

fn tunnel<C>(proxy: &Uri, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.clone(), connector);
    match authorization(proxy) {
        Some(header) => tunnel.with_auth(header),
        None => tunnel,
    }
}

/// User and password of a proxy's URL, as a header that is not printed.
fn authorization(proxy: &Uri) -> Option<HeaderValue> {
    // Whatever it is asked of: it holds this one proxy, for everything.
    let matcher = Matcher::builder().all(proxy.to_string()).build();
    matcher.intercept(&Uri::from_static("https://kubernetes"))?.basic_auth().cloned()
}

fn over<C>(connector: C, config: &Config) -> Result<Client, Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError> + Send + Sync + std::error::Error + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> =
        HttpClient::builder(TokioExecutor::new()).http1_read_buf_exact_size(READ_BYTES).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_user_and_password_are_sent_as_they_were_meant() {
        let header =
            |text: &str| authorization(&text.parse().unwrap()).map(|header| header.to_str().unwrap().to_owned());
        assert_eq!(header("http://proxy:3128"), None);
        // user:pa@ss
        assert_eq!(header("http://user:pa%40ss@proxy:3128").as_deref(), Some("Basic dXNlcjpwYUBzcw=="));
        let value = authorization(&"https://user:secret@proxy".parse().unwrap()).unwrap();
        assert!(value.is_sensitive());
    }
}
