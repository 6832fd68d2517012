//! No secret leaves: a whole restore over HTTPS with everything going wrong on the way, at the most verbose level, and
//! then a search through all that was said or stored.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::binary::Reinback;
use crate::gates::encryption;
use crate::git_server::{Authority, GitServer, Options, Work};
use crate::harness::rancher::{self, Disturbance, Item};
use crate::harness::{Cluster, eventually};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::world::{Said, World};

mod search;

use search::Searcher;

const USER: &str = "git-operator-of-rancher";
const PASSWORD: &str = "g1t/p4ss+w0rd=&%ü of-the-source";
const WRONG_PASSWORD: &str = "n0t-the/p4ssword+of=git";
const WRONG_KEY: &str = "wr0ng/s3cret+key=that-somebody-mistyped";
/// Of the fixture's configuration.
const ENCRYPTION_KEY: &str = "cmVpbmJhY2stdGVzdC1rZXktc2VjcmV0Ym94LTMyLWI=";
/// Of the live users, which the restore takes away again.
const HASH: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
const DISTURBED: Disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 11 };
/// Whatever a person might add to find out more.
const LEVELS: &str = "trace,hyper=trace,hyper_util=trace,aws_config=trace,aws_sdk_s3=trace,aws_smithy_runtime=trace,\
    aws_sigv4=trace,kube_client=trace,rustls=trace,tower=trace,h2=trace,reinback=trace";

/// Refuses Secrets of users and tokens with messages that quote them.
const TALKATIVE_POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: talkative}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [secrets], scope: "*"}
    - {apiGroups: [management.cattle.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [tokens], scope: "*"}
  matchConditions:
  - {name: users, expression: "object.metadata.name.startsWith('u-') || object.kind == 'Token'"}
  validations:
  - expression: "false"
    reason: Invalid
    messageExpression: "object.kind == 'Token' ? 'no such token: ' + object.token : 'no such credential: ' + object.data['credential']"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: talkative}
spec: {policyName: talkative, validationActions: [Deny]}
"#;

/// Everything that was said, with where.
#[derive(Default)]
struct Heard(Vec<(String, Vec<u8>)>);

impl Heard {
    fn said(&mut self, what: &str, Said { code: _, stdout, stderr }: &Said) {
        self.0.push((format!("stdout of {what}"), stdout.clone().into_bytes()));
        self.0.push((format!("stderr of {what}"), stderr.clone().into_bytes()));
    }

    fn text(&mut self, place: &str, text: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), text.into()));
    }

    /// Each object of a repository, inflated: commits, trees and files, also those that nothing points to.
    fn repository(&mut self, path: &Path) {
        let objects = Command::new("git")
            .args(["-C", &path.display().to_string(), "cat-file", "--batch-all-objects", "--batch"])
            .stderr(Stdio::null())
            .output()
            .expect("git is there");
        assert!(!objects.stdout.is_empty(), "{} has objects", path.display());
        self.text(&format!("objects of {}", path.display()), objects.stdout);
    }

    /// Every file under a folder, and what its repositories hold.
    fn folder(&mut self, folder: &Path) {
        if folder.join("objects").is_dir() {
            self.repository(folder);
        }
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => self.folder(&path),
                false => self.text(&path.display().to_string(), std::fs::read(&path).expect("a file")),
            }
        }
    }

    /// Lines of the log below INFO that are not ours, whether they came by `tracing` or by `log`.
    fn strangers(&self) -> Vec<String> {
        let logs = self.0.iter().filter(|(place, _)| place.starts_with("stderr"));
        let lines =
            logs.flat_map(|(_, bytes)| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>());
        let verbose = |line: &String| ["TRACE ", "DEBUG "].iter().any(|level| line.contains(level));
        lines.filter(|line| verbose(line) && !line.contains(" reinback::")).collect()
    }

    fn leaks(&self, searcher: &Searcher) -> Vec<String> {
        let found = self
            .0
            .iter()
            .flat_map(|(place, text)| searcher.find(text).into_iter().map(move |what| format!("{what}, in {place}")));
        found.collect()
    }

    fn has(&self, place: &str, text: &str) -> bool {
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        self.0.iter().any(|(at, bytes)| at.contains(place) && has(bytes))
    }
}

fn secrets_of(items: &[Item]) -> Searcher {
    let mut searcher = Searcher::default();
    for Item { place, object } in items {
        if place.is("", "secrets") {
            for (key, value) in object["data"].as_object().into_iter().flatten() {
                let value = BASE64_STANDARD.decode(value.as_str().expect("a text")).expect("base64");
                searcher.add(&format!("{key} of {place}"), &value);
            }
        }
        if place.is("management.cattle.io", "tokens") {
            searcher.add(&format!("token of {place}"), object["token"].as_str().expect("a text").as_bytes());
        }
    }
    assert!(searcher.len() > 30, "the backup has secrets");
    let ours = [(ACCESS_KEY, "access key"), (SECRET_KEY, "secret key"), (WRONG_KEY, "mistyped key")];
    let git = [(PASSWORD, "password"), (WRONG_PASSWORD, "mistyped password"), (HASH, "hash of a user's password")];
    ours.iter().chain(&git).for_each(|(value, label)| searcher.add(label, value.as_bytes()));
    searcher.add("authorization for Git", format!("{USER}:{PASSWORD}").as_bytes());
    searcher.add("encryption key", &BASE64_STANDARD.decode(ENCRYPTION_KEY).expect("base64"));
    searcher.add("encryption key as it is written", ENCRYPTION_KEY.as_bytes());
    searcher.add("encryption configuration", encryption::configuration("secretbox").as_bytes());
    searcher
}

