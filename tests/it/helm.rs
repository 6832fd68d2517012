//! Setting a release back with real helm, 3 and 4, on a real API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use reinback::cluster::{self as api, ListOptions, Target};
use reinback::helm::leftovers::{self, Leftover};
use reinback::helm::mend::mark_failed;
use reinback::helm::{Access, Helm, HelmError, RefusalKind};
use reinback::object::Resource;
use reinback::object::protect::Guarded;
use reinback::rancher::Version;
use reinback::release::{History, Revision, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::chart::{packaged, path};
use crate::harness::{Cluster, binaries, eventually, temp_dir};

const LONG: Duration = Duration::from_secs(120);
const PASSWORD: &str = "hunter2-of-the-bootstrap";
const OLD: &str = "2.9.3";
const NEW: &str = "2.10.1";

/// A namespace with a release of one of the two helms.
struct World {
    cluster: &'static Cluster,
    api: api::Cluster,
    helm: Helm,
    namespace: String,
    folder: TempDir,
}

async fn connect(kubeconfig: &Path) -> api::Cluster {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the harness wrote it");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    api::Cluster::with_config(config.expect("it is whole"), api::Limits::default())
        .await
        .expect("a client can be built")
}

async fn found(program: &str, kubeconfig: &Path) -> Helm {
    let access = Access { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    Helm::find(&binaries().unwrap().join(program), access).await.unwrap()
}

impl World {
    async fn new(program: &'static str) -> Self {
        let cluster = Cluster::shared();
        let namespace = format!("helm-{:08x}", rand::random::<u32>());
        cluster.kubectl(&["create", "namespace", &namespace], "").unwrap();
        Self {
            cluster,
            api: connect(cluster.kubeconfig()).await,
            helm: found(program, cluster.kubeconfig()).await,
            namespace,
            folder: temp_dir(),
        }
    }

    /// Installed at the old version and upgraded to the new one.
    async fn upgraded(program: &'static str, values: &[&str]) -> Self {
        let world = Self::new(program).await;
        let password = format!("--set=bootstrapPassword={PASSWORD}");
        let old = world.chart(OLD);
        let mut install = vec!["install", "rancher", path(&old), &password];
        install.extend(values);
        world.by_hand(program, &install);
        let new = world.chart(NEW);
        world.by_hand(program, &["upgrade", "rancher", path(&new), "--reuse-values"]);
        world
    }

    fn chart(&self, version: &str) -> PathBuf {
        packaged(self.cluster, self.folder.path(), version)
    }

    /// As a person would, beside us.
    fn by_hand(&self, program: &str, args: &[&str]) -> String {
        let args: Vec<&str> = args.iter().copied().chain(["-n", self.namespace.as_str()]).collect();
        self.cluster.helm_of(program, &args).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let args: Vec<&str> = args.iter().copied().chain(["-n", self.namespace.as_str()]).collect();
        self.cluster.kubectl(&args, "").unwrap_or_else(|error| panic!("{error:?}"))
    }

    async fn history(&self) -> History {
        let secrets = Resource::new("", "v1", "secrets");
        let options = ListOptions {
            namespace: Some(&self.namespace),
            label_selector: "owner=helm,name=rancher",
            ..ListOptions::default()
        };
        let reader = self.api.reader();
        let listed = reader.list(&secrets, options, |raw| Ok(Some(serde_json::from_str::<Value>(raw.get())?))).await;
        History::read(&listed.unwrap().items)
    }

    async fn statuses(&self) -> Vec<(u64, String, Status)> {
        let history = self.history().await;
        let of = |revision: &Revision| (revision.number, revision.app_version.clone(), revision.status);
        history.revisions().iter().map(of).collect()
    }

    /// As a run does it, with our field manager.
    async fn scale_to_0(&self) {
        let deployments = Resource::new("apps", "v1", "deployments");
        let target = Target::new(&deployments, Some(&self.namespace), "rancher");
        self.api.writer().merge_patch(&target, &json!({"spec": {"replicas": 0}})).await.unwrap();
    }

    /// Image and replicas of Rancher.
    fn rancher(&self) -> String {
        let what = "jsonpath={.spec.template.spec.containers[0].image} {.spec.replicas}";
        self.kubectl(&["get", "deployment", "rancher", "-o", what])
    }

    fn config_maps(&self) -> Vec<String> {
        let all = self.kubectl(&["get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}"]);
        all.split(' ').filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect()
    }

    async fn left(&self, since: u64, to: &Revision) -> Vec<Leftover> {
        let objects = self.history().await.leftovers(since, to);
        let catalog = self.api.reader().discover().await.unwrap();
        leftovers::find(&self.api.reader(), &catalog, &Guarded::default(), to, &objects).await.unwrap()
    }

    fn let_hooks_run(&self) {
        let label = format!("{}/hook=yes", self.namespace);
        self.cluster.kubectl(&["label", "nodes", "--all", &label], "").unwrap();
    }

    /// Returns when the newest revision is in this state.
    async fn until(&self, status: Status) {
        eventually(LONG, async || {
            let history = self.history().await;
            ensure!(history.newest().is_some_and(|newest| newest.status == status), "{:?}", self.statuses().await);
            Ok(())
        })
        .await;
    }

    /// A packaged chart of one template.
    fn small_chart(&self, about: &str, template: &str) -> Vec<u8> {
        let chart = self.folder.path().join("small");
        std::fs::create_dir_all(chart.join("templates")).unwrap();
        std::fs::write(chart.join("Chart.yaml"), format!("apiVersion: v2\nname: small\n{about}")).unwrap();
        std::fs::write(chart.join("templates/all.yaml"), template).unwrap();
        let packages = self.folder.path().join(format!("{:08x}", rand::random::<u32>()));
        self.cluster.helm(&["package", path(&chart), "-d", path(&packages)]).unwrap();
        let package = std::fs::read_dir(packages).unwrap().next().unwrap().unwrap();
        std::fs::read(package.path()).unwrap()
    }

    /// A kubeconfig of a cluster where nobody answers.
    fn nowhere(&self) -> PathBuf {
        let admin = std::fs::read_to_string(self.cluster.kubeconfig()).unwrap();
        let mut kubeconfig = Kubeconfig::from_yaml(&admin).unwrap();
        kubeconfig.clusters[0].cluster.as_mut().unwrap().server = Some("https://127.0.0.1:1".to_owned());
        let file = self.folder.path().join("nowhere.yaml");
        std::fs::write(&file, serde_json::to_string(&kubeconfig).unwrap()).unwrap();
        file
    }

    /// Both helms go on from here: at the old version now, and again in the end.
    async fn goes_on(&self) {
        assert_eq!(self.rancher(), "rancher/rancher:v2.9.3 3");
        let new = self.chart(NEW);
        for program in ["helm", "helm4"] {
            let newest = self.history().await.newest().unwrap().number.to_string();
            let history: Value =
                serde_json::from_str(&self.by_hand(program, &["history", "rancher", "-o", "json"])).unwrap();
            let last = history.as_array().and_then(|all| all.last()).unwrap();
            assert_eq!((&last["status"], &last["app_version"]), (&json!("deployed"), &json!("v2.9.3")), "{history:#}");
            let status: Value =
                serde_json::from_str(&self.by_hand(program, &["status", "rancher", "-o", "json"])).unwrap();
            assert_eq!(status["info"]["status"], "deployed");
            assert!(self.by_hand(program, &["get", "all", "rancher"]).contains("rancher/rancher:v2.9.3"));
            self.by_hand(program, &["upgrade", "rancher", path(&new), "--reuse-values"]);
            assert_eq!(self.rancher(), "rancher/rancher:v2.10.1 3");
            assert!(self.config_maps().contains(&"rancher-newer".to_owned()));
            self.by_hand(program, &["rollback", "rancher", &newest]);
            assert_eq!(self.rancher(), "rancher/rancher:v2.9.3 3");
            assert!(!self.config_maps().contains(&"rancher-newer".to_owned()));
        }
    }
}

fn old() -> Version {
    OLD.parse().unwrap()
}

/// Makes a test of each story by Helm 3 and by Helm 4.
macro_rules! by_both {
    ($($story:ident),* $(,)?) => {
        mod by_helm_3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story("helm").await;
            })*
        }
        mod by_helm_4 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story("helm4").await;
            })*
        }
    };
}

