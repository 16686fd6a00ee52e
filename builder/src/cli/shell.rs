//! `kiln completion` and `kiln man`: what shells and manuals get, made of the command line as clap sees it.
//!
//! Invariants: nothing here is written by hand, so that no option is missing.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;
use super::store::printed;
use crate::ui::failure::{Failure, Kind};
use crate::ui::print;

/// Prints what a shell is to read.
pub(super) fn completion(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kiln", &mut script);
    printed(print::data(&script))
}

/// Writes a page for each command into a directory, or prints the first of them.
pub(super) fn man(directory: Option<&Path>) -> Result<u8, Failure> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(|e| Failure::from_error(Kind::Internal, &e))?;
        return printed(print::data(&page));
    };
    let failed = |e: std::io::Error| {
        let message = format!("cannot write manual pages to `{}`: {e}", directory.display());
        Failure::new(Kind::User, message)
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    Ok(0)
}
