//! What a run no longer needs once it has laid out its writes.

use super::*;

#[test]
fn what_is_equal_is_let_go_and_the_rest_is_found_at_its_new_place() {
    let mut world = World::quiet();
    let definition = "customresourcedefinitions.apiextensions.k8s.io#v1/foos.example.org";
    world.both(definition, crd("foos", "example.org", "v1", false));
    for name in ["a", "c", "e"] {
        world.both(&secret(name), json!({}));
    }
    for name in ["b", "d"] {
        world.backed_up(&secret(name), json!({ "data": { "k": "b2xk" } }));
        world.live(&secret(name), json!({ "data": { "k": "bmV3" } }));
    }
    world.backed_up(&secret("f"), json!({})).live(&secret("later"), json!({}));
    let mut observed = world.observed();
    let mut plan = plan(&world.request, &observed);
    let live_of = |plan: &Plan, observed: &Observed| {
        let name = |place: u32| observed.live.objects[place as usize].key.to_string();
        let of_items = plan.items.iter().filter(|item| item.change != Change::Skip);
        let of_items = of_items.map(|item| item.live.map(name)).collect::<Vec<_>>();
        (of_items, plan.deletions.iter().map(|deletion| name(deletion.live)).collect::<Vec<_>>())
    };
    let before = live_of(&plan, &observed);
    assert_eq!(before.0, [Some(secret("b")), Some(secret("d")), None]);
    plan.forget_equal(&mut observed.live);
    assert_eq!(live_of(&plan, &observed), before);
    let left: Vec<String> = observed.live.objects.iter().map(|object| object.key.to_string()).collect();
    assert_eq!(left, [secret("b"), secret("d"), secret("later"), definition.to_owned()]);
    assert_eq!(observed.live.get(&key(&secret("d"))).map(|live| live.key.to_string()), Some(secret("d")));
}
