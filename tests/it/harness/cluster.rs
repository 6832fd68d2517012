//! A Kubernetes cluster on this machine: real control plane, nodes and pods played by KWOK.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::audit::{self, AuditEvent};
use super::authority::{Authority, Identity};
use super::etcd::{Content, Etcd, Revisions};
use super::supervisor::Supervisor;
use super::{binaries, block_on, free_ports};

/// Longer than any start seen on a machine of 2 cores that is also building.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a cluster of one's own is made of. The default is what [`Cluster::shared`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Controller manager, scheduler and KWOK: pods, garbage collection, the end of namespaces. Without them the cluster
    /// is an API server on etcd: objects stay as they are written.
    pub controllers: bool,
    /// Whether every request is written to the audit log, which takes a part of the API server's time.
    pub audit: bool,
    /// Whether etcd waits for the disk.
    pub fsync: bool,
    /// Further flags of kube-apiserver.
    pub api_flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { controllers: true, audit: true, fsync: false, api_flags: Vec::new() }
    }
}

/// A running cluster; dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    api_port: u16,
    trust: Arc<Trust>,
    kubeconfig: PathBuf,
    uid: String,
    etcd: Etcd,
    /// Which keys of etcd are as in the image that it was started from.
    as_in_image: Option<Revisions>,
    /// Its servers were killed or stopped at times.
    interfered: AtomicBool,
    /// Where the audit log begins for who has the cluster now.
    audit_begin: usize,
    supervisor: Supervisor,
}

/// Whom the servers of a cluster trust; what they store is signed by it.
#[derive(Debug)]
struct Trust {
    authority: Authority,
    /// Signs the tokens of service accounts.
    accounts: rcgen::KeyPair,
}

/// What a cluster held at one moment: others begin with it, and so are spared the work of coming there.
#[derive(Debug)]
pub struct Image {
    trust: Arc<Trust>,
    /// What the data holds; read by the first cluster that is started from it.
    content: OnceLock<Content>,
    /// Holds the data, and removes it with the process.
    supervisor: Supervisor,
}

