//! GitOps for Rancher restores and rollbacks.

pub mod agent;
pub mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod desired;
pub mod execute;
pub mod git;
pub mod journal;
pub mod manifest;
pub mod object;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod publish;
pub mod rancher;
pub mod release;
pub mod run;
pub mod status;
pub mod store;
pub mod telemetry;
