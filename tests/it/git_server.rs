//! A real Git server for tests: `git http-backend` as CGI behind HTTP or HTTPS, with switches for what goes wrong in life.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How a server is to be.
#[derive(Default)]
pub struct Options {
    pub tls: Option<Identity>,
    /// User and password; anything else gets 401.
    pub basic: Option<(String, String)>,
    pub bearer: Option<String>,
    /// Pushes get 403.
    pub read_only: bool,
}

/// What the server does instead of answering.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Accepts, reads and says nothing.
    Hang,
    /// Answers with this status and text.
    Status(u16, String),
    /// 302 to this URL, which gets the path and query of the request appended.
    Redirect(String),
    /// 302 to the same path under this folder, for what is not under it yet.
    RedirectOutside(String),
    /// Breaks the connection after so many bytes of a body longer than that.
    Cut(usize),
    /// Goes silent after so many bytes of a body longer than that.
    Stall(usize),
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names of the headers, in lower case; values may be secret.
    pub headers: Vec<String>,
}

struct Shared {
    root: PathBuf,
    authorization: Option<String>,
    read_only: bool,
    fault: Mutex<Fault>,
    seen: Mutex<Vec<Seen>>,
}

pub struct GitServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    root: tempfile::TempDir,
    /// A runtime of its own, so that blocking tests have one, too; taken when it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl GitServer {
    pub fn start(options: Options) -> Self {
        let Options { tls, basic, bearer, read_only } = options;
        let root = tempfile::tempdir().unwrap();
        let basic = basic.map(|(user, password)| base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")));
        let authorization = basic.map(|pair| format!("Basic {pair}")).or(bearer.map(|token| format!("Bearer {token}")));
        let shared = Arc::new(Shared {
            root: root.path().to_owned(),
            authorization,
            read_only,
            fault: Mutex::default(),
            seen: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        runtime.spawn(accept(listener, tls.map(|identity| identity.acceptor()), Arc::clone(&shared)));
        Self { address, scheme, shared, root, runtime: Some(runtime) }
    }

    /// The URL of a repository. The host is `localhost`, which is what certificates are for.
    pub fn url(&self, name: &str) -> String {
        format!("{}://localhost:{}/{name}", self.scheme, self.address.port())
    }

    /// Makes an empty bare repository that takes pushes, and returns its folder.
    pub fn bare(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        make_bare(&path);
        path
    }

    /// Serves a repository that lies elsewhere.
    pub fn serve(&self, name: &str, repository: &Path) {
        std::os::unix::fs::symlink(repository, self.root.path().join(name)).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn fault(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// What came in since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // Waiting for the threads would panic in an async test.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

/// Makes an empty bare repository whose branch is `main`.
pub fn make_bare(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    git(path, &["init", "--quiet", "--bare", "--initial-branch=main", "."]);
    git(path, &["config", "http.receivepack", "true"]);
}

async fn accept(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                // A client that does not trust us leaves in the handshake.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // A connection that broke is a client's end, or a fault that was asked for.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let headers = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
    let path = request.uri().to_string();
    shared.seen.lock().unwrap().push(Seen { method: request.method().to_string(), path: path.clone(), headers });
    let fault = shared.fault.lock().unwrap().clone();
    match &fault {
        Fault::Hang => std::future::pending().await,
        Fault::Status(status, text) => return Ok(plain(StatusCode::from_u16(*status).unwrap(), text)),
        Fault::Redirect(to) => {
            let mut response = plain(StatusCode::FOUND, "");
            response.headers_mut().insert(header::LOCATION, format!("{to}{path}").parse().unwrap());
            return Ok(response);
        }
        Fault::RedirectOutside(folder) if !path.starts_with(folder.as_str()) => {
            let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
            response.headers_mut().insert(header::LOCATION, format!("{folder}{path}").parse().unwrap());
            return Ok(response);
        }
        Fault::None | Fault::RedirectOutside(_) | Fault::Cut(_) | Fault::Stall(_) => {}
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if shared.authorization.is_some() && shared.authorization != given {
        let said = given.unwrap_or_default();
        return Ok(plain(StatusCode::UNAUTHORIZED, &format!("wrong credentials: {said}")));
    }
    if shared.read_only && path.contains("git-receive-pack") {
        return Ok(plain(StatusCode::FORBIDDEN, "this server is read-only"));
    }
    Ok(cgi(request, &shared.root, fault).await)
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync();
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain");
    response.body(body).unwrap()
}

async fn cgi(request: Request<Incoming>, root: &Path, fault: Fault) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let value =
        |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", value(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", value(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", head.headers.get("git-protocol").and_then(|value| value.to_str().ok()).unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("REMOTE_USER", "tester")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut output = Vec::new();
    let write = async {
        // It may answer without reading to the end.
        stdin.write_all(&body).await.ok();
        drop(stdin);
    };
    let (_, read) = tokio::join!(write, stdout.read_to_end(&mut output));
    read.unwrap();
    child.wait().await.unwrap();
    response(&output, fault)
}

/// Turns CGI's output into a response.
fn response(output: &[u8], fault: Fault) -> Response<Body> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let body = Bytes::copy_from_slice(output.get(end + 4..).unwrap_or_default());
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name {
            "Status" => status = value[..3].parse().unwrap(),
            _ => {
                headers.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
        }
    }
    let mut response = Response::builder().status(status).body(faulty(body, fault)).unwrap();
    response.headers_mut().extend(headers);
    response
}

fn faulty(body: Bytes, fault: Fault) -> Body {
    let (length, stall) = match fault {
        Fault::Cut(length) if length < body.len() => (length, false),
        Fault::Stall(length) if length < body.len() => (length, true),
        _ => return Full::new(body).map_err(|never| match never {}).boxed_unsync(),
    };
    let head = Ok(Frame::data(body.slice(..length)));
    let tail = stream::once(async move {
        if stall {
            std::future::pending::<()>().await;
        }
        // The bytes before the break are on their way first.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Err(std::io::Error::other("cut"))
    });
    StreamBody::new(stream::iter([head]).chain(tail)).boxed_unsync()
}

/// A certificate authority for one test.
pub struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// A server's certificate and key.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "reinback test authority");
        let key = rcgen::KeyPair::generate().unwrap();
        Self { issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for `name` until the end of the year `until`.
    pub fn issue(&self, name: &str, until: i32) -> Identity {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }
}

impl Identity {
    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Runs Git in a folder, without the machine's configuration, and returns its output without the last line end.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let (ok, text) = try_git(dir, args);
    assert!(ok, "git {args:?} in {}: {text}", dir.display());
    text
}

/// Like [`git`], for what may fail: whether it succeeded, and its output or what it complained of.
pub fn try_git(dir: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
        .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")])
        .output()
        .unwrap();
    let bytes = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// A person's clone of a repository on this machine.
pub struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    /// Clones `bare`, which may be empty, with the branch `main`.
    pub fn clone(bare: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["clone", "--quiet", &bare.display().to_string(), "."]);
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(self.path(), args)
    }

    pub fn write(&self, path: &str, content: &str) -> &Self {
        let file = self.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self
    }

    /// Commits everything there is, and returns the commit's id.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn push(&self, args: &[&str]) {
        self.git(&[&["push", "--quiet"], args].concat());
    }
}
