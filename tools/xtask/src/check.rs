//! `cargo xtask check`: the steps that need no running server, for before every commit.

use std::process::ExitCode;

use crate::steps;

const NAMES: [&str; 4] = ["fmt", "clippy", "docs", "tidy"];

pub(crate) fn check() -> ExitCode {
    steps::run_named(&NAMES)
}
