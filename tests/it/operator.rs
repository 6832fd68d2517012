//! The real rancher-backup operator: it and we write the same, and each restores what the other wrote.
//!
//! It is not to be had from a registry: `RANCHER_BACKUP_OPERATOR` names its binary, made by `go build ./cmd/operator` in a checkout of its
//! repository, whose `charts` lie beside it. From those come its definitions and the selectors that it installs by default.

mod odd;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use flate2::read::GzDecoder;
use reinback::backup::{Encryption, Entry, FILTERS, Limits};
use serde_json::{Value, json};

use crate::gates::encryption;
use crate::harness::rancher::{self, Disturbance, Disturbed, Item, Place};
use crate::harness::{Options, eventually, fixture, skip};
use crate::world::{Filled, PLAIN, World};

const PATIENCE: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "cattle-resources-system";
/// ResourceSets: the one in the filters of the fixture, and the operator's default.
const AS_THE_FIXTURE: &str = "as-the-fixture";
const FULL: &str = "full";
const ACCEPT: &str = "VersionMismatch, PruneShare, DownstreamReverts, AlreadyRun";

/// What the first rule for a type, the second key and an open type among closed ones come to.
const MIXED: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets, tokens.management.cattle.io]
    providers:
      - aesgcm:
          keys:
            - {name: new, secret: cmVpbmJhY2stdGVzdC1rZXktbWl4ZWQtMzItYnl0ZXM=}
            - {name: old, secret: cmVpbmJhY2stdGVzdC1rZXktYWVzZ2NtLTMyLWJ5dGU=}
      - identity: {}
  - resources: ["*.management.cattle.io"]
    providers:
      - identity: {}
      - secretbox: {keys: [{name: key1, secret: cmVpbmJhY2stdGVzdC1rZXktc2VjcmV0Ym94LTMyLWI=}]}
  - resources: ["*.rbac.authorization.k8s.io", "*."]
    providers:
      - aescbc: {keys: [{name: key1, secret: cmVpbmJhY2stdGVzdC1rZXktYWVzY2JjLTMyLWJ5dGU=}]}
"#;

/// The operator's binary and, beside it, the repository that it was made from.
pub struct Checkout {
    binary: PathBuf,
}

impl Checkout {
    /// `None`, and the test says that it was skipped, where nobody has named one.
    pub fn or_skip(test: &str) -> Option<Self> {
        let found = Self::found();
        if found.is_none() {
            skip(test, "set RANCHER_BACKUP_OPERATOR to its binary, made in its checkout");
        }
        found
    }

    pub fn found() -> Option<Self> {
        let binary = std::env::var_os("RANCHER_BACKUP_OPERATOR").map(PathBuf::from)?;
        Some(Self { binary: std::fs::canonicalize(binary).expect("RANCHER_BACKUP_OPERATOR names a file") })
    }

    /// The operator with this kubeconfig, as it runs in `folder`: in its development mode it stores backups in `backups` below it. What
    /// it logs goes to `operator.log` there.
    pub fn start(&self, kubeconfig: &Path, folder: &Path) -> Child {
        self.command(kubeconfig, folder).spawn().expect("the operator starts")
    }

    pub fn command(&self, kubeconfig: &Path, folder: &Path) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("operator.log"));
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(kubeconfig).current_dir(folder);
        command.env("CATTLE_DEV_MODE", "true").env("CHART_NAMESPACE", NAMESPACE);
        command.env("ENCRYPTION_PROVIDER_LOCATION", folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        command
    }

    pub fn file(&self, path: &str) -> PathBuf {
        let path = self.binary.parent().expect("a file lies in a folder").join(path);
        assert!(path.exists(), "{} is not there: is the binary in its checkout?", path.display());
        path
    }

    /// The selectors of the ResourceSet that its chart installs by default.
    fn selectors(&self) -> Vec<Value> {
        let mut files = yaml_files(&self.file("charts/rancher-backup/files"));
        files.retain(|file| !file.iter().any(|folder| folder == "optional"));
        // As Helm's glob orders them.
        files.sort();
        let selectors = files.iter().flat_map(|file| {
            let text = std::fs::read_to_string(file).expect("text");
            serde_yaml::from_str::<Vec<Value>>(&text).expect("a list of selectors")
        });
        selectors.collect()
    }
}

/// The files below a folder whose names end in `.yaml`.
fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files = entries.flat_map(|path| if path.is_dir() { yaml_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect()
}

/// The operator on the cluster of a world, with its folder of backups; killed when dropped.
struct Operator<'w> {
    world: &'w World,
    child: Child,
}

