//! rancher
