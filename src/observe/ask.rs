//! Asking Rancher itself over HTTP: by its URL, or through the API server.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::facts::{get, setting};
use super::{ObserveError, Places, visible};
use crate::cluster::{ClusterReader, FailureKind, ListOptions, Lost, Proxied, ServicePort};
use crate::dial::{Dial, DialError, TlsProblem};
use crate::health::Reply;
use crate::object::Resource;

/// From dialling to the last byte of an answer. Rancher's own probes give it a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Through the API server, which itself waits up to 30 s for a pod that is not there.
const HANDED_ON_WITHIN: Duration = Duration::from_secs(5);
/// Largest answer that is taken, in bytes; what is asked for answers with some tens.
const MAX_BODY_BYTES: usize = 64 << 10;
/// From http to https, and to another path; more is a loop.
const MAX_REDIRECTS: usize = 3;
/// Certificates taken from the setting `cacerts`; a bundle of all public authorities has some 150.
const MAX_AUTHORITIES: usize = 500;

/// The way by which Rancher is asked.
pub struct Asker {
    reader: ClusterReader,
    way: Way,
}

enum Way {
    Url {
        base: Url,
        /// Rancher's own, beside the system's.
        authorities: Vec<CertificateDer<'static>>,
    },
    Service(ServicePort),
    /// And why.
    Nowhere(String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { base, authorities: _ } => write!(f, "{}", base.as_str().trim_end_matches('/')),
            Self::Service(service) => write!(f, "the Service {service}"),
            Self::Nowhere(why) => f.write_str(why),
        }
    }
}

impl Asker {
    /// By `url`, trusting the authorities of Rancher's setting `cacerts` beside the system's; without one, by the Service
    /// that leads to Rancher's pods.
    ///
    /// # Errors
    ///
    /// When the API server does not answer.
    pub async fn new(reader: &ClusterReader, places: &Places, url: Option<&Url>) -> Result<Self, ObserveError> {
        let way = match url {
            Some(url) => Way::Url { base: url.clone(), authorities: authorities(reader).await? },
            None => match service(reader, places).await? {
                Some(service) => Way::Service(service),
                None => {
                    let namespace = &places.rancher_namespace;
                    let why =
                        format!("no Service of {namespace} that we may see leads to Rancher's pods; set rancher.url");
                    Way::Nowhere(why)
                }
            },
        };
        Ok(Self { reader: reader.clone(), way })
    }

    /// One GET of a path that begins with a slash.
    ///
    /// # Errors
    ///
    /// When the way cannot stand in a request path.
    pub async fn ask(&self, path: &str) -> Result<Reply, ObserveError> {
        Ok(match &self.way {
            Way::Url { base, authorities } => ask_url(base, authorities, path).await,
            Way::Service(service) => {
                let proxied = self.reader.ask_service(service, path, MAX_BODY_BYTES, HANDED_ON_WITHIN).await?;
                of_proxied(proxied, &self.way)
            }
            Way::Nowhere(why) => Reply::NotAsked(why.clone()),
        })
    }
}

/// A certificate that is none makes Rancher's own unknown, which the TLS handshake then tells.
async fn authorities(reader: &ClusterReader) -> Result<Vec<CertificateDer<'static>>, ObserveError> {
    let settings = Resource::new("management.cattle.io", "v3", "settings");
    let pem = setting(reader, &settings, "cacerts").await?.unwrap_or_default();
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).take(MAX_AUTHORITIES);
    Ok(read.filter(Dial::takes).collect())
}

/// Of the Services that select the pods of Rancher's Deployment, the one of its name first.
async fn service(reader: &ClusterReader, places: &Places) -> Result<Option<ServicePort>, ObserveError> {
    let namespace = places.rancher_namespace.as_str();
    let deployments = Resource::new("apps", "v1", "deployments");
    let Some(rancher) = get(reader, &deployments, Some(namespace), &places.rancher_deployment).await? else {
        return Ok(None);
    };
    let services = Resource::new("", "v1", "services");
    let options = ListOptions { namespace: Some(namespace), ..ListOptions::default() };
    let listed = reader.list(&services, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await;
    let mut leading = visible(listed.map(|listed| listed.items))?;
    leading.retain(|service| leads_to(service, &rancher));
    leading.sort_by_key(|service| service["metadata"]["name"] != places.rancher_deployment.as_str());
    Ok(leading.iter().find_map(|service| port(service, namespace)))
}

fn leads_to(service: &Value, workload: &Value) -> bool {
    let labels = workload.pointer("/spec/template/metadata/labels");
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|selector| {
        let has = |(key, value): (&String, &Value)| labels.and_then(|labels| labels.get(key)) == Some(value);
        !selector.is_empty() && selector.iter().all(has)
    })
}

