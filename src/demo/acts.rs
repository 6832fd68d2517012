//! The story: a backup, an upgrade that goes wrong, a merge, a gate, a rollback, a death in the middle of it, and the end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;

use super::changes::Changes;
use super::process::Process;
use super::repository::MAIN;
use super::stage::{Backup, LEASE, PATH, STATUS, Stage};
use super::tell::Teller;
use super::{Options, scene};
use crate::journal::Step;
use crate::plan::gate::{Gate, GateCode};
use crate::plan::render::{self, Verbosity};
use crate::run::{Phase, RunStatus};
use crate::status::humane_count;

/// The manifest's name.
const NAME: &str = "before-the-upgrade";
/// How often the world is looked at, to tell what changed.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Nothing takes as long, on a slow machine neither.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a plan's deletions that are shown.
const DELETIONS_SHOWN: usize = 3;
/// Where the first agent dies: about half of the changes are made by then.
const DIES_AT: Step = Step::Namespaced;
const RANCHER_PODS: i64 = 3;

struct Story {
    stage: Stage,
    teller: Teller,
    agent: Option<Process>,
    /// Commits of the status branch that were told.
    told: usize,
    /// What the rollback is to do with objects, once that is known.
    changes: Option<Changes>,
}

/// Plays it in `folder`, which is empty, and tells it on stdout.
///
/// # Errors
///
/// When it does not end as it should, or the folder or stdout cannot be written.
pub async fn play(folder: &Path, options: Options) -> anyhow::Result<()> {
    let Options { seed, pause } = options;
    let stage = Stage::build(folder, seed)?;
    let mut story = Story { stage, teller: Teller::new(pause), agent: None, told: 0, changes: None };
    story.introduce()?;
    let backup = story.back_up().await?;
    story.upgrade().await?;
    story.first_look().await?;
    let manifest = story.merge(&backup).await?;
    let accepting = story.pass_the_gate(&manifest).await?;
    story.roll_back_half(&accepting).await?;
    story.die_and_go_on().await?;
    story.read_the_branch().await?;
    story.compare().await
}

impl Story {
    fn introduce(&self) -> anyhow::Result<()> {
        Ok(self.teller.say(&format!(
            "A rollback of a Rancher that is not there: the cluster is simulated, all else is real.\n\
             Repository, backup and caches are in {}.",
            self.stage.folder().display()
        ))?)
    }

    async fn back_up(&mut self) -> anyhow::Result<Backup> {
        self.teller.act("Monday, 2:58 a.m.: a backup").await?;
        self.follow("Rancher to run", |story| Ok(story.rancher_is_up().then_some(()))).await?;
        let backup = self.stage.back_up()?;
        let (rancher, Backup { name, objects }) = (self.stage.rancher(), &backup);
        self.teller.say(&format!(
            "Rancher {} runs with {} pods. {} of its objects are saved, in rancher-backup's format:",
            rancher.version,
            rancher.ready,
            humane_count(*objects as u64),
        ))?;
        self.teller.show(name)?;
        Ok(backup)
    }

    async fn upgrade(&mut self) -> anyhow::Result<()> {
        self.teller.act("An upgrade goes wrong").await?;
        let before = self.stage.users();
        self.stage.upgrade().await?;
        self.follow("Rancher to be upgraded", |story| Ok(story.rancher_is_up().then_some(()))).await?;
        let lost = before.saturating_sub(self.stage.users());
        self.teller.say(&format!(
            "Helm upgrades it to {}. Its migration loses {lost} of {before} users, moves roles about, and\n\
             the downstream cluster prod says: {}.",
            self.stage.rancher().version,
            self.stage.complaint(),
        ))?;
        Ok(())
    }

    async fn first_look(&mut self) -> anyhow::Result<()> {
        self.teller.act("reinback is started").await?;
        let now = self.stage.now();
        self.stage.repository.merge("README.md", "Restores and rollbacks of our Rancher.\n", "Begin", now).await?;
        self.agent = Some(self.stage.start_agent(Some(DIES_AT))?);
        self.teller.say(&format!(
            "The agent watches {PATH} on {MAIN}, and reports on {STATUS}. What lies there at its\n\
             first look never runs: installing reinback restores nothing."
        ))?;
        self.follow("its first look", |story| Ok((story.told > 0).then_some(()))).await
    }

    /// Gives the manifest as it is merged.
    async fn merge(&mut self, backup: &Backup) -> anyhow::Result<String> {
        self.teller.act("Ada merges a Rollback").await?;
        let manifest = manifest(&backup.name);
        self.teller.say(&format!("{PATH}/{NAME}.yaml:"))?;
        self.teller.show(&manifest)?;
        self.push(&manifest, "Go back to before the upgrade").await?;
        self.follow("the run to be held", |story| story.is_told(|status| status.phase == Phase::Held)).await?;
        self.teller.say("Nothing was touched yet. This is the plan:")?;
        let looked = self.stage.plan().await?;
        self.teller.show(&shortened(&render::text(&looked.plan, &looked.observed, Verbosity::Summary)))?;
        Ok(manifest)
    }

