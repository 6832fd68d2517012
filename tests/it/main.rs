//! One integration binary: a file a subject, real parts underneath.

mod git;
mod git_server;
