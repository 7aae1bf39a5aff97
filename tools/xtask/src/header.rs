//! `cargo xtask header`: the committed C header, written or checked by the test that generates it from the
//! C ABI's sources.

use std::process::ExitCode;

use crate::passed::{cargo, finish};

#[derive(Debug, clap::Args)]
pub(crate) struct HeaderArguments {
    /// Change nothing; fail if the committed header is not what the sources give.
    #[arg(long)]
    check: bool,
}

pub(crate) fn header(arguments: &HeaderArguments) -> ExitCode {
    let test = "the_committed_header_is_in_step";
    let mut command = cargo(&["test", "--quiet", "-p", "windlass-c", "--test", "header", test]);
    if !arguments.check {
        command.env("WINDLASS_WRITE_HEADER", "1");
    }
    finish(&mut command)
}
