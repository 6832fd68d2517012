use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).expect("a valid time")
}

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef {
        api_version: "apps/v1".to_owned(),
        resource: "deployments".to_owned(),
        namespace: "cattle-system".to_owned(),
        name: name.to_owned(),
    }
}

fn started(step: Step) -> Entry {
    Entry::Started { step }
}

fn finished(step: Step) -> Entry {
    Entry::Finished { step }
}

fn failed(step: Step, reason: &str) -> Entry {
    Entry::Failed { step, reason: reason.to_owned(), message: format!("{step} gave up") }
}

fn recorded(name: &str, replicas: i32) -> Entry {
    Entry::Replicas { workload: workload(name), replicas }
}

fn journal(entries: impl IntoIterator<Item = Entry>) -> Journal {
    let mut journal = Journal::default();
    for (second, entry) in (0..).zip(entries) {
        journal.append(at(second), entry).expect("a legal entry");
    }
    journal
}

fn stored(name: &str) -> Entry {
    let backup = SafetyBackup { name: name.to_owned(), sha256: "sha256:0".to_owned(), objects: 3 };
    Entry::SafetyBackup { backup }
}

fn handed_over() -> Entry {
    Entry::Handed { restore: "back-01234567".to_owned(), uid: "u-1".to_owned() }
}

fn version_had() -> Entry {
    let had = VersionHad { image: Some("rancher/rancher:v2.10.1".to_owned()), revision: Some(3), removed: Vec::new() };
    Entry::VersionHad { had }
}

/// The steps of a native run that sets a version.
const SETTING: &[Step] = &[
    Step::Preflight,
    Step::Announce,
    Step::Quiesce,
    Step::SafetyBackup,
    Step::Crds,
    Step::ClusterScoped,
    Step::Namespaced,
    Step::Prune,
    Step::SetVersion,
    Step::Resume,
    Step::Verify,
];

/// The steps of a run that the operator carries out, and we mend and prune.
const OPERATED: &[Step] = &[
    Step::Preflight,
    Step::Announce,
    Step::Quiesce,
    Step::SafetyBackup,
    Step::Operator,
    Step::Crds,
    Step::ClusterScoped,
    Step::Namespaced,
    Step::Prune,
    Step::Resume,
    Step::Verify,
];

/// All entries of a run with these steps, up to the start of `last`.
fn operated(steps: &[Step], last: Step) -> Vec<Entry> {
    let mut entries = vec![Entry::Steps { steps: steps.to_vec() }];
    for step in steps {
        entries.push(started(*step));
        if *step == last {
            return entries;
        }
        match step {
            Step::Quiesce => entries.push(recorded("rancher", 3)),
            Step::Operator => entries.push(handed_over()),
            _ => {}
        }
        entries.push(finished(*step));
    }
    entries
}

/// All entries of a run that succeeds.
fn whole() -> Vec<Entry> {
    let mut entries = Vec::new();
    for step in Step::NATIVE {
        entries.push(started(*step));
        if *step == Step::Quiesce {
            entries.extend([recorded("rancher", 3), recorded("rancher-webhook", 1)]);
        }
        if *step == Step::SafetyBackup {
            entries.push(stored("a.tar.gz"));
        }
        entries.push(finished(*step));
    }
    entries
}

/// Every step before `step` is done and `step` has started.
fn up_to(step: Step) -> Vec<Entry> {
    let mut entries = whole();
    let end = entries.iter().position(|entry| *entry == started(step)).expect("every step starts");
    entries.truncate(end + 1);
    entries
}

