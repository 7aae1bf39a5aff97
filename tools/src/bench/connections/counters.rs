//! What the system says that a process uses.

use std::{fs, io};

use super::ConnectionsError;

/// Counters of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// Resident bytes of memory that can be shared, or those that devices have pinned, if they are more.
    pub(super) pinned_bytes: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
}

impl Counters {
    /// Those of a process that runs.
    pub(super) fn of(process: u32) -> Result<Self, ConnectionsError> {
        let failed = |path: &str| {
            let path = path.to_owned();
            move |source| ConnectionsError::Counters { process, path, source }
        };
        let path = format!("/proc/{process}/status");
        let status = fs::read_to_string(&path).map_err(failed(&path))?;
        let pinned_bytes = pinned_bytes(&status)
            .ok_or_else(|| failed(&path)(io::ErrorKind::InvalidData.into()))?;
        let path = format!("/proc/{process}/fd");
        let descriptors = fs::read_dir(&path).map_err(failed(&path))?.count() as u64;
        Ok(Self { pinned_bytes, descriptors })
    }
}

fn pinned_bytes(status: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(kib("RssShmem:")?.max(kib("VmPin:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_memory_is_shared_memory_or_what_devices_hold() {
        let status = |pinned: u64| {
            format!(
                "Name:\twindlass\nVmPin:\t {pinned} kB\nRssAnon:\t 9 kB\nRssShmem:\t     12 kB\n"
            )
        };
        assert_eq!(pinned_bytes(&status(0)), Some(12 << 10));
        assert_eq!(pinned_bytes(&status(16)), Some(16 << 10));
        assert_eq!(pinned_bytes("Name:\twindlass\n"), None);
    }

    #[test]
    fn a_process_counts_its_own_descriptors() {
        let before = Counters::of(std::process::id()).unwrap().descriptors;
        let held: Vec<_> = (0..40).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        let after = Counters::of(std::process::id()).unwrap().descriptors;
        // Other tests of this process open and close some too.
        assert!(after + 20 > before + held.len() as u64, "{before} {after}");
        assert!(Counters::of(u32::MAX).is_err());
    }
}
