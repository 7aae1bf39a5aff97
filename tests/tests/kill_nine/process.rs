//! The real program, serving a data directory in a process that can be killed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::program::{copy_into, start};

/// The program, built now, and how it is started on a folder of the test's own.
pub(crate) struct Program {
    program: PathBuf,
    folder: PathBuf,
    options: Vec<&'static str>,
}

/// A server process.
pub(crate) struct Process {
    child: Child,
    stderr: PathBuf,
    pub(crate) address: String,
}

impl Program {
    pub(crate) fn new(folder: &Path, options: &[&'static str]) -> Self {
        let program = copy_into(folder);
        Self { program, folder: folder.to_owned(), options: options.to_vec() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts a server without waiting for it.
    pub(crate) fn spawn(&self, extra: &[&str]) -> Process {
        let stderr = self.folder.join("stderr");
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"])
            .args(["--transports", "shm,tcp", "--memory", "512MiB", "--data-dir", "data"])
            .args(&self.options)
            .args(extra)
            .current_dir(&self.folder)
            .env_remove("WINDLASS_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap());
        let child = start(&mut command);
        Process { child, stderr, address: String::new() }
    }

    /// Starts a server and waits until it is ready; what it says when it does not start.
    pub(crate) fn start(&self, extra: &[&str]) -> Result<Process, String> {
        let mut process = self.spawn(extra);
        let mut line = String::new();
        let stdout = process.child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        if line.is_empty() {
            let status = process.child.wait().unwrap();
            let text = fs::read_to_string(&process.stderr).unwrap();
            return Err(format!("{status}: {text}"));
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        process.address = ready["address"].as_str().unwrap().to_owned();
        Ok(process)
    }

    /// Runs another command of the program; the lines of JSON that it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--json").current_dir(&self.folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = start(&mut command).wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }
}

impl Program {
    /// Whether a scrub finds the data directory sound, and all it says.
    pub(crate) fn scrub(&self) -> (bool, String) {
        let mut command = Command::new(&self.program);
        command.args(["scrub", "data"]).current_dir(&self.folder);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = start(&mut command).wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Process {
    /// What it has logged so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// kill -9, and nothing else: no signal handler runs, nothing is flushed.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's end is {:?}; it said: {}", self.child.try_wait(), self.said());
        }
        // It may have ended already; that is then what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
