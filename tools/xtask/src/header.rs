//! `cargo xtask header`: the committed C header, made by cbindgen from the C ABI's sources.

use std::{
    fs,
    process::{Command, ExitCode},
};

use crate::need::on_path;

const CBINDGEN_VERSION: &str = "0.29.4";
const CRATE: &str = "client/c";
const HEADER: &str = "client/include/windlass.h";

#[derive(Debug, clap::Args)]
pub(crate) struct HeaderArguments {
    /// Change nothing; fail if the committed header is not what the sources give.
    #[arg(long)]
    check: bool,
}

pub(crate) fn header(arguments: &HeaderArguments) -> ExitCode {
    match generate().and_then(|text| store(&text, arguments.check)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask header: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<String, String> {
    if !on_path("cbindgen") {
        return Err(format!(
            "cbindgen is missing: install it with `cargo install cbindgen --locked --version {CBINDGEN_VERSION}`"
        ));
    }
    let output = Command::new("cbindgen")
        .args(["--quiet", "--config", "client/c/cbindgen.toml", "--crate", "windlass-c", CRATE])
        .output()
        .map_err(|error| format!("cannot start cbindgen: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

fn store(text: &str, is_check: bool) -> Result<(), String> {
    let committed = fs::read_to_string(HEADER).unwrap_or_default();
    if committed == text {
        return Ok(());
    }
    if is_check {
        return Err(format!("{HEADER} is not in step with the sources: run `cargo xtask header`"));
    }
    fs::write(HEADER, text).map_err(|error| format!("cannot write {HEADER}: {error}"))
}
