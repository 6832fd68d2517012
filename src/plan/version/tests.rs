use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::*;
use crate::observed::{Access, ReleaseType};
use crate::plan::gate::GateCode;
use crate::plan::testing::World;
use crate::release::ChartArchive;

/// A revision as Helm stores it.
pub fn stored(number: u64, status: &str, version: &str, more: &Value) -> Value {
    let mut release = json!({
        "name": "rancher", "namespace": "cattle-system", "version": number,
        "info": {"status": status, "description": "Upgrade complete"},
        "chart": {"metadata": {"name": "rancher", "version": version.trim_start_matches('v'), "appVersion": version}},
        "manifest": "",
    });
    crate::plan::testing::merge(&mut release, more.clone());
    let data = BASE64.encode(BASE64.encode(release.to_string()));
    json!({"metadata": {"name": format!("sh.helm.release.v1.rancher.v{number}")}, "data": {"release": data}})
}

/// A Rancher that was upgraded from v2.9.3 to v2.10.1 by Helm, and a Rollback to v2.9.3 with the backup of that.
pub fn upgraded(more: &[Value]) -> World {
    let mut world = World::quiet();
    world.rancher().image = Some("rancher/rancher:v2.10.1".to_owned());
    let mut revisions = vec![
        stored(1, "superseded", "v2.8.0", &json!({})),
        stored(2, "superseded", "v2.9.3", &json!({})),
        stored(3, "deployed", "v2.10.1", &json!({})),
    ];
    revisions.extend(more.iter().cloned());
    world.cluster.releases = History::read(&revisions);
    world.cluster.helm = Some(Ok("v3.22.0".to_owned()));
    world.cluster.kubernetes_version = Some("v1.36.2+k3s1".to_owned());
    world.request.kind = "Rollback".to_owned();
    world.request.version = Some(VersionRequest { to: "v2.9.3".to_owned(), ..VersionRequest::default() });
    world
}

/// A packaged chart as it is found in the source.
pub fn packaged(name: &str, version: &str, kube_version: Option<&str>) -> ChartSeen {
    let about = ChartArchive {
        name: name.to_owned(),
        version: version.trim_start_matches('v').to_owned(),
        app_version: version.to_owned(),
        kube_version: kube_version.map(str::to_owned),
    };
    let (sha256, commit) = (format!("sha256:{}", "b".repeat(64)), "c".repeat(40));
    ChartSeen::Packaged(ChartFacts { about, sha256, commit })
}

/// As [`upgraded`], where Helm has only the newest revision, and the manifest names a chart.
pub fn trimmed(chart: ChartSeen) -> World {
    let mut world = upgraded(&[]);
    let values = json!({"config": {"hostname": "rancher.example.org"}});
    world.cluster.releases = History::read(&[stored(3, "deployed", "v2.10.1", &values)]);
    asked(&mut world).chart = Some("charts/rancher-2.9.3.tgz".to_owned());
    world.chart = Some(chart);
    world
}

fn asked(world: &mut World) -> &mut VersionRequest {
    world.request.version.as_mut().expect("a Rollback")
}

fn told(world: &World) -> String {
    match decide(world.request.version.as_ref().expect("a Rollback"), &world.observed()) {
        Ok(change) => change.to_string(),
        Err(NoWay::Release { problem, remedy }) => format!("{problem} -> {remedy}"),
        Err(NoWay::Image { problem }) => problem,
    }
}

#[test]
fn the_newest_revision_of_the_declared_version_is_gone_back_to() {
    let world = upgraded(&[]);
    insta::assert_snapshot!(told(&world), @"from v2.10.1 to v2.9.3 by helm rollback of release cattle-system/rancher to revision 2 (now at 3)");
    let mut named = upgraded(&[]);
    asked(&mut named).revision = Some(2);
    assert_eq!(told(&named), told(&world));
}

