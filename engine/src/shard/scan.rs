//! Answers scans. The wire's `scan` draws the answer.

use windlass_wire::{
    PartitionId, RequestHeader, Rows, ScanColumns, Status,
    scan::{HEAD_LEN, ScanHead, answer_len},
};

use super::{
    push::Refused,
    tables::{ShardTable, TableRows},
};
use crate::limits::SCAN_ROWS_PER_TURN;

/// Checks a scan against its table.
pub(super) fn check_scan(
    table: &ShardTable,
    partition: PartitionId,
    columns: ScanColumns,
    row_words: u32,
) -> Result<(), Refused> {
    if table.is_dense() {
        return Err(Status::Malformed.into());
    }
    if u64::from(row_words) != columns.row_words(&table.entry.schema) {
        return Err(Status::WrongWidth.into());
    }
    if table.slot(partition).is_none() {
        return Err(Status::NotHere.into());
    }
    Ok(())
}

/// The answer to a scan that was checked: at most as long as its header says.
pub(super) fn answer(table: &ShardTable, header: &RequestHeader) -> Vec<u8> {
    let Rows::Partition { partition, from, columns } = header.rows else {
        unreachable!("decoding gives every scan a partition");
    };
    let (TableRows::Sparse(partitions), Some(slot)) = (&table.rows, table.slot(partition)) else {
        unreachable!("the partition was checked in this turn");
    };
    let sparse = &partitions[slot];
    let limit = header.row_count.min(SCAN_ROWS_PER_TURN);
    let mut found = Vec::new();
    let next = sparse.scan(from, limit as usize, &mut found);
    let row_count = u32::try_from(found.len()).unwrap_or(u32::MAX);
    let (values_len, state_len) = columns.lens(&table.entry.schema);
    let row_len = 8 + values_len + state_len;
    let mut into = Vec::with_capacity(HEAD_LEN + found.len() * usize_of(row_len));
    into.extend_from_slice(&ScanHead { row_count, next }.encode());
    for (key, row) in &found {
        into.extend_from_slice(&key.to_le_bytes());
        if values_len > 0 {
            sparse.fetch_values(*row);
        }
    }
    if values_len > 0 {
        found.iter().for_each(|(_, row)| sparse.save_values(*row, &mut into));
    }
    if state_len > 0 {
        found.iter().for_each(|(_, row)| sparse.save_state(*row, &mut into));
    }
    // As long as its head says.
    let len = answer_len(row_count, header.width);
    assert!(
        into.len() as u64 <= len && row_count <= limit,
        "rows as long and as many as was checked"
    );
    into.resize(usize_of(len), 0);
    into
}

#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
const fn usize_of(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use windlass_wire::{
        DataType, Epoch, RequestKind, Sequence, TableEntry, TableId, TableSchema, WorkerClock,
        scan::position,
    };

    use super::*;
    use crate::table::SparsePartition;

    fn table(schema: TableSchema) -> ShardTable {
        let entry = TableEntry { id: TableId(3), name: "t".to_owned(), schema };
        let mut table = ShardTable::new(entry, 4).unwrap();
        let mut rows = SparsePartition::new(PartitionId(2), &table.entry.schema);
        let mut memory = u64::MAX;
        for key in [u64::MAX, 5, 6] {
            let mut saved = key.to_le_bytes().to_vec();
            saved.resize(rows.saved_row_len(), u8::try_from(key & 0xf).unwrap());
            assert!(rows.restore_row(&saved, &mut memory));
        }
        table.rows = TableRows::Sparse(vec![rows]);
        table.slots.insert(PartitionId(2), 0);
        table
    }

    fn header(columns: ScanColumns, row_words: u32, row_count: u32, from: u64) -> RequestHeader {
        RequestHeader {
            kind: RequestKind::Scan,
            sync: false,
            resumes: false,
            strong: false,
            dtype: DataType::F32,
            table: TableId(3),
            sequence: Sequence(1),
            epoch: Epoch(1),
            clock: WorkerClock(0),
            rows: Rows::Partition { partition: PartitionId(2), from, columns },
            row_count,
            width: row_words,
            coding: None,
            values: None,
            reply: None,
        }
    }

    #[test]
    fn an_answer_has_keys_values_and_state_in_columns() {
        let mut schema = TableSchema::sparse(DataType::F32, 3);
        schema.rule = "adam:lr=0.1".parse().unwrap();
        let table = table(schema);
        let mut keys = [u64::MAX, 5, 6];
        keys.sort_unstable_by_key(|key| position(*key));
        for (columns, words, len) in [
            (ScanColumns::Keys, 1, 8),
            (ScanColumns::Values, 3, 8 + 12),
            (ScanColumns::State, 6, 8 + 12 + 24 + 4),
        ] {
            assert_eq!(check_scan(&table, PartitionId(2), columns, words), Ok(()));
            let refused = check_scan(&table, PartitionId(2), columns, words + 1);
            assert_eq!(refused, Err(Status::WrongWidth.into()));
            let answer = answer(&table, &header(columns, words, 10, 0));
            assert_eq!(
                answer.len(),
                HEAD_LEN + (3 * len as usize).next_multiple_of(words as usize * 8)
            );
            let (head, rows) = answer.split_first_chunk().unwrap();
            let head = ScanHead::decode(*head, 10).unwrap();
            assert_eq!(head, ScanHead { row_count: 3, next: None });
            let mut columns = rows[24..].chunks(12);
            for (at, key) in keys.iter().enumerate() {
                assert_eq!(rows[at * 8..][..8], key.to_le_bytes());
                let byte = u8::try_from(key & 0xf).unwrap();
                let values = columns.next();
                assert_eq!(values, (words > 1).then_some(&[byte; 12][..]));
            }
        }
    }

    #[test]
    fn a_scan_goes_on_where_the_last_answer_says() {
        let table = table(TableSchema::sparse(DataType::F32, 1));
        let (mut from, mut keys) = (Some(0), Vec::new());
        while let Some(at) = from {
            let answer = answer(&table, &header(ScanColumns::Values, 2, 1, at));
            let head = ScanHead::decode(*answer.first_chunk().unwrap(), 1).unwrap();
            keys.extend(answer[HEAD_LEN..].chunks_exact(12).map(|row| row[0]));
            from = head.next;
        }
        keys.sort_unstable();
        assert_eq!(keys, [5, 6, 255]);
    }

    #[test]
    fn scans_of_what_is_not_here_are_refused() {
        let sparse = table(TableSchema::sparse(DataType::F32, 1));
        let elsewhere = check_scan(&sparse, PartitionId(1), ScanColumns::Keys, 1);
        assert_eq!(elsewhere, Err(Status::NotHere.into()));
        let entry = TableEntry {
            id: TableId(1),
            name: "d".to_owned(),
            schema: TableSchema::dense(DataType::F32, 8, 1),
        };
        let dense = ShardTable::new(entry, 4).unwrap();
        let refused = check_scan(&dense, PartitionId(0), ScanColumns::Keys, 1);
        assert_eq!(refused, Err(Status::Malformed.into()));
    }
}
