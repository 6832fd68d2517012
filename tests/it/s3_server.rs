//! A real S3 server (versitygw on a directory) for tests.
//!
//! `REINBACK_S3_SERVER` names it; else it is the one that `tests/control-plane` builds. A shell waits at the end of
//! a pipe that only this process holds, and kills the server when the process is gone, however it went.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reinback::store::{Location, S3Credentials, S3Location};

use crate::harness::binaries;

pub const ACCESS_KEY: &str = "AKREINBACKTEST";
pub const SECRET_KEY: &str = "s3cr3t-k3y-that-must-not-leak";

/// Kills the server (the arguments behind the first) at the end of the pipe, and removes its directory (the first).
const SUPERVISOR: &str = r#"
root=$1; shift
exec 3<&0 </dev/null
"$@" & server=$!
(read -r _ <&3; kill -KILL $server) &
wait $server
rm -rf -- "$root"
"#;

/// Authorities made so far: they have names of their own, as they would elsewhere.
static MADE: AtomicUsize = AtomicUsize::new(1);

static PLAIN: LazyLock<S3Server> = LazyLock::new(|| S3Server::start(None));
static TLS: LazyLock<S3Server> = LazyLock::new(|| S3Server::start(Some(Authority::new())));

pub struct S3Server {
    pub address: SocketAddr,
    authority: Option<Authority>,
    /// A folder a bucket.
    data: PathBuf,
    supervisor: Child,
}

impl S3Server {
    /// The one over HTTP that all tests of this process share; each takes buckets of its own.
    pub fn plain() -> &'static Self {
        &PLAIN
    }

    /// The same over HTTPS.
    pub fn tls() -> &'static Self {
        &TLS
    }

    pub fn start(authority: Option<Authority>) -> Self {
        let server = binary();
        for _ in 0..5 {
            let root = tempfile::Builder::new().prefix("reinback-s3-").tempdir().unwrap().keep();
            std::fs::create_dir(root.join("accounts")).unwrap();
            std::fs::create_dir(root.join("data")).unwrap();
            let files = authority.as_ref().map(|authority| authority.issue(&root));
            let address = free_address();
            let mut supervisor = supervise(&server, &root, address, files);
            if listens(address, &mut supervisor) {
                return Self { address, authority, data: root.join("data"), supervisor };
            }
        }
        panic!("{} does not start: run it by hand to see why", server.display());
    }

    /// PEM of the root that signed the server's certificate.
    pub fn ca(&self) -> &str {
        &self.authority.as_ref().expect("a server with TLS").pem
    }

    pub fn bucket(&self, name: &str) -> S3Location {
        std::fs::create_dir_all(self.data.join(name)).unwrap();
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        S3Location {
            endpoint: Some(format!("{scheme}://{}", self.address)),
            bucket_name: name.to_owned(),
            ..S3Location::default()
        }
    }

    /// Puts a file below a bucket: fast, and an object without an ETag.
    pub fn place(&self, bucket: &str, key: &str, content: &[u8]) {
        let path = self.data.join(bucket).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Uploads an object, which gets an ETag. Only over HTTP.
    pub async fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let body = content.to_vec().into();
        self.client().put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
    }

    /// An account that may `s3:GetObject` in `bucket`, and nothing else. Only over HTTP.
    pub async fn reader(&self, bucket: &str) -> S3Credentials {
        let (access, secret) = (format!("AKREADER{}", bucket.to_uppercase()), "r3ader-s3cr3t");
        let mut admin = Command::new(binary());
        admin.args(["admin", "--access", ACCESS_KEY, "--secret", SECRET_KEY]);
        admin.args(["--endpoint-url", &format!("http://{}", self.address)]);
        let made =
            admin.args(["create-user", "--access", &access, "--secret", secret, "--role", "user"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": {{"AWS": ["{access}"]}},
                "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::{bucket}/*"]}}]}}"#
        );
        self.client().put_bucket_policy().bucket(bucket).policy(policy).send().await.unwrap();
        S3Credentials { access_key: access.into(), secret_key: secret.into() }
    }

    /// Uploads in parts that nobody has completed or given up. Only over HTTP.
    pub async fn uploads(&self, bucket: &str) -> usize {
        let listed = self.client().list_multipart_uploads().bucket(bucket).send().await.unwrap();
        listed.uploads().len()
    }

    fn client(&self) -> aws_sdk_s3::Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(format!("http://{}", self.address))
            .force_path_style(true)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"));
        aws_sdk_s3::Client::from_conf(config.build())
    }
}

pub fn credentials() -> S3Credentials {
    S3Credentials { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into() }
}

pub fn at(location: S3Location) -> Location {
    Location::S3 { location, credentials: Some(credentials()) }
}

fn binary() -> PathBuf {
    let named = std::env::var_os("REINBACK_S3_SERVER").map(PathBuf::from);
    named.unwrap_or_else(|| binaries().expect("tests/control-plane builds the S3 server").join("versitygw"))
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn supervise(server: &Path, root: &Path, address: SocketAddr, files: Option<(PathBuf, PathBuf)>) -> Child {
    let mut command = Command::new("bash");
    command.args(["-c", SUPERVISOR, "s3-supervisor"]).arg(root).arg(server);
    command.args(["--port", &address.to_string(), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--quiet"]);
    command.arg("--keep-alive").arg("--iam-dir").arg(root.join("accounts"));
    if let Some((certificate, key)) = files {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    command.arg("posix").arg(root.join("data"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("bash is there")
}

fn listens(address: SocketAddr, supervisor: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if supervisor.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A certificate authority of one test.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("test authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            path
        };
        (write("leaf.crt", leaf.pem()), write("leaf.key", key.serialize_pem()))
    }
}

#[test]
fn a_server_ends_with_the_process_that_started_it() {
    let mut server = S3Server::start(None);
    drop(server.supervisor.stdin.take()); // as the kernel does at the end of a process
    server.supervisor.wait().unwrap();
    assert!(TcpStream::connect(server.address).is_err());
    assert!(!server.data.exists());
}