#[test]
fn a_revision_that_is_not_there_or_of_another_version_is_no_way() {
    let mut world = upgraded(&[]);
    asked(&mut world).revision = Some(7);
    insta::assert_snapshot!(told(&world), @"the Helm release has no revision 7; it has 3 (v2.10.1, deployed), 2 (v2.9.3, superseded), 1 (v2.8.0, superseded) -> name a revision that is there, or none");
    asked(&mut world).revision = Some(1);
    insta::assert_snapshot!(told(&world), @"revision 1 of the Helm release is of v2.8.0, and the manifest declares v2.9.3 -> name a revision of the declared version, or none; or declare the version of that revision");
    let mut trimmed = upgraded(&[]);
    asked(&mut trimmed).to = "v2.7.5".to_owned();
    insta::assert_snapshot!(told(&trimmed), @"no revision of the Helm release rancher that was deployed is of v2.7.5; it has 3 (v2.10.1, deployed), 2 (v2.9.3, superseded), 1 (v2.8.0, superseded) -> name in `chart` a packaged chart of that version in the source repository, write `versionMethod: image`, or bring Rancher to that version by Helm yourself and commit a Restore");
}

#[test]
fn where_helm_has_no_revision_that_fits_the_chart_is_installed_with_the_newest_values() {
    let chart = || packaged("rancher", "v2.9.3", None);
    let mut world = trimmed(chart());
    insta::assert_snapshot!(told(&world), @"from v2.10.1 to v2.9.3 by helm upgrade of release cattle-system/rancher (now at 3) to the chart charts/rancher-2.9.3.tgz (2.9.3) of the source, with the values of revision 3");
    let plan = world.plan();
    assert_eq!(plan.holding().count(), 0, "{:?}", plan.gates);
    let steps = plan.own_steps().expect("steps of its own");
    assert_eq!(steps[steps.len() - 3..], [Step::SetVersion, Step::Resume, Step::Verify]);
    insta::assert_snapshot!(plan.warnings.join("\n"), @"the chart is given the values of revision 3; all else is as the chart has it by default, which may differ from what the Rancher of that version had here");
    // A revision without values, newer than one with.
    let with = stored(2, "superseded", "v2.10.0", &json!({"config": {"hostname": "rancher.example.org"}}));
    world.cluster.releases = History::read(&[with, stored(3, "deployed", "v2.10.1", &json!({}))]);
    assert!(told(&world).ends_with("with the values of revision 2"), "{}", told(&world));
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @"the chart is given the values of revision 2, the newest that was made with any; all else is as the chart has it by default, which may differ from what the Rancher of that version had here");
    world.cluster.releases = History::read(&[stored(3, "deployed", "v2.10.1", &json!({}))]);
    assert!(told(&world).ends_with("with its own values alone"), "{}", told(&world));
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @"no revision has values to give to the chart; all else is as the chart has it by default, which may differ from what the Rancher of that version had here");
    asked(&mut world).method = VersionMethod::Helm;
    assert!(told(&world).contains("by helm upgrade"), "{}", told(&world));
}

#[test]
fn a_chart_is_not_used_where_a_revision_fits_or_is_named_or_there_is_no_release() {
    let mut world = upgraded(&[]);
    asked(&mut world).chart = Some("charts/rancher-2.9.3.tgz".to_owned());
    world.chart = Some(packaged("rancher", "v2.9.3", None));
    assert!(told(&world).contains("to revision 2"), "{}", told(&world));
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @"`chart` is not needed: a revision of the release fits");
    asked(&mut world).revision = Some(1);
    assert!(told(&world).contains("revision 1 of the Helm release is of v2.8.0"), "{}", told(&world));
    asked(&mut world).revision = None;
    world.cluster.releases = History::default();
    assert!(told(&world).contains("by image"), "{}", told(&world));
    insta::assert_snapshot!(world.plan().warnings.join("\n"), @"`chart` is not used: there is no Helm release of Rancher, and the image is set");
}

