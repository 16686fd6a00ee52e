//! Executors of steps.

pub mod copy;
pub mod owner;
