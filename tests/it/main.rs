//! One integration binary: a file a subject, real parts underneath.

mod binary;
mod cli;
mod cluster;
mod contract;
mod control_plane;
mod events;
mod examples;
mod failures;
mod fidelity;
mod gates;
mod git;
mod git_server;
mod harness;
mod killed;
mod once;
mod plan;
mod process;
mod proxy;
mod restore;
mod s3_restore;
mod s3_server;
mod secrets;
mod status_branch;
mod store;
mod world;
