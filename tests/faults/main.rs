//! Death and disturbance: a restore of a small Rancher on a simulated cluster, killed at every effect it has, and in
//! storms of faults by seed. Time is simulated; nothing here waits for a clock or opens a socket.

mod cluster_api;
mod dead_webhook;
mod invariants;
mod matrix;
mod memory_git;
mod operator;
mod owners;
mod process;
mod protected;
mod stage;
#[expect(dead_code, reason = "this binary uses a part of it")]
#[path = "../stand_in/stand_in.rs"]
mod stand_in;
mod storm;
mod undo;
mod weather;

/// Runs a future on a runtime of its own whose time is simulated.
fn simulated<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(future)
}

/// How many stories are told at once. Each waits now and then for a thread that reads or writes a backup.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}
