//! A real S3 server, with its buckets in a folder of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_sdk_s3::config::{Credentials, Region};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use super::authority::{Authority, Identity};
use super::supervisor::Supervisor;
use super::{binaries, free_ports};

const SERVER: &str = "versitygw";

/// Dropping it ends it and removes its buckets.
#[derive(Debug)]
pub struct S3Server {
    /// With its scheme.
    pub endpoint: String,
    /// `127.0.0.1:PORT`.
    pub address: String,
    pub access_key: String,
    pub secret_key: String,
    pub region: &'static str,
    /// The authority of the server's certificate, PEM. It is made for HTTP, too, where it is of no use.
    pub ca: String,
    supervisor: Supervisor,
}

impl S3Server {
    /// Over HTTP.
    pub fn http() -> Self {
        Self::start(false).expect("the S3 server starts")
    }

    /// Over HTTPS, with a certificate for 127.0.0.1 and localhost of an authority of its own.
    pub fn https() -> Self {
        Self::start(true).expect("the S3 server starts")
    }

    /// A client with the server's keys, and path-style addresses.
    pub fn client(&self) -> aws_sdk_s3::Client {
        let roots = TrustStore::empty().with_pem_certificate(self.ca.as_bytes());
        let tls = TlsContext::builder().with_trust_store(roots).build().expect("the authority was made by us");
        let provider = Provider::Rustls(CryptoMode::AwsLc);
        let http = aws_smithy_http_client::Builder::new().tls_provider(provider).tls_context(tls).build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(Region::new(self.region))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .credentials_provider(Credentials::new(&self.access_key, &self.secret_key, None, None, "test"))
            .http_client(http)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Makes an empty bucket.
    pub async fn bucket(&self, bucket: &str) {
        self.client().create_bucket().bucket(bucket).send().await.expect("the bucket can be made");
    }

    /// Puts an object into a bucket.
    pub async fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let body = content.to_vec().into();
        self.client().put_object().bucket(bucket).key(key).body(body).send().await.expect("the object can be put");
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&self) {
        self.supervisor.kill(SERVER).expect("the supervisor answers");
    }

    /// Starts it again on the same port and data.
    pub fn restart(&self) {
        self.supervisor.restart(SERVER).and_then(|()| self.wait()).expect("the S3 server starts");
    }

    fn start(tls: bool) -> Result<Self> {
        let [port] = free_ports();
        let supervisor = Supervisor::new("reinback-s3-")?;
        let authority = Authority::new()?;
        let address = format!("127.0.0.1:{port}");
        let server = Self {
            endpoint: format!("{}://{address}", if tls { "https" } else { "http" }),
            address,
            access_key: "reinback-test".to_owned(),
            secret_key: format!("{:032x}", rand::random::<u128>()),
            region: "us-east-1",
            ca: authority.certificate(),
            supervisor,
        };
        let folder = server.supervisor.folder();
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::create_dir(folder.join("buckets"))?;
        std::fs::create_dir(folder.join("metadata"))?;
        let mut args = vec![
            format!("--port={}", server.address),
            format!("--access={}", server.access_key),
            format!("--secret={}", server.secret_key),
            format!("--region={}", server.region),
        ];
        if tls {
            let Identity { certificate, key } = authority.server()?;
            std::fs::write(folder.join("server.crt"), certificate)?;
            std::fs::write(folder.join("server.key"), key)?;
            args.extend([format!("--cert={}", path("server.crt")), format!("--key={}", path("server.key"))]);
        }
        // Not every file system has extended attributes, so what S3 keeps beside the content lies in a folder.
        args.extend(["posix".to_owned(), format!("--sidecar={}", path("metadata")), path("buckets")]);
        server.supervisor.start(SERVER, &binaries()?.join("versitygw"), &args)?;
        server.wait()?;
        Ok(server)
    }

    /// Until something listens.
    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            self.supervisor.check(SERVER)?;
            if start.elapsed() > Duration::from_secs(60) {
                bail!("the S3 server does not listen: {}", self.supervisor.log_end(SERVER));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.supervisor.check(SERVER).context("the S3 server ended")
    }
}
