//! Hostile backups: whatever somebody makes of a backup, it is refused with a reason or read as it was, in bounded memory.
//!
//! Seeds choose a backup of the operator, in the open or encrypted, some of its entries, and what is done to them, to the
//! archive and to its packing. What comes of single bytes is tried in `src/backup/archive/tests.rs`; here it is the tricks
//! that somebody plays who knows the formats.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::LazyLock;

use fastrand::Rng;
use reinback::backup::{self, Encryption, Entry, Limits, ReadError, Summary};
use reinback::object::ObjectKey;
use serde_json::Value;

use crate::gates::encryption::{CBC, GCM, SECRETBOX};
use crate::harness::{Options, fixture};
use crate::process::object_writes;
use crate::world::{Filled, PLAIN, World};

mod archive;
mod members;

use members::Member;

/// Cases of one run of the tests; `REINBACK_SEEDS` sets another number, or the seeds themselves as `from..to`.
const SEEDS: u64 = 300;
/// What the process may take beyond what it had before the first case: an entry of 16 MiB, its base64 decoded, and what may
/// come of one when it is parsed (160 MiB), the case itself with the copies that made it, and what the allocator keeps.
const MAX_GROWTH_KIB: u64 = 250 * 1024;
/// Set in the process that runs the cases alone, so that its memory is theirs.
const ALONE: &str = "REINBACK_HOSTILE_ALONE";

struct Base {
    members: Vec<Member>,
    encryption: Option<Encryption>,
    /// The provider authenticates what it encrypts.
    authenticated: bool,
    /// Objects as they were written, by path.
    objects: BTreeMap<String, Value>,
}

static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let base = |backup: &str, provider: Option<&str>| {
        let configuration = provider.map(|provider| std::fs::read(fixture(&format!("enc-{provider}.yaml"))));
        let encryption = configuration.map(|file| Encryption::parse(&file.expect("it is there")).expect("it is one"));
        let bytes = std::fs::read(fixture(backup)).expect("the fixture is there");
        let read = Read::of(&bytes, encryption.as_ref()).expect("it is whole");
        let objects = read.objects.into_iter().map(|(key, value, _)| (key.to_string(), value)).collect();
        let authenticated = matches!(provider, Some("secretbox" | "aesgcm"));
        Base { members: members::read(backup), encryption, authenticated, objects }
    };
    vec![base(PLAIN, None), base(SECRETBOX, Some("secretbox")), base(GCM, Some("aesgcm")), base(CBC, Some("aescbc"))]
});

struct Case {
    base: &'static Base,
    bytes: Vec<u8>,
    /// What was done.
    done: String,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let base = &BASES[rng.usize(..BASES.len())];
        let mut members = members::choose(&mut rng, &base.members);
        let mut done = Vec::new();
        for _ in 0..rng.usize(..3) {
            done.push(members::spoil(&mut rng, &mut members));
        }
        if rng.u8(..10) < 4 {
            done.push(archive::trick(&mut rng, &mut members));
        }
        let archive = archive::tar(&members);
        let bytes = match done.is_empty() || rng.u8(..10) < 3 {
            true => {
                let (how, bytes) = archive::gzip(&mut rng, archive);
                done.push(how);
                bytes
            }
            false => archive::well_packed(&archive),
        };
        Self { base, bytes, done: done.join("; ") }
    }
}

/// What a reader made of a backup.
struct Read {
    summary: Summary,
    /// With whether they were encrypted.
    objects: Vec<(ObjectKey, Value, bool)>,
    closed: u64,
}

impl Read {
    /// # Errors
    ///
    /// What is said of a backup that is refused.
    fn of(bytes: &[u8], encryption: Option<&Encryption>) -> Result<Self, String> {
        let (mut objects, mut closed, mut compiled) = (Vec::new(), 0, Ok(()));
        let outcome = backup::read(bytes, bytes.len() as u64, &Limits::default(), encryption, |entry| {
            match entry {
                Entry::Object { key, value, encrypted } => objects.push((key, value, encrypted)),
                Entry::Filters(set) => compiled = set.compile().map(drop),
                Entry::Encrypted { .. } => closed += 1,
            }
            Ok::<(), Infallible>(())
        });
        match (outcome, compiled) {
            (Ok(summary), Ok(())) => Ok(Self { summary, objects, closed }),
            (Ok(_), Err(error)) => Err(error.to_string()),
            (Err(ReadError::Corrupt(error)), _) => Err(error.to_string()),
            (Err(other), _) => panic!("not judged: {other:?}"),
        }
    }
}

/// What may come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Read,
    /// Entries are left that no key opens.
    Closed,
    Corrupt,
}

