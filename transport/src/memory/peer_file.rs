//! Checks of a peer's file before it is mapped here.

use rustix::fs::SealFlags;

use crate::error::AllocateError;

/// Whether a peer's file has `len` bytes and keeps them. A file that could shrink would turn our
/// accesses into SIGBUS, and until it is sealed it may shrink after its length was looked at.
pub(super) fn check(
    len: usize,
    seals: impl FnOnce() -> Result<SealFlags, AllocateError>,
    file_len: impl FnOnce() -> Result<i64, AllocateError>,
) -> Result<(), AllocateError> {
    if !seals()?.contains(SealFlags::SHRINK) {
        return Err(AllocateError::System {
            step: "checking the shrink seal of a peer's memory",
            len,
            source: std::io::Error::from(std::io::ErrorKind::PermissionDenied),
        });
    }
    if u64::try_from(file_len()?).unwrap_or(0) < len as u64 {
        return Err(AllocateError::Length { len });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::MemfdFlags;

    use super::*;

    /// A peer that shrinks its file and seals it while it is being looked at.
    #[test]
    fn a_peer_file_that_shrinks_before_it_is_sealed_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&fd, 8192).unwrap();
        let shrink_and_seal = || {
            rustix::fs::ftruncate(&fd, 4096).unwrap();
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
            Ok(rustix::fs::fcntl_get_seals(&fd).unwrap())
        };
        let file_len = || Ok(rustix::fs::fstat(&fd).unwrap().st_size);
        assert!(check(8192, shrink_and_seal, file_len).is_err());
        assert!(crate::memory::Pages::map_peer(fd.as_fd(), 4096, true).is_ok());
    }
}
