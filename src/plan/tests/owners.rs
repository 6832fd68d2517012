//! Owners, and the accounts of tokens: what waits for what, and what is missing.

use super::*;

#[test]
fn dependents_of_what_is_made_are_written_though_they_are_equal() {
    let mut world = World::quiet();
    world.backed_up(&user("u-1"), json!({})).both(&secret("of-u-1"), owned_by(&[&user("u-1")]));
    world.both(&user("u-2"), json!({})).both(&secret("of-u-2"), owned_by(&[&user("u-2")]));
    world.both(&user("u-3"), json!({}));
    world.backed_up(&secret("of-u-3"), json!({ "metadata": { "ownerReferences": [owner(&user("u-3"), "old")] } }));
    world.live(&secret("of-u-3"), json!({ "metadata": { "ownerReferences": [owner(&user("u-3"), "older")] } }));
    insta::assert_snapshot!(changes(&world), @r"
    users.management.cattle.io#v3/u-1  create
    users.management.cattle.io#v3/u-2  equal
    users.management.cattle.io#v3/u-3  equal
    secrets.#v1/cattle-system/of-u-1  update: owner references
    secrets.#v1/cattle-system/of-u-2  equal
    secrets.#v1/cattle-system/of-u-3  update: owner references
    ");
}

#[test]
fn a_dropped_reference_does_not_differ_for_ever() {
    let mut world = World::quiet();
    world.backed_up(&secret("a"), owned_by(&[&user("gone")])).live(&secret("a"), json!({}));
    assert!(world.plan().is_empty() && world.holding().is_empty());
}

#[test]
fn a_protected_owner_that_is_not_made_is_missing() {
    let mut world = World::quiet();
    let release = secret("sh.helm.release.v1.rancher.v1");
    world.backed_up(&release, json!({ "type": "helm.sh/release.v1" }));
    world.backed_up(&secret("a"), owned_by(&[&release]));
    assert_eq!(world.holding(), [GateCode::OwnerMissing]);
}

#[test]
fn an_owner_lies_beside_its_dependent_or_in_no_namespace() {
    let mut world = World::quiet();
    let elsewhere = "serviceaccounts.#v1/other/x";
    world.both(elsewhere, json!({})).backed_up(&secret("a"), owned_by(&[elsewhere]));
    assert_eq!(world.holding(), [GateCode::OwnerMissing]);
    world.both("serviceaccounts.#v1/cattle-system/x", json!({}));
    assert!(world.holding().is_empty());
}

#[test]
fn an_owner_that_comes_in_a_later_step_is_missing() {
    let mut world = World::quiet();
    let mut definition = crd("foos", "example.org", "v1", false);
    merge(&mut definition, owned_by(&["clusterroles.rbac.authorization.k8s.io#v1/r"]));
    world.backed_up("customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org", definition);
    world.backed_up("clusterroles.rbac.authorization.k8s.io#v1/r", json!({}));
    assert_eq!(world.holding(), [GateCode::OwnerMissing]);
    world.live("clusterroles.rbac.authorization.k8s.io#v1/r", json!({}));
    assert!(world.holding().is_empty());
}

#[test]
fn owners_come_first_whatever_the_archive_says() {
    let mut world = World::quiet();
    world.backed_up("configmaps.#v1/ns/grandchild", owned_by(&["configmaps.#v1/ns/child"]));
    world.backed_up("configmaps.#v1/ns/child", owned_by(&["configmaps.#v1/ns/parent", &user("u-1")]));
    world.backed_up("configmaps.#v1/ns/parent", json!({}));
    world.backed_up(&user("u-1"), json!({}));
    world.backed_up(
        "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org",
        crd("foos", "example.org", "v1", false),
    );
    insta::assert_snapshot!(changes(&world), @r"
    customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org  create
    users.management.cattle.io#v3/u-1  create
    configmaps.#v1/ns/parent  create
    configmaps.#v1/ns/child  create
    configmaps.#v1/ns/grandchild  create
    ");
}

fn token(account: &str, uid: Option<&str>, token: &str) -> Value {
    let mut secret = json!({
        "type": "kubernetes.io/service-account-token", "data": { "token": token },
        "metadata": { "annotations": { "kubernetes.io/service-account.name": account } },
    });
    if let Some(uid) = uid {
        secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = json!(uid);
    }
    secret
}

#[test]
fn a_token_secret_waits_for_its_own_account_and_is_not_made_without_one() {
    let mut world = World::quiet();
    world.backed_up("secrets.#v1/ns/a-token", token("a", None, ""));
    world.backed_up("secrets.#v1/ns/lost-token", token("lost", None, ""));
    world.backed_up("serviceaccounts.#v1/ns/a", json!({})).backed_up("serviceaccounts.#v1/other/lost", json!({}));
    insta::assert_snapshot!(changes(&world), @r"
    secrets.#v1/ns/lost-token  protected: is a token of a ServiceAccount that is nowhere, and would be deleted at once
    serviceaccounts.#v1/ns/a  create
    serviceaccounts.#v1/other/lost  create
    secrets.#v1/ns/a-token  create
    ");
}

#[test]
fn a_token_counts_while_the_account_that_it_was_made_for_is_there() {
    let account = "serviceaccounts.#v1/ns/a";
    let change = |backup: Value, live: Value| {
        let mut world = World::quiet();
        world.both(account, json!({})).backed_up("secrets.#v1/ns/t", backup).live("secrets.#v1/ns/t", live);
        world.plan().items.iter().map(|item| item.change).find(|change| *change != Change::Skip)
    };
    let uid = uid_of(account);
    let differs = Some(Change::Update(Differs { spec: true, ..Differs::default() }));
    assert_eq!(change(token("a", Some(&uid), "old"), token("a", Some(&uid), "new")), differs);
    assert_eq!(change(token("a", Some(&uid), "old"), token("a", Some(&uid), "old")), None);
    assert_eq!(change(token("a", Some("another"), "old"), token("a", Some(&uid), "new")), None, "it works no more");
}

#[test]
fn circles_are_said_and_opened_at_one_place() {
    let mut world = World::quiet();
    world.backed_up("configmaps.#v1/ns/a", owned_by(&["configmaps.#v1/ns/b"]));
    world.backed_up("configmaps.#v1/ns/b", owned_by(&["configmaps.#v1/ns/a"]));
    world.backed_up("configmaps.#v1/ns/under", owned_by(&["configmaps.#v1/ns/a"]));
    world.backed_up("configmaps.#v1/ns/itself", owned_by(&["configmaps.#v1/ns/itself"]));
    world.backed_up("configmaps.#v1/ns/twice", owned_by(&["configmaps.#v1/ns/free", "configmaps.#v1/ns/free"]));
    world.backed_up("configmaps.#v1/ns/free", json!({}));
    let plan = world.plan();
    let cycles: Vec<&str> = plan.cycles.iter().map(|key| key.name.as_ref()).collect();
    assert_eq!(cycles, ["b", "itself"]);
    assert!(plan.missing_owners.is_empty(), "{:?}", plan.missing_owners);
    insta::assert_snapshot!(changes(&world), @r"
    configmaps.#v1/ns/b  create
    configmaps.#v1/ns/itself  create
    configmaps.#v1/ns/free  create
    configmaps.#v1/ns/a  create
    configmaps.#v1/ns/twice  create
    configmaps.#v1/ns/under  create
    ");
}

#[test]
fn what_is_live_keeps_its_uid_and_nothing_waits_for_it() {
    let mut world = World::quiet();
    let owner = "configmaps.#v1/ns/owner";
    world.backed_up(owner, json!({ "data": { "a": "old" } })).live(owner, json!({ "data": { "a": "new" } }));
    world.backed_up("configmaps.#v1/ns/a-owned", owned_by(&[owner]));
    let round = ["configmaps.#v1/ns/x", "configmaps.#v1/ns/y"];
    for (one, other) in [(round[0], round[1]), (round[1], round[0])] {
        world.backed_up(one, owned_by(&[other])).live(one, json!({}));
    }
    let plan = world.plan();
    assert!(plan.items.iter().all(|item| item.writes() && item.depth == 0 && !item.ahead), "{:?}", plan.items);
    assert_eq!(plan.cycles, []);
    world.live.clear();
    let plan = world.plan();
    let depths: Vec<u16> = plan.items.iter().map(|item| item.depth).collect();
    assert_eq!((depths, plan.cycles.len()), (vec![0, 0, 1, 1], 1));
}

#[test]
fn a_built_in_role_is_left_to_rancher_and_still_owns_what_it_owned() {
    let role = "globalroles.management.cattle.io#v3/admin";
    let mut world = World::quiet();
    world.serve("globalroles.management.cattle.io#v3", true, false);
    world
        .backed_up(role, json!({ "builtin": true, "rules": [1] }))
        .live(role, json!({ "builtin": true, "rules": [2] }));
    let owned = |uid: &str| json!({ "metadata": { "ownerReferences": [owner(role, uid)] } });
    let cluster_role = "clusterroles.rbac.authorization.k8s.io#v1/cattle-globalrole-admin";
    world.backed_up(cluster_role, owned("uid at the time")).live(cluster_role, owned("uid at the time"));
    insta::assert_snapshot!(changes(&world), @r"
    globalroles.management.cattle.io#v3/admin  protected: is built in and kept by Rancher
    clusterroles.rbac.authorization.k8s.io#v1/cattle-globalrole-admin  update: owner references
    ");
    assert!(world.plan().missing_owners.is_empty());
    world.live.clear();
    insta::assert_snapshot!(changes(&world), @r"
    globalroles.management.cattle.io#v3/admin  create
    clusterroles.rbac.authorization.k8s.io#v1/cattle-globalrole-admin  create
    ");
}

#[test]
fn an_owner_in_a_namespace_owns_nothing_outside_of_it() {
    let mut world = World::quiet();
    world.backed_up("configmaps.#v1/ns/above", json!({}));
    world.backed_up("secrets.#v1/other/beside", owned_by(&["configmaps.#v1/ns/above"]));
    world.backed_up("users.management.cattle.io#v3/u-1", owned_by(&["configmaps.#v1/ns/above"]));
    let missing: Vec<String> = world.plan().missing_owners.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(missing, ["secrets.#v1/other/beside", "users.management.cattle.io#v3/u-1"]);
}

#[test]
fn an_owner_is_found_at_whatever_version_it_is_named() {
    let mut world = World::quiet();
    world.serve("clusters.cluster.x-k8s.io#v1beta2", true, true);
    world.backed_up("clusters.cluster.x-k8s.io#v1beta2/ns/c", json!({}));
    let named = json!({ "apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "name": "c", "uid": "old" });
    world.backed_up("secrets.#v1/ns/s", json!({ "metadata": { "ownerReferences": [named] } }));
    assert!(world.plan().missing_owners.is_empty());
    assert_eq!(world.plan().items.last().map(|item| item.depth), Some(1));
}
