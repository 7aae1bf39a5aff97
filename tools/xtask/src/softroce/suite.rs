//! The verbs suite: compiled here, run where the device is by `tests/softroce/suite.sh`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SoftroceError;
use super::bounded::BoundedError;
use super::host::on_path;

/// Packages whose test programs the suite runs.
const PACKAGES: &[&str] = &["windlass-transport", "windlass-softroce"];

/// Compiles test programs and the `windlass` command; returns the suite's command line.
///
/// # Errors
/// When cargo fails; its own messages have been printed.
pub(super) fn build() -> Result<Vec<String>, SoftroceError> {
    let root = &crate::root();
    let mut command =
        vec!["bash".into(), root.join("tests/softroce/suite.sh").display().to_string()];
    let mut arguments = vec!["test", "--no-run"];
    for package in PACKAGES {
        arguments.extend(["-p", package]);
    }
    for (name, path) in executables(root, &arguments)? {
        command.push(format!("{name}={}", path.display()));
    }
    match interop_needs() {
        None => {
            let manifest = root.join("tests/interop/Cargo.toml").display().to_string();
            let target = super::host::target_folder().join("interop").display().to_string();
            let arguments =
                ["test", "--no-run", "--manifest-path", &manifest, "--target-dir", &target];
            for (name, path) in executables(root, &arguments)? {
                command.push(format!("interop:{name}={}", path.display()));
            }
        }
        Some(missing) => eprintln!(
            "softroce: NOT RUN: interop peers, which need {missing} to build \
             (apt-get install libclang-14-dev cmake pkg-config libibverbs-dev librdmacm-dev)"
        ),
    }
    // Whatever is measured is measured as users run it.
    let release =
        ["build", "--profile", "dist", "-p", "windlass", "-p", "windlass-softroce", "--bins"];
    for (name, path) in executables(root, &release)? {
        command.push(format!("bin:{name}={}", path.display()));
    }
    // It runs there too, as on a host that has a device.
    if let Ok(own) = std::env::current_exe() {
        command.push(format!("bin:xtask={}", own.display()));
    }
    Ok(command)
}

/// What the peers of other crates need to be compiled and this host lacks.
fn interop_needs() -> Option<&'static str> {
    if !on_path("cmake") {
        Some("cmake")
    } else if !on_path("pkg-config") {
        Some("pkg-config")
    } else if !Path::new("/usr/include/infiniband/verbs.h").exists() {
        Some("libibverbs-dev")
    } else if !["14", "15"].iter().any(|version| {
        Path::new(&format!("/usr/lib/llvm-{version}/lib/libclang.so")).exists()
            || Path::new(&format!("/usr/lib/llvm-{version}/lib/libclang-{version}.so.1")).exists()
    }) {
        Some("libclang 14 or 15")
    } else {
        None
    }
}

/// Runs cargo and collects the programs it made, by target name.
fn executables(root: &Path, arguments: &[&str]) -> Result<Vec<(String, PathBuf)>, SoftroceError> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let shown = format!("cargo {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| BoundedError::Start { program: shown.clone(), source })?;
    if !output.status.success() {
        return Err(BoundedError::Failed {
            program: shown,
            status: output.status,
            output: "its messages are above".into(),
        }
        .into());
    }
    Ok(parse_executables(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_executables(messages: &str) -> Vec<(String, PathBuf)> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let path = message["executable"].as_str()?;
            let name = message["target"]["name"].as_str()?;
            Some((name.to_owned(), PathBuf::from(path)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_an_executable_count() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"lib\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"conformance\"},\"executable\":\"/t/c\"}\n\
            not json\n";
        assert_eq!(
            parse_executables(messages),
            [("conformance".to_owned(), PathBuf::from("/t/c"))]
        );
    }
}