by_both!(
    a_rollback_brings_the_older_version_back_with_its_replicas,
    a_rollback_that_was_killed_is_done_again_and_leaves_nothing_behind,
    a_rollback_that_was_killed_after_its_writes_is_done_again,
    a_rollback_that_was_refused_in_the_middle_is_done_again,
    a_release_without_the_revision_goes_back_by_the_chart_and_its_old_values,
    what_helm_refuses_is_told_with_a_remedy_and_without_a_value,
);

async fn a_rollback_brings_the_older_version_back_with_its_replicas(program: &'static str) {
    let world = World::upgraded(program, &[]).await;
    let history = world.history().await;
    assert_eq!(history.unread, []);
    let (target, newest) = (history.newest_of(&old()).unwrap(), history.newest().unwrap());
    assert_eq!((target.number, newest.number, newest.status), (1, 2, Status::Deployed));
    assert_eq!((target.replicas("rancher"), target.image("rancher")), (Some(3), Some("rancher/rancher:v2.9.3")));
    assert_eq!(target.server_side, program == "helm4");
    assert!(target.constraint().unwrap().is_some_and(|range| range.takes("v1.37.9+k3s1")));
    assert!(newest.values.as_ref().is_some_and(|values| values.expose().contains(PASSWORD)));

    world.scale_to_0().await;
    world.helm.rollback(target, LONG, std::future::pending()).await.unwrap();

    assert_eq!(world.rancher(), "rancher/rancher:v2.9.3 3");
    assert_eq!(
        world.statuses().await,
        [
            (1, "v2.9.3".to_owned(), Status::Superseded),
            (2, "v2.10.1".to_owned(), Status::Superseded),
            (3, "v2.9.3".to_owned(), Status::Deployed)
        ]
    );
    assert_eq!(world.history().await.newest().unwrap().rollback_to, Some(1));
    assert_eq!(world.config_maps(), ["rancher-config", "rancher-kept", "rancher-post-rollback", "rancher-pre-upgrade"]);
    assert_eq!(world.left(2, target).await, []);
    world.goes_on().await;
}

