//! Verifying every checksum of a directory: the log from its checkpoint on, the newest checkpoint's
//! files, and all manifests.

use std::fmt;

use super::{
    inspect::inspect_log,
    limits::SCRUB_READINGS_MAX,
    manifest::{data_name, read_manifests},
    recovery::read_data_file,
    scan::ScanMemory,
    storage::{Storage, StorageError},
};

/// What a scrub read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScrubReport {
    /// Bytes verified.
    pub bytes: u64,
    /// Records verified.
    pub records: u64,
    /// Checkpoint blocks verified.
    pub blocks: u64,
    /// Whether the log ends in the middle of writes: normal after a crash, and before a restart.
    pub torn: bool,
    /// Everything bad.
    pub bad: Vec<ScrubFinding>,
}

/// Something bad.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ScrubFinding {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was found.
    pub reason: String,
}

/// Reads everything in a directory that recovery would read. What is bad is read again, and reported if it
/// is still there and still bad: beside a running server a file may be given back for new data, or written,
/// while it is read.
///
/// # Errors
/// When the directory cannot be read at all.
pub fn scrub(storage: &mut dyn Storage) -> Result<ScrubReport, StorageError> {
    let mut report = read_all(storage)?;
    for _ in 1..SCRUB_READINGS_MAX {
        if report.bad.is_empty() {
            break;
        }
        let before = std::mem::replace(&mut report, read_all(storage)?).bad;
        let found = report.bad.len();
        report.bad.retain(|bad| before.iter().any(|old| old.is_at(bad)));
        // What is found for the first time has to be confirmed as well.
        if report.bad.len() == found {
            break;
        }
    }
    Ok(report)
}

impl ScrubFinding {
    fn is_at(&self, other: &Self) -> bool {
        (&self.file, self.offset) == (&other.file, other.offset)
    }
}

fn read_all(storage: &mut dyn Storage) -> Result<ScrubReport, StorageError> {
    let mut report = ScrubReport::default();
    let (manifests, bad) = read_manifests(storage)?;
    for manifest in bad {
        report.bad.push(ScrubFinding { file: manifest.file, offset: 0, reason: manifest.reason });
    }
    if let Some(newest) = manifests.first() {
        let mut memory = ScanMemory::new(storage)?;
        for file in &newest.files {
            let name = data_name(file.number);
            match read_data_file(storage, &mut memory, &name, file.length, &mut |_| {}) {
                Ok(blocks) => {
                    report.bytes += file.length;
                    report.blocks += blocks;
                    if blocks != file.blocks {
                        let reason = format!("{blocks} blocks instead of {}", file.blocks);
                        report.bad.push(ScrubFinding { file: name, offset: file.length, reason });
                    }
                }
                Err(bad) => report.bad.push(ScrubFinding {
                    file: name,
                    offset: bad.offset,
                    reason: bad.reason,
                }),
            }
        }
    }
    let log = inspect_log(storage, &mut |_| {})?;
    report.bytes += log.bytes;
    report.records = log.records;
    report.torn = log.torn.is_some();
    report.bad.extend(log.damage.into_iter().map(|bad| ScrubFinding {
        file: bad.place.file,
        offset: bad.place.offset,
        reason: bad.reason,
    }));
    Ok(report)
}

impl fmt::Display for ScrubReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, records, blocks, bad, .. } = self;
        write!(formatter, "{bytes} bytes, {records} records and {blocks} blocks verified")?;
        if self.torn {
            write!(formatter, "; the log ends in the middle of a write, which recovery cuts off")?;
        }
        for ScrubFinding { file, offset, reason } in bad {
            write!(formatter, "\nbad: {file}+{offset}: {reason}")?;
        }
        Ok(())
    }
}
