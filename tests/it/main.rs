//! One integration binary: a file a subject, real parts underneath.
