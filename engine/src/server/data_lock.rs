//! Locks a data directory, so that no two processes write the same log.

use std::{fs::File, io, path::Path};

use rustix::fs::{FlockOperation, flock};

use crate::private_files;

/// Held while a process uses a data directory; gone with the process, however it ends.
#[derive(Debug)]
pub(super) struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes it; what is wrong, as a sentence, when another process has it.
    pub(super) fn take(data: &Path) -> Result<Self, String> {
        let shown = data.display();
        let failed = |error: io::Error| format!("cannot lock {shown}: {error}");
        if private_files::is_foreign(data, is_known).map_err(failed)? {
            return Err(format!(
                "{shown} holds something, and no server's data: give an empty directory, or one that a \
                 server has used"
            ));
        }
        private_files::make_directory(data).map_err(failed)?;
        let file = private_files::open_lock(&data.join("lock")).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                format!("another process uses {shown}: stop it, or use a directory of its own")
            } else {
                failed(error.into())
            }
        })?;
        Ok(Self { _file: file })
    }
}

/// Whether a data directory may hold something by this name.
fn is_known(name: &str) -> bool {
    ["lock", "catalogue", "identity", "coordinator"].contains(&name) || name.starts_with("shard-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataLock::take(folder.path()).unwrap();
        assert!(DataLock::take(folder.path()).unwrap_err().contains("stop it"));
        drop(lock);
        DataLock::take(folder.path()).unwrap();
    }
}