impl<'w> Operator<'w> {
    fn start(checkout: &Checkout, world: &'w World) -> Self {
        Self { world, child: checkout.start(world.cluster.kubeconfig(), world.folder()) }
    }

    /// Makes a backup, and gives the name of its file.
    async fn back_up(&self, name: &str, set: &str, key: Option<&str>) -> String {
        let mut backup = json!({
            "apiVersion": "resources.cattle.io/v1", "kind": "Backup", "metadata": {"name": name}, "spec": {"resourceSetName": set},
        });
        if let Some(key) = key {
            backup["spec"]["encryptionConfigSecretName"] = json!(key);
        }
        self.world.cluster.kubectl(&["apply", "-f", "-"], &backup.to_string()).expect("the Backup is taken");
        let done = self.says(&format!("backups.resources.cattle.io/{name}"), "/status/lastSnapshotTs").await;
        done["status"]["filename"].as_str().expect("a name").to_owned()
    }

    /// Restores a backup with prune, to the end.
    async fn restore(&self, name: &str, backup: &str, key: Option<&str>) {
        let mut restore = json!({
            "apiVersion": "resources.cattle.io/v1", "kind": "Restore", "metadata": {"name": name},
            "spec": {"backupFilename": backup, "prune": true, "deleteTimeoutSeconds": 1},
        });
        if let Some(key) = key {
            restore["spec"]["encryptionConfigSecretName"] = json!(key);
        }
        self.world.cluster.kubectl(&["apply", "-f", "-"], &restore.to_string()).expect("the Restore is taken");
        self.says(&format!("restores.resources.cattle.io/{name}"), "/status/restoreCompletionTs").await;
    }

    /// An object of its own, once it has a text in this field.
    async fn says(&self, object: &str, pointer: &str) -> Value {
        eventually(PATIENCE, || async {
            let live: Value = serde_json::from_str(&self.world.cluster.kubectl(&["get", object, "-o", "json"], "")?)?;
            let text = live.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            ensure!(!text.is_empty(), "{object} says {}", live["status"]);
            Ok(live)
        })
        .await
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.world.folder().join("operator.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERRO") || line.contains("FATA")).collect();
            eprintln!("errors in the log of the operator:\n{}", lines.join("\n"));
        }
    }
}

/// A cluster at rest, filled from this backup of the fixtures, with the operator's definitions and two ResourceSets:
/// `as-the-fixture` and, as its chart has it, `full`.
async fn world(checkout: &Checkout, backup: &str) -> World {
    let world = World::of(Options::default(), backup, Filled::Restored).await;
    let kubectl = |args: &[&str], stdin: &str| world.cluster.kubectl(args, stdin).expect("kubectl does it");
    let definitions = checkout.file("charts/rancher-backup-crd/templates").display().to_string();
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definitions], "");
    for plural in ["backups", "restores", "resourcesets"] {
        let name = format!("crd/{plural}.resources.cattle.io");
        kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name], "");
    }
    let members = members(&fixture(backup));
    let filters = members.iter().find(|member| member.path == FILTERS).expect("the fixture has filters");
    let set: Value = serde_json::from_slice(&filters.content).expect("JSON");
    for (name, selectors) in
        [(AS_THE_FIXTURE, set["resourceSelectors"].clone()), (FULL, Value::Array(checkout.selectors()))]
    {
        let set = json!({
            "apiVersion": "resources.cattle.io/v1", "kind": "ResourceSet", "metadata": {"name": name},
            "resourceSelectors": selectors, "controllerReferences": set["controllerReferences"],
        });
        kubectl(&["apply", "--server-side", "-f", "-"], &set.to_string());
    }
    kubectl(&["wait", "--for=condition=Available", "--timeout=120s", "deployments", "--all", "--all-namespaces"], "");
    world
}

/// A file or folder of an archive.
struct Member {
    path: String,
    is_file: bool,
    content: Vec<u8>,
}

/// All of an archive, in its order.
fn members(path: &Path) -> Vec<Member> {
    let file = std::fs::File::open(path).expect("it is there");
    let mut members = Vec::new();
    for entry in tar::Archive::new(GzDecoder::new(file)).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it can be read");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        members.push(Member { path, is_file: entry.header().entry_type().is_file(), content });
    }
    members
}

