//! Where results go.

pub mod spec;