#[test]
fn every_prefix_of_a_whole_journal_says_what_is_next() {
    let entries = whole();
    let said: Vec<String> = (0..=entries.len())
        .map(|length| {
            let last = length.checked_sub(1).map_or("nothing".to_owned(), |index| entries[index].to_string());
            format!("{last} -> {:?}", journal(entries[..length].to_vec()).next(OnFailure::Hold))
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    nothing -> Run(Preflight)
    preflight started -> Again(Preflight)
    preflight finished -> Run(Announce)
    announce started -> Again(Announce)
    announce finished -> Run(Quiesce)
    quiesce started -> Again(Quiesce)
    deployments/cattle-system/rancher has 3 replicas -> Again(Quiesce)
    deployments/cattle-system/rancher-webhook has 1 replicas -> Again(Quiesce)
    quiesce finished -> Run(SafetyBackup)
    safety-backup started -> Again(SafetyBackup)
    safety backup a.tar.gz is stored -> Again(SafetyBackup)
    safety-backup finished -> Run(Crds)
    crds started -> Again(Crds)
    crds finished -> Run(ClusterScoped)
    cluster-scoped started -> Again(ClusterScoped)
    cluster-scoped finished -> Run(Namespaced)
    namespaced started -> Again(Namespaced)
    namespaced finished -> Run(Prune)
    prune started -> Again(Prune)
    prune finished -> Run(Resume)
    resume started -> Again(Resume)
    resume finished -> Run(Verify)
    verify started -> Again(Verify)
    verify finished -> End { phase: Succeeded, reason: "Succeeded", message: "every step finished" }
    "#);
}

#[test]
fn a_failure_ends_by_where_it_happened_and_what_the_manifest_asks() {
    let mut said = Vec::new();
    for step in Step::NATIVE {
        let mut failing = journal(up_to(*step));
        failing.append(at(100), failed(*step, "Timeout")).expect("a running step may fail");
        for on_failure in OnFailure::ALL {
            said.push(format!("{step}, {on_failure}: {:?}", failing.next(*on_failure)));
        }
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    preflight, Hold: End { phase: Failed, reason: "Timeout", message: "preflight gave up" }
    preflight, Resume: End { phase: Failed, reason: "Timeout", message: "preflight gave up" }
    preflight, Undo: End { phase: Failed, reason: "Timeout", message: "preflight gave up" }
    announce, Hold: End { phase: Failed, reason: "Timeout", message: "announce gave up" }
    announce, Resume: End { phase: Failed, reason: "Timeout", message: "announce gave up" }
    announce, Undo: End { phase: Failed, reason: "Timeout", message: "announce gave up" }
    quiesce, Hold: GiveBack { reason: "Timeout", message: "quiesce gave up" }
    quiesce, Resume: GiveBack { reason: "Timeout", message: "quiesce gave up" }
    quiesce, Undo: GiveBack { reason: "Timeout", message: "quiesce gave up" }
    safety-backup, Hold: GiveBack { reason: "Timeout", message: "safety-backup gave up" }
    safety-backup, Resume: GiveBack { reason: "Timeout", message: "safety-backup gave up" }
    safety-backup, Undo: GiveBack { reason: "Timeout", message: "safety-backup gave up" }
    crds, Hold: Hold { step: Crds, reason: "Timeout", message: "crds gave up" }
    crds, Resume: Resume { reason: "Timeout", message: "crds gave up" }
    crds, Undo: Hold { step: Crds, reason: "Timeout", message: "crds gave up" }
    cluster-scoped, Hold: Hold { step: ClusterScoped, reason: "Timeout", message: "cluster-scoped gave up" }
    cluster-scoped, Resume: Resume { reason: "Timeout", message: "cluster-scoped gave up" }
    cluster-scoped, Undo: Hold { step: ClusterScoped, reason: "Timeout", message: "cluster-scoped gave up" }
    namespaced, Hold: Hold { step: Namespaced, reason: "Timeout", message: "namespaced gave up" }
    namespaced, Resume: Resume { reason: "Timeout", message: "namespaced gave up" }
    namespaced, Undo: Hold { step: Namespaced, reason: "Timeout", message: "namespaced gave up" }
    prune, Hold: Hold { step: Prune, reason: "Timeout", message: "prune gave up" }
    prune, Resume: Resume { reason: "Timeout", message: "prune gave up" }
    prune, Undo: Hold { step: Prune, reason: "Timeout", message: "prune gave up" }
    resume, Hold: End { phase: Failed, reason: "Timeout", message: "resume gave up" }
    resume, Resume: End { phase: Failed, reason: "Timeout", message: "resume gave up" }
    resume, Undo: End { phase: Failed, reason: "Timeout", message: "resume gave up" }
    verify, Hold: End { phase: Failed, reason: "Timeout", message: "verify gave up" }
    verify, Resume: End { phase: Failed, reason: "Timeout", message: "verify gave up" }
    verify, Undo: End { phase: Failed, reason: "Timeout", message: "verify gave up" }
    "#);
}

#[test]
fn a_cancelled_run_gives_replicas_back_and_ends_cancelled_before_the_first_write_only() {
    let mut run = journal(up_to(Step::Quiesce));
    run.append(at(50), failed(Step::Quiesce, CANCELLED)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::GiveBack { .. }));
    run.append(at(51), started(Step::Resume)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::GiveBack { .. }), "a crash while giving back gives back again");
    run.append(at(52), finished(Step::Resume)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::End { phase: Phase::Cancelled, .. }));

    let mut late = journal(up_to(Step::Crds));
    late.append(at(50), failed(Step::Crds, CANCELLED)).expect("legal");
    assert!(matches!(late.next(OnFailure::Hold), Next::Hold { step: Step::Crds, .. }));
}

