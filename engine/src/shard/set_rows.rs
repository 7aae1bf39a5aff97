//! Sets rows to given values, whatever the table's rule, for imports. A record sets them at every replica.

use windlass_wire::{PartitionId, RowRange, TableId};

use super::{
    chain,
    chain::Chain,
    command::ShardStopped,
    disk::Disk,
    ids_hash::IdMap,
    image::{dense_entry, sparse_entry},
    tables::{ShardTable, TableRows, Tables},
};

/// The rows, and what they are set to: little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowsToSet {
    /// Consecutive rows of a dense table, whose state begins anew.
    Dense {
        /// The first row.
        first: u64,
        /// Values of whole rows.
        values: Vec<u8>,
    },
    /// Rows of a sparse table.
    Sparse {
        /// Key (8 bytes) and values of each, and its state if that is given, as a scan brings it.
        rows: Vec<u8>,
        /// Whether state is given; it begins anew otherwise.
        with_state: bool,
    },
}

/// What setting or removing rows came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Rows that were set, or that there were to remove.
    pub rows: u64,
    /// Where to look for more rows to remove, unless that was the partition's end.
    pub next: Option<u64>,
}

/// The entries of a record that sets or removes rows, and what that changes.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) bytes: Vec<u8>,
    pub(super) changed: Changed,
}

/// Why rows are not set or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// They never will be.
    #[error("{0}")]
    Refused(String),
    /// There is no memory for rows of new keys.
    #[error("no memory is left for new rows: raise --memory")]
    Full,
    /// Another server leads the partition, or this one is behind: asked again, somebody will set them.
    #[error("the partition's chain changes, or has much to do: try again")]
    Moved,
    /// Pushes to rows that are to be removed wait for their round.
    #[error("pushes to some of these rows wait for the end of their round: try again after it")]
    Summed,
}

impl SetError {
    /// No log takes them any more.
    pub(super) fn stopped() -> Self {
        refused(
            "the log has stopped after a failed write to disk: repair or free the disk and restart \
             the server",
        )
    }
}

impl From<ShardStopped> for SetError {
    fn from(stopped: ShardStopped) -> Self {
        Self::Refused(stopped.into())
    }
}

const OTHER_KIND: &str = "rows of sparse tables are set by key, those of dense ones in a range";
const ELSEWHERE: &str = "the rows are not here: another server holds their partition";
const NOT_FINITE: &str = "values that are not finite are refused by this table";

pub(super) fn refused(text: &str) -> SetError {
    SetError::Refused(text.to_owned())
}

/// A table, and where a partition of it is here.
pub(super) fn table_of(
    tables: &mut IdMap<TableId, ShardTable>,
    id: TableId,
    partition: PartitionId,
) -> Result<(&mut ShardTable, usize), SetError> {
    let table = tables.get_mut(&id);
    let table = table.ok_or_else(|| refused("there is no such table: create it first"))?;
    let slot = table.slots.find(partition).ok_or_else(|| refused(ELSEWHERE))?;
    Ok((table, slot))
}

/// Checks the rows, makes room for those of new keys, and puts them as they are recorded.
pub(super) fn entries_of(
    tables: &mut Tables,
    chain: &Chain,
    disk: &Disk,
    id: TableId,
    partition: PartitionId,
    rows: &RowsToSet,
) -> Result<Entries, SetError> {
    chain::check_head(chain, disk, partition)?;
    let (table, slot) = table_of(&mut tables.by_id, id, partition)?;
    let mut bytes = Vec::new();
    let rows = match (rows, &table.rows) {
        (RowsToSet::Dense { first, values }, TableRows::Dense(partitions)) => {
            let rows = check_range(table, partition, *first, values)?;
            let dense = &partitions[slot].0;
            let row_len = values.len() / usize::try_from(rows.count()).unwrap_or(usize::MAX);
            let (mut at, mut rest) = (rows.start, values.as_slice());
            while at < rows.end {
                let piece = (at - dense.rows().start) / dense.piece_rows();
                let end = dense.rows_of_piece(piece).end.min(rows.end);
                let part = RowRange::new(at, end);
                let len = usize::try_from(part.count()).unwrap_or(usize::MAX) * row_len;
                let (values, behind) = rest.split_at(len);
                dense_entry(id, part, &dense.saved_of(values), &mut bytes);
                (at, rest) = (end, behind);
            }
            rows.count()
        }
        (RowsToSet::Sparse { rows, with_state }, TableRows::Sparse(partitions)) => {
            let saved_len = partitions[slot].saved_row_len();
            let (keys, row_len) = check_keys(table, partition, rows, *with_state)?;
            sparse_entry(id, rows.chunks_exact(row_len), saved_len, &mut bytes);
            table.make_rows(&keys, &mut tables.memory_left).map_err(|_| SetError::Full)?;
            keys.len() as u64
        }
        _ => return Err(refused(OTHER_KIND)),
    };
    Ok(Entries { bytes, changed: Changed { rows, next: None } })
}

/// The rows of a dense table, if they are of the partition and their values are the table's to hold.
fn check_range(
    table: &ShardTable,
    partition: PartitionId,
    first: u64,
    values: &[u8],
) -> Result<RowRange, SetError> {
    let row_len = table.entry.schema.row_len();
    let length = values.len() as u64;
    if length == 0 || !length.is_multiple_of(row_len) {
        let text = format!("{length} bytes are no whole rows of {row_len} bytes");
        return Err(SetError::Refused(text));
    }
    let held = table.layout.rows_of(partition);
    let count = length / row_len;
    if first < held.start || first.checked_add(count).is_none_or(|end| end > held.end) {
        let text = format!("rows from {first} on are not all of partition {partition}");
        return Err(SetError::Refused(text));
    }
    if table.scan.is_some_and(|scan| !scan.are_finite(values)) {
        return Err(refused(NOT_FINITE));
    }
    Ok(RowRange::new(first, first + count))
}

/// The keys of rows of a sparse table, and the bytes of each row, if they are of the partition and their values
/// are the table's to hold.
fn check_keys(
    table: &ShardTable,
    partition: PartitionId,
    rows: &[u8],
    with_state: bool,
) -> Result<(Vec<u64>, usize), SetError> {
    let schema = &table.entry.schema;
    let state_len = if with_state { schema.state_len() } else { 0 };
    let row_len = usize::try_from(8 + schema.row_len() + state_len).unwrap_or(usize::MAX);
    let values_end = usize::try_from(8 + schema.row_len()).unwrap_or(usize::MAX);
    if rows.is_empty() || !rows.len().is_multiple_of(row_len) {
        let text = format!("{} bytes are no whole rows of {row_len} bytes", rows.len());
        return Err(SetError::Refused(text));
    }
    let mut keys = Vec::with_capacity(rows.len() / row_len);
    for row in rows.chunks_exact(row_len) {
        let key = u64::from_le_bytes(std::array::from_fn(|byte| row[byte]));
        if table.layout.partition_of(key) != partition {
            let text = format!("key {key} is not of partition {partition}");
            return Err(SetError::Refused(text));
        }
        if table.scan.is_some_and(|scan| !scan.are_finite(&row[8..values_end])) {
            return Err(refused(NOT_FINITE));
        }
        keys.push(key);
    }
    Ok((keys, row_len))
}
