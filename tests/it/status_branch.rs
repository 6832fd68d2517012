//! The status branch: written beside others, never lost, and never taken for what it is not.
