//! GitOps for Rancher restores and rollbacks.
//!
//! A person merges a pull request that adds a `Restore` or a `Rollback` manifest; the agent plans it, guards it, carries it out on the
//! cluster and commits what happened back to Git. This page is the architecture; the README is for those who use it.
//!
//! ```text
//!  git fetch ─▶ blobs under path ─▶ Manifest ─▶ Desired ┐
//!                                                        ├─▶ Plan ─▶ gates ─▶ execute ⇄ journal ─▶ status ─▶ git push
//!  backup, then the LISTs it asks for, ledger ─▶ Observed┘
//! ```
//!
//! Pure in the middle: no async, no client, no clock, no file; all of it arrives as arguments. Thin shells around it.
//! Reading and writing a cluster are different capabilities ([`cluster::ClusterReader`], [`cluster::ClusterWriter`]), so
//! that what plans *cannot* write. What a gate judges (a missing backup, a wrong digest) is data in
//! [`observed::Observed`], never an `Err`: an error is only what another try may take away.
//!
//! # Pure
//!
//! - [`manifest`]: the files as written; unknown fields are refused, with file, line and a remedy
//! - [`desired`]: which manifest rules the cluster now, and run keys; [`desired::decide`] is the whole of that decision
//! - [`backup`]: the format of a backup: names, entries, filters and selectors, and what opens encrypted entries
//! - [`object`]: the heart: are two objects equal, and what is written for one that is not
//! - [`rancher`]: Rancher's facts: who writes beside it, how its versions are read, and which lie apart
//! - [`release`]: Helm releases, read: revisions, what they consist of, and which Kubernetes their charts take
//! - [`operator`]: the rancher-backup operator: the Restore that it is handed, what it says, and what of that is told on
//! - [`webhook`]: which writes the API server asks webhooks about, and who answers
//! - [`observed`]: plain data: what backup, cluster and ledger said
//! - [`plan`]: [`plan::plan`] from what is asked and what was seen; gates, order, prune, digest, and how a plan is shown
//! - [`journal`]: what is recorded of a run, which events are legal, and what is next
//! - [`health`]: whether Rancher is well after its version was set, judged from what was asked of it
//! - [`run`]: the object `Run`: a run's key, pinned manifest, journal and result
//! - [`drift`]: whether the version that was declared still runs
//! - [`undo`]: the manifest that goes back to what was before a run
//! - [`safety`]: how safety backups are called, and which of them may go
//! - [`status`]: status file, dashboard, commit message, terminal: the same `Run` gives the same bytes
//!
//! # Shell
//!
//! - [`config`]: `reinback.yaml`, environment and flags
//! - [`dial`]: the way to an HTTP server, through a proxy and TLS
//! - [`git`]: the source that is watched, and the branch that status goes to
//! - [`store`]: where backups lie: a directory or a bucket; a fetched one is spooled into an unlinked file
//! - [`cluster`]: requests to an API server: discovery, lists, watches, writes, and the Lease that fences them
//! - [`observe`]: one pass of reads over backup and cluster
//! - [`helm`]: the helm program: rollback and upgrade, what they leave behind, and a revision that stayed pending
//! - [`collect`]: backups of our own, in the operator's format
//! - [`execute`]: carries out one run: what is next, record it, do it, record it
//! - [`publish`]: what is owed to the status branch and to the cluster's Events, beside everything else
//! - [`agent`]: the loop. `agent/source` reads manifests and their commits, `agent/ledger` what ran, `agent/look` makes a
//!   plan of a manifest, `agent/chart` judges the chart that it names, `agent/begin` begins, continues and ends runs,
//!   `agent/hold` holds them, `agent/undo` places the undo of a run that failed, `agent/setup` makes what they need in the
//!   cluster
//! - [`clock`]: what time it is, so that a simulation can say
//! - [`telemetry`]: the log
//! - [`demo`]: a rollback of a Rancher that is not there, for `reinback demo` and the fault tests
//! - [`sim`]: an in-process Kubernetes API, for the demo and for tests
//! - [`cli`]: a file a command; exit codes in one place
//!
//! # What holds, always
//!
//! Each invariant, where it is kept, and the tests that try to break it (`tests/it` runs on a real API server, real Git
//! and a real S3 server). All of them are tried at every effect of a run by `tests/faults`, on [`sim`]: a death before and
//! after each, and storms of faults and people by seed.
//!
//! 1. **Once.** A run key that has ended never runs again. Kept by [`desired::decide`] on the ledger of cluster and Git
//!    together (`agent/ledger`); tests of `desired`, `tests/it/once.rs`.
//! 2. **Newest wins**, one run at a time. [`desired`] by first parents (`desired/attribution`, `git/history`), the Lease
//!    (`cluster/lease`), and a resourceVersion in every write of a `Run` (`execute/record`); tests of `desired`,
//!    `tests/it/cluster/lease.rs`, `tests/it/once.rs`, `tests/it/fenced.rs`.
//! 3. **Nothing before the plan holds.** [`backup::read`] checks a backup to its last byte; [`plan::gates`] judge before
//!    the first replica is touched; tests of `backup` and of `plan/gates`, a world a gate.
//! 4. **Killed anywhere, it ends the same.** [`journal`] before each effect, and the annotation that the patch to 0 itself
//!    writes (`execute/quiesce`); where the operator writes, what it was handed is taken back before replicas return
//!    (`execute/withdraw`), and how far helm came is read from its revisions (`execute/version`); tests of `journal`,
//!    `tests/it/killed.rs`, `tests/it/rounds.rs`, `tests/it/operator_engine`, `tests/it/rollback.rs`.
//! 5. **It ends.** Deadlines in `cluster/request`, `git/http` and `store/s3`, the time-out of a run in [`execute`], the end
//!    of a hold in `agent/hold`, equal failures of the operator in `execute/operator`, helm's tries in `execute/version`, one
//!    [`undo`] and none of an undo; `tests/it/failures.rs`, `tests/it/undo.rs`.
//! 6. **It cannot saw off its branch.** `object/protect`, asked for every write and deletion, and before the operator
//!    is handed anything (`plan/operator`) or what helm left is deleted (`helm/leftovers`); tests of `object`, `tests/it/fidelity/protected.rs`.
//! 7. **No secret leaves.** Secrets are `secrecy` types; an API server's text is cut down where it is read
//!    (`cluster/failure`), the operator's and helm's but for known forms (`operator/told`, `helm/told`), a Git server's is searched (`git/auth`), other crates are capped in [`telemetry`], and diffs
//!    show paths; `tests/it/secrets.rs` and `tests/it/git/leaks.rs` search everything that was said.
//! 8. **No loop, no lost status.** A view is read anew only when manifests changed (`agent/source`), pushes are built on
//!    the fetched tip and never forced (`git/commit`), and wait for nobody ([`publish`]); `tests/it/status_branch.rs`.
//! 9. **What is merged is what runs.** The `Run` pins the document (`manifest/pin`), the digest of a plan covers what an
//!    approval means, how the version is set included (`plan/digest`); tests of `plan`.

pub mod agent;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod collect;
pub mod config;
pub mod demo;
pub mod desired;
pub mod dial;
pub mod drift;
pub mod execute;
pub mod git;
pub mod health;
pub mod helm;
pub mod journal;
pub mod manifest;
pub mod object;
pub mod observe;
pub mod observed;
pub mod operator;
pub mod plan;
pub mod publish;
pub mod rancher;
pub mod release;
pub mod run;
pub mod safety;
pub mod sim;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod undo;
pub mod webhook;
