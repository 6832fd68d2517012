//! The way to a server: through the environment's proxy if there is one, then TLS.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request};
use http_body_util::{Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::super::error::GitError;
use super::super::remote::shown;
use super::chain;

/// Everything that is decided before the first packet.
pub(super) struct Dial {
    shown: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<Proxy>,
}

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` less `NO_PROXY`.
pub(super) struct Proxy {
    host: String,
    port: u16,
    pub(super) authorization: Option<HeaderValue>,
}

impl Dial {
    pub(super) fn new(base: &Url, authorities: &[CertificateDer<'static>]) -> Result<Self, GitError> {
        let shown = shown(base);
        let no_host = || GitError::Url { url: shown.clone(), problem: "has no host".to_owned() };
        // An IPv6 address stands in brackets in a URL, and without them everywhere else.
        let host = base.host_str().ok_or_else(no_host)?.trim_matches(['[', ']']).to_owned();
        let port = base.port_or_known_default().ok_or_else(no_host)?;
        let tls = match base.scheme() {
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|_| no_host())?;
                Some((TlsConnector::from(Arc::new(tls_config(&shown, authorities)?)), name))
            }
            _ => None,
        };
        Ok(Self { proxy: Proxy::of(base, &shown)?, shown, host, port, tls })
    }

    /// The proxy, when requests are for the proxy itself to send on (plain HTTP).
    pub(super) fn plain_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    pub(super) async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, GitError> {
        match (&self.proxy, &self.tls) {
            (None, None) => self.speak(tcp(&self.host, self.port).await.map_err(|e| self.unreachable(&e))?).await,
            (Some(proxy), None) => self.speak(proxy.dial().await.map_err(|e| self.unreachable(&e))?).await,
            (None, Some(tls)) => {
                let stream = tcp(&self.host, self.port).await.map_err(|e| self.unreachable(&e))?;
                self.secure(tls, stream).await
            }
            (Some(proxy), Some(tls)) => self.secure(tls, self.tunnel(proxy).await?).await,
        }
    }

    async fn secure<S>(
        &self,
        tls: &(TlsConnector, ServerName<'static>),
        stream: S,
    ) -> Result<SendRequest<Full<Bytes>>, GitError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connector, name) = tls;
        let stream = connector.connect(name.clone(), stream).await.map_err(|error| self.insecure(&error))?;
        self.speak(stream).await
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, GitError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        // Its error is also the error of the request that waits on it.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn tunnel(&self, proxy: &Proxy) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, GitError> {
        let stream = proxy.dial().await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        tokio::spawn(connection.with_upgrades());
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let target = format!("{host}:{}", self.port);
        let mut request = Request::builder().method(Method::CONNECT).uri(&target).header(HOST, &target);
        if let Some(value) = &proxy.authorization {
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| self.unreachable(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            let detail = format!("the proxy {}:{} answers {}", proxy.host, proxy.port, response.status());
            return Err(GitError::Unreachable { url: self.shown.clone(), detail });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.unreachable(&error))?;
        Ok(TokioIo::new(upgraded))
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> GitError {
        GitError::Unreachable { url: self.shown.clone(), detail: chain(error) }
    }

    fn insecure(&self, error: &io::Error) -> GitError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(error) => GitError::Tls { url: self.shown.clone(), detail: tls_detail(error) },
            None => self.unreachable(error),
        }
    }
}

impl Proxy {
    fn of(base: &Url, shown: &str) -> Result<Option<Self>, GitError> {
        let Ok(target) = base.as_str().parse::<http::Uri>() else { return Ok(None) };
        let Some(found) = Matcher::from_env().intercept(&target) else { return Ok(None) };
        let uri = found.uri();
        match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => {
                let port = uri.port_u16().unwrap_or(80);
                Ok(Some(Self {
                    host: host.trim_matches(['[', ']']).to_owned(),
                    port,
                    authorization: found.basic_auth().cloned(),
                }))
            }
            (_, _) => {
                let detail = "the environment's proxy is not an http:// one, and others are not supported".to_owned();
                Err(GitError::Unreachable { url: shown.to_owned(), detail })
            }
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        tcp(&self.host, self.port).await
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The system's authorities and those of `ca.crt`, as Flux does it.
fn tls_config(shown: &str, authorities: &[CertificateDer<'static>]) -> Result<ClientConfig, GitError> {
    let fail = |detail: String| GitError::Tls { url: shown.to_owned(), detail };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(|error| fail(format!("ca.crt holds what is not a certificate: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn tls_detail(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired; renew it on the server".to_owned()
        }
        // A bad signature is the answer of two authorities with one name: the known one is not the one that signed.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is signed by an authority that is not known here; put the authority's certificate into secretDir as ca.crt"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "its certificate is for another host name; use the name it was made for".to_owned()
        }
        // rustls' enum grows; its texts name no secret.
        other => other.to_string(),
    }
}
