//! One integration binary: a file a subject, real parts underneath.

mod cluster;
mod control_plane;
mod harness;
mod proxy;
mod s3_server;
mod store;
