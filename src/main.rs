//! Parse, run, exit.

use std::process::ExitCode;

use longhaul::cli;

fn main() -> ExitCode {
    cli::main()
}