/// What filters say: Go writes the fields of a struct in their own order, and older operators those that say nothing, too.
fn said(filters: &[u8]) -> Value {
    let mut filters: Value = serde_json::from_slice(filters).expect("JSON");
    let says_nothing = |value: &Value| [json!(null), json!(""), json!([]), json!(0)].contains(value);
    for list in ["resourceSelectors", "controllerReferences"] {
        for one in filters[list].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            one.retain(|_, value| !says_nothing(value));
        }
    }
    filters
}

/// How entries are closed: the Secret with the configuration, and the configuration.
#[derive(Clone)]
struct Closing {
    secret: &'static str,
    configuration: String,
}

impl Closing {
    fn all() -> Vec<Self> {
        let one = |secret: &'static str| Self { secret, configuration: encryption::configuration(secret) };
        let mixed = Self { secret: "mixed", configuration: MIXED.to_owned() };
        vec![one("secretbox"), one("aescbc"), one("aesgcm"), mixed]
    }

    /// Where the configuration lies as a file.
    fn file(&self, world: &World) -> String {
        let path = world.folder().join(format!("{}.yaml", self.secret));
        std::fs::write(&path, &self.configuration).expect("the folder is ours");
        path.display().to_string()
    }

    /// Every object of a backup, opened by us.
    fn opened(&self, path: &Path) -> BTreeMap<String, Value> {
        let encryption = Encryption::parse(self.configuration.as_bytes()).expect("it is one");
        let bytes = std::fs::read(path).expect("it is there");
        let mut objects = BTreeMap::new();
        let size = bytes.len() as u64;
        let read = reinback::backup::read(bytes.as_slice(), size, &Limits::default(), Some(&encryption), |entry| {
            match entry {
                Entry::Object { key, value, .. } => drop(objects.insert(key.to_string(), value)),
                Entry::Encrypted { key, problem, .. } => return Err(format!("{key}: {problem}")),
                Entry::Filters(_) => {}
            }
            Ok(())
        });
        read.expect("it is whole, and opens");
        objects
    }
}

/// Two backups of one moment.
struct Pair {
    ours: String,
    theirs: String,
}

impl Pair {
    /// Made by both, of what `set` chooses, while nothing moved.
    async fn make(operator: &Operator<'_>, name: &str, set: &str, closing: Option<&Closing>) -> Self {
        let world = operator.world;
        let workloads = || {
            let args = ["get", "deployments", "--all-namespaces", "-o", "json"];
            world.cluster.kubectl(&args, "").expect("the cluster answers")
        };
        for number in 1..=5 {
            let before = workloads();
            let pair = Self::made(operator, &format!("{name}-{number}"), set, closing).await;
            if workloads() == before {
                return pair;
            }
        }
        panic!("the cluster does not come to rest");
    }

    async fn made(operator: &Operator<'_>, name: &str, set: &str, closing: Option<&Closing>) -> Self {
        let secret = closing.map(|closing| closing.secret);
        let theirs = operator.back_up(name, set, secret).await;
        // A name has seconds, and this one is not to be theirs.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut args = vec!["backups", "create", "--resource-set", set, "--prefix", name, "-o", "json"];
        args.extend(secret.into_iter().flat_map(|secret| ["--encryption-config-secret", secret]));
        let said = operator.world.reinback(&args).await;
        let told: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        Self { ours: told["name"].as_str().expect("a name").to_owned(), theirs }
    }

    /// The same members in the same order, with the same bytes; encrypted ones as long, and the same once they are opened.
    fn assert_same_entries(&self, world: &World, closing: Option<&Closing>) {
        let Self { ours, theirs } = self;
        let [our_path, their_path] = [ours, theirs].map(|name| world.store().join(name));
        let [our_members, their_members] = [&our_path, &their_path].map(|path| members(path));
        let names = |members: &[Member]| -> Vec<_> {
            members.iter().map(|member| (member.path.clone(), member.is_file)).collect()
        };
        assert_eq!(names(&our_members), names(&their_members), "{ours} and {theirs}");
        let (mut same, mut closed, mut other) = (0, 0, Vec::new());
        for (our, their) in our_members.iter().zip(&their_members) {
            let is_closed = |member: &Member| member.content.first() == Some(&b'"');
            if our.path == FILTERS {
                let [our, their] = [our, their].map(|one| said(&one.content));
                assert_eq!(our, their, "{FILTERS}");
            } else if closing.is_some()
                && is_closed(our)
                && is_closed(their)
                && our.content.len() == their.content.len()
            {
                closed += 1;
            } else if our.content == their.content {
                same += 1;
            } else {
                other.push(our.path.clone());
            }
        }
        assert_eq!(other, Vec::<String>::new(), "{ours} and {theirs}");
        if let Some(closing) = closing {
            assert!(closed > 0, "{ours} lies open");
            assert_eq!(closing.opened(&our_path), closing.opened(&their_path), "{ours} and {theirs}");
        }
        println!("{ours} and {theirs}: {same} members are the same bytes, {closed} the same once opened");
    }

