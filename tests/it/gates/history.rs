//! Gates about what ran before, what is as new, and what was approved.

use super::Asked;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_under_another_name_asks_again_and_two_of_one_commit_hold_each_other() {
    let world = World::start().await;
    world.settle().await;
    let ask = Asked::of(&world);
    ask.commit();
    let said = world.once().await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);

    world.work.git(&["rm", "--quiet", "clusters/test/gate.yaml"]);
    world.work.write("clusters/test/renamed.yaml", &ask.manifest().replace("name: gate", "name: renamed"));
    world.work.commit("Rename");
    world.work.push(&["origin", "HEAD:main"]);
    let said = world.reinback(&["plan"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stdout.contains("the same content ran before, under the name gate"), "{}", said.stdout);
    let held = world.once().await;
    assert_eq!(held.code, Some(3), "{}", held.stderr);
    let accepted = ask.annotated("reinback.io/accept", "AlreadyRun").manifest().replace("name: gate", "name: renamed");
    world.work.write("clusters/test/renamed.yaml", &accepted).commit("Take it");
    world.work.push(&["origin", "HEAD:main"]);
    let said = world.reinback(&["plan"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");

    let again = |name: &str| {
        let asked = ask.annotated("reinback.io/requested-at", "2026-11-23T09:00:00Z");
        asked.manifest().replace("name: gate", &format!("name: {name}"))
    };
    world.work.git(&["rm", "--quiet", "-f", "clusters/test/renamed.yaml"]);
    world.work.write("clusters/test/one.yaml", &again("one")).write("clusters/test/two.yaml", &again("two"));
    world.work.commit("Two at once");
    world.work.push(&["origin", "HEAD:main"]);
    let said = world.reinback(&["plan"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let held: Vec<&str> =
        said.stdout.lines().filter(|line| line.contains("one commit brings")).map(str::trim).collect();
    insta::assert_snapshot!(held.join("\n"), @"");
    world.work.write("clusters/test/two.yaml", &format!("{}  ignoreErrors: true\n", again("two"))).commit("That one");
    world.work.push(&["origin", "HEAD:main"]);
    let said = world.reinback(&["plan"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_must_be_approved_says_the_line_that_approves_it_and_runs_with_it() {
    let world = World::start().await;
    world.settle().await;
    super::kubectl(&world, &["create", "namespace", "cattle-newer"]);
    let ask = Asked::of(&world).spec("prune: true").flag("--policy-require-approval=Prune");
    let missing = ask.plan().await;
    missing.assert_held_by(&["ApprovalMissing"]);
    let approved = ask.pasting(&missing, "ApprovalMissing");
    approved.plan().await.assert_held_by(&[]);

    super::kubectl(&world, &["create", "namespace", "cattle-newest"]);
    let other = approved.plan().await;
    other.assert_held_by(&["ApprovalMismatch"]);
    let approved = approved.pasting(&other, "ApprovalMismatch");
    approved.plan().await.assert_held_by(&[]);
    let said = world.reinback(&["agent", "--once", "--install-crd", "--policy-require-approval=Prune"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}
