//! Backups in buckets, from manifest to result: every field of `storageLocation.s3`, and whatever goes wrong there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::binary::Reinback;
use crate::harness::rancher::{self, Disturbance};
use crate::harness::{self, eventually};
use crate::proxy::{Fault, Proxy};
use crate::s3_server::{ACCESS_KEY, Authority, S3Server, SECRET_KEY};
use crate::world::{Said, World};

const DISTURBED: Disturbance = Disturbance { changed_percent: 10, deleted_percent: 5, added: 5, seed: 5 };
const ACCEPT: &str = "VersionMismatch, PruneShare, DownstreamReverts";

/// A world whose agent takes its backups from buckets.
struct Place {
    world: World,
    agent: Reinback,
}

/// What the newest run says of itself.
#[derive(Debug)]
struct Told {
    phase: String,
    reason: String,
    message: String,
    gates: Vec<String>,
}

impl Place {
    /// `store` is the agent's own.
    async fn start(store: &str) -> Self {
        let world = World::start().await;
        let config = format!(
            "cluster: test\nsource: {{url: \"file://{}\", branch: main, path: clusters/test, interval: 5s}}\n{store}dataDir: {}\n",
            world.remote().display(),
            world.folder().join("data").display(),
        );
        let agent = Reinback::new(world.folder(), world.cluster.kubeconfig(), &config);
        let said = agent.once().await;
        assert_eq!(said.code, Some(0), "{said:?}");
        Self { world, agent }
    }

    fn backup(&self) -> Vec<u8> {
        std::fs::read(self.world.folder().join("backups").join(&self.world.backup)).expect("the backup")
    }

    async fn disturb(&self) {
        rancher::disturb(&self.world.client, &self.world.items, DISTURBED).await.expect("disturbed");
        assert!(!self.world.differences().await.is_empty());
    }

    /// Commits a restore from this location; the same name and time is the same run.
    fn commit(&self, requested_at: &str, s3: &[(&str, &str)]) {
        self.commit_with(&[("requested-at", requested_at)], s3);
    }

    fn commit_with(&self, annotations: &[(&str, &str)], s3: &[(&str, &str)]) {
        let fields: String = s3.iter().map(|(field, value)| format!("      {field}: {value}\n")).collect();
        let location = if s3.is_empty() { String::new() } else { format!("  storageLocation:\n    s3:\n{fields}") };
        let annotations = [annotations, &[("accept", ACCEPT)]].concat();
        self.world.commit_restore("back", &annotations, &format!("  prune: true\n{location}"));
    }