    /// It falls by a line in the manifest; gives it with that.
    async fn pass_the_gate(&mut self, manifest: &str) -> anyhow::Result<String> {
        self.teller.act("The gate").await?;
        let is_held = |status: &RunStatus| holding(status) == [GateCode::PruneShare];
        self.follow("the gate", |story| story.is_told(is_held)).await?;
        let line = self.accept_line()?;
        self.teller.say(&format!(
            "{}: Ada reads the plan; what goes is what the upgrade made. The dashboard on\n\
             {STATUS} has the line that takes it, and she adds it:",
            GateCode::PruneShare,
        ))?;
        self.teller.warn(&line)?;
        Ok(accepting(manifest, &line))
    }

    async fn roll_back_half(&mut self, manifest: &str) -> anyhow::Result<()> {
        self.teller.act("The rollback runs").await?;
        let looked = self.stage.plan().await?;
        self.changes = Some(Changes::of(&looked.plan, &looked.observed, &self.stage.sim.objects()));
        self.push(manifest, "Take what the plan deletes").await?;
        let is_dead = |story: &Self| story.agent.as_ref().is_some_and(Process::is_over);
        self.follow("objects to be written", |story| Ok(is_dead(story).then_some(()))).await
    }

    async fn die_and_go_on(&mut self) -> anyhow::Result<()> {
        self.agent = None;
        self.teller.end_progress();
        self.teller.act("The agent is killed").await?;
        let (done, total) = self.progress();
        let (rancher, dead) = (self.stage.rancher(), self.stage.holder().unwrap_or_default());
        self.teller.say(&format!(
            "It dies after {done} of {total} changes, with Rancher down. What it knew is in its journal, in the cluster\n\
             and in Git, and Rancher's Deployment itself says what it had:"
        ))?;
        self.teller.show(&format!(
            "replicas: {}, reinback.io/replicas: {}\nLease reinback-system/reinback: {dead}",
            rancher.replicas,
            rancher.had.as_deref().unwrap_or("none"),
        ))?;
        self.teller.say(&format!(
            "A new agent starts. It waits until the lease has not been renewed for {} s, and goes on:",
            LEASE.takeover_after(Duration::ZERO).as_secs(),
        ))?;
        let began = Instant::now();
        self.agent = Some(self.stage.start_agent(None)?);
        let is_other = |holder: &String| !holder.is_empty() && *holder != dead;
        let holder = self.follow("the lease", |story| Ok(story.stage.holder().filter(is_other))).await?;
        self.teller
            .show(&format!("Lease reinback-system/reinback: {holder}, after {:.1} s", began.elapsed().as_secs_f64()))?;
        self.follow("the end of the run", |story| story.is_told(|status| status.phase.is_terminal())).await?;
        self.teller.end_progress();
        let status = self.stage.run().and_then(|run| run.status).unwrap_or_default();
        ensure!(
            status.phase == Phase::Succeeded,
            "the rollback ended {:?} ({}): {}",
            status.phase,
            status.reason,
            status.message
        );
        Ok(())
    }

    async fn read_the_branch(&mut self) -> anyhow::Result<()> {
        self.teller.act("What Git tells").await?;
        self.teller.say(&format!("git log {STATUS}, newest first, is the audit trail:"))?;
        for commit in self.stage.repository.log(STATUS)? {
            self.teller.commit(&commit)?;
        }
        self.teller.say("The dashboard, its README.md:")?;
        Ok(self.teller.show(&self.dashboard()?)?)
    }

    async fn compare(&mut self) -> anyhow::Result<()> {
        self.teller.act("Cluster and backup").await?;
        self.follow("Rancher's pods", |story| Ok(story.rancher_is_up().then_some(()))).await?;
        let (plan, rancher) = (self.stage.plan().await?.plan, self.stage.rancher());
        let counts = plan.counts();
        self.teller.say(&format!(
            "Planned once more: {} objects are as in the backup, {} as Rancher keeps it; {} differ or are missing,\n\
             {} are too many.",
            humane_count(counts.skipped),
            humane_count(counts.protected),
            humane_count(counts.created + counts.updated + counts.recreated),
            humane_count(counts.deleted),
        ))?;
        ensure!(plan.is_empty(), "the rollback left {} changes to make", counts.changes());
        ensure!(rancher.version == scene::BEFORE, "Rancher is at {}", rancher.version);
        ensure!(rancher.had.is_none(), "Rancher still carries the annotation of a run");
        Ok(self.teller.succeed(&format!(
            "Rancher {} runs with {} of {} pods, on the data of its backup.",
            rancher.version, rancher.ready, rancher.replicas
        ))?)
    }

    /// Ada writes the manifest.
    async fn push(&self, manifest: &str, message: &str) -> anyhow::Result<()> {
        let path = format!("{PATH}/{NAME}.yaml");
        self.stage.repository.merge(&path, manifest, message, self.stage.now()).await
    }

    fn rancher_is_up(&self) -> bool {
        let rancher = self.stage.rancher();
        rancher.is_settled && rancher.replicas == RANCHER_PODS && rancher.ready == RANCHER_PODS
    }

