//! A simulated Rancher for the demo, and for the tests that kill and disturb a restore of it.

pub mod scene;
