//! The real program, as tests of several kinds run it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    time::Duration,
};

/// Copies the program into a folder: the one that `WINDLASS_PROGRAM` names, or else one built now.
/// Whoever builds it anew meanwhile does not change what is tested.
pub(crate) fn copy_into(folder: &Path) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let named = std::env::var_os("WINDLASS_PROGRAM").map(PathBuf::from);
    let program = folder.join("windlass");
    fs::copy(BUILT.get_or_init(|| named.unwrap_or_else(build)), &program).unwrap();
    program
}

/// Starts a copy. Another thread that starts a process at this moment holds the copy open for writing
/// until its own program runs; the system then refuses, for a moment.
pub(crate) fn start(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            started => return started.unwrap(),
        }
    }
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
