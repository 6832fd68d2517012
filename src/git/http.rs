//! Git's smart HTTP under libgit2: one connection, one server, one set of credentials.
//!
//! libgit2 asks a *subtransport* for four exchanges (advertisement and request, for fetch and for push). Ours are HTTP/1.1 requests
//! of hyper over rustls. A redirect is followed for the advertisement only and within scheme, host and port; credentials go to
//! the configured origin only. A proxy of the environment is used as curl and Git do.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::runtime::Runtime;
use url::Url;

use super::auth::Credentials;
use super::error::GitError;
use super::remote::{Timeouts, shown};
use crate::dial::{Dial, DialError, TlsProblem, chain};

/// The scheme by which libgit2 knows this transport.
pub(super) const SCHEME: &str = "reinback";
/// The address that libgit2 is given; where it leads is the [`Client`]'s affair.
pub(super) const ADDRESS: &str = "reinback://session";

/// Servers tell Git from browsers by the first word.
const AGENT: &str = concat!("git/2 (reinback ", env!("CARGO_PKG_VERSION"), ")");
/// As Git's `http.followRedirects=initial`, bounded like its cURL limit is (20), only tighter.
const REDIRECTS: usize = 5;
/// Most bytes received over one connection: a clone larger than 4 GiB is no repository of manifests.
const RECEIVED_BYTES: u64 = 4 << 30;
/// Most bytes of the list of refs, which libgit2 keeps in memory: about a million refs.
const ADVERTISED_BYTES: u64 = 64 << 20;
/// Most bytes of one request; status commits are kilobytes.
const SENT_BYTES: usize = 64 << 20;
/// Most bytes of an error page that are read.
const ERROR_PAGE_BYTES: usize = 4096;

thread_local! {
    /// The client of the libgit2 call that this thread is in.
    static CURRENT: RefCell<Option<Arc<Mutex<Client>>>> = const { RefCell::new(None) };
}

/// One connection's state, shared by the exchanges that libgit2 makes over it.
pub(super) struct Client {
    base: Url,
    credentials: Credentials,
    timeouts: Timeouts,
    opened: Instant,
    runtime: Runtime,
    connection: Option<SendRequest<Full<Bytes>>>,
    dial: Option<Dial>,
    received: u64,
    /// What `received` may come to in this exchange.
    allowed: u64,
    /// The first thing that went wrong, for libgit2 keeps only a text of it.
    failure: Option<GitError>,
}

impl Client {
    pub(super) fn new(base: Url, credentials: Credentials, timeouts: Timeouts) -> Result<Self, GitError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            GitError::Unreachable { url: shown(&base), detail: format!("no async runtime: {error}") }
        })?;
        let opened = Instant::now();
        Ok(Self {
            base,
            credentials,
            timeouts,
            opened,
            runtime,
            connection: None,
            dial: None,
            received: 0,
            allowed: 0,
            failure: None,
        })
    }

    /// Runs a libgit2 call that talks to [`ADDRESS`], and says what went wrong on the way if anything did.
    pub(super) fn serve<T>(self, work: impl FnOnce() -> T) -> (T, Option<GitError>) {
        let client = Arc::new(Mutex::new(self));
        let before = CURRENT.replace(Some(Arc::clone(&client)));
        let restore = Restore(before);
        let value = work();
        drop(restore);
        let failure = lock(&client).failure.take();
        (value, failure)
    }
}

/// Puts back what was current, also when the work panics.
struct Restore(Option<Arc<Mutex<Client>>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.replace(self.0.take());
    }
}

