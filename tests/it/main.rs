//! One integration binary: a file a subject, real parts underneath.

mod proxy;
mod s3_server;
mod store;