impl Cluster {
    /// The one cluster that the tests of a process share, each in names of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Options::default()))
    }

    /// A cluster of one's own, ready for use.
    ///
    /// # Panics
    /// When it does not come up, with the log of what failed.
    pub fn start(options: Options) -> Self {
        Self::start_on(None, options)
    }

    /// A cluster of one's own that holds what another held, its uid too.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_from(image: &Image, options: Options) -> Self {
        Self::start_on(Some(image), options)
    }

    fn start_on(image: Option<&Image>, options: Options) -> Self {
        let mut last = None;
        // A port that was free when it was picked may be taken by the time its server listens.
        for _ in 0..3 {
            match Self::try_start(image, options.clone()) {
                Ok(cluster) => return cluster,
                Err(error) if format!("{error:?}").contains("address already in use") => last = Some(error),
                Err(error) => panic!("the cluster does not start: {error:?}"),
            }
        }
        panic!("the cluster does not start: {last:?}")
    }

    fn try_start(image: Option<&Image>, options: Options) -> Result<Self> {
        let [etcd_port, peer_port, api_port] = free_ports();
        let supervisor = Supervisor::new("reinback-cluster-")?;
        let folder = supervisor.folder();
        let trust = match image {
            Some(image) => {
                copy_folder(&image.supervisor.folder().join(ETCD), &folder.join(ETCD))?;
                Arc::clone(&image.trust)
            }
            None => Arc::new(Trust { authority: Authority::new()?, accounts: rcgen::KeyPair::generate()? }),
        };
        let token = format!("{:032x}", rand::random::<u128>());
        let admin = Credentials::Token(token.clone());
        let mut cluster = Self {
            kubeconfig: write_kubeconfig(folder, "admin", api_port, &trust.authority, &admin)?,
            options,
            api_port,
            trust,
            uid: String::new(),
            etcd: Etcd::new(&format!("http://127.0.0.1:{etcd_port}")),
            as_in_image: None,
            interfered: AtomicBool::new(false),
            audit_begin: 0,
            supervisor,
        };
        cluster.start_etcd(etcd_port, peer_port)?;
        if let Some(image) = image {
            cluster.as_in_image = Some(block_on(cluster.revisions_of(image))?);
        }
        cluster.start_api_server(etcd_port, &token)?;
        block_on(cluster.api_ready())?;
        if cluster.options.controllers {
            cluster.start_controllers()?;
        }
        cluster.uid = block_on(cluster.objects_ready())?;
        Ok(cluster)
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The uid of the namespace `kube-system`, which stands for the cluster in the name of a backup.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Of a member of `system:masters`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client of a member of `system:masters`. It belongs to the runtime in which it was made.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await.expect("the kubeconfig was written by us")
    }

    /// A user of this name, by a client certificate: who has no rights until a test binds some.
    pub fn user(&self, name: &str) -> User {
        let identity = self.trust.authority.user(name).expect("a certificate can be signed");
        let file = format!("user-{name}");
        let credentials = Credentials::Certificate(identity);
        let path = write_kubeconfig(self.folder(), &file, self.api_port, &self.trust.authority, &credentials);
        User { name: name.to_owned(), kubeconfig: path.expect("the cluster's folder is writable") }
    }

    /// What kubectl prints. Blocks.
    pub fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        self.tool("kubectl", args, stdin)
    }

    /// What helm, of version 3, prints. Blocks.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        self.helm_of("helm", args)
    }

    /// What `helm` or `helm4` prints. Blocks.
    pub fn helm_of(&self, program: &str, args: &[&str]) -> Result<String> {
        self.tool(program, args, "")
    }

    /// Every request whose response is complete. A client may have its answer a moment before the line is written, so look
    /// for one with [`super::eventually`].
    pub fn audit(&self) -> Vec<AuditEvent> {
        self.audit_since(self.audit_begin)
    }

    /// The requests after a mark that [`Self::audit_mark`] gave.
    pub fn audit_since(&self, mark: usize) -> Vec<AuditEvent> {
        audit::parse(&self.audit_log(mark), "")
    }

    /// Those among them that reinback made, found in a fraction of the time.
    pub fn audit_of_ours(&self, mark: usize) -> Vec<AuditEvent> {
        audit::parse(&self.audit_log(mark), "\"userAgent\":\"reinback/")
    }

    /// The present end of the audit log.
    pub fn audit_mark(&self) -> usize {
        self.audit_begin + self.audit_log(self.audit_begin).rfind('\n').map_or(0, |end| end + 1)
    }

    /// Ends the controllers of a cluster that nobody uses for now, so that it can be [set back](Self::set_back).
    ///
    /// # Errors
    /// When it never can: it was not started from an image, or its servers were killed or stopped.
    pub fn rest(&self) -> Result<()> {
        ensure!(self.options.controllers && self.as_in_image.is_some(), "it was not started from an image");
        ensure!(!self.interfered.load(Ordering::Relaxed), "its servers were interfered with");
        [KWOK, SCHEDULER, CONTROLLER_MANAGER].iter().try_for_each(|name| self.supervisor.kill(name))
    }

    /// Makes a cluster that [rests](Self::rest) hold what the image holds, and starts its controllers anew: a fifth of the work of
    /// starting a cluster. Blocks.
    ///
    /// # Errors
    /// When a server does not answer, or somebody still writes.
    pub fn set_back(&mut self, image: &Image) -> Result<()> {
        let known = self.as_in_image.take().context("it was not started from an image")?;
        let content = image.content.get().context("nobody has read the image")?;
        self.as_in_image = Some(block_on(self.etcd.set_back(content, known))?);
        block_on(self.definitions_served())?;
        self.audit_begin = self.audit_mark();
        self.start_controllers()?;
        self.uid = block_on(self.objects_ready())?;
        Ok(())
    }

    /// Kills kube-apiserver with SIGKILL; returns when it is gone.
    pub fn kill_api_server(&self) {
        self.interfered.store(true, Ordering::Relaxed);
        self.supervisor.kill(API_SERVER).expect("the supervisor answers");
    }

    /// Starts kube-apiserver again, on its port and data, and returns when it is ready.
    pub fn restart_api_server(&self) {
        self.supervisor.restart(API_SERVER).expect("kube-apiserver starts");
        block_on(self.api_ready()).expect("kube-apiserver gets ready");
    }

    /// Kills etcd with SIGKILL; returns when it is gone.
    pub fn kill_etcd(&self) {
        self.interfered.store(true, Ordering::Relaxed);
        self.supervisor.kill(ETCD).expect("the supervisor answers");
    }

    /// Starts etcd again, on its port and data, and returns when kube-apiserver is ready on it.
    pub fn restart_etcd(&self) {
        self.supervisor.restart(ETCD).expect("etcd starts");
        block_on(self.api_ready()).expect("kube-apiserver gets ready");
    }

    /// Stops kube-apiserver with SIGSTOP: connections stay open and nothing answers.
    pub fn pause_api_server(&self) {
        self.interfered.store(true, Ordering::Relaxed);
        self.supervisor.signal(API_SERVER, "STOP").expect("kube-apiserver runs");
    }

    /// Goes on after [`Self::pause_api_server`].
    pub fn resume_api_server(&self) {
        self.supervisor.signal(API_SERVER, "CONT").expect("kube-apiserver runs");
    }

    /// What the cluster holds now. Its servers stand still meanwhile.
    ///
    /// # Errors
    /// When a server has ended, or the data cannot be copied.
    pub fn image(&self) -> Result<Image> {
        let supervisor = Supervisor::new("reinback-image-")?;
        // Whoever plays the node next would wait until this lease of another has run out.
        self.supervisor.signal(KWOK, "STOP")?;
        self.kubectl(&["delete", "lease", "-n", "kube-node-lease", NODE, "--ignore-not-found"], "")?;
        // Between two of its writes, as after a kill: etcd recovers from that.
        self.supervisor.signal(ETCD, "STOP")?;
        let copied = copy_folder(&self.folder().join(ETCD), &supervisor.folder().join(ETCD));
        self.supervisor.signal(ETCD, "CONT")?;
        self.supervisor.signal(KWOK, "CONT")?;
        copied?;
        Ok(Image { trust: Arc::clone(&self.trust), content: OnceLock::new(), supervisor })
    }

    /// Holds the data, logs and kubeconfigs of the cluster.
    pub fn folder(&self) -> &Path {
        self.supervisor.folder()
    }

    fn audit_log(&self, from: usize) -> String {
        let mut log = File::open(self.folder().join("audit.log")).expect("the cluster was started with an audit log");
        log.seek(SeekFrom::Start(from as u64)).expect("a file");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("the log is text");
        text
    }

    fn start_etcd(&self, port: u16, peer_port: u16) -> Result<()> {
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut args = vec![
            format!("--data-dir={}", self.folder().join(ETCD).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=warn".to_owned(),
        ];
        if !self.options.fsync {
            args.push("--unsafe-no-fsync".to_owned());
        }
        self.supervisor.start(ETCD, &binaries()?.join("etcd"), &args)
    }

    fn start_api_server(&self, etcd_port: u16, token: &str) -> Result<()> {
        let Trust { authority, accounts } = self.trust.as_ref();
        let Identity { certificate, key } = authority.server()?;
        let file = |name: &str, content: &str| -> Result<String> {
            let path = self.folder().join(name);
            std::fs::write(&path, content)?;
            Ok(path.display().to_string())
        };
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            format!("--secure-port={}", self.api_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--tls-cert-file={}", file("server.crt", &certificate)?),
            format!("--tls-private-key-file={}", file("server.key", &key)?),
            format!("--client-ca-file={}", file("ca.crt", &authority.certificate())?),
            format!("--token-auth-file={}", file("tokens.csv", &format!("{token},admin,admin,\"system:masters\"\n"))?),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("service-account.pub", &accounts.public_key_pem())?),
            format!("--service-account-signing-key-file={}", file("service-account.key", &accounts.serialize_pem())?),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--allow-privileged".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if !self.options.controllers {
            // Nothing makes the accounts that it asks for.
            args.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        if self.options.audit {
            args.push(format!("--audit-policy-file={}", file("audit-policy.yaml", AUDIT_POLICY)?));
            args.push(format!("--audit-log-path={}", file("audit.log", "")?));
            // Megabytes; at its default the log is begun anew at 100.
            args.push("--audit-log-maxsize=10000".to_owned());
        }
        args.extend(self.options.api_flags.iter().cloned());
        self.supervisor.start(API_SERVER, &binaries()?.join("kube-apiserver"), &args)
    }

    fn start_controllers(&self) -> Result<()> {
        let bin = binaries()?;
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let in_folder = |name: &str| self.folder().join(name).display().to_string();
        self.supervisor.start(
            CONTROLLER_MANAGER,
            &bin.join(CONTROLLER_MANAGER),
            &[
                &kubeconfig,
                &format!("--service-account-private-key-file={}", in_folder("service-account.key")),
                &format!("--root-ca-file={}", in_folder("ca.crt")),
                "--leader-elect=false",
                "--secure-port=0",
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                // A node that a busy machine plays late is not lost: its pods would be not Ready for good.
                "--node-monitor-grace-period=1h",
            ],
        )?;
        self.supervisor.start(
            SCHEDULER,
            &bin.join(SCHEDULER),
            &[&kubeconfig, "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000"],
        )?;
        self.supervisor.start(
            KWOK,
            &bin.join("kwok"),
            &[
                &kubeconfig,
                "--manage-all-nodes=true",
                // Who plays the node says so in a lease.
                "--node-lease-duration-seconds=40",
                &format!("--config={}", bin.join("stages.yaml").display()),
            ],
        )
    }

    /// Waits until the API server says that it is ready; an error with its log when it, or etcd, ended.
    async fn api_ready(&self) -> Result<()> {
        let client = self.client().await;
        self.wait(|| async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            ensure!(client.request_text(request).await? == "ok", "/readyz says no");
            Ok(())
        })
        .await
    }

    /// Waits for the objects that a test takes for granted, and gives the cluster's uid.
    async fn objects_ready(&self) -> Result<String> {
        let client = self.client().await;
        if self.options.controllers {
            match Api::all(client.clone()).create(&PostParams::default(), &fake_node()?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                made => drop(made?),
            }
        }
        let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
        let namespaces = Api::<Namespace>::all(client.clone());
        self.wait(|| async {
            namespaces.get("default").await?;
            if self.options.controllers {
                let node = Api::<Node>::all(client.clone()).get(NODE).await?;
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                ensure!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "the node is not ready");
                ensure!(node.spec.and_then(|spec| spec.taints).unwrap_or_default().is_empty(), "the node is tainted");
                leases.get(NODE).await.context("nobody plays the node yet")?;
            }
            let uid = namespaces.get("kube-system").await?.metadata.uid;
            uid.context("kube-system has no uid")
        })
        .await
    }

    /// What an image holds, by etcd that runs on a copy of it and that nobody has written to yet.
    async fn revisions_of(&self, image: &Image) -> Result<Revisions> {
        if let Some(content) = image.content.get() {
            return Ok(revisions(content));
        }
        let start = Instant::now();
        let content = loop {
            match self.etcd.content().await {
                Ok(content) => break content,
                Err(error) if start.elapsed() > START_TIMEOUT => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            self.supervisor.check(ETCD)?;
        };
        Ok(revisions(image.content.get_or_init(|| content)))
    }

    /// Waits until each definition is served, some of which may have come back a moment ago.
    async fn definitions_served(&self) -> Result<()> {
        let client = self.client().await;
        self.wait(|| async {
            let definitions = Api::<CustomResourceDefinition>::all(client.clone()).list(&ListParams::default()).await?;
            let mut wanted = BTreeSet::new();
            for definition in &definitions {
                let spec = &definition.spec;
                let versions = spec.versions.iter().filter(|version| version.served);
                wanted.extend(
                    versions.map(|version| (spec.group.clone(), version.name.clone(), spec.names.plural.clone())),
                );
            }
            let groups: BTreeSet<&String> = wanted.iter().map(|(group, ..)| group).collect();
            let request = http::Request::get("/apis").header("accept", DISCOVERY).body(Vec::new())?;
            let mut served = served(&client.request::<Value>(request).await?);
            served.retain(|(group, ..)| groups.contains(group));
            let differing: Vec<_> = served.symmetric_difference(&wanted).collect();
            ensure!(differing.is_empty(), "served and defined are not the same: {differing:?}");
            Ok(())
        })
        .await
    }

    async fn wait<T, F: Future<Output = Result<T>>>(&self, mut check: impl FnMut() -> F) -> Result<T> {
        let start = Instant::now();
        loop {
            let error = match tokio::time::timeout(Duration::from_secs(10), check()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(elapsed) => elapsed.into(),
            };
            self.supervisor.check(ETCD)?;
            self.supervisor.check(API_SERVER)?;
            if start.elapsed() > START_TIMEOUT {
                let log = self.supervisor.log_end(API_SERVER);
                return Err(error.context(format!("not ready after {START_TIMEOUT:?}; kube-apiserver says:\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn tool(&self, name: &str, args: &[&str], stdin: &str) -> Result<String> {
        let mut child = Command::new(binaries()?.join(name))
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // Caches and settings of the person who runs the tests stay out.
            .env("HOME", self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut pipe = child.stdin.take().context("stdin is piped")?;
        let output = std::thread::scope(|scope| {
            // One that does not read its input closes the pipe; what it says then is the better error.
            scope.spawn(move || pipe.write_all(stdin.as_bytes()));
            child.wait_with_output()
        })?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} {}: {}", args.join(" "), stderr.trim_end());
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Someone without rights of their own.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub kubeconfig: PathBuf,
}

impl User {
    /// A new client; it belongs to the runtime in which it was made.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await.expect("the kubeconfig was written by us")
    }
}

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const KWOK: &str = "kwok";
const SCHEDULER: &str = "kube-scheduler";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const NODE: &str = "node-0";
/// Everything that is served, in one answer.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules: [{level: Metadata}]
";

/// How a kubeconfig says who one is.
enum Credentials {
    Token(String),
    Certificate(Identity),
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn revisions(content: &Content) -> Revisions {
    content.iter().map(|(key, (revision, _))| (key.clone(), *revision)).collect()
}

/// Group, version and plural of what aggregated discovery names.
fn served(discovery: &Value) -> BTreeSet<(String, String, String)> {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut served = BTreeSet::new();
    for group in each(&discovery["items"]) {
        for version in each(&group["versions"]) {
            let resources = each(&version["resources"]);
            let names = resources.iter().map(|resource| text(&resource["resource"]));
            served.extend(names.map(|name| (text(&group["metadata"]["name"]), text(&version["version"]), name)));
        }
    }
    served
}

/// What etcd makes room for beforehand stays room that takes no disk.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["-r", "--sparse=always"]).args([from, to]).output()?;
    ensure!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
    Ok(())
}

/// A kubeconfig in JSON, which is YAML, under `NAME.kubeconfig`.
fn write_kubeconfig(
    folder: &Path,
    name: &str,
    api_port: u16,
    authority: &Authority,
    credentials: &Credentials,
) -> Result<PathBuf> {
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let user = match credentials {
        Credentials::Token(token) => json!({"token": token}),
        Credentials::Certificate(Identity { certificate, key }) => {
            json!({"client-certificate-data": base64(certificate), "client-key-data": base64(key)})
        }
    };
    let server = format!("https://127.0.0.1:{api_port}");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": base64(&authority.certificate())}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    let path = folder.join(format!("{name}.kubeconfig"));
    std::fs::write(&path, serde_json::to_vec_pretty(&kubeconfig)?)?;
    Ok(path)
}

/// A node that KWOK keeps Ready, with room for every pod of every test.
fn fake_node() -> Result<Node> {
    let room = json!({"cpu": "1000", "memory": "4Ti", "pods": "10000"});
    let node = json!({
        "metadata": {"name": NODE, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"kubernetes.io/os": "linux"}},
        "status": {"allocatable": room, "capacity": room},
    });
    Ok(serde_json::from_value(node)?)
}
