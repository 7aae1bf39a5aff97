//! Rows set to values from outside, whatever the table's rule: an import. Their optimiser state begins
//! anew. In tables kept on disk the rows are recorded as they are then, like those of interval tables.

use std::collections::VecDeque;

use windlass_wire::{Durability, PartitionId, RowRange, TableId};

use super::{
    Shard,
    command::Answer,
    image::image_of,
    tables::{ShardTable, TableRows},
};
use crate::persist::commit::{self, Position};

/// Askers who wait for the disk, in the log's order.
#[derive(Debug, Default)]
pub(super) struct SetWaiting(VecDeque<(Position, Answer<()>)>);

impl SetWaiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers those whose rows are on disk.
    pub(super) fn release(&mut self, durable: Position) {
        while self.0.front().is_some_and(|(position, _)| *position <= durable) {
            if let Some((_, answer)) = self.0.pop_front() {
                // An asker that is gone needs no answer.
                let _ = answer.send(Ok(()));
            }
        }
    }

    /// The log has stopped.
    pub(super) fn refuse(&mut self) {
        for (_, answer) in self.0.drain(..) {
            let _ = answer.send(Err(STOPPED.to_owned()));
        }
    }
}

const STOPPED: &str = "the log has stopped after a failed write to disk: repair or free the disk and \
                       restart the server";

impl Shard {
    /// Sets rows of one partition of a dense table, and answers when they are as safe as the table's
    /// durability says.
    pub(super) fn set_rows(
        &mut self,
        table: TableId,
        partition: PartitionId,
        first: u64,
        values: &[u8],
        answer: Answer<()>,
    ) {
        match self.try_set_rows(table, partition, first, values) {
            Ok(None) => {
                let _ = answer.send(Ok(()));
            }
            Ok(Some(position)) => {
                if let Some(durable) = &mut self.durable {
                    durable.set_waiting.0.push_back((position, answer));
                }
            }
            Err(text) => {
                let _ = answer.send(Err(text));
            }
        }
    }

    fn try_set_rows(
        &mut self,
        id: TableId,
        partition: PartitionId,
        first: u64,
        values: &[u8],
    ) -> Result<Option<Position>, String> {
        let table = self.tables.get_mut(&id).ok_or("there is no such table: create it first")?;
        let rows = check(table, partition, first, values)?;
        let durability = table.entry.schema.durability;
        let slot = table.slots.find(partition).ok_or(ELSEWHERE)?;
        let TableRows::Dense(partitions) = &mut table.rows else { return Err(SPARSE.to_owned()) };
        let dense = &mut partitions[slot].0;
        if durability == (Durability::Memory {}) {
            return if dense.set_rows(rows, values) { Ok(None) } else { Err(ELSEWHERE.to_owned()) };
        }
        let image = image_of(id, rows, &dense.saved_of(values));
        let Some(mut durable) = self.durable.take() else {
            return Err("the server has no log: start it with a data directory".to_owned());
        };
        self.await_segments(&mut durable);
        let level = match durability {
            Durability::Interval { milliseconds } => commit::Durability::Interval(milliseconds),
            _ => commit::Durability::Sync,
        };
        let sealed = self.record_images(&mut durable, partition, &[], &image, level);
        self.durable = Some(durable);
        let sealed = sealed.map_err(|_| STOPPED.to_owned())?;
        if let Some(table) = self.tables.get_mut(&id)
            && let TableRows::Dense(partitions) = &mut table.rows
        {
            let is_set = partitions[slot].0.set_rows(rows, values);
            debug_assert!(is_set, "checked before it was recorded");
        }
        Ok(level.waits().then_some(sealed.position))
    }
}

const SPARSE: &str = "the table is sparse: only the rows of dense tables can be set";
const ELSEWHERE: &str = "the rows are not here: another server holds their partition";

/// The rows, if they are of the partition and their values are the table's to hold.
fn check(
    table: &ShardTable,
    partition: PartitionId,
    first: u64,
    values: &[u8],
) -> Result<RowRange, String> {
    let schema = &table.entry.schema;
    let row_len = schema.row_len();
    let length = values.len() as u64;
    if length == 0 || !length.is_multiple_of(row_len) {
        return Err(format!("{length} bytes are no whole rows of {row_len} bytes"));
    }
    let held = table.layout.rows_of(partition);
    let count = length / row_len;
    if first < held.start || first.checked_add(count).is_none_or(|end| end > held.end) {
        return Err(format!("rows from {first} on are not all of partition {partition}"));
    }
    if table.scan.is_some_and(|scan| !scan.are_finite(values)) {
        return Err("values that are not finite are refused by this table".to_owned());
    }
    Ok(RowRange::new(first, first + count))
}