    fn credentials(&self, namespace: &str, name: &str, data: Value) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data,
        });
        self.world.cluster.kubectl(&["apply", "-f", "-"], &secret.to_string()).expect("the Secret is taken");
    }

    fn told(&self) -> Told {
        let args = ["get", "runs.reinback.io", "-n", "reinback-system", "-o", "json"];
        let text = self.world.cluster.kubectl(&args, "").expect("kubectl answers");
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let created = |run: &&Value| run["metadata"]["creationTimestamp"].as_str().map(str::to_owned);
        let run = list["items"].as_array().into_iter().flatten().max_by_key(created).cloned().unwrap_or_default();
        let word = |field: &str| run["status"][field].as_str().unwrap_or_default().to_owned();
        let gates = run["status"]["gates"].as_array().cloned().unwrap_or_default();
        let holding = gates.iter().filter(|gate| gate["accepted"] != true);
        Told {
            phase: word("phase"),
            reason: word("reason"),
            message: word("message"),
            gates: holding.filter_map(|gate| gate["code"].as_str().map(str::to_owned)).collect(),
        }
    }

    /// A pass that ends with the run held, and by what.
    async fn held(&self) -> Told {
        let said = self.agent.once().await;
        assert_eq!(said.code, Some(3), "{said:?} {:?}", self.told());
        let told = self.told();
        assert_eq!(told.phase, "Held", "{told:?}");
        told
    }

    async fn succeeds(&self) {
        self.succeeded(self.agent.once().await).await;
    }

    async fn succeeded(&self, said: Said) {
        assert_eq!(said.code, Some(0), "{said:?} {:?}", self.told());
        assert_eq!(self.told().phase, "Succeeded");
        assert_eq!(self.world.differences().await, Vec::<String>::new());
        assert_eq!(self.world.replicas("cattle-system", "rancher").await.expect("it is there"), (3, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_held_until_secret_and_bucket_are_as_they_must_be_and_then_goes_on_without_a_commit() {
    let server = S3Server::plain();
    server.bucket("default-store");
    let store = format!(
        "store: {{s3: {{endpoint: \"http://{}\", bucketName: default-store, region: us-east-1, folder: /a/b/, \
         credentialSecretName: keys, credentialSecretNamespace: default, clientConfig: {{bucketLookup: path}}}}}}\n",
        server.address
    );
    let place = Place::start(&store).await;
    place.disturb().await;
    place.commit("2026-11-23T09:00:00Z", &[]);

    let told = place.held().await;
    assert!(told.message.contains("there is no Secret default/keys"), "{told:?}");
    assert_eq!(told.reason, "StoreUnavailable");
    place.credentials("default", "keys", json!({"accessKey": ACCESS_KEY}));
    let told = place.held().await;
    assert!(told.message.contains("there is no key `secretKey` in the Secret"), "{told:?}");
    place.credentials("default", "keys", json!({"accessKey": ACCESS_KEY, "secretKey": "mistyped-by-somebody"}));
    let told = place.held().await;
    assert!(told.message.contains("the secretKey does not fit the accessKey, or region is wrong"), "{told:?}");
    let log = place.world.status_log();
    assert!(log[0].contains("restore back: held: StoreUnavailable"), "{log:?}");
    let dashboard = crate::git_server::git(&place.world.remote(), &["show", "reinback/test:README.md"]);
    assert!(dashboard.contains("the secretKey does not fit the accessKey"), "{dashboard}");

    place.credentials("default", "keys", json!({"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}));
    let told = place.held().await;
    assert_eq!(told.gates, ["BackupNotFound"], "{told:?}");
    server.place("default-store", &format!("a/b/{}", place.world.backup), &place.backup()[..20_000]);
    let told = place.held().await;
    assert_eq!(told.gates, ["BackupCorrupt"], "{told:?}");
    server.place("default-store", &format!("a/b/{}", place.world.backup), &place.backup());
    place.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_s_own_bucket_over_https_beats_the_agent_s_and_trusts_the_root_that_it_names() {
    let (plain, tls) = (S3Server::plain(), S3Server::tls());
    plain.bucket("never-asked");
    let store = format!("store: {{s3: {{endpoint: \"http://{}\", bucketName: never-asked}}}}\n", plain.address);
    let place = Place::start(&store).await;
    tls.bucket("own");
    tls.place("own", &format!("nightly/prod/{}", place.world.backup), &place.backup());
    // The operator's namespace is where a Secret without a namespace is looked for.
    place.credentials("cattle-resources-system", "own-keys", json!({"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}));
    let address = tls.address.to_string();
    let (wrong, right) = (BASE64_STANDARD.encode(Authority::new().pem), BASE64_STANDARD.encode(tls.ca()));
    let location = |ca: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let own = [("endpoint", address.as_str()), ("bucketName", "own"), ("folder", "nightly/prod")];
        let keys = [("credentialSecretName", "own-keys"), ("region", "us-east-1")];
        let all = own.iter().chain(&keys).chain(ca);
        all.map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    };
    let commit = |at: &str, ca: &[(&'static str, &str)]| {
        let fields = location(ca);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
        place.commit(at, &fields);
    };

    place.disturb().await;
    commit("2026-11-23T09:00:00Z", &[("endpointCA", &wrong)]);
    let told = place.held().await;
    assert!(told.message.contains("see endpointCA and the scheme of endpoint"), "{told:?}");
    let runs = place.world.runs().await.len();
    commit("2026-11-23T09:00:00Z", &[("endpointCA", &right)]);
    place.succeeds().await;
    assert_eq!(place.world.runs().await.len(), runs, "what is trusted is no part of the key");

    place.disturb().await;
    commit("2026-11-23T10:00:00Z", &[("insecureTLSSkipVerify", "true")]);
    place.succeeds().await;

    // A manifest that just fits what is read of one file makes a status file that does not: what Git cannot know of
    // does not begin.
    place.disturb().await;
    let room = 1_047_900 / 4 * 3 - tls.ca().len();
    let padded = BASE64_STANDARD.encode(format!("{}{}", tls.ca(), "#".repeat(room)));
    commit("2026-11-23T11:00:00Z", &[("endpointCA", &padded)]);
    let scalings = place.world.scalings();
    let told = place.held().await;
    assert_eq!(told.gates, ["StatusNotPushed"], "{told:?}");
    let newest = place.world.reinback(&["status", "-o", "json"]).await.stdout;
    assert!(newest.contains("a status file has at most 1048576"), "the gate says why");
    assert!(place.world.dashboard().contains("StatusNotPushed"), "{}", place.world.dashboard());
    assert_eq!(place.world.scalings(), scalings);
    commit("2026-11-23T11:00:00Z", &[("endpointCA", &right)]);
    place.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_replaced_is_not_restored_and_a_server_that_comes_back_is_waited_for() {
    let server = tokio::task::spawn_blocking(harness::S3Server::http).await.expect("it starts");
    server.bucket("nightly").await;
    let address: SocketAddr = server.address.parse().expect("an address");
    let proxy = Proxy::start(address, [], Fault::None);
    let store = format!(
        "store: {{s3: {{endpoint: \"http://{}\", bucketName: nightly, credentialSecretName: keys}}}}\n",
        proxy.address
    );
    let place = Place::start(&store).await;
    let keys = json!({"accessKey": server.access_key, "secretKey": server.secret_key});
    place.credentials("cattle-resources-system", "keys", keys);
    place.disturb().await;
    let backup = place.backup();
    server.put("nightly", &place.world.backup, &backup).await;
    let digest = reinback::store::Sha256::of(&backup).to_string();
    let pinned = [("requested-at", "2026-11-23T09:00:00Z"), ("backup-digest", digest.as_str())];
    place.commit_with(&pinned, &[]);
    let planned = place.agent.run(&["plan"]).await;
    assert_eq!(planned.code, Some(2), "{planned:?}");
    let other =
        std::fs::read(harness::fixture("large-56488071-5e68-44dd-b5a1-2f0f8091f490-2026-11-23T05-59-47Z.tar.gz"));
    server.put("nightly", &place.world.backup, &other.expect("the fixture")).await;
    let told = place.held().await;
    assert!(told.gates.contains(&"DigestMismatch".to_owned()), "{told:?}");
    server.put("nightly", &place.world.backup, &backup).await;

    // Pieces of a third of the backup, then a server that is down for a while, then one that is itself again.
    proxy.set_rest(Fault::CutAfter(backup.len() as u64 / 3));
    let before = proxy.connections();
    let mut agent = place.agent.command(&["agent", "--once"]);
    let running = tokio::task::spawn_blocking(move || agent.output());
    eventually(Duration::from_secs(30), || async {
        ensure!(proxy.connections() > before, "nothing was asked for yet");
        Ok(())
    })
    .await;
    server.kill();
    proxy.set_rest(Fault::None);
    let down = proxy.connections();
    eventually(Duration::from_secs(30), || async {
        ensure!(proxy.connections() > down || running.is_finished(), "nobody asked while it was down");
        Ok(())
    })
    .await;
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .expect("it starts again");
    let output = running.await.expect("it ends").expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    place.succeeded(Said { code: output.status.code(), stdout: String::new(), stderr }).await;
    drop(server);
}
