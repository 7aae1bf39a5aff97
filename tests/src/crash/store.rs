//! A toy engine: rows of integers, an update rule that does not commute, and suppression of
//! duplicate pushes. Small enough to be its own oracle.

use std::collections::{BTreeMap, BTreeSet};

use windlass_engine::persist::{
    checkpoint::{BlockHead, CheckpointSource, Extent, Next},
    frame::Kind,
    record::Record,
    recovery::{AppliedBlocks, Block, Replay, ReplayError},
};
use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

/// Partitions of the workload.
pub const PARTITIONS: u32 = 5;
/// Rows of each.
pub const ROWS: usize = 48;
const ROWS_PER_BLOCK: usize = 8;
/// Values of a row.
pub const WIDTH: usize = 3;
/// The only table.
pub const TABLE: TableId = TableId(1);
const SECTION_ROWS: u16 = 0;
const SECTION_SESSIONS: u16 = 1;

/// State of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Rows, one after the other.
    pub values: Vec<u64>,
    /// How often a session's pushes were applied: more than its sequence says means doubled.
    pub applied_counts: BTreeMap<u64, u64>,
    /// Highest sequence of each session.
    pub sessions: BTreeMap<u64, u64>,
    /// The last record.
    pub lsn: Lsn,
}

impl Partition {
    /// Nothing but zeros.
    #[must_use]
    pub fn new() -> Self {
        Self {
            values: vec![0; ROWS * WIDTH],
            applied_counts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            lsn: Lsn(0),
        }
    }

    /// The update rule: order matters, and so does every bit.
    pub fn update(&mut self, row: usize, delta: &[u64]) {
        for (value, delta) in self.values[row * WIDTH..].iter_mut().zip(delta) {
            *value = value.wrapping_mul(31).wrapping_add(*delta);
        }
    }

    /// Notes a session's push.
    pub fn cover(&mut self, session: u64, sequence: u64) {
        let highest = self.sessions.entry(session).or_default();
        *highest = sequence.max(*highest);
    }
}

impl Default for Partition {
    fn default() -> Self {
        Self::new()
    }
}

/// All partitions, with what a checkpoint has to copy.
#[derive(Debug, Default)]
pub struct Store {
    /// The partitions.
    pub partitions: BTreeMap<PartitionId, Partition>,
    dirty: BTreeSet<(PartitionId, u16, u64)>,
    copying: BTreeSet<(PartitionId, u16, u64)>,
    /// Only these are wanted in recovery; all when empty.
    pub only: BTreeSet<PartitionId>,
}

impl Store {
    /// Applies a sealed record, as the shard does.
    pub fn apply_live(&mut self, record: &Record<'_>) {
        self.apply_record(record, &AppliedBlocks::default());
    }

    fn apply_record(&mut self, record: &Record<'_>, applied: &AppliedBlocks) {
        let id = record.partition();
        let partition = self.partitions.entry(id).or_default();
        if record.kind() == Kind::Rows {
            let rows = record.rows();
            let deltas: Vec<u64> = record
                .delta()
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
                .collect();
            for (row, delta) in (rows.start..rows.end).zip(deltas.chunks_exact(WIDTH)) {
                let block = row / ROWS_PER_BLOCK as u64;
                if !applied.contains(id, TABLE, SECTION_ROWS, block, record.lsn()) {
                    partition.update(usize::try_from(row).expect("few rows"), delta);
                    self.dirty.insert((id, SECTION_ROWS, block));
                }
            }
        }
        let sessions_copied = applied.contains(id, TABLE, SECTION_SESSIONS, 0, record.lsn());
        for covered in record.covered() {
            partition.cover(covered.session.0, covered.sequence.0);
            if !sessions_copied {
                *partition.applied_counts.entry(covered.session.0).or_default() += 1;
            }
            self.dirty.insert((id, SECTION_SESSIONS, 0));
        }
        partition.lsn = record.lsn();
    }
}

impl CheckpointSource for Store {
    fn partitions(&mut self) -> Vec<PartitionId> {
        self.partitions.keys().copied().collect()
    }

    fn begin(&mut self, partition: PartitionId, extent: Extent) {
        match extent {
            Extent::Full => {
                self.dirty.retain(|key| key.0 != partition);
                self.copying.insert((partition, SECTION_SESSIONS, 0));
                for block in 0..(ROWS / ROWS_PER_BLOCK) as u64 {
                    self.copying.insert((partition, SECTION_ROWS, block));
                }
            }
            Extent::Changed => {
                let changed: Vec<_> =
                    self.dirty.iter().filter(|key| key.0 == partition).copied().collect();
                for key in changed {
                    self.dirty.remove(&key);
                    self.copying.insert(key);
                }
            }
        }
    }

    fn next(&mut self, partition: PartitionId, buffer: &mut [u8]) -> Next {
        let first = self.copying.iter().find(|key| key.0 == partition).copied();
        let Some(key @ (_, section, index)) = first else { return Next::Done };
        let state = &self.partitions[&partition];
        let words: Vec<u64> = if section == SECTION_ROWS {
            let start = usize::try_from(index).expect("few blocks") * ROWS_PER_BLOCK * WIDTH;
            state.values[start..start + ROWS_PER_BLOCK * WIDTH].to_vec()
        } else {
            let counts = &state.applied_counts;
            state
                .sessions
                .iter()
                .flat_map(|(session, sequence)| {
                    [*session, *sequence, counts.get(session).copied().unwrap_or(0)]
                })
                .collect()
        };
        let length = words.len() * 8;
        if length > buffer.len() {
            return Next::NoRoom;
        }
        for (into, word) in buffer.chunks_exact_mut(8).zip(&words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        self.copying.remove(&key);
        Next::Block(BlockHead {
            table: TABLE,
            section,
            index,
            detail: 0,
            lsn: state.lsn,
            epoch: Epoch(1),
            length,
        })
    }

    fn abandoned(&mut self) {
        self.dirty.append(&mut self.copying);
    }
}

impl Replay for Store {
    fn wants(&self, partition: PartitionId) -> bool {
        self.only.is_empty() || self.only.contains(&partition)
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        let state = self.partitions.entry(block.partition).or_default();
        let words: Vec<u64> = block
            .bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect();
        if block.head.section == SECTION_ROWS {
            let (table, index) = (block.head.table, block.head.index);
            let misfit = || ReplayError::Piece { table, index };
            let start = usize::try_from(index).map_err(|_| misfit())? * ROWS_PER_BLOCK * WIDTH;
            let values = state.values.get_mut(start..start + words.len()).ok_or_else(misfit)?;
            values.copy_from_slice(&words);
        } else {
            state.sessions.clear();
            state.applied_counts.clear();
            for entry in words.chunks_exact(3) {
                state.sessions.insert(entry[0], entry[1]);
                state.applied_counts.insert(entry[0], entry[2]);
            }
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record<'_>, applied: &AppliedBlocks) -> Result<(), ReplayError> {
        self.apply_record(record, applied);
        Ok(())
    }
}
