//! The real program, serving a data directory in a process that can be killed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

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
    /// The one that `WINDLASS_PROGRAM` names, or else one built now. It is copied: whoever builds it
    /// anew meanwhile does not change what is tested.
    pub(crate) fn new(folder: &Path, options: &[&'static str]) -> Self {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let named = std::env::var_os("WINDLASS_PROGRAM").map(PathBuf::from);
        let program = folder.join("windlass");
        fs::copy(BUILT.get_or_init(|| named.unwrap_or_else(Self::build)), &program).unwrap();
        Self { program, folder: folder.to_owned(), options: options.to_vec() }
    }

    /// Builds it in this test's profile.
    fn build() -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        // This runs as TARGET/PROFILE/deps/NAME.
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "windlass", "--bin", "windlass"]);
        cargo.arg("--target-dir").arg(&target).arg("--manifest-path").arg(root.join("Cargo.toml"));
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if profile == "release" {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the program does not build");
        target.join(profile).join("windlass")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts a server without waiting for it.
    pub(crate) fn spawn(&self, extra: &[&str]) -> Process {
        let stderr = self.folder.join("stderr");
        let child = Command::new(&self.program)
            .args(["serve", "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"])
            .args(["--transports", "shm,tcp", "--memory", "512MiB", "--data-dir", "data"])
            .args(&self.options)
            .args(extra)
            .current_dir(&self.folder)
            .env_remove("WINDLASS_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
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
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--json")
            .current_dir(&self.folder)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
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
        // It may have ended already; that is then what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