/// The newest revision, pending, is ours: it was made after the one that we knew, and goes where we went.
async fn mended(world: &World, before: u64, to: u64) {
    let history = world.history().await;
    let pending = history.pending().expect("helm left it so");
    assert_eq!((pending.number, pending.rollback_to), (before + 1, Some(to)));
    assert!(mark_failed(&world.api.reader(), &world.api.writer(), pending).await.unwrap());
    // Again, it is nothing.
    assert!(!mark_failed(&world.api.reader(), &world.api.writer(), pending).await.unwrap());
    assert_eq!(world.history().await.newest().unwrap().status, Status::Failed);
    for program in ["helm", "helm4"] {
        let said = world.by_hand(program, &["history", "rancher", "-o", "json"]);
        let history: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(history.as_array().and_then(|all| all.last()).unwrap()["status"], "failed", "{history:#}");
    }
}

async fn a_rollback_that_was_killed_is_done_again_and_leaves_nothing_behind(program: &'static str) {
    let world = World::upgraded(program, &["--set=hookJob=pre-rollback"]).await;
    let history = world.history().await;
    let target = history.newest_of(&old()).unwrap();
    world.scale_to_0().await;
    // Dropped, it is killed with SIGKILL: its revision is written, and none of its objects.
    tokio::select! {
        ended = world.helm.rollback(target, LONG, std::future::pending()) => panic!("it does not wait: {ended:?}"),
        () = world.until(Status::PendingRollback) => {}
    }
    assert_eq!(world.rancher(), "rancher/rancher:v2.10.1 0", "nothing has started Rancher");
    mended(&world, 2, 1).await;

    world.let_hooks_run();
    world.helm.rollback(target, LONG, std::future::pending()).await.unwrap();
    assert_eq!(world.rancher(), "rancher/rancher:v2.9.3 3");
    assert!(world.config_maps().contains(&"rancher-newer".to_owned()), "helm does not know of it any more");

    let left = world.left(2, target).await;
    assert_eq!(left.iter().map(|left| left.key.name.as_ref()).collect::<Vec<_>>(), ["rancher-newer"]);
    let writer = world.api.writer();
    assert_eq!(leftovers::delete(&left, |_| &writer).await.unwrap(), 1);
    // It is gone by its UID: what has its name by now is another one.
    world.kubectl(&["create", "configmap", "rancher-newer"]);
    assert_eq!(leftovers::delete(&left, |_| &writer).await.unwrap(), 0);
    let foreign = world.left(2, target).await;
    assert!(foreign[0].fate.is_err(), "{foreign:?}");
    world.kubectl(&["delete", "configmap", "rancher-newer"]);
    assert_eq!(world.left(2, target).await, []);
    assert!(world.config_maps().contains(&"rancher-kept".to_owned()));
    world.goes_on().await;
}

