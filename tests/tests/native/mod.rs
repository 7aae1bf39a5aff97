//! What tests of clients in other languages share: the library, a server, compilers and other
//! programs that may be missing.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use windlass_client::Provider;
use windlass_engine::{Server, ServerConfig};

pub(crate) const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];

/// A file of the repository.
pub(crate) fn path(from_root: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(from_root)
}

/// Where cargo puts what it builds, for all profiles.
pub(crate) fn target() -> PathBuf {
    // This runs as TARGET/PROFILE/deps/NAME.
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// The folder of libwindlass.so and libwindlass.a, which are built now, in this test's profile.
pub(crate) fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "windlass-c", "--target-dir"]).arg(target());
        cargo.arg("--manifest-path").arg(path("Cargo.toml"));
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if profile == "release" {
            cargo.arg("--release");
        }
        succeed(&mut cargo);
        target().join(profile)
    })
}

/// A server in this process.
pub(crate) fn server(provider: Provider) -> Server {
    let config = ServerConfig { providers: vec![provider], ..ServerConfig::default() };
    Server::start(config).unwrap()
}

/// A server in this process with so little memory that it refuses much of what is pushed.
pub(crate) fn small_server(provider: Provider) -> Server {
    let memory_len_max = 16 << 20;
    let config =
        ServerConfig { providers: vec![provider], memory_len_max, ..ServerConfig::default() };
    Server::start(config).unwrap()
}

/// Whether a program is installed. If not, the output says what did not run for that; in CI, where
/// everything has to run, it fails.
pub(crate) fn installed(program: &str, what: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let works = found.is_ok_and(|output| output.status.success());
    if !works {
        not_run(what, &format!("{program} does not work here"));
    }
    works
}

/// Something could not be tested: says so, and fails in CI.
pub(crate) fn not_run(what: &str, reason: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "{what} has to run in CI, but {reason}");
    eprintln!("NOT RUN: {what}: {reason}");
}

/// Runs a command that has to succeed, and returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} does not run: {error}"))
}
