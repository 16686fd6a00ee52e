//! The binary `kiln`: see [`kiln::cli`].

fn main() -> std::process::ExitCode {
    kiln::cli::main()
}
