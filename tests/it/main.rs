//! One integration binary: a file a subject, real parts underneath.

mod cli;
mod cluster;
mod control_plane;
mod examples;
mod git;
mod git_server;
mod harness;
mod proxy;
mod restore;
mod s3_server;
mod store;
mod world;