async fn a_rollback_that_was_killed_after_its_writes_is_done_again(program: &'static str) {
    let world = World::upgraded(program, &["--set=hookJob=post-rollback"]).await;
    let history = world.history().await;
    let target = history.newest_of(&old()).unwrap();
    world.scale_to_0().await;
    // What the newer one alone had goes last.
    let written = eventually(LONG, async || {
        let (rancher, config_maps) = (world.rancher(), world.config_maps());
        ensure!(rancher == "rancher/rancher:v2.9.3 3", "{rancher}");
        ensure!(!config_maps.contains(&"rancher-newer".to_owned()), "{config_maps:?}");
        Ok(())
    });
    let stopped = world.helm.rollback(target, LONG, written).await.unwrap_err();
    assert_eq!(
        stopped.to_string(),
        format!(
            "cannot roll the Helm release {}/rancher back to revision 1: helm was stopped in the middle",
            world.namespace
        )
    );
    mended(&world, 2, 1).await;
    // A hook that does not end is not waited for for ever, and the revision is pending once more.
    let late = world.helm.rollback(target, Duration::from_secs(20), std::future::pending()).await.unwrap_err();
    // On a busy machine helm takes so long before its hooks that it is ended before it gives them up itself.
    let gave_up = late.refusal().map(|refusal| refusal.kind) == Some(RefusalKind::TimedOut);
    assert!(gave_up || matches!(late, HelmError::TimedOut { seconds: 20, .. }), "{late}");
    mended(&world, 3, 1).await;

    world.let_hooks_run();
    world.helm.rollback(target, LONG, std::future::pending()).await.unwrap();
    assert_eq!(world.left(2, target).await, []);
    world.goes_on().await;
}

async fn a_rollback_that_was_refused_in_the_middle_is_done_again(program: &'static str) {
    let world = World::upgraded(program, &[]).await;
    let history = world.history().await;
    let target = history.newest_of(&old()).unwrap();
    let user = world.cluster.user(&format!("half-{}", world.namespace));
    let subject = format!("--user={}", user.name);
    // All but Deployments, which stay as they are.
    let kinds = "--resource=secrets,configmaps,services,serviceaccounts";
    world.kubectl(&["create", "role", "half", "--verb=*", kinds]);
    world.kubectl(&["create", "role", "sees", "--verb=get", "--resource=deployments.apps"]);
    for role in ["half", "sees"] {
        world.kubectl(&["create", "rolebinding", role, &format!("--role={role}"), &subject]);
    }
    let powerless = found(program, &user.kubeconfig).await;
    let refused = powerless.rollback(target, LONG, std::future::pending()).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains(r#"deployments.apps "rancher" is forbidden"#), "{refused}");
    assert!(refused.contains("a right is missing that its objects need"), "{refused}");
    // No revision is called deployed now, and still it is known which one was.
    let history = world.history().await;
    let statuses: Vec<Status> = history.revisions().iter().map(|revision| revision.status).collect();
    assert_eq!(statuses, [Status::Superseded, Status::Superseded, Status::Failed]);
    assert_eq!(history.deployed().map(|revision| revision.number), Some(2));
    assert_eq!(history.newest_of(&old()).map(|revision| revision.number), Some(1));

    world.helm.rollback(target, LONG, std::future::pending()).await.unwrap();
    let left = world.left(2, target).await;
    assert_eq!(left.iter().map(|left| left.key.name.as_ref()).collect::<Vec<_>>(), ["rancher-newer"]);
    let writer = world.api.writer();
    assert_eq!(leftovers::delete(&left, |_| &writer).await.unwrap(), 1);
    world.goes_on().await;
}

async fn a_release_without_the_revision_goes_back_by_the_chart_and_its_old_values(program: &'static str) {
    let world = World::upgraded(program, &[]).await;
    world.kubectl(&["delete", "secret", "sh.helm.release.v1.rancher.v1"]);
    let history = world.history().await;
    assert_eq!(history.newest_of(&old()), None);
    let (newest, values) = (history.newest().unwrap(), history.newest_with_values().unwrap().values.as_ref());
    world.scale_to_0().await;
    let chart = std::fs::read(world.chart(OLD)).unwrap();

    // Somebody's helm was killed over an upgrade, and Helm refuses another.
    let secret = world.kubectl(&["get", "secret", "sh.helm.release.v1.rancher.v2", "-o", "json"]);
    let pending = pending_upgrade(&serde_json::from_str(&secret).unwrap(), 3);
    world.cluster.kubectl(&["create", "-f", "-"], &pending.to_string()).unwrap();
    let refused = world.helm.upgrade(newest, &chart, values, LONG, std::future::pending()).await.unwrap_err();
    assert_eq!(refused.refusal().map(|refusal| refusal.kind), Some(RefusalKind::Pending), "{refused}");
    let history = world.history().await;
    assert!(mark_failed(&world.api.reader(), &world.api.writer(), history.pending().unwrap()).await.unwrap());

    world.helm.upgrade(newest, &chart, values, LONG, std::future::pending()).await.unwrap();
    let history = world.history().await;
    let now = history.newest().unwrap();
    assert_eq!((now.number, now.app_version.as_str(), now.status), (4, "v2.9.3", Status::Deployed));
    assert_eq!(now.values.as_ref(), values);
    let password = world.kubectl(&[
        "get",
        "secret",
        "bootstrap-secret",
        "-o",
        "go-template={{.data.bootstrapPassword | base64decode}}",
    ]);
    assert_eq!(password, PASSWORD);
    assert_eq!(world.left(2, now).await, []);
    world.goes_on().await;
}

/// A copy of a revision, as an upgrade leaves it when it is killed.
fn pending_upgrade(secret: &Value, number: u64) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use std::io::Read as _;
    let inner = BASE64.decode(BASE64.decode(secret["data"]["release"].as_str().unwrap()).unwrap()).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(inner.as_slice()).read_to_string(&mut text).unwrap();
    let mut body: Value = serde_json::from_str(&text).unwrap();
    body["version"] = json!(number);
    body["info"]["status"] = json!("pending-upgrade");
    body["info"]["description"] = json!("Preparing upgrade");
    json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": format!("sh.helm.release.v1.rancher.v{number}"), "namespace": secret["metadata"]["namespace"],
            "labels": {"owner": "helm", "name": "rancher", "status": "pending-upgrade", "version": number.to_string()}},
        "data": {"release": BASE64.encode(BASE64.encode(body.to_string()))}})
}

