//! Files and directories that only their owner may read: they hold parameters, and what servers prove
//! themselves by.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use windlass_transport::descriptors::with_reserve;

/// Permissions of every file in a data directory.
pub(crate) const FILE_MODE: u32 = 0o600;

/// Permissions of a data directory and those in it.
const DIRECTORY_MODE: u32 = 0o700;

/// Makes a directory, and those above it that are missing. One that is there stays as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Whether a directory holds something, and nothing by the names that are known: it is somebody else's.
/// What file systems put at their root does not count.
pub(crate) fn is_foreign(path: &Path, known: impl Fn(&str) -> bool) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    let mut is_foreign = false;
    for entry in entries {
        match entry?.file_name().to_string_lossy().as_ref() {
            "lost+found" => {}
            name if known(name) => return Ok(false),
            _ => is_foreign = true,
        }
    }
    Ok(is_foreign)
}

/// Opens a file to be locked, which is made if it is missing.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(FILE_MODE);
    options.open(path)
}

/// Replaces a file as a whole; durable when it returns. It is written beside, under the name with
/// `.new` behind it.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let mut file = with_reserve(|| options.open(&temporary))?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    with_reserve(|| File::open(directory))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn somebody_elses_directory_is_known_by_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let is_foreign = |path: &Path| is_foreign(path, |name| name == "lock").unwrap();
        assert!(!is_foreign(at) && !is_foreign(&at.join("none")));
        fs::create_dir(at.join("lost+found")).unwrap();
        assert!(!is_foreign(at));
        fs::write(at.join("thesis.tex"), "").unwrap();
        assert!(is_foreign(at));
        fs::write(at.join("lock"), "").unwrap();
        assert!(!is_foreign(at));
    }

    #[test]
    fn nobody_else_may_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        make_directory(&inner).unwrap();
        make_directory(&inner).unwrap();
        assert_eq!((mode(&inner), mode(&folder.path().join("a"))), (0o700, 0o700));
        let path = inner.join("file");
        replace(&path, &[b"one", b"two"]).unwrap();
        replace(&path, &[b"three"]).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"three"[..], 0o600));
        drop(open_lock(&inner.join("lock")).unwrap());
        assert_eq!(mode(&inner.join("lock")), 0o600);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 2, "nothing is left beside");
    }
}
