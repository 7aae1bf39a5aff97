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

/// A server process for one test, on a port of its own.
pub(crate) struct Server {
    child: std::process::Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(folder: &Path, extra: &[&str]) -> Self {
        Self::start_as("serve", folder, "127.0.0.1:0", extra)
    }

    /// Starts one on an address that others are told before.
    pub(crate) fn start_at(folder: &Path, listen: &str, extra: &[&str]) -> Self {
        Self::start_as("serve", folder, listen, extra)
    }

    /// Starts a coordinator instead.
    pub(crate) fn coordinator(folder: &Path, listen: &str, extra: &[&str]) -> Self {
        Self::start_as("coordinator", folder, listen, extra)
    }

    /// Starts one that may have so many files open, and logs to `server.log` in `folder`.
    pub(crate) fn start_limited(folder: &Path, files: u32, extra: &[&str]) -> Self {
        Self::start_limited_as("serve", folder, files, extra)
    }

    /// As [`Server::start_limited`], a server or a coordinator.
    pub(crate) fn start_limited_as(
        command: &str,
        folder: &Path,
        files: u32,
        extra: &[&str],
    ) -> Self {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={files}:{files}")).arg(env!("CARGO_BIN_EXE_windlass"));
        limited.args([command, "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"]);
        limited.args(extra).current_dir(folder).env_remove("WINDLASS_LOG");
        let log = std::fs::File::create(folder.join("server.log")).expect("a log file");
        limited.stderr(log);
        Self::spawn(limited)
    }

    fn start_as(command: &str, folder: &Path, listen: &str, extra: &[&str]) -> Self {
        let mut arguments = vec![command, "--json", "--stop-with-stdin", "--listen", listen];
        arguments.extend(extra);
        Self::spawn(windlass(folder, &arguments))
    }

    /// The process's number.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn spawn(mut command: Command) -> Self {
        use std::io::BufRead as _;
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("the server says something");
        let ready: Value = serde_json::from_str(&line).expect("the server is ready");
        let address = ready["address"].as_str().expect("an address").to_owned();
        Self { child, address }
    }

    /// Asks it to stop, as an init system does, and returns its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let status = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
        self.child.wait().expect("the server ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended; that is then what the test wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