#[test]
fn what_was_recovered_may_have_written_anything() {
    let mut run = journal(up_to(Step::Announce));
    assert!(!run.first_write_begun());
    run.append(at(50), Entry::Recovered).expect("legal");
    run.append(at(51), Entry::Recovered).expect("legal, and nothing new");
    assert!(run.first_write_begun());
    assert_eq!(run.events().iter().filter(|event| event.entry == Entry::Recovered).count(), 1);
    run.append(at(52), failed(Step::Announce, "DigestMismatch")).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::Hold { step: Step::Announce, .. }), "Rancher may be at 0");
    assert!(matches!(run.next(OnFailure::Resume), Next::Resume { .. }));
}

#[test]
fn a_resume_that_has_begun_goes_on_although_the_policy_is_to_hold() {
    let mut run = journal(up_to(Step::Namespaced));
    run.append(at(60), failed(Step::Namespaced, "Timeout")).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::Hold { .. }));
    run.append(at(61), started(Step::Resume)).expect("a person may have it resumed");
    assert!(matches!(run.next(OnFailure::Hold), Next::Resume { .. }));
    run.append(at(62), finished(Step::Resume)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::End { phase: Phase::Failed, .. }));
}

#[test]
fn replicas_that_could_not_be_given_back_end_the_run_with_both_causes() {
    let mut run = journal(up_to(Step::Quiesce));
    for entry in [failed(Step::Quiesce, "Timeout"), started(Step::Resume), failed(Step::Resume, "Forbidden")] {
        run.append(at(60), entry).expect("legal");
    }
    insta::assert_snapshot!(format!("{:?}", run.next(OnFailure::Resume)), @r#"End { phase: Failed, reason: "Timeout", message: "quiesce gave up; then the replicas could not be given back: resume gave up" }"#);
}

#[test]
fn the_first_recorded_number_wins_over_a_zero_read_after_a_crash() {
    let mut run = journal(up_to(Step::Quiesce));
    run.append(at(10), recorded("rancher", 3)).expect("legal");
    let before = run.clone();
    run.append(at(20), recorded("rancher", 0)).expect("legal");
    assert_eq!(run, before, "the second record is not even stored");

    let edited = Journal::from(vec![
        Event { at: at(1), entry: recorded("rancher", 3) },
        Event { at: at(2), entry: recorded("rancher", 0) },
    ]);
    assert_eq!(edited.replicas(), BTreeMap::from([(workload("rancher"), 3)]), "nor read, when something stored it");
}

#[test]
fn what_cannot_follow_is_refused_and_changes_nothing() {
    let ended = |step, reason| {
        let mut entries = up_to(step);
        entries.push(failed(step, reason));
        entries
    };
    let mut given_back = ended(Step::Quiesce, "Timeout");
    given_back.extend([started(Step::Resume), finished(Step::Resume)]);
    let cases = [
        (vec![], started(Step::Announce)),
        (vec![], finished(Step::Preflight)),
        (vec![], recorded("rancher", 3)),
        (up_to(Step::Preflight), started(Step::Announce)),
        (up_to(Step::Preflight), recorded("rancher", 3)),
        (up_to(Step::Quiesce), recorded("rancher", -1)),
        (up_to(Step::Quiesce), failed(Step::Crds, "Timeout")),
        (up_to(Step::Crds), started(Step::Quiesce)),
        (up_to(Step::Crds), recorded("rancher", 0)),
        (up_to(Step::Crds), started(Step::Resume)),
        (ended(Step::Crds, "Timeout"), started(Step::ClusterScoped)),
        (ended(Step::Preflight, "Timeout"), started(Step::Resume)),
        (ended(Step::Verify, "Timeout"), started(Step::Verify)),
        (given_back, started(Step::Resume)),
        (whole(), started(Step::Preflight)),
    ];
    let refused: Vec<String> = cases
        .into_iter()
        .map(|(before, entry)| {
            let mut run = journal(before);
            let unchanged = run.clone();
            let error = run.append(at(99), entry).expect_err("an illegal entry");
            assert_eq!(run, unchanged);
            error.to_string()
        })
        .collect();
    insta::assert_snapshot!(refused.join("\n"), @r"
    the journal does not take `announce started`: preflight comes first
    the journal does not take `preflight finished`: preflight is not running
    the journal does not take `deployments/cattle-system/rancher has 3 replicas`: replicas are recorded in quiesce only
    the journal does not take `announce started`: preflight is still running
    the journal does not take `deployments/cattle-system/rancher has 3 replicas`: replicas are recorded in quiesce only
    the journal does not take `deployments/cattle-system/rancher has -1 replicas`: replicas are never negative
    the journal does not take `crds failed: Timeout`: crds is not running
    the journal does not take `quiesce started`: crds is still running
    the journal does not take `deployments/cattle-system/rancher has 0 replicas`: replicas are recorded in quiesce only
    the journal does not take `resume started`: crds is still running
    the journal does not take `cluster-scoped started`: crds failed; only resume may follow
    the journal does not take `resume started`: the run has ended
    the journal does not take `verify started`: the run has ended
    the journal does not take `resume started`: the run has ended
    the journal does not take `preflight started`: the run has ended
    ");
}

#[test]
fn a_process_that_dies_for_ever_does_not_fill_the_journal() {
    let mut run = journal(up_to(Step::Quiesce));
    for attempt in 0..10_000 {
        run.append(at(attempt), Entry::TakenOver { holder: format!("pod-{attempt}") }).expect("legal");
        run.append(at(attempt), started(Step::Quiesce)).expect("legal");
        run.append(at(attempt), recorded("rancher", 0)).expect("legal");
    }
    assert!(run.events().len() < 120, "{} entries", run.events().len());
    assert_eq!(run.next(OnFailure::Hold), Next::Again(Step::Quiesce));
    assert_eq!(
        run.events().last().map(|event| event.entry.to_string()).as_deref(),
        Some("taken over by pod-9999"),
        "the last holder is told"
    );
}

#[test]
fn a_step_that_was_taken_up_again_keeps_its_first_start() {
    let mut run = journal(up_to(Step::Announce));
    run.append(at(30), Entry::TakenOver { holder: "pod-b".to_owned() }).expect("legal");
    run.append(at(31), started(Step::Announce)).expect("legal");
    run.append(at(40), failed(Step::Announce, "Timeout")).expect("legal");
    assert_eq!(
        run.step_times(),
        [
            StepTime { step: Step::Preflight, started: at(0), finished: Some(at(1)), failed: None },
            StepTime { step: Step::Announce, started: at(2), finished: None, failed: Some(at(40)) },
        ]
    );
}

#[test]
fn a_journal_reads_back_as_it_was_written() {
    let mut run = journal(up_to(Step::Crds));
    run.append(at(30), Entry::TakenOver { holder: "pod-b".to_owned() }).expect("legal");
    run.append(at(31), failed(Step::Crds, "Timeout")).expect("legal");
    let json = serde_json::to_string(run.events()).expect("serialises");
    assert_eq!(serde_json::from_str::<Vec<Event>>(&json).expect("reads"), run.events());
    let yaml = serde_yaml::to_string(run.events()).expect("serialises");
    assert_eq!(serde_yaml::from_str::<Vec<Event>>(&yaml).expect("reads"), run.events());
}

#[test]
fn on_failure_is_one_of_three_words() {
    assert_eq!("Resume".parse(), Ok(OnFailure::Resume));
    insta::assert_snapshot!("resume".parse::<OnFailure>().expect_err("case matters"), @r#""resume" is not Hold, Resume or Undo"#);
}

/// A cluster and an executor that may die before any single effect, and whose steps may fail.
struct World {
    /// Effects left before the process dies.
    lives: usize,
    live: BTreeMap<WorkloadRef, i32>,
    stored: Journal,
    fails_in: Option<Step>,
}

struct Died;

impl World {
    fn new(steps: &[Step], fails_in: Option<Step>) -> Self {
        let live = BTreeMap::from([(workload("rancher"), 3), (workload("rancher-webhook"), 1)]);
        let mut stored = Journal::default();
        if steps != Step::NATIVE {
            stored.append(at(0), Entry::Steps { steps: steps.to_vec() }).expect("the first entry");
        }
        Self { lives: usize::MAX, live, stored, fails_in }
    }

    fn effect(&mut self) -> Result<(), Died> {
        self.lives = self.lives.checked_sub(1).ok_or(Died)?;
        Ok(())
    }

    fn record(&mut self, entry: Entry) -> Result<(), Died> {
        self.effect()?;
        self.stored.append(at(0), entry).expect("what `next` asks for is legal");
        Ok(())
    }

    fn scale(&mut self, workload: &WorkloadRef, replicas: i32) -> Result<(), Died> {
        self.effect()?;
        self.live.insert(workload.clone(), replicas);
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Died> {
        self.record(started(step))?;
        match step {
            Step::Quiesce => {
                for (workload, replicas) in self.live.clone() {
                    self.record(Entry::Replicas { workload: workload.clone(), replicas })?;
                    self.scale(&workload, 0)?;
                }
            }
            Step::Resume => {
                for (workload, replicas) in self.stored.replicas() {
                    self.scale(&workload, replicas)?;
                }
            }
            Step::Crds | Step::ClusterScoped | Step::Namespaced | Step::Prune => {
                assert!(self.live.values().all(|replicas| *replicas == 0), "{step} wrote while Rancher ran");
            }
            Step::SafetyBackup => self.record(stored("a.tar.gz"))?,
            Step::Operator => self.record(handed_over())?,
            Step::SetVersion => {
                self.record(version_had())?;
                // As Helm's stored manifest does, where nothing is in its way.
                if self.fails_in != Some(step) {
                    self.scale(&workload("rancher"), 3)?;
                }
            }
            Step::Preflight | Step::Announce | Step::Verify => {}
        }
        if self.fails_in == Some(step) { self.record(failed(step, "Timeout")) } else { self.record(finished(step)) }
    }

    /// Goes on until the end or death.
    fn run(&mut self, on_failure: OnFailure) -> Result<Next, Died> {
        loop {
            let next = self.stored.next(on_failure);
            match next.step() {
                Some(step) => self.step(step)?,
                None => return Ok(next),
            }
        }
    }
}

#[test]
fn replicas_are_given_back_wherever_it_dies_and_fails_unless_it_is_to_hold() {
    for steps in [Step::NATIVE, SETTING] {
        assert_given_back(steps);
    }
}

fn assert_given_back(steps: &[Step]) {
    let failures = steps.iter().copied().filter(|step| *step != Step::Resume).map(Some).chain([None]);
    for (fails_in, on_failure) in failures.flat_map(|step| OnFailure::ALL.iter().map(move |policy| (step, *policy))) {
        for (first_death, second_death) in (0..60).flat_map(|first| (0..30).step_by(7).map(move |then| (first, then))) {
            let mut world = World::new(steps, fails_in);
            world.lives = first_death;
            let ended = world.run(on_failure).or_else(|Died| {
                world.lives = second_death;
                world.run(on_failure).or_else(|Died| {
                    world.lives = usize::MAX;
                    world.run(on_failure)
                })
            });
            let Ok(end) = ended else { panic!("nothing kills the third process") };
            let case = format!("{fails_in:?} {on_failure} {first_death} {second_death}: {end:?}");
            match end {
                Next::Hold { step, .. } => {
                    assert!(step.writes_objects() && on_failure != OnFailure::Resume, "{case}");
                    assert!(world.live.values().all(|replicas| *replicas == 0), "{case}");
                }
                Next::End { phase, .. } => {
                    assert_eq!(phase, if fails_in.is_some() { Phase::Failed } else { Phase::Succeeded }, "{case}");
                    assert_eq!(world.live, World::new(steps, None).live, "{case}");
                }
                Next::Run(_) | Next::Again(_) | Next::GiveBack { .. } | Next::Resume { .. } => panic!("{case}"),
            }
        }
    }
}

#[test]
fn a_run_whose_process_died_between_its_last_entry_and_its_end_can_be_taken_over() {
    let mut run = journal(whole());
    run.append(at(99), Entry::TakenOver { holder: "pod-b".to_owned() }).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::End { phase: Phase::Succeeded, .. }));
}

#[test]
fn what_clusters_had_before_they_were_paused_is_kept_and_the_first_word_wins() {
    let cluster =
        |name: &str, paused| PausedCluster { namespace: "fleet-default".to_owned(), name: name.to_owned(), paused };
    let entry = |clusters: &[PausedCluster]| Entry::Paused { clusters: clusters.to_vec() };
    let mut journal = journal(up_to(Step::Quiesce));
    assert_eq!(paused(journal.events()), None, "nothing is paused");
    journal.append(at(50), entry(&[])).unwrap();
    assert_eq!(paused(journal.events()), Some(Paused::new()), "pauses what comes");
    journal.append(at(51), entry(&[cluster("a", false), cluster("b", true)])).unwrap();
    let length = journal.events().len();
    journal.append(at(52), entry(&[cluster("a", true)])).unwrap();
    assert_eq!(journal.events().len(), length, "after a crash it says nothing new");
    let kept = paused(journal.events()).unwrap();
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [false, true]);
    let text = serde_json::to_string(journal.events()).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Event>>(&text).unwrap(), journal.events());
    journal.append(at(53), finished(Step::Quiesce)).unwrap();
    assert!(journal.append(at(54), entry(&[cluster("c", false)])).is_err(), "in quiesce only");
}

