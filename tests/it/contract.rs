//! The contract of an API server: each case runs on the simulated one and on the real one, and both must say the same.
//!
//! A case is an `async fn` on an [`Api`], which writes down every answer with what differs by nature masked: UIDs, times,
//! versions. What it has written down on both is compared. A case that is named below runs on both.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use reinback::sim::{Sim, SimOptions};

use crate::harness::{Cluster, Options, fixture, rancher};
use crate::world::PLAIN;
use api::Api;

mod api;

macro_rules! cases {
    ($($module:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        $(mod $module;)*

        mod agree {
            $(mod $module {
                $(#[test]
                fn $case() {
                    crate::contract::agree(stringify!($case), crate::contract::$module::$case);
                })*
            })*
        }
    };
}

cases! {
    objects: [
        an_object_is_made_read_replaced_and_deleted,
        an_object_that_is_there_is_not_made_again,
        an_object_that_is_not_there_is_not_found,
        a_stale_version_is_a_conflict,
        a_group_is_named_in_a_conflict,
        without_a_version_a_put_overwrites,
        a_kind_that_needs_a_version_says_so,
        some_kinds_are_made_by_put,
        a_lease_that_went_is_not_replaced_by_its_old_version,
        a_write_that_changes_nothing_keeps_the_version,
        another_uid_is_a_conflict,
        what_the_server_sets_cannot_be_set,
        metadata_that_say_nothing_are_dropped,
        a_version_on_a_new_object_is_refused,
        names_and_namespaces_must_be_those_of_the_path,
        kinds_and_versions_must_be_those_of_the_path,
        bad_names_are_refused,
        names_are_generated,
        a_patch_merges,
        other_patches_and_bodies_are_refused_or_not_spoken_of,
        secrets_take_texts_and_keep_their_type,
        what_is_immutable_stays,
        a_binding_keeps_its_role,
        owners_must_be_named_whole,
        an_object_can_be_too_large,
        events_are_made_and_shown_by_both_groups,
    ],
    deletion: [
        a_deletion_has_preconditions,
        a_namespace_has_preconditions_of_its_own,
        a_group_is_named_in_a_precondition,
        a_finalizer_holds_an_object,
        a_deletion_mark_cannot_be_taken_away,
        what_is_owned_goes_in_the_background,
        background_is_the_default,
        an_owner_waits_in_the_foreground,
        what_is_owned_is_orphaned,
        an_owner_that_never_was_takes_what_it_owns,
        one_owner_is_enough_and_references_to_the_others_go,
        an_owner_of_an_unknown_kind_is_left_alone,
        kinds_that_answer_with_the_object,
        an_unknown_propagation_is_refused,
    ],
    lists: [
        a_list_is_whole,
        an_empty_list_has_a_version,
        a_list_is_read_in_pages,
        a_list_of_one_state_is_of_that_one,
        pages_say_how_many_are_left,
        lists_are_of_one_namespace_or_of_all,
        labels_select,
        fields_select,
        metadata_alone_is_listed,
        a_token_that_is_none_is_refused,
    ],
    watches: [
        a_watch_tells_changes_as_they_come,
        a_watch_tells_changes_that_were,
        a_watch_without_a_version_tells_what_is_there,
        a_watch_of_metadata_tells_no_more,
        a_watch_ends_at_its_time,
        a_label_that_comes_and_goes_adds_and_removes,
        bookmarks_move_the_version,
    ],
    namespaces: [
        a_namespace_has_a_name_a_phase_and_a_finalizer,
        a_namespace_gets_an_account_and_an_authority,
        the_default_account_comes_back,
        a_namespace_goes_with_what_it_holds,
        a_namespace_that_is_missing_takes_nothing,
        a_namespace_on_its_way_out_takes_nothing_new,
        a_namespace_can_be_held_by_a_finalizer_of_its_own,
        some_namespaces_cannot_be_deleted,
        a_namespace_keeps_its_status_and_finalizers_from_a_put,
        a_token_of_an_account_is_filled_and_goes_with_it,
        a_token_without_an_account_goes,
    ],
    definitions: [
        a_definition_is_established_and_then_served,
        a_definition_must_be_named_as_it_defines,
        custom_resources_say_what_they_are,
        a_custom_resource_needs_its_kind_and_a_version_for_updates,
        a_status_is_written_by_its_subresource_alone,
        without_the_subresource_a_status_is_a_field,
        a_generation_counts_what_is_not_metadata,
        unknown_fields_are_pruned_and_defaults_set,
        versions_are_of_one_object,
        a_version_more_is_served_and_noted_as_stored,
        a_definition_goes_with_its_objects,
        what_nobody_serves_is_not_found,
        a_cluster_scoped_custom_resource_has_no_namespace,
    ],
    workloads: [
        a_deployment_is_made_with_defaults,
        a_deployment_gets_ready_scales_down_and_up,
        a_deployment_owns_sets_and_sets_own_pods,
        a_deployment_takes_its_sets_and_pods_with_it,
        another_template_replaces_the_pods,
        a_namespace_takes_its_workloads_with_it,
        a_selector_stays,
        a_deployments_status_is_not_written_with_it,
        a_stateful_set_has_pods_with_numbers,
        a_daemon_set_has_a_pod_on_the_node,
        a_deleted_pod_is_stopped_and_replaced,
        a_pod_can_be_deleted_without_grace,
    ],
    discovery: [
        all_groups_are_told_in_one_document,
        groups_are_in_order,
        a_group_is_told_by_itself,
        a_version_is_told_by_itself,
        methods_that_a_path_does_not_know_are_refused,
        the_server_says_that_it_is_well,
        rights_are_reviewed,
        who_asks_is_told,
    ],
}

/// On an API server that forgets within seconds, and lists from etcd alone: its cache would remember.
#[test]
fn what_is_forgotten() {
    let api_flags = ["--etcd-compaction-interval=1s", "--watch-cache=false"].map(str::to_owned).to_vec();
    let cluster = Cluster::start(Options { controllers: false, audit: false, api_flags, ..Options::default() });
    compare(&cluster, "token", lists::a_token_that_expired_says_how_to_go_on);
    compare(&cluster, "version", watches::a_version_that_is_forgotten_is_gone);
}

/// On an API server of its own: while an API fails, no namespace goes.
#[test]
fn an_api_without_its_server() {
    let cluster = Cluster::start(Options { controllers: false, audit: false, ..Options::default() });
    compare(&cluster, "no-server", discovery::an_api_without_its_server_fails);
}

/// What the harness does to a real cluster it does to a simulated one, and finds the same.
#[tokio::test(start_paused = true)]
async fn a_simulated_cluster_holds_a_backup() {
    let sim = Sim::new(SimOptions::default());
    let (client, backup) = (sim.client(), fixture(PLAIN));
    let items = rancher::read(&backup).expect("a backup");
    rancher::seed(&client, &backup).await.expect("all of it is taken");
    assert_eq!(rancher::differences(&client, &items).await.expect("all can be read"), Vec::<String>::new());

    let disturbance = rancher::Disturbance { changed_percent: 29, deleted_percent: 9, added: 20, seed: 7 };
    let disturbed = rancher::disturb(&client, &items, disturbance).await.expect("all can be disturbed");
    let differences = rancher::differences(&client, &items).await.expect("all can be read");
    let places = BTreeSet::from_iter(differences.iter().filter_map(|line| line.split(": ").next()));
    assert_eq!(places.len(), disturbed.changed.len() + disturbed.deleted.len());

    rancher::seed_objects(&client, &items).await.expect("all of it is taken again");
    assert_eq!(rancher::differences(&client, &items).await.expect("all can be read"), Vec::<String>::new());
}

/// Put in at once, a backup is as it is when it is written object by object.
#[tokio::test(start_paused = true)]
async fn a_backup_is_put_into_a_simulated_cluster_at_once() {
    let sim = Sim::new(SimOptions::default());
    let items = rancher::read(&fixture(PLAIN)).expect("a backup");
    let count = sim.seed(items.iter().map(|item| item.object.clone())).expect("all kinds are served");
    assert_eq!(count, items.len());
    // Long enough for the controllers to have looked.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rancher::differences(&sim.client(), &items).await.expect("all can be read"), Vec::<String>::new());
}

/// Runs a case on both, in a namespace of its own, and compares.
fn agree(name: &str, case: impl AsyncFn(&Api)) {
    compare(Cluster::shared(), name, case);
}

fn compare(cluster: &Cluster, name: &str, case: impl AsyncFn(&Api)) {
    let real = on_real(cluster, name, &case);
    let sim = on_sim(name, &case);
    assert!(real == sim, "the simulated API differs from the real one:\n{}", difference(&real, &sim));
}

fn on_real(cluster: &Cluster, name: &str, case: &impl AsyncFn(&Api)) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let api = Api::new(client(cluster).await, name, None).await;
        case(&api).await;
        api.written()
    })
}

/// A client that asks once: a 503 is an answer, too.
async fn client(cluster: &Cluster) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("the harness wrote it");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("it is whole");
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client can be built")
}

/// On a clock that runs ahead whenever nothing is to be done.
fn on_sim(name: &str, case: &impl AsyncFn(&Api)) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(async {
        let sim = Sim::new(SimOptions::default());
        let api = Api::new(sim.client(), name, Some(sim)).await;
        case(&api).await;
        api.written()
    })
}

/// The real answers (`-`) and the simulated ones (`+`).
fn difference(real: &str, sim: &str) -> String {
    similar::TextDiff::from_lines(real, sim).unified_diff().context_radius(12).to_string()
}
