//! Gates about who runs and who manages what in the cluster.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::{Asked, apply, define, kubectl};
use crate::harness::{binaries, eventually};
use crate::world::World;

const RANCHER: [&str; 4] = ["-n", "cattle-system", "deployment", "rancher"];

/// `kubectl VERB -n cattle-system deployment rancher MORE…`.
pub fn rancher(world: &World, verb: &str, more: &[&str]) {
    kubectl(world, &[&[verb], &RANCHER[..], more].concat());
}

async fn until_ready(world: &World) {
    eventually(Duration::from_secs(60), async || {
        let replicas = world.replicas("cattle-system", "rancher").await?;
        ensure!(replicas == (3, 3), "{replicas:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rancher_that_is_stopped_rolled_out_or_managed_by_others_holds_the_plan() {
    let world = World::start().await;
    let ask = Asked::of(&world);

    rancher(&world, "scale", &["--replicas=0"]);
    let accepted = ask.is_accepted("RancherAtZero").await;
    insta::assert_snapshot!(accepted.remedy("RancherAtZero"), @"scale it up again, or say how many it shall get after the restore: `kubectl -n cattle-system annotate deployments rancher reinback.io/replicas=3`; or add to the manifest's annotations: `reinback.io/accept: RancherAtZero` (Rancher stays at 0 after the restore)");
    rancher(&world, "annotate", &["reinback.io/replicas=3"]);
    ask.plan().await.assert_held_by(&[]);
    rancher(&world, "annotate", &["reinback.io/replicas-"]);
    rancher(&world, "scale", &["--replicas=3"]);
    until_ready(&world).await;
    ask.plan().await.assert_held_by(&[]);

    rancher(&world, "label", &["kustomize.toolkit.fluxcd.io/name=apps", "helm.toolkit.fluxcd.io/name=rancher"]);
    rancher(&world, "label", &["fleet.cattle.io/bundle-name=rancher"]);
    rancher(&world, "annotate", &["argocd.argoproj.io/tracking-id=rancher:apps/Deployment:cattle-system/rancher"]);
    rancher(&world, "annotate", &["objectset.rio.cattle.io/id=default-rancher"]);
    let accepted = ask.is_accepted("ManagedElsewhere").await;
    insta::assert_snapshot!(accepted.message("ManagedElsewhere"), @"something else keeps the replicas of what is scaled to 0: cattle-system/rancher (Argo CD (rancher:apps/Deployment:cattle-system/rancher), Flux Kustomization (apps), Flux HelmRelease (rancher), Fleet (default-rancher), Fleet (rancher))");
    rancher(&world, "label", &["kustomize.toolkit.fluxcd.io/name-", "helm.toolkit.fluxcd.io/name-"]);
    rancher(&world, "label", &["fleet.cattle.io/bundle-name-"]);
    rancher(&world, "annotate", &["argocd.argoproj.io/tracking-id-", "objectset.rio.cattle.io/id-"]);
    ask.plan().await.assert_held_by(&[]);

    let fleet = ["annotate", "-n", "cattle-fleet-system", "deployment", "fleet-controller"];
    kubectl(&world, &[&fleet[..], &["objectset.rio.cattle.io/id=fleet-controller"]].concat());
    ask.plan().await.assert_held_by(&[]);
    kubectl(&world, &[&fleet[..], &["argocd.argoproj.io/tracking-id=fleet"]].concat());
    let managed = ask.plan().await;
    managed.assert_held_by(&["ManagedElsewhere"]);
    insta::assert_snapshot!(managed.message("ManagedElsewhere"), @"something else keeps the replicas of what is scaled to 0: cattle-fleet-system/fleet-controller (Argo CD (fleet))");
    kubectl(&world, &[&fleet[..], &["argocd.argoproj.io/tracking-id-"]].concat());

    define(&world, "helm.cattle.io", "v1", "helmcharts", "HelmChart", "Namespaced");
    define(&world, "keda.sh", "v1alpha1", "scaledobjects", "ScaledObject", "Namespaced");
    apply(
        &world,
        "{apiVersion: helm.cattle.io/v1, kind: HelmChart, metadata: {name: rancher, namespace: kube-system}, spec: {targetNamespace: cattle-system}}\n---\n\
         {apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: more, namespace: cattle-system}, spec: {scaleTargetRef: {name: rancher}}}\n---\n\
         {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: rancher, namespace: cattle-system}, spec: {minReplicas: 3, maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: rancher}}}\n",
    );
    let managed = ask.plan().await;
    managed.assert_held_by(&["ManagedElsewhere"]);
    insta::assert_snapshot!(managed.message("ManagedElsewhere"), @"something else keeps the replicas of what is scaled to 0: cattle-system/rancher (HorizontalPodAutoscaler (cattle-system/rancher), KEDA (cattle-system/more), HelmChart (kube-system/rancher))");
    kubectl(&world, &["delete", "-n", "cattle-system", "hpa/rancher", "scaledobject/more"]);
    kubectl(&world, &["delete", "-n", "kube-system", "helmchart/rancher"]);
    ask.plan().await.assert_held_by(&[]);

    rancher(&world, "patch", &["-p", r#"{"spec":{"template":{"spec":{"nodeSelector":{"no":"node"}}}}}"#]);
    eventually(Duration::from_secs(30), async || {
        let plan = ask.plan().await;
        ensure!(plan.gates().any(|gate| gate["code"] == "RancherUpdating"), "{:#}", plan.plan["gates"]);
        plan.assert_held_by(&["RancherUpdating"]);
        Ok(())
    })
    .await;
    rancher(&world, "patch", &["--type=json", "-p", r#"[{"op":"remove","path":"/spec/template/spec/nodeSelector"}]"#]);
    eventually(Duration::from_secs(60), async || {
        let plan = ask.plan().await;
        ensure!(plan.gates().next().is_none(), "{:#}", plan.plan["gates"]);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_the_operator_holds_the_plan_until_it_is_done_and_gone() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    define(&world, "resources.cattle.io", "v1", "restores", "Restore", "Cluster");
    ask.plan().await.assert_held_by(&[]);

    apply(&world, "{apiVersion: resources.cattle.io/v1, kind: Restore, metadata: {name: theirs}, spec: {}}");
    let busy = ask.plan().await;
    busy.assert_held_by(&["RunInProgress"]);
    insta::assert_snapshot!(busy.message("RunInProgress"), @"1 has not ended: Restore theirs of the operator");
    let done = "{apiVersion: resources.cattle.io/v1, kind: Restore, metadata: {name: NAME}, spec: {}, status: {restoreCompletionTs: '2026-11-23T09:00:00Z'}}";
    apply(&world, &done.replace("NAME", "theirs"));
    ask.plan().await.assert_held_by(&[]);

    apply(&world, &done.replace("NAME", "gate"));
    let applied = ask.plan().await;
    applied.assert_held_by(&["AppliedElsewhere"]);
    insta::assert_snapshot!(applied.remedy("AppliedElsewhere"), @"keep the watched path out of Flux, Argo CD and Fleet; once the operator is done with it, `kubectl delete restores.resources.cattle.io gate`");
    kubectl(&world, &["delete", "restores.resources.cattle.io", "gate"]);
    ask.plan().await.assert_held_by(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_reached_through_rancher_is_refused() {
    let world = World::start().await;
    let ask = Asked::of(&world);
    let kubeconfig = std::fs::read_to_string(world.cluster.kubeconfig()).expect("the kubeconfig is there");
    let server = kubeconfig.lines().find_map(|line| line.split("https://").nth(1)).expect("it names a server");
    let server = server.trim_matches(|char: char| !char.is_ascii_digit() && char != ':');
    let through = ask.flag(&format!("--rancher-url=https://{server}")).plan().await;
    through.assert_held_by(&["AccessThroughRancher"]);
    insta::assert_snapshot!(through.message("AccessThroughRancher").replace(server, "<server>"), @"the API server is reached through Rancher (<server>), which a restore scales to 0");
    insta::assert_snapshot!(through.remedy("AccessThroughRancher"), @"give reinback a kubeconfig whose server is the cluster's own API server, or run it in the cluster");
    ask.flag("--rancher-url=https://rancher.example.org").plan().await.assert_held_by(&[]);

    // Rancher hands requests on under this path, whatever its own address is.
    let proxy = ClusterProxy::start(&world, "/k8s/clusters/c-m-g24lp/");
    let through = ask.plan_as(&proxy.kubeconfig).await;
    through.assert_held_by(&["AccessThroughRancher"]);
    assert_eq!(through.count("updated"), 0, "the cluster is seen through it as it is");
    let direct = ClusterProxy::start(&world, "/");
    ask.plan_as(&direct.kubeconfig).await.assert_held_by(&[]);
}

/// A proxy that hands requests on to the cluster, as Rancher does; it ends when this is dropped.
struct ClusterProxy {
    child: Child,
    kubeconfig: PathBuf,
}

impl Drop for ClusterProxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl ClusterProxy {
    /// Serves the API under `prefix`.
    fn start(world: &World, prefix: &str) -> Self {
        let mut command = Command::new(binaries().expect("they are built").join("kubectl"));
        command
            .args(["proxy", "--port=0", &format!("--api-prefix={prefix}")])
            .env("KUBECONFIG", world.cluster.kubeconfig());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("it says where");
        let address = line.trim_end().rsplit(' ').next().expect("an address");
        // A colon would part two files in `KUBECONFIG`.
        let kubeconfig = world.folder().join(format!("{}.kubeconfig", address.replace(':', "-")));
        let content = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "through", "users": [{"name": "nobody", "user": {}}],
            "clusters": [{"name": "through", "cluster": {"server": format!("http://{address}{prefix}")}}],
            "contexts": [{"name": "through", "context": {"cluster": "through", "user": "nobody"}}],
        });
        std::fs::write(&kubeconfig, content.to_string()).expect("the folder is writable");
        Self { child, kubeconfig }
    }
}