#[test]
fn a_safety_backup_is_recorded_in_its_step_and_once() {
    let mut run = journal(up_to(Step::Quiesce));
    assert!(run.append(at(9), stored("early.tar.gz")).is_err());
    let mut run = journal(up_to(Step::SafetyBackup));
    for name in ["first.tar.gz", "second.tar.gz"] {
        run.append(at(10), stored(name)).expect("legal");
    }
    assert_eq!(safety_backup(run.events()).map(|backup| backup.name.as_str()), Some("first.tar.gz"));
    assert!(!run.first_write_begun());
}

#[test]
fn a_run_that_began_before_there_were_safety_backups_goes_on_without() {
    let of_old = |until: Step| {
        let entries = up_to(until).into_iter().filter(|entry| {
            *entry != started(Step::SafetyBackup)
                && *entry != finished(Step::SafetyBackup)
                && *entry != stored("a.tar.gz")
        });
        let events = entries.zip(0..).map(|(entry, second)| Event { at: at(second), entry });
        Journal::from(events.collect::<Vec<_>>())
    };
    assert_eq!(of_old(Step::Namespaced).next(OnFailure::Hold), Next::Again(Step::Namespaced));
    let mut run = of_old(Step::Verify);
    run.append(at(99), finished(Step::Verify)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::End { phase: Phase::Succeeded, .. }));
}

