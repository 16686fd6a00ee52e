//! End-to-end tests: the real binary, real containers, the real image.
//!
//! Invariants:
//! - every test has its own project directory and its own store; nothing outside of them is written;
//! - no test needs a network, a registry or an installed image: bases are made from this machine's static busybox;
//! - the suite passes as root and as an ordinary user; what a machine cannot do is reported as `SKIPPED: why` on
//!   standard error, past the capture of the test runner.

mod base;
mod image;
mod json_schema;
mod processes;
mod project;
mod pty;
mod registry;
mod server;

mod add;
mod args;
mod attestations;
mod authorities;
mod cache;
mod cache_mounts;
mod cli;
mod collect;
mod compare;
mod config_edit;
mod context_reads;
mod contexts;
mod copy;
mod damage;
mod debug;
mod disk;
mod docs;
mod endpoints;
mod errors;
mod examples;
mod files;
mod from;
mod git;
mod graph;
mod habits;
mod heredoc;
mod leftovers;
mod limits;
mod live_display;
mod login;
mod look;
mod manifest;
mod many_runs;
mod mounts;
mod network;
mod oci_schema;
mod outputs;
mod owners;
mod pictures;
mod platforms;
mod policies;
mod privileges;
mod records;
mod reliability;
mod remote_cache;
mod report;
mod report_page;
mod reproducible;
mod run;
mod run_command;
mod scheduler;
mod security;
mod stages;
mod tls;
mod transfer;
mod unshare;
