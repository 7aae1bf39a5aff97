//! What a step needs beyond Rust: programs, which are installed where that can be done, and files,
//! which are there or not.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::softroce::bounded;

const INSTALL_TIME_MAX: Duration = Duration::from_secs(300);

/// Something without which a step cannot run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A program on the path, and the Debian package that has it.
    Program { name: &'static str, package: &'static str },
    /// A file or folder of this repository: a part that may not have been written.
    Part { path: &'static str },
    /// Network namespaces, in which hosts of their own are made, and filters that lose packets there.
    Hosts,
    /// A component of the Rust toolchain, by the program it brings.
    Component { program: &'static str, component: &'static str },
    /// A program that `cargo install` brings.
    CargoTool(&'static str),
    /// Mounting file systems, and loop devices to mount them from.
    Mounts,
    /// A nightly compiler with the sources of the standard library.
    Nightly,
}

impl Need {
    /// Makes sure of it, installing what is missing; otherwise says in a sentence what to do.
    pub(crate) fn meet(self) -> Result<(), String> {
        match self {
            Self::Part { path } if Path::new(path).exists() => Ok(()),
            Self::Part { path } => Err(format!("{path} does not exist in this tree")),
            Self::Hosts => {
                Self::Program { name: "ip", package: "iproute2" }.meet()?;
                Self::Program { name: "iptables", package: "iptables" }.meet()?;
                Self::Program { name: "etcd", package: "etcd-server" }.meet()?;
                if !is_root() {
                    return Err("network namespaces need root: run it with sudo".to_owned());
                }
                can_make_hosts()
            }
            Self::Component { program, component } => {
                if on_path(program) {
                    return Ok(());
                }
                let added = Command::new("rustup")
                    .args(["component", "add", component])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                match added {
                    Ok(status) if status.success() => Ok(()),
                    _ => Err(format!(
                        "{program} is missing: install it with `rustup component add {component}`"
                    )),
                }
            }
            Self::CargoTool(name) if on_path(name) => Ok(()),
            Self::CargoTool(name) => {
                eprintln!("xtask: installing {name}");
                let installed = Command::new("cargo").args(["install", "--locked", name]).status();
                match installed {
                    Ok(status) if status.success() => Ok(()),
                    _ => Err(format!(
                        "{name} is missing: install it with `cargo install --locked {name}`"
                    )),
                }
            }
            Self::Mounts => mounts(),
            Self::Nightly if has_nightly_sources() => Ok(()),
            Self::Nightly => {
                eprintln!("xtask: installing a nightly compiler");
                let mut install = Command::new("rustup");
                install.args(NIGHTLY_WITH_SOURCES).stdout(Stdio::null()).stderr(Stdio::null());
                match install.status() {
                    Ok(status) if status.success() => Ok(()),
                    _ => Err(format!(
                        "a nightly compiler with rust-src is missing: install it with `rustup {}`",
                        NIGHTLY_WITH_SOURCES.join(" ")
                    )),
                }
            }
            Self::Program { name, package } => {
                if on_path(name) || install(package) && on_path(name) {
                    return Ok(());
                }
                Err(format!("{name} is missing: install it with `sudo apt-get install {package}`"))
            }
        }
    }
}

const NIGHTLY_WITH_SOURCES: [&str; 7] =
    ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];

fn has_nightly_sources() -> bool {
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output();
    sysroot.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").exists()
    })
}

pub(crate) fn on_path(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// Installs a Debian package if this is Debian, or like it, and we are root.
fn install(package: &str) -> bool {
    if !on_path("apt-get") || !is_root() {
        return false;
    }
    eprintln!("xtask: installing {package}");
    let deadline = Instant::now() + INSTALL_TIME_MAX;
    let run = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        bounded::output(&mut command, deadline).is_ok()
    };
    let install = ["install", "-qq", "-y", "--no-install-recommends", package];
    run(&install) || run(&["update", "-qq"]) && run(&install)
}

/// Tries a small mount and a loop device out.
fn mounts() -> Result<(), String> {
    if !is_root() {
        return Err("mounting file systems needs root: run it with sudo".to_owned());
    }
    let folder = std::env::temp_dir().join(format!("xtask-mount-{}", std::process::id()));
    let refused = |what: &str| format!("this machine, or container, refuses {what} even to root");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let succeeds = |program: &str, arguments: &[&str], last: &Path| {
        let mut command = Command::new(program);
        command.args(arguments).arg(last).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mounted = succeeds("mount", &["-t", "tmpfs", "-o", "size=64k", "none"], &folder);
    if mounted {
        succeeds("umount", &["--lazy"], &folder);
    }
    // Nothing of value is in it; a folder that stays is a small matter.
    let _ = std::fs::remove_dir(&folder);
    if !mounted {
        return Err(refused("to mount a file system"));
    }
    if succeeds("losetup", &[], Path::new("--find")) {
        Ok(())
    } else {
        Err(refused("a loop device"))
    }
}

/// Whether the kernel has namespaces of the network, pairs of devices and bridges.
fn can_make_hosts() -> Result<(), String> {
    let name = format!("windlass-{}-probe", std::process::id());
    let run = |arguments: &[&str]| match Command::new("ip").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("the kernel cannot: ip {}: {text}", arguments.join(" ")))
        }
        Err(error) => Err(format!("ip: {error}")),
    };
    run(&["netns", "add", &name])?;
    let can = run(&["-n", &name, "link", "add", "one", "type", "veth", "peer", "name", "other"])
        .and_then(|()| run(&["-n", &name, "link", "add", "switch", "type", "bridge"]));
    can.and(run(&["netns", "del", &name]))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_met_and_what_is_not_is_explained() {
        assert!(Need::Part { path: "src/main.rs" }.meet().is_ok());
        assert!(Need::Part { path: "no/such/part" }.meet().unwrap_err().contains("no/such/part"));
        assert!(Need::Program { name: "sh", package: "dash" }.meet().is_ok());
    }
}