#[test]
fn what_webhooks_had_is_kept_and_what_they_get_back_beats_it() {
    use crate::webhook::silence::{SilencedWebhook, WebhookRef};
    let had = |name: &str, had: &str| SilencedWebhook { webhook: WebhookRef::conversion(name), had: had.into() };
    let of = |journal: &Journal, name: &str| silenced(journal.events()).remove(&WebhookRef::conversion(name));
    let mut journal = Journal::default();
    let mut append = |entry: Entry| {
        let appended = journal.append(at(0), entry);
        (appended.is_ok(), journal.clone())
    };
    let silence = |of: &[SilencedWebhook]| Entry::Silenced { webhooks: of.to_vec() };
    assert!(!append(silence(&[had("a", "1")])).0, "not before quiesce");
    assert!(!append(Entry::Unsilenced { webhooks: vec![had("a", "1")] }).0, "nothing is silenced");
    for step in [Step::Preflight, Step::Announce] {
        append(Entry::Started { step });
        append(Entry::Finished { step });
    }
    append(Entry::Started { step: Step::Quiesce });
    let before = append(silence(&[had("a", "1")])).1;
    assert_eq!(append(silence(&[had("a", "2")])).1, before, "said already");
    let journal = append(silence(&[had("a", "2"), had("b", "3")])).1;
    assert_eq!((of(&journal, "a"), of(&journal, "b")), (Some("1".into()), Some("3".into())), "the first word wins");
    assert!(is_silencing(journal.events()));
    append(Entry::Finished { step: Step::Quiesce });
    assert!(!append(silence(&[had("c", "1")])).0, "not after it");
    let failed = |step| Entry::Failed { step, reason: "Any".to_owned(), message: String::new() };
    append(Entry::Started { step: Step::SafetyBackup });
    append(Entry::Finished { step: Step::SafetyBackup });
    append(Entry::Started { step: Step::Crds });
    append(failed(Step::Crds));
    let (legal, journal) = append(Entry::Unsilenced { webhooks: vec![had("a", "4")] });
    assert!(legal && !is_silencing(journal.events()), "also by a run that is held");
    assert_eq!((of(&journal, "a"), of(&journal, "b")), (Some("4".into()), Some("3".into())));
}

