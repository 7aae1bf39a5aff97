//! Registered memory: a region pins its pages for the device until it is dropped.

use std::sync::Arc;

use super::{
    abi::{
        IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_MW_BIND, IBV_ACCESS_REMOTE_ATOMIC,
        IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE, ibv_mr,
    },
    device::Device,
};
use crate::{
    error::RegisterError,
    fabric::{Access, MemoryRegion, Prepared, RegionId, Registrar},
    memory::Pages,
    slab::Slab,
};

/// Most regions of one instance.
pub(super) const REGIONS_MAX: u32 = 0xffff;

/// A registration. Holds the pages, so they cannot be unmapped under the device.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) mr: *mut ibv_mr,
    /// Key for local use.
    pub(super) lkey: u32,
    /// Key for peers, where they need no window.
    pub(super) rkey: u32,
    /// First byte.
    pub(super) address: u64,
    /// Bytes.
    pub(super) len: u64,
    /// What peers may do.
    pub(super) access: Access,
    device: Arc<Device>,
    _pages: Pages,
}

// SAFETY: the region is an object of libibverbs, whose calls are thread-safe; it is never shared.
unsafe impl Send for Registration {}

impl Registration {
    pub(super) fn new(
        device: &Arc<Device>,
        pages: &Pages,
        access: Access,
    ) -> Result<Self, RegisterError> {
        let address = pages.as_ptr();
        let len = pages.len();
        // SAFETY: the pages are mapped readable and writable, and the registration keeps a clone of
        // them until it is undone in drop.
        let mr = unsafe {
            let flags = access_flags(access, device.has_windows());
            (device.library().ibv_reg_mr)(device.pd, address.cast(), len, flags)
        };
        if mr.is_null() {
            let source = std::io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::ENOMEM | libc::EPERM) => {
                    RegisterError::Pin { len, limit_bytes: pages.report().limit_bytes, source }
                }
                _ => RegisterError::Verb { verb: "ibv_reg_mr", len, source },
            });
        }
        // SAFETY: not null, so a region that lives until ibv_dereg_mr.
        let (lkey, rkey) = unsafe { ((*mr).lkey, (*mr).rkey) };
        Ok(Self {
            mr,
            lkey,
            rkey,
            address: address as u64,
            len: len as u64,
            access,
            device: Arc::clone(device),
            _pages: pages.clone(),
        })
    }
}

impl Registration {
    /// Takes back what [`VerbsRegistrar`] made of these pages.
    ///
    /// # Panics
    ///
    /// When it is nothing of the kind.
    pub(super) fn of(prepared: Option<Prepared>, pages: &Pages, access: Access) -> Self {
        let Some(Ok(registration)) = prepared.map(|prepared| prepared.downcast::<Self>()) else {
            panic!("memory that this instance's registrar has not prepared");
        };
        assert_eq!(registration.address, pages.as_ptr() as u64, "of these pages");
        assert_eq!(registration.access, access, "with this access");
        *registration
    }

    /// Whether peers reach it by windows only.
    pub(super) fn has_windows(&self) -> bool {
        is_windowed(self.access, self.device.has_windows())
    }
}

/// Adds a registration to an instance's regions.
pub(super) fn insert(
    regions: &mut Slab<Registration>,
    pages: &Pages,
    registration: Registration,
) -> Result<MemoryRegion, RegisterError> {
    let access = registration.access;
    let id = regions
        .insert_with(|_| registration)
        .ok_or(RegisterError::TooMany { count_max: REGIONS_MAX })?;
    Ok(MemoryRegion { id: RegionId(id), pages: pages.clone(), access })
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: registered once and deregistered once; from here on the device refuses its keys.
        let status = unsafe { (self.device.library().ibv_dereg_mr)(self.mr) };
        if status != 0 {
            tracing::warn!(status, len = self.len, "ibv_dereg_mr failed; its memory stays pinned");
        }
    }
}

/// Registers memory with the device, which takes as long as pinning it does.
#[derive(Debug)]
pub(super) struct VerbsRegistrar(Arc<Device>);

impl VerbsRegistrar {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        Self(Arc::clone(device))
    }
}

impl Registrar for VerbsRegistrar {
    fn prepare(&self, pages: &Pages, access: Access) -> Result<Prepared, RegisterError> {
        Registration::new(&self.0, pages, access).map(|registration| Box::new(registration) as _)
    }
}

/// What a peer may change opens to it by a window of its queue pair, where the device has such.
const fn is_windowed(access: Access, has_windows: bool) -> bool {
    has_windows && (access.remote_write || access.remote_atomic)
}

/// The owner may always write: reads and atomics scatter into the region.
const fn access_flags(access: Access, has_windows: bool) -> i32 {
    if is_windowed(access, has_windows) {
        return IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND;
    }
    IBV_ACCESS_LOCAL_WRITE | remote_flags(access)
}

/// What peers may do.
pub(super) const fn remote_flags(access: Access) -> i32 {
    let mut flags = 0;
    if access.remote_read {
        flags |= IBV_ACCESS_REMOTE_READ;
    }
    if access.remote_write {
        flags |= IBV_ACCESS_REMOTE_WRITE;
    }
    if access.remote_atomic {
        flags |= IBV_ACCESS_REMOTE_ATOMIC;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_memory_gets_no_remote_write_flag() {
        for has_windows in [false, true] {
            let flags = access_flags(Access::READ, has_windows);
            assert_eq!(flags & IBV_ACCESS_REMOTE_WRITE, 0);
            assert_eq!(flags & IBV_ACCESS_REMOTE_ATOMIC, 0);
            assert_ne!(flags & IBV_ACCESS_REMOTE_READ, 0);
        }
    }

    #[test]
    fn what_peers_may_change_is_reached_by_windows_only() {
        for access in [Access::READ_WRITE, Access::ALL] {
            let flags = access_flags(access, true);
            assert_eq!(flags, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
            assert_ne!(access_flags(access, false) & IBV_ACCESS_REMOTE_WRITE, 0);
        }
    }
}
