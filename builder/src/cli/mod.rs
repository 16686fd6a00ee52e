//! The command line: one file for each command, and the way from typed errors to messages and exit codes.

mod access;
pub mod args;
mod build;
mod cache;
mod check;
mod compare;
mod config;
mod context;
mod debug;
mod du;
mod failure;
mod fsck;
mod graph;
mod inspect;
mod layers;
mod login;
mod look;
mod manifest;
mod metadata;
mod policy;
mod privileges;
mod project;
mod prune;
mod record;
mod report;
mod reset;
mod rmi;
mod run;
mod session;
mod settings;
mod shell;
mod store;
mod summary;
mod surroundings;
mod transfer;
mod unshare;

use std::ffi::OsString;
use std::process::ExitCode;

use args::Command;

use crate::sandbox::zygote;
use crate::ui::diagnostics::Style;
use crate::ui::failure::Failure;
use crate::ui::print;

/// Runs kiln with the process' arguments.
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if argv.get(1).is_some_and(|argument| argument == zygote::ARGUMENT) {
        zygote::main();
    }
    let cli = match args::parse(argv) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let root = cli.global.root;
    let result = match cli.command {
        Command::Build(build) => build::build(root, *build),
        Command::Run(run) => run::run(root, *run),
        Command::Unshare(args) => unshare::unshare(root, &args),
        Command::Images(images) => store::images(root, &images),
        Command::Diff(diff) => compare::diff(root, &diff),
        Command::Verify(verify) => compare::verify(root, &verify),
        Command::Pull(pull) => transfer::pull(root, &pull),
        Command::Push(push) => transfer::push(root, &push),
        Command::Copy(copy) => transfer::copy(root, &copy),
        Command::Tag(tag) => transfer::tag(root, &tag),
        Command::Inspect(inspect) => inspect::inspect(root, &inspect),
        Command::Manifest(manifest) => manifest::manifest(root, *manifest),
        Command::Login(login) => login::login(&login),
        Command::Logout(logout) => login::logout(&logout),
        Command::Layers(layers) => layers::layers(root, &layers),
        Command::Ls(ls) => look::ls(root, &ls),
        Command::Cat(cat) => look::cat(root, &cat),
        Command::Cp(cp) => look::cp(root, &cp),
        Command::Config(config) => config::config(root, &config),
        Command::Rmi(rmi) => rmi::rmi(root, &rmi),
        Command::Du(du) => du::du(root, &du),
        Command::Prune(prune) => prune::prune(root, &prune),
        Command::Fsck(fsck) => fsck::fsck(root, &fsck),
        Command::Reset(reset) => reset::reset(root, &reset),
        Command::Cache(cache) => cache::cache(root, &cache),
        Command::Info(info) => store::info(root, &info),
        Command::History(history) => record::history(root, &history),
        Command::Log(log) => record::log(root, &log),
        Command::Debug(debug) => debug::debug(root, &debug),
        Command::Report(report) => report::report(root, &report),
        Command::Explain(explain) => record::explain(root, &explain),
        Command::Check(check) => check::check(&check),
        Command::Graph(graph) => graph::graph(&graph),
        Command::Completion(args) => shell::completion(args.shell),
        Command::Man(args) => shell::man(args.directory.as_deref()),
        Command::InstallAlias(alias) => store::install_alias(&alias),
        Command::Version => version(),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let failure = failure::of_damage(failure);
            print::talk(failure.render(Style::stderr()).trim_end());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn version() -> Result<u8, Failure> {
    // Standard output may be a closed pipe; there is nobody left to tell.
    let _ = print::line(concat!("kiln ", env!("KILN_VERSION")));
    Ok(0)
}