struct Remote {
    server: GitServer,
    bare: PathBuf,
    work: Work,
    ca: String,
}

impl Remote {
    fn start() -> Self {
        let authority = Authority::new();
        let basic = Some((USER.to_owned(), PASSWORD.to_owned()));
        let tls = Some(authority.issue("localhost", 2090));
        let server = GitServer::start(Options { tls, basic, ..Options::default() });
        let bare = server.bare("ops.git");
        let work = Work::clone(&bare);
        work.write("README.md", "manifests\n").commit("Begin");
        work.push(&["origin", "HEAD:main"]);
        Self { server, bare, work, ca: authority.pem() }
    }

    /// The configuration of an agent with this password, in files as Flux names them.
    fn agent(&self, world: &World, name: &str, password: &str) -> Reinback {
        let secret = world.folder().join(format!("git-{name}"));
        std::fs::create_dir_all(&secret).expect("a folder");
        for (key, value) in [("username", USER), ("password", password), ("ca.crt", &self.ca)] {
            std::fs::write(secret.join(key), value).expect("a file");
        }
        let config = format!(
            "cluster: test\nsource: {{url: \"{}\", branch: main, path: clusters/test, interval: 5s, secretDir: {}}}\ndataDir: {}\n",
            self.server.url("ops.git"),
            secret.display(),
            world.folder().join("data").display(),
        );
        Reinback::new(world.folder(), world.cluster.kubeconfig(), &config).tracing()
    }

    fn commit(&self, backup: &str, requested_at: &str) {
        let text = format!(
            "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata:\n  name: back\n  annotations:\n    \
             reinback.io/accept: VersionMismatch, PruneShare, DownstreamReverts\n    reinback.io/requested-at: \"{requested_at}\"\n\
             spec:\n  backupFilename: {backup}\n  encryptionConfigSecretName: key\n  prune: true\n  ignoreErrors: true\n  storageLocation:\n    s3:\n      endpoint: {}\n      \
             endpointCA: {}\n      bucketName: leaks\n      folder: /nightly/prod/\n      region: us-east-1\n      \
             credentialSecretName: bucket\n      credentialSecretNamespace: default\n",
            S3Server::tls().address,
            BASE64_STANDARD.encode(S3Server::tls().ca()),
        );
        self.work.write("clusters/test/back.yaml", &text).commit("Restore");
        self.work.push(&["origin", "HEAD:main"]);
    }
}

fn bucket_secret(cluster: &Cluster, secret_key: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket", "namespace": "default"},
        "stringData": {"accessKey": ACCESS_KEY, "secretKey": secret_key},
    });
    cluster.kubectl(&["apply", "-f", "-"], &secret.to_string()).expect("the Secret is taken");
}

/// Live users get a password that the backup does not know, live tokens of the policy's kind go.
async fn disturb(world: &World) {
    rancher::disturb(&world.client, &world.items, DISTURBED).await.expect("disturbed");
    for Item { place, .. } in &world.items {
        let changed = if place.is("management.cattle.io", "users") {
            (Method::PATCH, "application/merge-patch+json", json!({"password": HASH}).to_string())
        } else if place.is("management.cattle.io", "tokens") || place.name.ends_with("-secret") {
            (Method::DELETE, "application/json", String::new())
        } else {
            continue;
        };
        let (method, content_type, body) = changed;
        let request = http::Request::builder().method(method).uri(place.url()).header("content-type", content_type);
        let request = request.body(body.into_bytes()).expect("a request");
        match world.client.request::<Value>(request).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{place}: {error}"),
        }
    }
}