#[test]
fn what_clusters_had_is_kept_and_what_they_get_back_beats_it() {
    let cluster = |name: &str, paused| PausedCluster { namespace: "ns".to_owned(), name: name.to_owned(), paused };
    let of = |journal: &Journal, name: &str| paused(journal.events())?.remove(&("ns".to_owned(), name.to_owned()));
    let mut journal = Journal::default();
    let mut append = |entry: Entry| {
        let appended = journal.append(at(0), entry);
        (appended.is_ok(), journal.clone())
    };
    assert!(!append(Entry::Unpaused { clusters: vec![cluster("a", true)] }).0, "nothing is paused");
    for step in [Step::Preflight, Step::Announce] {
        append(Entry::Started { step });
        append(Entry::Finished { step });
    }
    append(Entry::Started { step: Step::Quiesce });
    append(Entry::Paused { clusters: vec![cluster("a", false), cluster("b", true)] });
    let journal = append(Entry::Unpaused { clusters: vec![cluster("a", true)] }).1;
    assert_eq!((of(&journal, "a"), of(&journal, "b")), (Some(true), Some(true)));
    let again = append(Entry::Unpaused { clusters: vec![cluster("a", false)] }).1;
    assert_eq!(again, journal, "said already");
}

#[test]
fn a_run_goes_by_the_steps_that_its_journal_names() {
    let short: Vec<Step> = OPERATED
        .iter()
        .copied()
        .filter(|step| !matches!(step, Step::Crds | Step::ClusterScoped | Step::Namespaced | Step::Prune))
        .collect();
    let mut run = journal(operated(&short, Step::Operator));
    assert!(run.append(at(98), started(Step::Crds)).is_err(), "another one is open");
    run.append(at(98), handed_over()).expect("legal");
    let mut again = run.clone();
    again.append(at(99), handed_over()).expect("legal");
    assert_eq!((again, handed(run.events())), (run.clone(), Some(("back-01234567", "u-1"))), "said already");
    run.append(at(99), finished(Step::Operator)).expect("legal");
    assert_eq!(run.next(OnFailure::Hold), Next::Run(Step::Resume));
    assert_eq!(run.append(at(99), started(Step::Crds)).unwrap_err().why, "crds is no step of this run");
    assert!(has_operator(run.events()) && run.first_write_begun());

    let all = journal(operated(OPERATED, Step::Verify));
    assert_eq!(all.next(OnFailure::Hold), Next::Again(Step::Verify));
    let mut ended = all;
    ended.append(at(99), finished(Step::Verify)).expect("legal");
    assert!(matches!(ended.next(OnFailure::Hold), Next::End { phase: Phase::Succeeded, .. }));
    let text = serde_json::to_string(ended.events()).expect("serialises");
    assert_eq!(serde_json::from_str::<Vec<Event>>(&text).expect("reads"), ended.events());
}

