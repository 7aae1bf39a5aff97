//! `windlass completions SHELL`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  windlass completions bash > ~/.local/share/bash-completion/completions/windlass"
)]
pub(crate) struct Arguments {
    /// The shell to write the script for
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "windlass", &mut script);
    io::stdout().write_all(&script).map_err(Failure::failed)
}
