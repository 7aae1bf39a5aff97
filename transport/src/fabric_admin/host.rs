//! What the kernel tells of itself: modules, interfaces, and what this process may do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Whether a kernel module can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// It is loaded or built in.
    Loaded,
    /// It is installed and can be loaded.
    Available,
    /// The running kernel has none.
    Missing,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

/// A privilege of this process that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Makes and removes software devices.
    NetAdmin,
    /// Locks memory beyond the limit.
    IpcLock,
}

impl Capability {
    /// Whether this process has it now.
    #[must_use]
    pub fn held(self) -> bool {
        let bit = match self {
            Self::NetAdmin => 12,
            Self::IpcLock => 14,
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        effective_capabilities(&status).is_some_and(|set| set >> bit & 1 == 1)
    }
}

/// Whether the running kernel has a module such as `rdma_rxe`.
#[must_use]
pub fn module_state(module: &str) -> ModuleState {
    if Path::new("/sys/module").join(module).exists() {
        return ModuleState::Loaded;
    }
    let release = kernel_release();
    let folder = PathBuf::from("/lib/modules").join(&release);
    let listed = |index: &str| {
        fs::read_to_string(folder.join(index)).is_ok_and(|text| lists_module(&text, module))
    };
    if listed("modules.builtin") {
        ModuleState::Loaded
    } else if listed("modules.dep") {
        ModuleState::Available
    } else {
        ModuleState::Missing
    }
}

/// The running kernel's release, such as `6.1.0-13-amd64`.
pub(crate) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// The host's network interfaces, by name.
#[must_use]
pub fn interfaces() -> Vec<Interface> {
    const IFF_LOOPBACK: u32 = 8;
    const IFF_UP: u32 = 1;
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut found: Vec<Interface> = entries
        .flatten()
        .filter_map(|entry| {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            let flags = read("flags")?;
            let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok()?;
            Some(Interface {
                name: entry.file_name().into_string().ok()?,
                mtu: read("mtu")?.trim().parse().ok()?,
                up: flags & IFF_UP != 0,
                loopback: flags & IFF_LOOPBACK != 0,
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The memlock limit of this process in bytes; `None` when there is none.
pub(crate) fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Whether a packet filter is active, as far as this process may see.
pub(crate) fn packet_filter_active() -> bool {
    fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|tables| tables.contains("filter"))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Module files are listed by path: `kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz: ...`.
fn lists_module(index: &str, module: &str) -> bool {
    let file = format!("/{module}.ko");
    index.lines().any(|line| {
        let path = line.split(':').next().unwrap_or(line);
        path.rfind(&file).is_some_and(|at| {
            let rest = &path[at + file.len()..];
            rest.is_empty() || rest.starts_with('.')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_and_plain_modules_are_found() {
        let index = "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz: kernel/a.ko\n\
                     kernel/net/veth.ko:\n";
        assert!(lists_module(index, "rdma_rxe"));
        assert!(lists_module(index, "veth"));
        assert!(!lists_module(index, "a"), "a dependency is not an entry");
        assert!(!lists_module(index, "rxe"));
    }

    #[test]
    fn the_capability_set_is_hexadecimal() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t00000000a0001000\n"),
            Some(0xa000_1000)
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn the_loopback_interface_is_there() {
        assert!(interfaces().iter().any(|interface| interface.loopback));
    }
}