/// Its port for http, else the one for https.
fn port(service: &Value, namespace: &str) -> Option<ServicePort> {
    let name = service.pointer("/metadata/name").and_then(Value::as_str)?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let find = |wanted: u64, called: &str| {
        let by_number = ports.iter().find(|port| port["port"] == wanted);
        let port = by_number.or_else(|| ports.iter().find(|port| port["name"] == called))?;
        port["port"].as_u64().and_then(|port| u16::try_from(port).ok())
    };
    let http = find(80, "http").map(|port| (port, false));
    let (port, https) = http.or_else(|| find(443, "https").map(|port| (port, true)))?;
    Some(ServicePort { namespace: namespace.to_owned(), name: name.to_owned(), port, https })
}

fn of_proxied(proxied: Proxied, way: &Way) -> Reply {
    match proxied {
        Proxied::Answered { code: code @ (502 | 504), body: _ } => {
            Reply::NotAsked(format!("the API server does not reach {way} (code {code}); set rancher.url"))
        }
        Proxied::Answered { code, body } => Reply::Answered { code, body },
        Proxied::Refused(failure) => Reply::NotAsked(match failure.kind {
            FailureKind::Forbidden => format!("we may not ask {way} through the API server (get services/proxy)"),
            FailureKind::NotFound => format!("{way} has no endpoint"),
            _ => format!("the API server does not reach {way} ({failure}); set rancher.url"),
        }),
        Proxied::Lost(Lost::TooLarge { limit_bytes }) => Reply::Misbehaved(too_large(limit_bytes)),
        Proxied::Lost(lost @ Lost::TimedOut { .. }) => {
            Reply::NotAsked(format!("{way} through the API server: {lost}; set rancher.url"))
        }
        Proxied::Lost(lost) => Reply::NotAsked(format!("the API server cannot be asked: {lost}")),
    }
}

fn too_large(limit_bytes: usize) -> String {
    format!("the answer is larger than {limit_bytes} bytes")
}

/// What one request brought.
enum Got {
    Reply(Reply),
    Redirect(Option<Url>),
}

