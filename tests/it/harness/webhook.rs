//! An admission webhook over TLS.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

type Answer = dyn Fn(&Value) -> Value + Send + Sync;

/// Answers reviews until the test's runtime ends.
pub struct WebhookServer {
    pub port: u16,
    /// The certificate that it shows, PEM in base64, as a `caBundle` has it.
    pub ca_bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl WebhookServer {
    /// One with a certificate for `name`, that answers each `request` of a review as `answer` says.
    pub async fn start(name: &str, answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let (acceptor, certificate) = tls(name);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer): (_, Arc<Answer>) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, answer) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        review(request, Arc::clone(&log), Arc::clone(&answer))
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    connection.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Self { port, ca_bundle: STANDARD.encode(certificate), asked }
    }

    /// The requests of all reviews since the last call.
    pub fn take_asked(&self) -> Vec<Value> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Of a server with a certificate for `name` that it signed itself, and that certificate as PEM.
pub fn tls(name: &str) -> (tokio_rustls::TlsAcceptor, String) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate can be signed");
    let rcgen::CertifiedKey { cert, signing_key } = certified;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("the provider has ciphers").with_no_client_auth();
    let tls = tls.with_single_cert(vec![cert.der().clone()], key.into()).expect("they belong together");
    (tokio_rustls::TlsAcceptor::from(Arc::new(tls)), cert.pem())
}

async fn review(
    request: http::Request<hyper::body::Incoming>,
    log: Arc<Mutex<Vec<Value>>>,
    answer: Arc<Answer>,
) -> Result<http::Response<String>, hyper::Error> {
    let review = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
    let review: Value = serde_json::from_slice(&review).expect("the API server sends JSON");
    let asked = &review["request"];
    let mut response = answer(asked);
    response["uid"] = asked["uid"].clone();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let answer = http::Response::builder().header("content-type", "application/json").body(answer.to_string());
    Ok(answer.expect("a status and a header"))
}