async fn install_policy(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-f", "-"], TALKATIVE_POLICY).expect("the policy is taken");
    let probe = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "u-probe", "namespace": "default"}, "data": {"credential": "cHJvYmU="}}"#;
    eventually(Duration::from_secs(30), || async {
        let refused = cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], probe);
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains("no such credential: cHJvYmU="), "the policy quotes nothing yet: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_was_logged_committed_or_stored() {
    let world = World::start().await;
    let cluster = &world.cluster;
    let remote = Remote::start();
    let mut heard = Heard::default();
    let agent = remote.agent(&world, "right", PASSWORD);
    let once = ["agent", "--once", "--install-crd", "--log-level", LEVELS];

    let said = remote.agent(&world, "wrong", WRONG_PASSWORD).once().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    heard.said("the agent with a wrong password for Git", &said);
    let said = agent.once().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    heard.said("the first look", &said);

    disturb(&world).await;
    let backup = encryption::store(&world, encryption::SECRETBOX);
    let content = std::fs::read(world.store().join(&backup)).expect("the backup");
    S3Server::tls().bucket("leaks");
    S3Server::tls().place("leaks", &format!("nightly/prod/{backup}"), &content);
    encryption::install(&world, "key", encryption::KEY, &encryption::configuration("secretbox"));
    bucket_secret(cluster, WRONG_KEY);
    remote.commit(&backup, "2026-11-23T09:00:00Z");
    let said = agent.run(&once).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    heard.said("the agent with a wrong key for the bucket", &said);
    heard.said("a plan with a wrong key", &agent.run(&["plan", "-v"]).await);

    bucket_secret(cluster, SECRET_KEY);
    // The key in the place of its name, too short, too long, as a field, and one that is not the backup's.
    let configuration = encryption::configuration("secretbox");
    for (number, broken) in [
        configuration.replace("key1", ENCRYPTION_KEY).replace(&format!("secret: {ENCRYPTION_KEY}"), "secret: QUFB"),
        configuration.replace(ENCRYPTION_KEY, &ENCRYPTION_KEY[..40]),
        configuration.replace(ENCRYPTION_KEY, &format!("{ENCRYPTION_KEY}{ENCRYPTION_KEY}")),
        configuration.replace("secret: ", ""),
        configuration.replace("secretbox", "aesgcm"),
    ]
    .iter()
    .enumerate()
    {
        encryption::install(&world, "key", encryption::KEY, broken);
        let said = agent.run(&["plan", "-v", "--log-level", LEVELS]).await;
        assert_eq!(said.code, Some(3), "{number}: {said:?}");
        heard.said(&format!("a plan with a broken configuration ({number})"), &said);
    }
    encryption::install(&world, "key", encryption::KEY, &configuration);
    for output in ["text", "json", "markdown"] {
        let said = agent.run(&["plan", "-v", "-o", output, "--log-level", LEVELS]).await;
        assert_eq!(said.code, Some(2), "{said:?}");
        heard.said(&format!("the plan as {output}"), &said);
    }
    install_policy(cluster).await;
    let said = agent.run(&once).await;
    assert!(said.code.is_some(), "{said:?}");
    heard.said("the agent that is refused with quotations", &said);
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "talkative"], "").expect("it goes");
    eventually(Duration::from_secs(30), || async {
        let probe = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "u-probe", "namespace": "default"}, "data": {"credential": "cHJvYmU="}}"#;
        cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], probe).map(drop)
    })
    .await;
    remote.commit(&backup, "2026-11-23T10:00:00Z");
    let said = agent.run(&once).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    heard.said("the agent that succeeds", &said);
    assert_eq!(world.differences().await, Vec::<String>::new());

    for args in [&["status"][..], &["status", "-o", "json"], &["status", "back"], &["status", "back", "-o", "json"]] {
        heard.said(&args.join(" "), &agent.run(args).await);
    }
    let kubectl = |args: &[&str]| cluster.kubectl(args, "").expect("kubectl answers");
    heard.text("runs", kubectl(&["get", "runs.reinback.io", "-A", "-o", "json"]));
    heard.text("described runs", kubectl(&["describe", "runs.reinback.io", "-n", "reinback-system"]));
    heard.text("events", kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"]));
    heard.text("lease", kubectl(&["get", "leases", "-n", "reinback-system", "-o", "json"]));
    heard.repository(&remote.bare);
    heard.folder(&world.folder().join("data"));

    // What is searched is what was meant to be searched.
    assert!(heard.has("wrong password", "credentials") || heard.has("wrong password", "401"));
    assert!(heard.has("wrong key", "SignatureDoesNotMatch"));
    assert!(heard.has("broken configuration (1)", "has 30 bytes, and a key of secretbox has 32"));
    assert!(heard.has("plan as markdown", "tokens.management.cattle.io"));
    assert!(
        heard.has("refused with quotations", "u-28ltp-secret") && heard.has("refused with quotations", "token-28ltp")
    );
    assert!(heard.has("refused with quotations", "TRACE") || heard.has("refused with quotations", "DEBUG"));
    assert!(heard.has("runs", "u-28ltp-secret") && heard.has("objects of", "u-28ltp-secret"));
    assert!(heard.has("events", "restore back"));
    let left: Vec<_> = std::fs::read_dir(world.folder().join("data/spool")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");

    let searcher = secrets_of(&world.items);
    assert_eq!(heard.leaks(&searcher), Vec::<String>::new());
    assert_eq!(heard.strangers(), Vec::<String>::new());
    heard.text("a planted line", format!("token {}", BASE64_STANDARD.encode(format!("x{SECRET_KEY}y"))));
    assert!(!heard.leaks(&searcher).is_empty());
}
