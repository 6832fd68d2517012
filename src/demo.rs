//! A simulated Rancher for the demo, and for the tests that kill and disturb a restore of it; and the demo itself.
//!
//! Of the demo, only the cluster is simulated: agents, plan, backup, repository and all that they say are real.
//!
//! - `scene`, `staff`, `past`: a Rancher, its people, and what happened to them
//! - `repository`, `process`: a Git repository and an agent, both real
//! - `stage`: all of it in one folder; `changes`: how much of a plan is done
//! - `acts`: the story; `tell`: how it is printed

mod acts;
mod changes;
pub mod past;
mod process;
mod repository;
pub mod scene;
mod staff;
mod stage;
mod tell;

pub use acts::play;
pub use stage::STATUS;

/// How the demo is to be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// From which UIDs, names and delays of the simulated cluster come.
    pub seed: u64,
    /// Wait for Enter between the acts.
    pub pause: bool,
}
