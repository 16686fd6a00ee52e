//! Options of the commands that look at what builds did.
//!
//! Invariants: none of them changes anything in the store.

use std::path::PathBuf;

use clap::Args;

/// `kiln history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Show the last N builds only
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Build, or the beginning of its id [default: the last one]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// Only this step, by the number that progress shows
    #[arg(long, value_name = "N")]
    pub step: Option<u32>,
    /// Only lines that match a regular expression
    #[arg(long, value_name = "RE")]
    pub grep: Option<regex_lite::Regex>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Build, or the beginning of its id [default: the last one]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Build, or the beginning of its id [default: the last one]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// Write the page to this file; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "kiln-report.html")]
    pub output: PathBuf,
}