#[test]
fn a_chart_that_is_not_the_wanted_one_is_no_way_and_it_is_told_why() {
    let why = |chart: Option<ChartSeen>| {
        let mut world = trimmed(ChartSeen::Unusable(String::new()));
        world.chart = chart;
        let told = told(&world);
        let (why, remedy) =
            told.split_once("cannot be installed: ").expect("why").1.split_once(" -> ").expect("a remedy");
        (why.to_owned(), remedy.to_owned())
    };
    let (missing, remedy) = why(Some(ChartSeen::Unusable("there is no such file at commit 1f12ea5d".to_owned())));
    insta::assert_snapshot!(remedy, @"commit there the packaged chart of v2.9.3 together with a change of the manifest, since it is read at the commit that changed the manifest last; or write `versionMethod: image`");
    let whys = [
        missing,
        why(Some(packaged("rancher-monitoring", "v2.9.3", None))).0,
        why(Some(packaged("rancher", "v2.9.4", None))).0,
        why(Some(packaged("rancher", "", None))).0,
        why(Some(packaged("rancher", "v2.9.3", Some("about 1.30")))).0,
        why(None).0,
    ];
    insta::assert_snapshot!(whys.join("\n"), @"
    there is no such file at commit 1f12ea5d
    it is the chart rancher-monitoring, and the release is of rancher
    its appVersion says v2.9.4, and the manifest declares v2.9.3
    its appVersion says no version, and the manifest declares v2.9.3
    Helm cannot read its kubeVersion: about 1.30
    it was not looked for
    ");
}

#[test]
fn which_archive_and_whose_values_are_approved_and_not_the_commit_that_approves_them() {
    let changed = |change: &dyn Fn(&mut ChartFacts)| {
        let mut seen = packaged("rancher", "v2.9.3", None);
        if let ChartSeen::Packaged(facts) = &mut seen {
            change(facts);
        }
        trimmed(seen)
    };
    let digest = |world: &World| world.plan().digest;
    let planned = digest(&changed(&|_| {}));
    assert_eq!(digest(&changed(&|facts| facts.commit = "d".repeat(40))), planned);
    assert_ne!(digest(&changed(&|facts| facts.sha256 = "sha256:00".to_owned())), planned);
    let mut values = changed(&|_| {});
    values.cluster.releases = History::read(&[stored(3, "deployed", "v2.10.1", &json!({}))]);
    assert_ne!(digest(&values), planned);
    let change = changed(&|_| {}).plan().record().version.expect("it is kept");
    let json = serde_json::to_value(&change).expect("JSON");
    assert_eq!((&json["method"], &json["commit"]), (&json!("chart"), &json!("c".repeat(40))));
    assert_eq!(serde_json::from_value::<VersionChange>(json).expect("it reads"), change);
}

#[test]
fn without_a_release_auto_sets_the_image_and_helm_has_no_way() {
    let mut world = upgraded(&[]);
    world.cluster.releases = History::default();
    world.rancher().image = Some("reg.example.org:5000/rancher/rancher:v2.10.1@sha256:aa".to_owned());
    insta::assert_snapshot!(told(&world), @"from v2.10.1 to v2.9.3 by image reg.example.org:5000/rancher/rancher:v2.9.3, now reg.example.org:5000/rancher/rancher:v2.10.1@sha256:aa");
    asked(&mut world).method = VersionMethod::Helm;
    insta::assert_snapshot!(told(&world), @"there is no Helm release of Rancher in its namespace -> write `versionMethod: image`, or install Rancher by Helm");
    asked(&mut world).method = VersionMethod::Image;
    world.cluster.workloads.clear();
    insta::assert_snapshot!(told(&world), @"there is no Deployment of Rancher with an image whose tag could be set");
}

#[test]
fn what_runs_already_stays_and_the_run_has_no_step_for_it() {
    let mut world = upgraded(&[]);
    world.rancher().image = Some("rancher/rancher:v2.9.3".to_owned());
    world.cluster.releases = History::read(&[stored(2, "deployed", "v2.9.3", &json!({}))]);
    insta::assert_snapshot!(told(&world), @"v2.9.3 runs already, and stays");
    assert_eq!(world.plan().own_steps(), None);
    // Somebody set the image by hand: the release is still of the newer version, and is gone back, too.
    let mut by_hand = upgraded(&[]);
    by_hand.rancher().image = Some("rancher/rancher:v2.9.3".to_owned());
    assert!(told(&by_hand).contains("revision 2"), "{}", told(&by_hand));
}

#[test]
fn the_version_is_set_between_the_data_and_the_replicas() {
    let steps = upgraded(&[]).plan().own_steps().expect("steps of its own");
    assert_eq!(steps[steps.len() - 4..], [Step::Prune, Step::SetVersion, Step::Resume, Step::Verify]);
    let mut alone = upgraded(&[]);
    alone.request.backup_name = String::new();
    alone.seen = Some(BackupSeen::NotNamed);
    alone.accept(GateCode::VersionMismatch);
    let plan = alone.plan();
    assert_eq!(plan.holding().count(), 0, "{:?}", plan.gates);
    let steps = plan.own_steps().expect("steps of its own");
    let of_version = [
        Step::Preflight,
        Step::Announce,
        Step::Quiesce,
        Step::SafetyBackup,
        Step::SetVersion,
        Step::Resume,
        Step::Verify,
    ];
    assert_eq!(steps, of_version);
    assert!(!plan.quiesce.is_empty());
}

#[test]
fn only_what_the_older_version_does_not_serve_is_removed() {
    let extension = |since| Brought {
        object: ObjectRef {
            api_version: "apiregistration.k8s.io/v1".to_owned(),
            resource: "apiservices".to_owned(),
            namespace: None,
            name: "v1.ext.cattle.io".to_owned(),
        },
        since,
    };
    let mut world = upgraded(&[]);
    world.cluster.brought = vec![extension((2, 11, 0))];
    let plan = world.plan();
    let change = plan.version.as_ref().expect("a way");
    assert_eq!(change.removes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["apiservices/v1.ext.cattle.io"]);
    world.cluster.brought = vec![extension((2, 9, 0))];
    assert_eq!(world.plan().version.expect("a way").removes, []);
}

#[test]
fn the_rights_that_setting_a_version_takes_are_asked_for_before_anything_is_done() {
    let service = ObjectRef {
        api_version: "v1".to_owned(),
        resource: "services".to_owned(),
        namespace: Some("cattle-system".to_owned()),
        name: "api-extension".to_owned(),
    };
    let mut world = upgraded(&[]);
    world.cluster.brought = vec![Brought { object: service, since: (2, 11, 0) }];
    world.request.backup_name = String::new();
    world.seen = Some(BackupSeen::NotNamed);
    let asked_for = |world: &World| {
        let rights = crate::plan::accesses(&world.plan(), &world.observed());
        let in_namespace = rights.into_iter().filter(|right| right.namespace.as_deref() == Some("cattle-system"));
        in_namespace.map(|right| format!("{} {}", right.verb, right.resource)).collect::<Vec<_>>().join(", ")
    };
    insta::assert_snapshot!(asked_for(&world), @"create secrets, delete services, get secrets, get services, list secrets, patch secrets, update secrets");
    let by_helm = asked_for(&world);
    world.cluster.releases = trimmed(packaged("rancher", "v2.9.3", None)).cluster.releases;
    asked(&mut world).chart = Some("rancher.tgz".to_owned());
    world.chart = Some(packaged("rancher", "v2.9.3", None));
    assert!(matches!(world.plan().version.expect("a way").way, Way::Chart { .. }));
    assert_eq!(asked_for(&world), by_helm);
    asked(&mut world).method = VersionMethod::Image;
    insta::assert_snapshot!(asked_for(&world), @"delete services, get services");
    world.rancher().image = Some("rancher/rancher:v2.9.3".to_owned());
    insta::assert_snapshot!(asked_for(&world), @"");
    assert_eq!(crate::plan::accesses(&world.plan(), &world.observed()).len(), 0);
}

/// What a Rancher since 2.11 serves, deleted by a run before.
fn deleted(since: (u64, u64, u64)) -> Brought {
    let object = ObjectRef {
        api_version: "apiregistration.k8s.io/v1".to_owned(),
        resource: "apiservices".to_owned(),
        namespace: None,
        name: "v1.ext.cattle.io".to_owned(),
    };
    Brought { object, since }
}

#[test]
fn what_a_run_before_deleted_is_made_again_for_a_version_that_serves_it() {
    let mut world = upgraded(&[]);
    world.cluster.removed = vec![deleted((2, 11, 0))];
    let makes = |world: &World| {
        let change = world.plan().version.expect("a way");
        change.makes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(makes(&world), Vec::<String>::new(), "v2.9.3 does not serve it");
    asked(&mut world).to = "v2.12.1".to_owned();
    asked(&mut world).method = VersionMethod::Image;
    assert_eq!(makes(&world), ["apiservices/v1.ext.cattle.io"]);
    let plan = world.plan();
    let warned = plan.warnings.iter().any(|warning| warning.starts_with("made again before v2.12.1 starts"));
    assert!(warned, "{:?}", plan.warnings);
    let mut there = upgraded(&[]);
    there.request = world.request.clone();
    assert_ne!(plan.digest, there.plan().digest);
    let creates = Access {
        verb: "create",
        group: "apiregistration.k8s.io".to_owned(),
        resource: "apiservices".to_owned(),
        namespace: None,
        name: None,
    };
    assert!(crate::plan::accesses(&plan, &world.observed()).contains(&creates));
}

/// The run deleted it, and failed before it had set the version.
#[test]
fn where_the_version_stays_an_undo_alone_makes_again_what_is_missing() {
    let mut world = upgraded(&[]);
    world.cluster.removed = vec![deleted((2, 11, 0))];
    world.rancher().image = Some("rancher/rancher:v2.12.1".to_owned());
    asked(&mut world).to = "v2.12.1".to_owned();
    asked(&mut world).method = VersionMethod::Image;
    let plan = world.plan();
    assert!(!plan.version.as_ref().expect("a way").sets());
    assert!(!plan.own_steps().unwrap_or_default().contains(&Step::SetVersion));
    world.request.undoes = true;
    let plan = world.plan();
    assert_eq!(plan.version.as_ref().map(|change| (&change.way, change.makes.len())), Some((&Way::Keep, 1)));
    assert!(plan.own_steps().unwrap_or_default().contains(&Step::SetVersion));
}

#[test]
fn the_rights_that_helm_takes_for_what_the_release_consists_of_are_asked_for() {
    const OLD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: rancher}
---
apiVersion: example.org/v1
kind: NotServed
metadata: {name: x}
";
    const NEW: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: rancher, namespace: elsewhere}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}
