//! One integration binary: a file a subject, real parts underneath.

mod binary;
mod cli;
mod cluster;
mod control_plane;
mod gates;
mod events;
mod examples;
mod git;
mod git_server;
mod harness;
mod plan;
mod proxy;
mod realcrds;
mod restore;
mod s3_restore;
mod s3_server;
mod secrets;
mod store;
mod world;