#[test]
fn what_was_not_handed_over_was_not_written() {
    let mut refused = journal(operated(OPERATED, Step::Operator));
    let mut handed = refused.clone();
    refused.append(at(9), failed(Step::Operator, NOT_HANDED_OVER)).expect("legal");
    assert!(matches!(refused.next(OnFailure::Hold), Next::GiveBack { .. }) && !refused.first_write_begun());
    handed.append(at(8), handed_over()).expect("legal");
    handed.append(at(9), failed(Step::Operator, NOT_HANDED_OVER)).expect("legal");
    assert!(matches!(handed.next(OnFailure::Hold), Next::Hold { .. }), "whatever the reason says");
}

#[test]
fn steps_are_named_before_anything_else_and_a_journal_without_goes_on_as_ever() {
    let steps = Entry::Steps { steps: OPERATED.to_vec() };
    let mut late = journal(up_to(Step::Quiesce));
    assert!(late.append(at(9), steps.clone()).is_err());
    let mut run = journal([steps.clone()]);
    assert_eq!(run.next(OnFailure::Hold), Next::Run(Step::Preflight));
    run.append(at(9), steps).expect("said already");
    assert_eq!(run.events().len(), 1);
    let native = journal(up_to(Step::SafetyBackup));
    assert!(!has_operator(native.events()) && handed(native.events()).is_none());
    let mut native = native;
    assert!(native.append(at(9), handed_over()).is_err(), "in its step only");
    native.append(at(9), finished(Step::SafetyBackup)).expect("legal");
    assert_eq!(native.append(at(9), started(Step::Operator)).unwrap_err().why, "operator is no step of this run");
}

