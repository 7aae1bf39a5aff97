//! Runs the real `windlass` program.

#![allow(dead_code, reason = "every test file uses a part")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A command line of the program, which runs in `folder`.
pub(crate) fn windlass(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(arguments).current_dir(folder).env_remove("WINDLASS_LOG");
    command
}

/// Runs a command line to its end.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    windlass(folder, arguments).output().expect("the program starts")
}

/// Runs a command line that succeeds, and reads the JSON it prints.
pub(crate) fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stdout))
    })
}

/// Runs a command line that fails with an exit code; returns what it says.
pub(crate) fn fails(folder: &Path, code: i32, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}: results on stdout though it failed");
    text
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A fresh folder for one test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A file's path in a folder, as an argument.
pub(crate) fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}
