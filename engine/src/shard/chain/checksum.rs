//! Checksums of partitions, for comparing replicas. The sum does not depend on where rows lie. Rows that are as
//! they began count as absent, as pulls see them.
//!
//! A turn sums a bounded number of bytes. A sum must be of one position, so a partition that has changed
//! meanwhile is summed again. One that keeps changing is left out of the answer.

use std::collections::VecDeque;

use windlass_wire::{Lsn, PartitionId, TableId, map::mix};

use super::Chain;
use crate::{
    limits::{CHECKSUM_ATTEMPTS_MAX, CHECKSUM_BYTES_PER_TURN},
    shard::{
        command::Answer,
        tables::{ShardTable, TableRows, Tables},
    },
};

/// One replica of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionChecksum {
    /// The partition.
    pub partition: PartitionId,
    /// Its last record applied.
    pub lsn: Lsn,
    /// Of all values and optimiser state at that position.
    pub checksum: u64,
}

/// Sums that were asked for: those under way and those that come after them, whoever asks meanwhile.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    asked: VecDeque<Asked>,
}

#[derive(Debug)]
struct Asked {
    answers: Vec<Answer<Vec<PartitionChecksum>>>,
    /// Partitions still to be summed, the next one last.
    left: Vec<PartitionId>,
    sums: Vec<PartitionChecksum>,
    under: Option<Sum>,
    bytes: Vec<u8>,
}

/// A partition being summed.
#[derive(Debug)]
struct Sum {
    partition: PartitionId,
    position: (Lsn, u64),
    attempts: u32,
    /// Tables still to be summed, the next one last.
    tables: Vec<TableId>,
    /// Where in it: by piece of a dense table, by row of a sparse one.
    at: u64,
    checksum: u64,
}

/// Sums every partition that this shard is a member for, learners aside, and answers then.
pub(super) fn ask_checksums(chain: &mut Chain, answer: Answer<Vec<PartitionChecksum>>) {
    let readable = chain.parts.iter().flatten().filter(|part| part.replica.is_readable());
    chain.checksums.ask(answer, readable.map(|part| part.partition).rev());
}

impl Checksums {
    /// Has partitions summed, the last one first, unless that is to begin for another asker.
    fn ask(
        &mut self,
        answer: Answer<Vec<PartitionChecksum>>,
        partitions: impl Iterator<Item = PartitionId>,
    ) {
        match self.asked.get_mut(1) {
            Some(next) => next.answers.push(answer),
            None => self.asked.push_back(Asked {
                answers: vec![answer],
                left: partitions.collect(),
                sums: Vec::new(),
                under: None,
                bytes: Vec::new(),
            }),
        }
    }
}

/// Does a turn's part of what was asked for. Returns whether there was any.
pub(in crate::shard) fn sum_some(tables: &Tables, chain: &mut Chain) -> bool {
    let Some(mut asked) = chain.checksums.asked.pop_front() else { return false };
    chain.note_taken();
    let mut room = CHECKSUM_BYTES_PER_TURN;
    while room > 0 {
        let next = || asked.left.pop().map(|partition| Sum::begin(tables, chain, partition, 1));
        let Some(mut sum) = asked.under.take().or_else(next) else {
            for answer in asked.answers {
                // An asker that is gone needs no answer.
                let _ = answer.send(Ok(asked.sums.clone()));
            }
            return true;
        };
        let Some(position) = position_of(chain, sum.partition) else { continue };
        if position != sum.position {
            if sum.attempts < CHECKSUM_ATTEMPTS_MAX {
                asked.under = Some(Sum::begin(tables, chain, sum.partition, sum.attempts + 1));
            }
            continue;
        }
        match sum.go_on(tables, &mut room, &mut asked.bytes) {
            Some(done) => asked.sums.push(done),
            None => asked.under = Some(sum),
        }
    }
    chain.checksums.asked.push_front(asked);
    true
}

/// Where a partition is that can be read here: its last record, and pushes without one since.
fn position_of(chain: &Chain, partition: PartitionId) -> Option<(Lsn, u64)> {
    let part = chain.part(partition)?;
    let position = (part.applied, part.replica.unrecorded_count());
    part.replica.is_readable().then_some(position)
}

impl Sum {
    fn begin(tables: &Tables, chain: &Chain, partition: PartitionId, attempts: u32) -> Self {
        let tables = tables.by_id.keys().copied().collect();
        let position = position_of(chain, partition).unwrap_or_default();
        Self { partition, position, attempts, tables, at: 0, checksum: 0 }
    }

    /// Sums as much as there is room for; the partition's sum once that is all of it.
    fn go_on(
        &mut self,
        tables: &Tables,
        room: &mut usize,
        bytes: &mut Vec<u8>,
    ) -> Option<PartitionChecksum> {
        while let Some(id) = self.tables.last() {
            if *room == 0 {
                return None;
            }
            let is_over = match tables.by_id.get(id) {
                Some(table) => self.sum_table(table, room, bytes),
                // It was dropped, and what was summed of it before is as little use as it was.
                None => {
                    self.position.0 = Lsn(u64::MAX);
                    return None;
                }
            };
            if is_over {
                self.tables.pop();
                self.at = 0;
            }
        }
        let Self { partition, position: (lsn, _), checksum, .. } = *self;
        Some(PartitionChecksum { partition, lsn, checksum })
    }

    /// Sums pieces or rows of a table; whether those were the last.
    fn sum_table(&mut self, table: &ShardTable, room: &mut usize, bytes: &mut Vec<u8>) -> bool {
        let Some(slot) = table.slots.find(self.partition) else { return true };
        let seed = mix(u64::from(table.entry.id.0));
        let count = match &table.rows {
            TableRows::Dense(partitions) => partitions[slot].0.piece_count(),
            TableRows::Sparse(partitions) => partitions[slot].rows_end(),
        };
        while self.at < count && *room > 0 {
            bytes.clear();
            let key = match &table.rows {
                TableRows::Dense(partitions) => {
                    partitions[slot].0.save_piece(self.at, bytes);
                    self.at
                }
                TableRows::Sparse(partitions) => {
                    let Some((key, row)) = partitions[slot].keys_of(self.at..self.at + 1).next()
                    else {
                        self.at += 1;
                        *room -= 1;
                        continue;
                    };
                    // When something was pushed to a row each replica knows by its own time.
                    partitions[slot].save_values(row, bytes);
                    partitions[slot].hide_first_values(key, bytes);
                    partitions[slot].save_state(row, bytes);
                    key
                }
            };
            self.checksum = self.checksum.wrapping_add(row_sum(seed, key, bytes));
            self.at += 1;
            *room = room.saturating_sub(bytes.len().max(1));
        }
        self.at >= count
    }
}

fn row_sum(seed: u64, key: u64, bytes: &[u8]) -> u64 {
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    bytes.chunks(8).fold(mix(seed ^ key), |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_while_another_waits_shares_its_sums() {
        let mut checksums = Checksums::default();
        for _ in 0..100 {
            let (answer, _) = crossbeam::channel::bounded(1);
            checksums.ask(answer, [PartitionId(2), PartitionId(1)].into_iter());
        }
        let askers: Vec<_> = checksums.asked.iter().map(|asked| asked.answers.len()).collect();
        assert_eq!(askers, [1, 99], "what is under way may be of before the second was asked for");
        assert!(checksums.asked.iter().all(|asked| asked.left == [PartitionId(2), PartitionId(1)]));
    }
}
