//! One integration binary: a file a subject, real parts underneath.

mod backups;
mod binary;
mod cli;
mod cluster;
mod contract;
mod control_plane;
mod demo;
mod encrypted;
mod events;
mod examples;
mod failures;
mod fenced;
mod fidelity;
mod gates;
mod git;
mod git_server;
mod harness;
mod helm;
mod hostile;
mod killed;
mod migration;
mod once;
mod operator;
mod operator_contract;
mod operator_engine;
mod plan;
mod process;
mod proxy;
mod prune;
mod restore;
mod rollback;
mod rounds;
mod s3_restore;
mod s3_server;
mod safety;
mod secrets;
mod silenced;
mod sockets;
#[expect(dead_code, reason = "this binary uses a part of it")]
#[path = "../stand_in/stand_in.rs"]
mod stand_in;
mod status_branch;
mod store;
mod stored;
mod webhooks;
mod world;
