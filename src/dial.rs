//! The way to an HTTP server: through the environment's proxy if there is one, then TLS.
//!
//! A proxy of the environment is used as curl and Git do. Texts of errors hold no credential: a proxy is told by host and port.

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

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the URL has no host")]
    NoHost,
    /// An error with its causes, or what the proxy said.
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Tls(TlsProblem),
}

/// Why a server is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is signed by an authority that is not known here")]
    UnknownAuthority,
    #[error("its certificate is for another host name")]
    OtherName,
    /// One of the authorities that were given is none.
    #[error("an authority is not a certificate: {0}")]
    BadAuthority(String),
    /// rustls' own text, which names no secret.
    #[error("{0}")]
    Other(String),
}

/// Everything that is decided before the first packet.
pub struct Dial {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<Proxy>,
}

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` less `NO_PROXY`.
pub struct Proxy {
    host: String,
    port: u16,
    pub authorization: Option<HeaderValue>,
}

impl Dial {
    /// To host and port of `base`. With `https`, the system's authorities are trusted, and `authorities` beside them.
    ///
    /// # Errors
    ///
    /// When there is no host, an authority is none, or the environment's proxy cannot be used.
    pub fn new(base: &Url, authorities: &[CertificateDer<'static>]) -> Result<Self, DialError> {
        // An IPv6 address stands in brackets in a URL, and without them everywhere else.
        let host = base.host_str().ok_or(DialError::NoHost)?.trim_matches(['[', ']']).to_owned();
        let port = base.port_or_known_default().ok_or(DialError::NoHost)?;
        let tls = match base.scheme() {
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|_| DialError::NoHost)?;
                let config = tls_config(authorities).map_err(DialError::Tls)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
            _ => None,
        };
        Ok(Self { proxy: Proxy::of(base)?, host, port, tls })
    }

    /// Whether this is a certificate that [`Dial::new`] takes for an authority.
    pub fn takes(authority: &CertificateDer<'static>) -> bool {
        RootCertStore::empty().add(authority.clone()).is_ok()
    }

    /// The proxy, when requests are for the proxy itself to send on (plain HTTP).
    pub fn plain_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    /// A connection that is ready for a request. Nothing in it has a deadline: the caller's is one for all.
    ///
    /// # Errors
    ///
    /// `Unreachable` and `Tls`.
    pub async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, DialError> {
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
    ) -> Result<SendRequest<Full<Bytes>>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connector, name) = tls;
        let stream = connector.connect(name.clone(), stream).await.map_err(|error| self.insecure(&error))?;
        self.speak(stream).await
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        // Its error is also the error of the request that waits on it.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn tunnel(&self, proxy: &Proxy) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, DialError> {
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
            return Err(DialError::Unreachable(detail));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.unreachable(&error))?;
        Ok(TokioIo::new(upgraded))
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> DialError {
        DialError::Unreachable(chain(error))
    }

    fn insecure(&self, error: &io::Error) -> DialError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(error) => DialError::Tls(TlsProblem::of(error)),
            None => self.unreachable(error),
        }
    }
}

impl Proxy {
    fn of(base: &Url) -> Result<Option<Self>, DialError> {
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
                Err(DialError::Unreachable(detail))
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

/// The system's authorities and those that were given, as Flux does it.
fn tls_config(authorities: &[CertificateDer<'static>]) -> Result<ClientConfig, TlsProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| TlsProblem::BadAuthority(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsProblem::Other(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

impl TlsProblem {
    fn of(error: &rustls::Error) -> Self {
        use rustls::Error::InvalidCertificate;
        match error {
            InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => Self::Expired,
            // A bad signature is the answer of two authorities with one name: the known one is not the one that signed.
            InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Self::UnknownAuthority
            }
            InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                Self::OtherName
            }
            // rustls' enum grows.
            other => Self::Other(other.to_string()),
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