";
    let mut world = upgraded(&[]);
    let revisions = [
        stored(2, "superseded", "v2.9.3", &json!({"manifest": OLD})),
        stored(3, "deployed", "v2.10.1", &json!({"manifest": NEW})),
    ];
    world.cluster.releases = History::read(&revisions);
    let served = [
        ("", "ConfigMap", "configmaps", true),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", false),
        ("networking.k8s.io", "Ingress", "ingresses", true),
        ("policy", "PodDisruptionBudget", "poddisruptionbudgets", true),
    ];
    let served = served.map(|(group, kind, plural, namespaced)| {
        ((group.to_owned(), kind.to_owned()), ReleaseType { resource: Resource::new(group, "v1", plural), namespaced })
    });
    world.cluster.release_types = served.into();
    world.request.backup_name = String::new();
    world.seen = Some(BackupSeen::NotNamed);
    let of_chart = |world: &World| {
        let rights = crate::plan::accesses(&world.plan(), &world.observed());
        let groups = ["networking.k8s.io", "policy", "rbac.authorization.k8s.io", "example.org"];
        let of_chart =
            rights.into_iter().filter(|right| groups.contains(&right.group.as_str()) || right.resource == "configmaps");
        let shown = of_chart.map(|right| {
            format!("{} {} in {}", right.verb, right.resource, right.namespace.as_deref().unwrap_or("all"))
        });
        shown.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(of_chart(&world), @"
    bind clusterroles in all
    create configmaps in cattle-system
    create clusterrolebindings in all
    delete ingresses in elsewhere
    get configmaps in cattle-system
    get ingresses in elsewhere
    get clusterrolebindings in all
    patch configmaps in cattle-system
    patch clusterrolebindings in all
    ");
    asked(&mut world).method = VersionMethod::Image;
    assert_eq!(of_chart(&world), "");
}

#[test]
fn a_reader_is_told_of_jumps_upgrades_and_of_what_helm_does_not_know() {
    let warned = |change: &dyn Fn(&mut World)| {
        let mut world = upgraded(&[]);
        change(&mut world);
        world.plan().warnings.join("\n")
    };
    assert_eq!(warned(&|_| {}), "");
    insta::assert_snapshot!(warned(&|world| asked(world).to = "v2.8.0".to_owned()), @"from v2.10.1 to v2.8.0 are 2 minor versions: Rancher is only tested over one");
    insta::assert_snapshot!(warned(&|world| {
        asked(world).to = "v2.11.0".to_owned();
        asked(world).method = VersionMethod::Image;
    }), @"
    v2.11.0 is newer than v2.10.1, which runs: this is an upgrade, not a rollback
    Helm will not know: its release rancher stays at revision 3 of v2.10.1, and the next `helm upgrade` brings that back
    ");
}

#[test]
fn how_it_is_set_is_part_of_what_is_approved_and_kept() {
    let (by_helm, mut by_image) = (upgraded(&[]), upgraded(&[]));
    asked(&mut by_image).method = VersionMethod::Image;
    assert_ne!(by_helm.plan().digest, by_image.plan().digest);
    let change = by_helm.plan().record().version.expect("it is kept");
    let json = serde_json::to_value(&change).expect("JSON");
    assert_eq!(json["method"], "helm");
    assert_eq!(serde_json::from_value::<VersionChange>(json).expect("it reads"), change);
}
