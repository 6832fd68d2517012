//! One integration binary: a file a subject, real parts underneath.

mod cluster;
mod control_plane;
mod git;
mod git_server;
mod harness;
mod once;
mod proxy;
mod restore;
mod s3_server;
mod status_branch;
mod store;
mod world;
