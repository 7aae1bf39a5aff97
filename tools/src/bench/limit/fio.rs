//! What fio writes to a directory: sequentially, past the page cache, each block synced before the
//! next, as a log that promises durability has to.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::Pinned;

const PROGRAM: &str = "fio";

/// A shorter run measures fio's start.
const TIME_MIN: Duration = Duration::from_millis(500);

/// Blocks that the device takes: O_DIRECT asks for whole ones.
const BLOCK_BYTES: usize = 4096;

/// One directory and block size. Its file is removed at the end.
#[derive(Debug)]
pub(super) struct Fio {
    file: PathBuf,
    block_bytes: usize,
    core: Option<usize>,
}

impl Fio {
    pub(super) fn is_installed() -> bool {
        let version = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    /// For blocks of `bytes` bytes, rounded up to what the device takes, written from `core`: where the
    /// device's interrupts come may be worth as much as half of the rate.
    pub(super) fn new(directory: &Path, bytes: usize, core: Option<usize>) -> Self {
        let block_bytes = bytes.next_multiple_of(BLOCK_BYTES);
        Self { file: directory.join("fio.data"), block_bytes, core }
    }

    /// Bytes per second.
    pub(super) fn rate(&self, time: Duration) -> io::Result<f64> {
        // It inherits this thread's core.
        let _there = self.core.and_then(|core| Pinned::to(core).ok());
        let output = Command::new(PROGRAM)
            .args(["--name=log", "--rw=write", "--direct=1", "--fdatasync=1", "--ioengine=psync"])
            // The file is written before it is measured, as segments of a log are.
            .args(["--overwrite=1", "--time_based", "--size=64m", "--thread"])
            .arg("--output-format=json")
            .arg(format!("--filename={}", self.file.display()))
            .arg(format!("--bs={}", self.block_bytes))
            .arg(format!("--runtime={}ms", time.max(TIME_MIN).as_millis()))
            .output()?;
        let unreadable = || {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            io::Error::other(format!("fio says nothing of writes: {text}"))
        };
        // Warnings may come before the object.
        let start = output.stdout.iter().position(|byte| *byte == b'{').ok_or_else(unreadable)?;
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout[start..]).map_err(io::Error::other)?;
        let iops = report["jobs"][0]["write"]["iops"].as_f64().ok_or_else(unreadable)?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a block")]
        Ok(iops * self.block_bytes as f64)
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.file);
    }
}
