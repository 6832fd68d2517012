//! plan

pub mod gate;