fn lock(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

/// libgit2's factory for [`SCHEME`].
pub(super) fn transport(remote: &git2::Remote<'_>) -> Result<Transport, git2::Error> {
    let client = CURRENT.with_borrow(Clone::clone);
    let client = client.ok_or_else(|| git2::Error::from_str("no connection is open on this thread"))?;
    Transport::smart(remote, true, Subtransport { client })
}

struct Subtransport {
    client: Arc<Mutex<Client>>,
}

impl SmartSubtransport for Subtransport {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        Ok(Box::new(Exchange {
            client: Arc::clone(&self.client),
            service,
            request: Vec::new(),
            answer: None,
            chunk: Bytes::new(),
        }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        lock(&self.client).connection = None;
        Ok(())
    }
}

/// One request and its answer: libgit2 writes, then reads.
struct Exchange {
    client: Arc<Mutex<Client>>,
    service: Service,
    request: Vec<u8>,
    answer: Option<Incoming>,
    chunk: Bytes,
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.request.len() + bytes.len() > SENT_BYTES {
            let what = "the pack to be pushed".to_owned();
            return lock(&self.client).fail(GitError::TooLarge { what, limit: format!("{SENT_BYTES} bytes") });
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut client = lock(&self.client);
        let answer = match self.answer.as_mut() {
            Some(answer) => answer,
            None => match client.exchange(self.service, std::mem::take(&mut self.request).into()) {
                Ok(answer) => self.answer.insert(answer),
                Err(error) => return client.fail(error),
            },
        };
        while self.chunk.is_empty() {
            match client.next_chunk(answer) {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => return Ok(0),
                Err(error) => return client.fail(error),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

impl Client {
    /// Keeps the first failure; libgit2 gets a text that is shown nowhere.
    fn fail<T>(&mut self, error: GitError) -> io::Result<T> {
        self.failure.get_or_insert(error);
        Err(io::Error::other("the HTTP exchange failed"))
    }

    fn exchange(&mut self, service: Service, body: Bytes) -> Result<Incoming, GitError> {
        let call = Call::of(service);
        self.allowed = if call.method == Method::GET { self.received + ADVERTISED_BYTES } else { RECEIVED_BYTES };
        let mut response = self.send(&call, body.clone())?;
        for _ in 0..REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            self.base = self.redirected(&call, response.headers())?;
            self.connection = None;
            response = self.send(&call, body.clone())?;
        }
        self.judge(&call, response)
    }

    fn send(&mut self, call: &Call, body: Bytes) -> Result<Response<Incoming>, GitError> {
        let reused = self.connection.is_some();
        match self.send_once(call, body.clone()) {
            // The server closed an idle connection before it saw the request: nothing was done, so it is sent again.
            Err(Sending::NotSent(_)) if reused => {
                self.connection = None;
                self.send_once(call, body).map_err(Sending::into_error)
            }
            other => other.map_err(Sending::into_error),
        }
    }

    fn send_once(&mut self, call: &Call, body: Bytes) -> Result<Response<Incoming>, Sending> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            Some(_) | None => self.connect().map_err(Sending::Failed)?,
        };
        let request = self.request(call, body).map_err(Sending::Failed)?;
        let data = self.patience();
        let exchange = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let response = self.runtime.block_on(async { tokio::time::timeout(data, exchange).await });
        match response {
            Ok(Ok(response)) => {
                self.connection = Some(connection);
                Ok(response)
            }
            Ok(Err(error)) if error.is_canceled() || error.is_closed() => Err(Sending::NotSent(self.broken(&error))),
            Ok(Err(error)) => Err(Sending::Failed(self.broken(&error))),
            Err(_) => Err(Sending::Failed(self.silent())),
        }
    }

    fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, GitError> {
        let dial = Dial::new(&self.base, &self.credentials.authorities).map_err(|error| self.undialled(error))?;
        let limit = self.timeouts.connect;
        let connected = self.runtime.block_on(async { tokio::time::timeout(limit, dial.connect()).await });
        self.dial = Some(dial);
        match connected {
            Ok(connected) => connected.map_err(|error| self.undialled(error)),
            Err(_elapsed) => {
                let detail = format!("no connection within {} s", limit.as_secs_f32());
                Err(GitError::Unreachable { url: shown(&self.base), detail })
            }
        }
    }

    fn undialled(&self, error: DialError) -> GitError {
        let url = shown(&self.base);
        match error {
            DialError::NoHost => GitError::Url { url, problem: "has no host".to_owned() },
            DialError::Unreachable(detail) => GitError::Unreachable { url, detail },
            DialError::Tls(problem) => GitError::Tls { url, detail: tls_detail(problem) },
        }
    }

    fn request(&self, call: &Call, body: Bytes) -> Result<Request<Full<Bytes>>, GitError> {
        let target = call.target(&self.base);
        let proxied = self.dial.as_ref().and_then(Dial::plain_proxy);
        let uri = if proxied.is_some() { target.as_str() } else { &target[url::Position::BeforePath..] };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(HOST, &self.base[url::Position::BeforeHost..url::Position::AfterPort])
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, call.answer);
        if let Some(content) = call.content {
            request = request.header(CONTENT_TYPE, content);
        }
        if let Some(value) = &self.credentials.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(value) = proxied.and_then(|proxy| proxy.authorization.as_ref()) {
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        request
            .body(Full::new(body))
            .map_err(|_| GitError::Url { url: shown(&self.base), problem: "cannot be asked for over HTTP".to_owned() })
    }

    /// Where an advertisement went on the same server; to another one, credentials do not go.
    fn redirected(&self, call: &Call, headers: &HeaderMap) -> Result<Url, GitError> {
        let url = shown(&self.base);
        let nowhere = || GitError::NotFound { url: url.clone(), detail: "it redirects to nowhere".to_owned() };
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(nowhere)?;
        let mut to = call.target(&self.base).join(location).map_err(|_| nowhere())?;
        let suffix = call.path.split('?').next().unwrap_or_default();
        let Some(path) = to.path().strip_suffix(suffix).map(str::to_owned) else {
            // A login page, most often.
            return Err(GitError::NotFound { url, detail: self.clean(&format!("it redirects to {}", shown(&to))) });
        };
        to.set_query(None);
        to.set_path(&path);
        let same_server = to.origin() == self.base.origin() && to.username().is_empty() && to.password().is_none();
        if same_server && call.method == Method::GET {
            Ok(to)
        } else {
            Err(GitError::Redirect { url, to: self.clean(&shown(&to)) })
        }
    }

    /// Takes an answer that is Git's, and gives every other one its name.
    fn judge(&mut self, call: &Call, response: Response<Incoming>) -> Result<Incoming, GitError> {
        let (head, body) = response.into_parts();
        let content =
            head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let url = shown(&self.base);
        if head.status == StatusCode::OK && content == call.answer {
            return Ok(body);
        }
        if head.status == StatusCode::OK {
            let detail = self.clean(&format!("its answer is of type {content:?}, not Git's"));
            return Err(GitError::NotFound { url, detail });
        }
        let page = if content.starts_with("text/plain") { self.page(body) } else { String::new() };
        let detail = self.clean(&format!("HTTP {} {page}", head.status));
        self.connection = None;
        Err(match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                GitError::Auth { url, detail, remedy: self.remedy(head.status, call) }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => GitError::NotFound { url, detail },
            StatusCode::PAYLOAD_TOO_LARGE => {
                GitError::TooLarge { what: format!("the push to {url}"), limit: "the server".to_owned() }
            }
            _ => GitError::Unreachable { url, detail },
        })
    }

    fn remedy(&self, status: StatusCode, call: &Call) -> &'static str {
        match (&self.credentials.authorization, status) {
            (None, _) => "give credentials in secretDir: username and password, or bearerToken",
            (Some(_), StatusCode::FORBIDDEN) if call.push => "give them the right to push to this repository",
            (Some(_), StatusCode::FORBIDDEN) => "give them the right to read this repository",
            (Some(_), _) => "renew what is in secretDir: username and password, or bearerToken",
        }
    }

    fn page(&mut self, mut body: Incoming) -> String {
        let mut page = Vec::new();
        while page.len() < ERROR_PAGE_BYTES {
            match self.next_chunk(&mut body) {
                Ok(Some(chunk)) => page.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break,
            }
        }
        String::from_utf8_lossy(&page).into_owned()
    }

    fn next_chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, GitError> {
        let data = self.patience();
        loop {
            let frame = self.runtime.block_on(async { tokio::time::timeout(data, body.frame()).await });
            let chunk = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => return Err(self.broken(&error)),
                Err(_) => return Err(self.silent()),
            };
            self.received += chunk.len() as u64;
            if self.received > self.allowed {
                let what = format!("what {} sends", shown(&self.base));
                return Err(GitError::TooLarge { what, limit: format!("{} bytes", self.allowed) });
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    fn clean(&self, text: &str) -> String {
        self.credentials.scrubber.clean(text)
    }

    fn broken(&self, error: &hyper::Error) -> GitError {
        GitError::Unreachable {
            url: shown(&self.base),
            detail: self.clean(&format!("the connection broke: {}", chain(error))),
        }
    }

    /// How long to wait for the next bytes.
    fn patience(&self) -> Duration {
        self.timeouts.data.min(self.timeouts.total.saturating_sub(self.opened.elapsed()))
    }

    fn silent(&self) -> GitError {
        let Timeouts { data, total, connect: _ } = self.timeouts;
        let detail = if self.opened.elapsed() < total {
            format!("it sent nothing for {} s", data.as_secs_f32())
        } else {
            format!("it was not done after {} s", total.as_secs_f32())
        };
        GitError::Unreachable { url: shown(&self.base), detail }
    }
}

/// Whether a request that failed may have reached the server.
enum Sending {
    NotSent(GitError),
    Failed(GitError),
}

impl Sending {
    fn into_error(self) -> GitError {
        match self {
            Self::NotSent(error) | Self::Failed(error) => error,
        }
    }
}

/// The HTTP side of one of libgit2's services (Git's `gitprotocol-http`).
struct Call {
    method: Method,
    path: &'static str,
    content: Option<&'static str>,
    answer: &'static str,
    push: bool,
}

impl Call {
    fn of(service: Service) -> Self {
        let ask = |path, answer, push| Self { method: Method::GET, path, content: None, answer, push };
        let tell =
            |path, content, answer, push| Self { method: Method::POST, path, content: Some(content), answer, push };
        match service {
            Service::UploadPackLs => {
                ask("/info/refs?service=git-upload-pack", "application/x-git-upload-pack-advertisement", false)
            }
            Service::UploadPack => tell(
                "/git-upload-pack",
                "application/x-git-upload-pack-request",
                "application/x-git-upload-pack-result",
                false,
            ),
            Service::ReceivePackLs => {
                ask("/info/refs?service=git-receive-pack", "application/x-git-receive-pack-advertisement", true)
            }
            Service::ReceivePack => tell(
                "/git-receive-pack",
                "application/x-git-receive-pack-request",
                "application/x-git-receive-pack-result",
                true,
            ),
        }
    }

    fn target(&self, base: &Url) -> Url {
        let (path, query) = self.path.split_once('?').map_or((self.path, None), |(path, query)| (path, Some(query)));
        let mut target = base.clone();
        target.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        target.set_query(query);
        target
    }
}

/// What is wrong with TLS, and what takes it away.
fn tls_detail(problem: TlsProblem) -> String {
    match problem {
        TlsProblem::Expired => format!("{problem}; renew it on the server"),
        TlsProblem::UnknownAuthority => format!("{problem}; put the authority's certificate into secretDir as ca.crt"),
        TlsProblem::OtherName => format!("{problem}; use the name it was made for"),
        TlsProblem::BadAuthority(error) => format!("ca.crt holds what is not a certificate: {error}"),
        TlsProblem::Other(error) => error,
    }
}