#[test]
fn the_replicas_of_the_operator_are_recorded_when_it_has_to_be_stopped() {
    let of_operator = recorded("rancher-backup", 1);
    assert!(journal(operated(OPERATED, Step::SafetyBackup)).append(at(9), of_operator.clone()).is_err());
    for step in [Step::Operator, Step::Resume] {
        let mut run = journal(operated(OPERATED, step));
        run.append(at(9), of_operator.clone()).expect("legal");
        assert_eq!(run.replicas().len(), 2);
    }
    let mut held = journal(operated(OPERATED, Step::Operator));
    held.append(at(9), failed(Step::Operator, "OperatorFailed")).expect("legal");
    assert!(matches!(held.next(OnFailure::Hold), Next::Hold { step: Step::Operator, .. }));
    held.append(at(10), of_operator.clone()).expect("also by a run that is held");
    let mut recovered = journal(operated(OPERATED, Step::Announce));
    assert!(recovered.append(at(9), of_operator.clone()).is_err());
    recovered.append(at(9), Entry::Recovered).expect("legal");
    recovered.append(at(9), of_operator).expect("anything may have begun");
}

#[test]
fn a_version_that_nothing_was_changed_for_gives_replicas_back_and_one_that_was_begun_holds() {
    let alone = [
        Step::Preflight,
        Step::Announce,
        Step::Quiesce,
        Step::SafetyBackup,
        Step::SetVersion,
        Step::Resume,
        Step::Verify,
    ];
    let mut untouched = journal(operated(&alone, Step::SetVersion));
    let mut begun = untouched.clone();
    untouched.append(at(9), failed(Step::SetVersion, "SetVersionFailed")).expect("legal");
    assert!(matches!(untouched.next(OnFailure::Hold), Next::GiveBack { .. }));
    begun.append(at(8), version_had()).expect("legal");
    begun.append(at(9), failed(Step::SetVersion, "SetVersionFailed")).expect("legal");
    assert!(matches!(begun.next(OnFailure::Hold), Next::Hold { step: Step::SetVersion, .. }));
    assert_eq!(version_had_of(&begun), Some(3));
    let mut native = journal(up_to(Step::Prune));
    assert!(native.append(at(9), version_had()).is_err(), "in its step only");
}

fn version_had_of(journal: &Journal) -> Option<u64> {
    super::version_had(journal.events())?.revision
}

#[test]
fn a_run_that_is_cancelled_at_the_edge_of_its_first_write_has_not_written() {
    let mut entries = up_to(Step::Crds);
    entries.pop();
    let mut run = journal(entries);
    assert!(run.append(at(9), failed(Step::Namespaced, CANCELLED)).is_err(), "it is not the next");
    run.append(at(9), failed(Step::Crds, CANCELLED)).expect("legal");
    assert!(!run.first_write_begun());
    assert!(matches!(run.next(OnFailure::Hold), Next::GiveBack { .. }));
    run.append(at(10), started(Step::Resume)).expect("legal");
    run.append(at(11), finished(Step::Resume)).expect("legal");
    assert!(matches!(run.next(OnFailure::Hold), Next::End { phase: Phase::Cancelled, .. }));
}