    /// What a person would ask says so, too.
    async fn assert_same_to_a_person(&self, world: &World, closing: Option<&Closing>) {
        let file = closing.map(|closing| closing.file(world));
        let with_key = |args: &[&str]| -> Vec<String> {
            let key = file.iter().flat_map(|file| ["--encryption-config".to_owned(), file.clone()]);
            args.iter().map(|arg| (*arg).to_owned()).chain(key).collect()
        };
        let Self { ours, theirs } = self;
        for args in [with_key(&["backups", "verify", ours, theirs]), with_key(&["backups", "diff", ours, theirs])] {
            let said = world.reinback(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    }
}

/// Why the operator, restoring, does not bring an object back as it was: its own rules, which hold for its own backups just so.
fn known_loss(item: &Item, difference: &str) -> Option<&'static str> {
    let Item { place, object } = item;
    let name = place.name.as_str();
    let owners = object["metadata"]["ownerReferences"].as_array();
    let is_of_role = |owner: &Value| matches!(owner["kind"].as_str(), Some("GlobalRole" | "RoleTemplate"));
    let is_left_out = place.is("apps", "deployments")
        && place.namespace.as_deref() == Some("cattle-system")
        && (name.ends_with("rancher") || name.ends_with("rancher-webhook"));
    if is_left_out {
        Some("the Deployments of Rancher and its webhook are not written")
    } else if difference.ends_with(": metadata: ownerReferences is missing")
        && owners.is_some_and(|owners| owners.iter().all(is_of_role))
    {
        Some("owners that are GlobalRoles or RoleTemplates are dropped")
    } else if object["type"] == "fleet.cattle.io/cluster-registration-values" {
        Some("Secrets of Fleet's registrations are not written")
    } else {
        odd::known_loss(item, difference)
    }
}

/// What is not as the backup has it after a restore by the operator.
#[derive(Default)]
struct Judged {
    /// For no reason that we know.
    unknown: Vec<String>,
    /// How often each reason holds that we know.
    known: BTreeMap<&'static str, usize>,
    /// Objects that are not there, for a reason that we know.
    missing: Vec<Place>,
}

impl Judged {
    async fn of(world: &World, items: &[Item]) -> Self {
        let mut judged = Self::default();
        for difference in world.differences_from(items).await {
            let item = items.iter().find(|item| difference.starts_with(&format!("{}: ", item.place)));
            match item.and_then(|item| Some((item, known_loss(item, &difference)?))) {
                Some((item, reason)) => {
                    *judged.known.entry(reason).or_default() += 1;
                    if difference.ends_with(": missing") {
                        judged.missing.push(item.place.clone());
                    }
                }
                None => judged.unknown.push(difference),
            }
        }
        judged
    }
}

async fn assert_gone(world: &World, disturbed: &Disturbed) {
    for place in &disturbed.added {
        assert_eq!(rancher::get(&world.client, place).await.expect("the cluster answers"), None, "{place:?}");
    }
    eventually(Duration::from_secs(60), || async {
        let replicas = world.replicas("cattle-system", "rancher").await?;
        ensure!(replicas == (3, 3), "Rancher has {replicas:?}");
        Ok(())
    })
    .await;
}

/// What is chosen, and how it is closed; and what both made of it.
struct Round {
    name: &'static str,
    set: &'static str,
    closing: Option<Closing>,
    pair: Pair,
}

impl Round {
    /// Both make a backup, and the two are the same.
    async fn begin(operator: &Operator<'_>, name: &'static str, set: &'static str, closing: Option<Closing>) -> Self {
        let pair = Pair::make(operator, name, set, closing.as_ref()).await;
        pair.assert_same_entries(operator.world, closing.as_ref());
        pair.assert_same_to_a_person(operator.world, closing.as_ref()).await;
        Self { name, set, closing, pair }
    }

