//! A small HTTP server that answers as a test says, rightly or not.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Page {
    Say(u16, String),
    /// With this `Location`.
    Redirect(String),
    /// Nothing, and the connection stays open.
    Hang,
    /// A body of so many bytes.
    Large(usize),
}

impl Page {
    pub fn ok(body: &str) -> Self {
        Self::Say(200, body.to_owned())
    }
}

/// One request, as far as tests ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub host: String,
    pub forwarded_proto: String,
}

type Pages = dyn Fn(&Asked) -> Page + Send + Sync;

/// Answers until the test's runtime ends.
pub struct WebServer {
    pub port: u16,
    /// The certificate that it shows, where it speaks TLS, as PEM.
    pub certificate: Option<String>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl WebServer {
    /// Plain HTTP at an address of this machine.
    pub async fn start(address: IpAddr, pages: impl Fn(&Asked) -> Page + Send + Sync + 'static) -> Self {
        Self::serve(address, None, Arc::new(pages)).await
    }

    /// HTTPS at 127.0.0.1, with a certificate for this name.
    pub async fn start_tls(name: &str, pages: impl Fn(&Asked) -> Page + Send + Sync + 'static) -> Self {
        Self::serve(IpAddr::from([127, 0, 0, 1]), Some(name), Arc::new(pages)).await
    }

    async fn serve(address: IpAddr, name: Option<&str>, pages: Arc<Pages>) -> Self {
        let tls = name.map(super::webhook::tls);
        let (acceptor, certificate) = tls.unzip();
        let listener = tokio::net::TcpListener::bind((address, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, pages) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&pages));
                tokio::spawn(async move {
                    match acceptor {
                        None => answer_all(stream, log, pages).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                answer_all(stream, log, pages).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, certificate, asked }
    }

    /// The requests since the last call.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer_all(stream: impl AsyncRead + AsyncWrite + Unpin, log: Arc<Mutex<Vec<Asked>>>, pages: Arc<Pages>) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let header = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let path = request.uri().path().to_owned();
        let asked = Asked { path, host: header("host"), forwarded_proto: header("x-forwarded-proto") };
        let page = pages(&asked);
        log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        respond(page)
    });
    let connection = hyper::server::conn::http1::Builder::new();
    connection.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await.ok();
}

async fn respond(page: Page) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let answer = http::Response::builder();
    let answer = match page {
        Page::Say(code, body) => answer.status(code).body(Full::from(body)),
        Page::Redirect(to) => answer.status(302).header("location", to).body(Full::default()),
        Page::Large(bytes) => answer.body(Full::from(vec![b'a'; bytes])),
        Page::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            answer.body(Full::default())
        }
    };
    Ok(answer.expect("a status and a header"))
}

/// An address of this machine by which others may reach it; `None` where it has but its loopback. Nothing is sent.
pub fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
