//! The `windlass` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    windlass::cli::run(std::env::args_os())
}
