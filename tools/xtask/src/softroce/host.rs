//! What this host needs before it can boot the virtual machine: packages, virtme-ng in a
//! private environment, and a kernel with its modules. All but the packages are kept under
//! `target/softroce`, so a second run needs nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::SoftroceError;
use super::bounded::{self, BoundedError};

/// Pinned: its command line is not a stable interface.
const VIRTME_NG_VERSION: &str = "1.42";

/// A program that must be on the path, and the Debian or Ubuntu package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("zstd", "zstd"),
    ("rdma", "iproute2"),
    ("tc", "iproute2"),
    ("ibv_devinfo", "ibverbs-utils"),
    ("ib_write_lat", "perftest"),
    ("rping", "rdmacm-utils"),
];
/// Packages without a program of their own: the library and its rxe driver.
const LIBRARIES: &[&str] = &["libibverbs1", "librdmacm1", "ibverbs-providers", "python3-venv"];
const LIBIBVERBS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libibverbs.so.1",
    "/usr/lib64/libibverbs.so.1",
    "/usr/lib/libibverbs.so.1",
];
/// Meta packages that name the newest full kernel; cloud kernels lack the driver.
const KERNEL_META: &[&str] = &["linux-image-amd64", "linux-image-generic"];

/// A host that can boot the virtual machine.
#[derive(Debug)]
pub(super) struct Host {
    /// Cache folder; its `run` folder is the one place the machine may write.
    pub(super) cache: PathBuf,
    /// The kernel image.
    pub(super) kernel: PathBuf,
}

impl Host {
    /// The folder that the virtual machine sees writable.
    pub(super) fn shared(&self) -> PathBuf {
        self.cache.join("run")
    }

    /// `vng` with its helpers on the path.
    pub(super) fn vng(&self) -> Command {
        let programs = self.cache.join("venv/bin");
        let mut path = programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        // The system's own program folders are not on every user's path.
        path.push(":/usr/sbin:/sbin");
        let mut command = Command::new(programs.join("vng"));
        command.env("PATH", path);
        command
    }
}

/// Installs and unpacks what is missing.
///
/// # Errors
/// When a package, virtme-ng or a kernel cannot be had.
pub(super) fn prepare(deadline: Instant) -> Result<Host, SoftroceError> {
    let cache = target_folder().join("softroce");
    fs::create_dir_all(cache.join("run")).map_err(SoftroceError::file(&cache))?;
    install_packages(deadline)?;
    install_virtme_ng(&cache, deadline)?;
    let kernel = unpack_kernel(&cache.join("kernel"), deadline)?;
    Ok(Host { cache, kernel })
}

/// Cargo's target folder of this work tree.
pub(super) fn target_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        // The machine needs absolute paths: it starts in a folder of its own.
        return std::path::absolute(&folder).unwrap_or_else(|_| folder.into());
    }
    crate::root().join("target")
}

fn install_packages(deadline: Instant) -> Result<(), SoftroceError> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if !LIBIBVERBS.iter().any(|library| Path::new(library).exists()) {
        missing.extend(LIBRARIES);
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    missing.dedup();
    eprintln!("softroce: installing {}", missing.join(" "));
    bounded::output(as_root("apt-get").args(["update", "-qq"]), deadline)?;
    bounded::output(
        as_root("apt-get").args(["install", "-qq", "-y", "--no-install-recommends"]).args(&missing),
        deadline,
    )?;
    Ok(())
}

fn install_virtme_ng(cache: &Path, deadline: Instant) -> Result<(), SoftroceError> {
    let environment = cache.join("venv");
    let stamp = environment.join(format!("virtme-ng-{VIRTME_NG_VERSION}"));
    if stamp.exists() {
        return Ok(());
    }
    eprintln!("softroce: installing virtme-ng {VIRTME_NG_VERSION}");
    bounded::output(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment),
        deadline,
    )?;
    bounded::output(
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("virtme-ng=={VIRTME_NG_VERSION}")),
        deadline,
    )?;
    fs::write(&stamp, "").map_err(SoftroceError::file(&stamp))
}

/// Returns the path of a kernel image whose modules lie beside it, fetching both if need be.
fn unpack_kernel(folder: &Path, deadline: Instant) -> Result<PathBuf, SoftroceError> {
    if let Some(image) = unpacked_image(folder) {
        return Ok(image);
    }
    let version = KERNEL_META
        .iter()
        .find_map(|meta| kernel_version(meta, deadline).transpose())
        .ok_or(SoftroceError::NoKernel)??;
    eprintln!("softroce: fetching kernel {version}");
    let fetched = folder.with_extension("part");
    let _ = fs::remove_dir_all(&fetched);
    fs::create_dir_all(&fetched).map_err(SoftroceError::file(&fetched))?;
    bounded::output(
        Command::new("apt-get")
            .args(["download", "-qq"])
            .args(kernel_packages(&version, deadline))
            .current_dir(&fetched),
        deadline,
    )?;
    for package in entries(&fetched, "", ".deb") {
        bounded::output(Command::new("dpkg").arg("-x").arg(&package).arg(&fetched), deadline)?;
        let _ = fs::remove_file(&package);
    }
    bounded::output(
        Command::new("depmod")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .arg("-b")
            .arg(&fetched)
            .arg(&version),
        deadline,
    )?;
    // The rename makes it whole or absent: an interrupted run leaves nothing half done.
    let _ = fs::remove_dir_all(folder);
    fs::rename(&fetched, folder).map_err(SoftroceError::file(folder))?;
    unpacked_image(folder).ok_or(SoftroceError::NoKernel)
}

fn unpacked_image(folder: &Path) -> Option<PathBuf> {
    let image = entries(&folder.join("boot"), "vmlinuz-", "").pop()?;
    let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    let index = format!("lib/modules/{version}/modules.dep");
    let index = fs::read_to_string(folder.join(index)).ok()?;
    index.contains("rdma_rxe").then_some(image)
}

/// `6.1.0-13-amd64`, from the meta package's dependency `linux-image-6.1.0-13-amd64`.
fn kernel_version(meta: &str, deadline: Instant) -> Result<Option<String>, BoundedError> {
    let listed = match bounded::output(Command::new("apt-cache").args(["depends", meta]), deadline)
    {
        Ok(listed) => listed,
        Err(BoundedError::Failed { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .find(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned))
}

/// Debian has image and modules in one package, Ubuntu in three.
fn kernel_packages(version: &str, deadline: Instant) -> Vec<String> {
    ["linux-image", "linux-modules", "linux-modules-extra"]
        .iter()
        .map(|part| format!("{part}-{version}"))
        .filter(|package| {
            bounded::output(Command::new("apt-cache").args(["show", package]), deadline).is_ok()
        })
        .collect()
}

/// Files of a folder by prefix and suffix of their names, sorted.
fn entries(folder: &Path, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Whether a program can be started by its name.
pub(super) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).exists())
}

fn as_root(program: &str) -> Command {
    let root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    let mut command = if root {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