    /// Disturbs, lets the operator restore ours; disturbs again, and restores theirs by a manifest. Both hold `items`.
    async fn each_restores_the_others(&self, operator: &Operator<'_>, items: &[Item], seed: u64) {
        let Self { name, set: _, closing, pair } = self;
        let Pair { ours, theirs } = pair;
        let world = operator.world;
        // What the operator works by stays as it is, and built-in roles, which neither brings back.
        let is_left = |item: &&Item| {
            let Item { place, object } = item;
            place.group == "resources.cattle.io"
                || place.namespace.as_deref() == Some(NAMESPACE)
                || object["builtin"] == true
                || odd::is_left(item)
        };
        let changed: Vec<Item> = items.iter().filter(|item| !is_left(item)).cloned().collect();
        let disturbance = Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed };
        let disturbed = rancher::disturb(&world.client, &changed, disturbance).await.expect("disturbed");
        odd::touch(world);
        assert!(!world.differences_from(items).await.is_empty());
        let start = Instant::now();
        operator.restore(&format!("ours-{name}"), ours, closing.as_ref().map(|closing| closing.secret)).await;
        let took = start.elapsed();
        let Judged { unknown, known, missing } = Judged::of(world, items).await;
        assert_eq!(unknown, Vec::<String>::new(), "{name}: the operator restored {ours}");
        println!("{name}: the operator restored {ours} in {took:.1?}; lost by its own rules: {known:?}");
        assert_gone(world, &disturbed).await;

        let disturbance = Disturbance { seed: seed + 1, ..disturbance };
        let there: Vec<Item> = changed.into_iter().filter(|item| !missing.contains(&item.place)).collect();
        let disturbed = rancher::disturb(&world.client, &there, disturbance).await.expect("disturbed");
        odd::touch(world);
        let key = closing.as_ref().map(|closing| format!("  encryptionConfigSecretName: {}\n", closing.secret));
        let spec = format!("  prune: true\n{}", key.unwrap_or_default());
        world.commit_restore_of(theirs, &format!("theirs-{name}"), &[("accept", ACCEPT)], &spec);
        let start = Instant::now();
        let said = world.once().await;
        let took = start.elapsed();
        assert_eq!(said.code, Some(0), "{}\n{:?}", said.stderr, world.runs().await);
        assert_eq!(world.differences_from(items).await, Vec::<String>::new(), "{name}: we restored {theirs}");
        println!("{name}: we restored {theirs} in {took:.1?}");
        assert_gone(world, &disturbed).await;
    }
}

/// Makes and compares backups, then lets each restore the other's, for every way of choosing and closing in turn.
async fn both_ways(world: &World, checkout: &Checkout, closings: Vec<Closing>) {
    world.settle().await;
    // They are among what is chosen, so they come first: a prune would take away those that no backup holds.
    for Closing { secret, configuration } in &closings {
        encryption::install(world, secret, encryption::KEY, configuration);
    }
    odd::add(world).await;
    let operator = Operator::start(checkout, world);
    let mut rounds = vec![Round::begin(&operator, "open", AS_THE_FIXTURE, None).await];
    for closing in closings {
        rounds.push(Round::begin(&operator, closing.secret, AS_THE_FIXTURE, Some(closing)).await);
    }
    // Last, since it leaves out dependents of what is disturbed then, which so go for good.
    rounds.push(Round::begin(&operator, FULL, FULL, None).await);
    odd::release(world);
    let items = |set: &str| {
        let open = rounds.iter().find(|round| round.set == set && round.closing.is_none()).expect("one is open");
        rancher::read(&world.store().join(&open.pair.ours)).expect("a whole backup")
    };
    let (full, fixture) = (items(FULL), items(AS_THE_FIXTURE));
    for (round, seed) in rounds.iter().zip((100..).step_by(2)) {
        let items = if round.set == FULL { &full } else { &fixture };
        round.each_restores_the_others(&operator, items, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_restores_what_we_wrote_and_we_what_it_wrote_and_both_are_the_same() {
    let Some(checkout) = Checkout::or_skip("operator: our backups and its own") else { return };
    both_ways(&world(&checkout, PLAIN).await, &checkout, Closing::all()).await;
}

/// With thousands of objects, and with the definitions that a real Rancher has.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_for_other_backups() {
    const NAME: &str = "operator: other backups";
    let Some(folder) = std::env::var_os("REINBACK_TEST_BACKUPS") else {
        return skip(NAME, "set REINBACK_TEST_BACKUPS to a folder of backups that are not encrypted");
    };
    let Some(checkout) = Checkout::or_skip(NAME) else { return };
    let mut backups: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    backups.retain(|path| path.extension().is_some_and(|end| end == "gz"));
    backups.sort();
    assert!(!backups.is_empty(), "no backup there");
    for backup in backups {
        let name = backup.to_str().expect("a name");
        eprintln!("{name}");
        both_ways(&world(&checkout, name).await, &checkout, Vec::new()).await;
    }
}