async fn what_helm_refuses_is_told_with_a_remedy_and_without_a_value(program: &'static str) {
    let world = World::upgraded(program, &[]).await;
    let history = world.history().await;
    let (target, newest) = (history.newest_of(&old()).unwrap(), history.newest().unwrap());
    let told = |result: Result<(), HelmError>| {
        let error = result.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        error.to_string().replace(&world.namespace, "NAMESPACE")
    };
    let never = std::future::pending;

    let gone = Revision { number: 7, ..target.clone() };
    let gone = told(world.helm.rollback(&gone, LONG, never()).await);
    let other = Revision { name: "other".to_owned(), ..target.clone() };
    let other = told(world.helm.rollback(&other, LONG, never()).await);
    let garbage = told(world.helm.upgrade(newest, b"hunter2", None, LONG, never()).await);
    // It does not take this version of Kubernetes.
    let strict = world.small_chart("version: 2.5.0\nkubeVersion: < 1.20.0-0\n", "");
    let strict = told(world.helm.upgrade(newest, &strict, None, LONG, never()).await);
    let (strict, _version) = strict.split_once(" Kubernetes v1.").unwrap();
    // It fails with a value in its words.
    let failing = world.small_chart("version: 2.5.1\n", "{{ fail .Values.bootstrapPassword }}");
    let failing = told(world.helm.upgrade(newest, &failing, newest.values.as_ref(), LONG, never()).await);
    let nobody = world.cluster.user(&format!("nobody-{}", world.namespace));
    let nobody = told(found(program, &nobody.kubeconfig).await.rollback(target, LONG, never()).await);
    let nowhere = world.nowhere();
    let nowhere = told(found(program, &nowhere).await.rollback(target, LONG, never()).await);
    insta::allow_duplicates! {
        insta::assert_snapshot!([&gone, &other, &garbage, strict, &failing, &nobody, &nowhere].join("\n"), @r#"
        cannot roll the Helm release NAMESPACE/rancher back to revision 7: its history has no such revision: name one that `helm history` shows, or a `chart` (release has no 7 version)
        cannot roll the Helm release NAMESPACE/other back to revision 1: Helm has no such release: see `helm list --all-namespaces` (release: not found)
        cannot upgrade the Helm release NAMESPACE/rancher to the given chart: the chart cannot be read or rendered: try `helm template` with it (does not appear to be a gzipped archive)
        cannot upgrade the Helm release NAMESPACE/rancher to the given chart: its chart does not take this version of Kubernetes: go to another one (chart requires kubeVersion: < 1.20.0-0 which is incompatible with
        cannot upgrade the Helm release NAMESPACE/rancher to the given chart: the chart cannot be read or rendered: try `helm template` with it (execution error at (small/templates/all.yaml:1:3))
        cannot roll the Helm release NAMESPACE/rancher back to revision 1: a right is missing that its objects need: docs/rbac.yaml has every one that reinback takes (cannot list resource "secrets" in API group "")
        cannot roll the Helm release NAMESPACE/rancher back to revision 1: helm does not reach the API server (connection refused)
        "#);
    }

    // None of it has done anything.
    assert_eq!(world.statuses().await.len(), 2);
    assert_eq!(world.rancher(), "rancher/rancher:v2.10.1 3");
}

#[tokio::test]
async fn a_helm_that_is_missing_or_is_none_is_told_with_a_remedy() {
    let told = async |program: &Path| Helm::find(program, Access::default()).await.unwrap_err().to_string();
    insta::assert_snapshot!(told(Path::new("/nowhere/helm")).await, @"there is no program /nowhere/helm: run reinback where Helm 3 or 4 is on the `PATH`, or set `versionMethod: image`");
    let folder = temp_dir();
    let file = folder.path().join("helm");
    std::fs::write(&file, "").unwrap();
    let said = told(&file).await.replace(path(folder.path()), "FOLDER");
    insta::assert_snapshot!(said, @"FOLDER/helm cannot be run (permission denied): see that it is an executable file for this machine");
    insta::assert_snapshot!(told(Path::new("true")).await, @"true does not say that it is Helm 3 or 4 (`true version`): put one of them in its place");
    for (program, version) in [("helm", "v3."), ("helm4", "v4.")] {
        let helm = Helm::find(&binaries().unwrap().join(program), Access::default()).await.unwrap();
        assert!(helm.version().starts_with(version), "{}", helm.version());
    }
}

#[test]
fn ranges_of_kubernetes_versions_are_judged_as_helm_judges_them() {
    let (cluster, folder) = (Cluster::shared(), temp_dir());
    let table = include_str!("../fixtures/kube_versions.txt");
    let (versions, table) = table.split_once("\n* ").and_then(|(_, table)| table.split_once('\n')).unwrap();
    let chart = folder.path().join("ranges");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: ranges\nversion: 1.0.0\n").unwrap();
    let mut template = "data:\n".to_owned();
    let mut expected = Vec::new();
    for (number, (range, takes)) in table.lines().map(|line| line.split_once('\t').unwrap()).enumerate() {
        // A template stops at what is no range.
        if range.parse::<reinback::release::Constraint>().is_err() {
            assert_eq!(takes, "", "{range}");
            continue;
        }
        for version in versions.split(' ') {
            template.push_str(&format!("  \"{number} {version}\": {{{{ semverCompare {range:?} {version:?} }}}}\n"));
            expected.push((format!("{number} {version}"), takes.split(' ').any(|taken| taken == version)));
        }
    }
    std::fs::write(chart.join("templates/all.yaml"), template).unwrap();
    for program in ["helm", "helm4"] {
        let rendered = cluster.helm_of(program, &["template", "x", path(&chart)]).unwrap();
        for (key, takes) in &expected {
            assert!(rendered.contains(&format!("\"{key}\": {takes}\n")), "{program}: {key} is not {takes}");
        }
    }
}

/// Why [`Helm::rollback`] forces conflicts: this is what it meets otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn helm_4_stops_where_we_scaled_rancher_to_0_unless_it_is_told_to_go_on() {
    let world = World::upgraded("helm4", &[]).await;
    world.scale_to_0().await;
    let rollback = ["rollback", "rancher", "1", "-n", &world.namespace];
    let refused = world.cluster.helm_of("helm4", &rollback).unwrap_err().to_string();
    assert!(refused.contains("conflict") && refused.contains(".spec.replicas"), "{refused}");
    let history = world.history().await;
    assert_eq!(history.newest().unwrap().status, Status::Failed);
    assert_eq!(history.deployed().unwrap().number, 2);
    let target = history.newest_of(&old()).unwrap();
    world.helm.rollback(target, LONG, std::future::pending()).await.unwrap();
    assert_eq!(world.rancher(), "rancher/rancher:v2.9.3 3");
}
