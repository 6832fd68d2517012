//! The people of a company, so that the demo has something to carry: users, and what each may do.

use serde_json::Value;

use super::scene::{Step, deletion, global_role_binding, user};

const FIRST: [&str; 16] = [
    "Ada", "Alan", "Barbara", "Dennis", "Edsger", "Frances", "Grace", "Hedy", "Jean", "Ken", "Leslie", "Margaret",
    "Niklaus", "Radia", "Shafi", "Tony",
];
const LAST: [&str; 8] = ["Ahmed", "Berg", "Costa", "Evans", "Ito", "Kaya", "Novak", "Silva"];

/// How many people there are.
pub const COUNT: usize = FIRST.len() * LAST.len();

/// A user and a role for each.
pub fn before() -> Vec<Value> {
    (0..COUNT).flat_map(|number| [person(number), role_of(number, "support")]).collect()
}

/// A migration that goes wrong: it forgets every fourth person, takes the role of every other fourth, and gives a second
/// role to all who are left.
pub fn upgrade() -> Vec<Step> {
    let forgotten = (0..COUNT).step_by(4).flat_map(|number| [person(number), role_of(number, "support")]);
    let demoted = (2..COUNT).step_by(4).map(|number| role_of(number, "user-base"));
    let left = (0..COUNT).filter(|number| number % 4 != 0);
    let doubled = left.map(|number| global_role_binding(&format!("migrated-{}", id(number)), &id(number), "user-base"));
    forgotten.map(|object| deletion(&object)).chain(demoted.chain(doubled).map(Step::Put)).collect()
}

fn id(number: usize) -> String {
    format!("u-{:05}", 10_000 + 397 * number)
}

fn person(number: usize) -> Value {
    let (first, last) = (FIRST[number % FIRST.len()], LAST[number / FIRST.len() % LAST.len()]);
    user(&id(number), &format!("{first} {last}"))
}

fn role_of(number: usize, role: &str) -> Value {
    let id = id(number);
    global_role_binding(&format!("grb-{id}"), &id, role)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_is_there_twice_and_the_migration_does_each_thing_once() {
        let name = |object: &Value| (object["kind"].to_string(), object["metadata"]["name"].to_string());
        let before: BTreeSet<_> = before().iter().map(name).collect();
        assert_eq!(before.len(), 2 * COUNT);
        let (mut touched, mut made) = (BTreeSet::new(), BTreeSet::new());
        for step in upgrade() {
            let (Step::Put(object) | Step::Delete(object)) = &step;
            let set = if before.contains(&name(object)) { &mut touched } else { &mut made };
            assert!(set.insert(name(object)), "{object}");
            assert!(matches!(step, Step::Put(_)) || before.contains(&name(object)), "{object}");
        }
        assert_eq!((touched.len(), made.len()), (3 * COUNT / 4, 3 * COUNT / 4));
    }
}