/// Follows redirects on the same host, and never from https to http.
async fn ask_url(base: &Url, authorities: &[CertificateDer<'static>], path: &str) -> Reply {
    let end = Instant::now() + ANSWER_WITHIN;
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    for _ in 0..=MAX_REDIRECTS {
        match get_url(&url, authorities, end).await {
            Got::Reply(reply) => return reply,
            Got::Redirect(Some(to)) if is_same_host(&url, &to) => url = to,
            Got::Redirect(Some(to)) => {
                let host = to.host_str().unwrap_or_default();
                return Reply::Misbehaved(format!("it redirects to {}://{host}, which is not asked", to.scheme()));
            }
            Got::Redirect(None) => return Reply::Misbehaved("it redirects to nowhere".to_owned()),
        }
    }
    Reply::Misbehaved(format!("it redirects more than {MAX_REDIRECTS} times"))
}

fn is_same_host(from: &Url, to: &Url) -> bool {
    let bare = to.username().is_empty() && to.password().is_none();
    let scheme = to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    bare && scheme && from.host_str() == to.host_str()
}

async fn get_url(url: &Url, authorities: &[CertificateDer<'static>], end: Instant) -> Got {
    let dialled = async {
        let dial = Dial::new(url, authorities)?;
        let connection = dial.connect().await?;
        Ok::<_, DialError>((dial, connection))
    };
    let connect_end = end.min(Instant::now() + CONNECT_WITHIN);
    let (dial, mut connection) = match timeout_at(connect_end, dialled).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Got::Reply(Reply::NotAsked(format!("{}: {}", origin(url), told(&error)))),
        Err(_elapsed) => {
            let seconds = CONNECT_WITHIN.as_secs();
            return Got::Reply(Reply::NotAsked(format!("{}: no connection within {seconds} s", origin(url))));
        }
    };
    let Ok(request) = request(url, &dial) else {
        return Got::Reply(Reply::NotAsked(format!("{} cannot be asked for over HTTP", origin(url))));
    };
    let exchange = async {
        let response = connection.send_request(request).await?;
        take(response, url).await
    };
    match timeout_at(end, exchange).await {
        Ok(Ok(got)) => got,
        Ok(Err(error)) => {
            Got::Reply(Reply::Misbehaved(format!("the connection broke: {}", crate::dial::chain(&error))))
        }
        Err(_elapsed) => Got::Reply(Reply::Misbehaved(format!("no whole answer within {} s", ANSWER_WITHIN.as_secs()))),
    }
}

/// Scheme, host and port.
fn origin(url: &Url) -> &str {
    &url[..url::Position::BeforePath]
}

fn told(error: &DialError) -> String {
    match error {
        DialError::Tls(problem @ TlsProblem::UnknownAuthority) => {
            format!("{problem}; it is neither of the system's authorities nor of those in Rancher's setting cacerts")
        }
        DialError::Tls(_) | DialError::NoHost | DialError::Unreachable(_) => error.to_string(),
    }
}

fn request(url: &Url, dial: &Dial) -> Result<Request<Full<Bytes>>, http::Error> {
    let proxy = dial.plain_proxy();
    let uri = if proxy.is_some() { url.as_str() } else { &url[url::Position::BeforePath..url::Position::AfterQuery] };
    let mut request = Request::get(uri)
        .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(USER_AGENT, concat!("reinback/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*");
    if let Some(value) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        request = request.header(PROXY_AUTHORIZATION, value);
    }
    request.body(Full::new(Bytes::new()))
}

async fn take(response: Response<Incoming>, url: &Url) -> Result<Got, hyper::Error> {
    let (head, mut body) = response.into_parts();
    if head.status.is_redirection() {
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        return Ok(Got::Redirect(location.and_then(|location| url.join(location).ok())));
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY_BYTES {
            return Ok(Got::Reply(Reply::Misbehaved(too_large(MAX_BODY_BYTES))));
        }
        whole.extend_from_slice(&data);
    }
    let body = String::from_utf8_lossy(&whole).into_owned();
    Ok(Got::Reply(Reply::Answered { code: head.status.as_u16(), body }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn redirects_are_followed_on_the_same_host_and_never_down_to_http() {
        let is_same = |from: &str, to: &str| is_same_host(&from.parse().expect("a URL"), &to.parse().expect("a URL"));
        assert!(is_same("http://rancher.example.org/ping", "https://rancher.example.org/ping"));
        assert!(is_same("https://rancher.example.org", "https://rancher.example.org:8443/ping"));
        assert!(!is_same("https://rancher.example.org", "http://rancher.example.org"));
        assert!(!is_same("https://rancher.example.org", "https://login.example.org"));
        assert!(!is_same("https://rancher.example.org", "https://user:secret@rancher.example.org"));
        assert!(!is_same("http://rancher.example.org", "ftp://rancher.example.org"));
    }

    #[test]
    fn a_service_is_asked_at_its_port_for_http_if_it_has_one() {
        let rancher = json!({"spec": {"template": {"metadata": {"labels": {"app": "rancher", "release": "r"}}}}});
        let service = |selector: Value, ports: Value| json!({"metadata": {"name": "rancher"}, "spec": {"selector": selector, "ports": ports}});
        let both = json!([{"name": "https-internal", "port": 443}, {"name": "http", "port": 80}]);
        let ours = service(json!({"app": "rancher"}), both);
        assert!(leads_to(&ours, &rancher));
        assert!(!leads_to(&service(json!({"app": "rancher-webhook"}), json!([])), &rancher));
        assert!(!leads_to(&service(json!({}), json!([])), &rancher));
        let asked = |ports: Value| port(&service(Value::Null, ports), "a").map(|port| (port.port, port.https));
        assert_eq!(port(&ours, "a").map(|port| (port.port, port.https)), Some((80, false)));
        assert_eq!(asked(json!([{"name": "http", "port": 8080}])), Some((8080, false)));
        assert_eq!(asked(json!([{"port": 443}])), Some((443, true)));
        assert_eq!(asked(json!([{"port": 9000}])), None);
    }
}
