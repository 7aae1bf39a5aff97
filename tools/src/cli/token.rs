//! Tokens come from files: a command line is visible to every user of the host.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use windlass_wire::control::TOKEN_LEN_MAX;

use super::{ExitStatus, Failure};

/// Of a file that never ends, as some devices do not, no more is read than this. White space around a token
/// counts.
const FILE_LEN_MAX: u64 = 64 << 10;

/// Reads a token: the file's text without the white space around it.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |text: String| Failure::new(ExitStatus::Usage, text);
    let text = read_bounded(path).map_err(|error| {
        wrong(format!("cannot read the token file {}: {error}; check --token-file", path.display()))
    })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong(format!(
            "the token file {} is empty: write a secret into it, for example with `openssl rand \
             -hex 32`",
            path.display()
        )));
    }
    if token.len() > TOKEN_LEN_MAX {
        return Err(wrong(format!(
            "the token file {} has {} bytes, and tokens have at most {TOKEN_LEN_MAX}: check that it is \
             the right file, or write a shorter secret",
            path.display(),
            token.len()
        )));
    }
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        tracing::warn!("other users can read the token file {0}: chmod 600 {0}", path.display());
    }
    Ok(token.to_owned())
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}