    /// How many objects are done, and of how many.
    fn progress(&self) -> (usize, usize) {
        let now = self.stage.sim.objects();
        self.changes.as_ref().map_or((0, 0), |changes| (changes.done(&now), changes.total()))
    }

    /// The status branch says so of the run, too.
    fn is_told(&self, holds: impl Fn(&RunStatus) -> bool) -> anyhow::Result<Option<()>> {
        let told = self.stage.told_run()?.and_then(|run| run.status);
        // A commit that is not yet shown is shown first.
        let is_shown = self.stage.repository.log(STATUS)?.len() == self.told;
        Ok((is_shown && told.is_some_and(|status| holds(&status))).then_some(()))
    }

    fn dashboard(&self) -> anyhow::Result<String> {
        self.stage.repository.file(STATUS, "README.md")?.context("there is no dashboard")
    }

    /// The line that the dashboard offers.
    fn accept_line(&self) -> anyhow::Result<String> {
        let dashboard = self.dashboard()?;
        let line = dashboard.lines().map(str::trim).find(|line| line.starts_with("reinback.io/accept:"));
        line.map(str::to_owned).context("the dashboard does not say how to go on")
    }

    /// Tells what is committed and how far the rollback is, until `done` gives something.
    async fn follow<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.tell_commits()?;
            self.tell_progress();
            if let Some(found) = done(self)? {
                return Ok(found);
            }
            let is_over = self.agent.as_ref().is_some_and(Process::is_over);
            if is_over || Instant::now() > end {
                let status = self.stage.run().and_then(|run| run.status).unwrap_or_default();
                let why =
                    if is_over { "the agent ended".to_owned() } else { format!("{} s passed", PATIENCE.as_secs()) };
                anyhow::bail!("waited for {what}, but {why}; the run is {:?}: {}", status.phase, status.message);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell_commits(&mut self) -> anyhow::Result<()> {
        let log = self.stage.repository.log(STATUS)?;
        let new = log.len().saturating_sub(self.told);
        for commit in log[..new].iter().rev() {
            self.teller.commit(commit)?;
        }
        self.told = log.len();
        Ok(())
    }

    fn tell_progress(&mut self) {
        let Some(run) = self.stage.run().filter(|_| self.changes.is_some()) else { return };
        let status = run.status.unwrap_or_default();
        if let (Phase::Running, Some(step)) = (status.phase, status.steps.last()) {
            let (done, total) = self.progress();
            self.teller.progress(step.step.as_str(), done, total);
        }
    }
}

fn manifest(backup: &str) -> String {
    format!(
        "apiVersion: reinback.io/v1alpha1\n\
         kind: Rollback\n\
         metadata:\n  \
           name: {NAME}\n\
         spec:\n  \
           toVersion: {}\n  \
           versionMethod: image\n  \
           restore:\n    \
             backupFilename: {backup}\n    \
             prune: true\n",
        scene::BEFORE
    )
}

/// The manifest with one more annotation.
fn accepting(manifest: &str, line: &str) -> String {
    manifest.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    {line}\n"), 1)
}

fn holding(status: &RunStatus) -> Vec<GateCode> {
    status.gates.iter().filter(|gate| Gate::holds(gate)).map(|gate| gate.code).collect()
}

/// A plan without most of its deletions.
fn shortened(plan: &str) -> String {
    let mut lines = Vec::new();
    let mut deletions = None;
    for line in plan.trim_end().lines() {
        match (line, deletions) {
            ("deletes", _) => deletions = Some(0),
            ("", Some(count)) => {
                if let more @ 1.. = usize::saturating_sub(count, DELETIONS_SHOWN) {
                    lines.push(format!("  … and {more} more"));
                }
                deletions = None;
            }
            (_, Some(count)) => {
                deletions = Some(count + 1);
                if count >= DELETIONS_SHOWN {
                    continue;
                }
            }
            (_, None) => {}
        }
        lines.push(line.to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_deletions_a_few_are_shown() {
        let plan = |count: usize| {
            let deletions: String = (0..count).map(|number| format!("  object {number}\n")).collect();
            format!("Restore x\n\ndeletes\n{deletions}\nmind\n  this\n")
        };
        assert_eq!(shortened(&plan(DELETIONS_SHOWN)), plan(DELETIONS_SHOWN).trim_end());
        let long = plan(DELETIONS_SHOWN + 2);
        let cut = shortened(&long);
        assert!(cut.contains("\n  object 2\n  … and 2 more\n\nmind\n  this"), "{cut}");
        assert_eq!(cut.lines().count(), long.lines().count() - 1);
    }

    #[test]
    fn the_line_goes_into_the_annotations_of_a_manifest_that_stays_valid() {
        let text = accepting(&manifest("a.tar.gz"), "reinback.io/accept: PruneShare");
        let parsed = crate::manifest::parse("x.yaml", text.as_bytes(), &crate::manifest::Limits::default());
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        assert!(text.contains("  annotations:\n    reinback.io/accept: PruneShare\n"), "{text}");
    }
}