/// Reads a case and looks at what came of it.
fn judge(case: &Case) -> Outcome {
    let Case { base, bytes, done: _ } = case;
    let encryption = base.encryption.as_ref();
    // Without the key it is no other archive, and nothing breaks either.
    let _ = Read::of(bytes, None);
    let Read { summary, objects, closed } = match Read::of(bytes, encryption) {
        Ok(read) => read,
        Err(message) => {
            assert!(message.len() < 2000 && !message.chars().any(char::is_control), "{message:?}");
            assert!(!message.contains("reinback-test-key"), "{message:?}");
            return Outcome::Corrupt;
        }
    };
    assert_eq!((summary.objects, summary.encrypted), (objects.len() as u64, closed));
    let mut seen = BTreeSet::new();
    for (key, value, encrypted) in &objects {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(text("/metadata/name"), &*key.name);
        assert_eq!(text("/metadata/namespace"), key.namespace.as_deref().unwrap_or_default());
        assert_eq!(text("/apiVersion"), key.resource.api_version());
        assert!(seen.insert((key.resource.group_resource(), key.namespace.clone(), key.name.clone())), "{key} twice");
        if *encrypted && base.authenticated {
            assert_eq!(base.objects.get(&key.to_string()), Some(value), "{key} was opened to something else");
        }
    }
    if closed > 0 {
        return Outcome::Closed;
    }
    let mut again = objects.iter();
    let all = |_| ControlFlow::Continue(true);
    let outcome =
        backup::reread(&bytes[..], bytes.len() as u64, &Limits::default(), encryption, all, |_, key, value, _| {
            assert_eq!(again.next().map(|(key, value, _)| (key, value)), Some((&key, &value)));
            Ok::<(), Infallible>(())
        });
    assert!(outcome.is_ok() && again.next().is_none(), "{outcome:?}");
    Outcome::Read
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("REINBACK_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("REINBACK_SEEDS={text}: {error}"));
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// The most memory that this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has a line for it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn hostile_backups_are_refused_or_read_as_they_were_in_bounded_memory() {
    if std::env::var_os(ALONE).is_none() {
        let own = "hostile::hostile_backups_are_refused_or_read_as_they_were_in_bounded_memory";
        let mut command = Command::new(std::env::current_exe().expect("it has a path"));
        let ended = command.args(["--exact", own, "--nocapture"]).env(ALONE, "1").status().expect("it starts");
        assert!(ended.success(), "its output is above");
        return;
    }
    LazyLock::force(&BASES);
    let before = peak_kib();
    let mut told: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in seeds() {
        let case = Case::of(seed);
        match std::panic::catch_unwind(AssertUnwindSafe(|| judge(&case))) {
            Ok(outcome) => *told.entry(outcome).or_default() += 1,
            Err(_) => {
                failed.push(format!("REINBACK_SEEDS={seed}..{} cargo test --test it hostile: {}", seed + 1, case.done))
            }
        }
    }
    let growth = peak_kib().saturating_sub(before);
    println!("hostile backups: {told:?}, {} MiB at most", growth / 1024);
    assert!(failed.is_empty(), "{} cases failed; to play them again:\n{}", failed.len(), failed.join("\n"));
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB");
}

/// Cases that the binary is shown: one of each fate that is no reading, for each backup.
fn refused() -> Vec<(Case, Outcome)> {
    let mut wanted: BTreeSet<(usize, Outcome)> = (0..BASES.len()).map(|base| (base, Outcome::Corrupt)).collect();
    wanted.extend((1..BASES.len()).map(|base| (base, Outcome::Closed)));
    let mut cases = Vec::new();
    for seed in 0.. {
        if wanted.is_empty() {
            return cases;
        }
        let case = Case::of(seed);
        let base = BASES.iter().position(|base| std::ptr::eq(base, case.base)).expect("it is one of them");
        let outcome = judge(&case);
        if wanted.remove(&(base, outcome)) {
            cases.push((case, outcome));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_of_a_hostile_backup() {
    let world = World::of(Options::default(), PLAIN, Filled::RancherOnly).await;
    world.settle().await;
    for provider in ["secretbox", "aesgcm", "aescbc"] {
        let configuration = crate::gates::encryption::configuration(provider);
        crate::gates::encryption::install(&world, provider, crate::gates::encryption::KEY, &configuration);
    }
    let mark = world.cluster.audit_mark();
    for (number, (case, outcome)) in refused().into_iter().enumerate() {
        let provider = BASES.iter().position(|base| std::ptr::eq(base, case.base)).expect("it is one of them");
        let key = ["", "secretbox", "aesgcm", "aescbc"][provider];
        let spec = if key.is_empty() { String::new() } else { format!("  encryptionConfigSecretName: {key}\n") };
        let backup = format!("hostile{number}-{}-2026-11-23T05-58-54Z.tar.gz", world.cluster.uid());
        std::fs::write(world.store().join(&backup), &case.bytes).expect("the store is ours");
        world.commit_restore_of(&backup, &format!("hostile-{number}"), &[("accept", "NotEncrypted")], &spec);
        let said = world.once().await;
        assert_eq!(said.code, Some(3), "{}: {}", case.done, said.stderr);
        let code = if outcome == Outcome::Closed { "DecryptionFailed" } else { "BackupCorrupt" };
        let name = format!("hostile-{number}");
        let run = world.runs().await.into_iter().find(|(manifest, ..)| *manifest == name);
        assert_eq!(run, Some((name, "Held".to_owned(), code.to_owned())), "{}", case.done);
    }
    let events = world.cluster.audit_since(mark);
    assert!(object_writes(&events).is_empty());
}
