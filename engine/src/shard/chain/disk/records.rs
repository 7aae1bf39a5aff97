//! Writes a partition's records to the log, and the record that begins it anew.

use std::time::Duration;

use windlass_wire::{DataType, Lsn, RowRange, TableId};

use super::super::{
    SYNC,
    part::{Held, Part},
};
use crate::persist::{
    commit::{Durability as Level, Position as LogPosition},
    frame::{Kind, Salt},
    log::{Log, ReserveError},
    record::{Draft, Facts, Record, Shape},
    sessions::EXPIRES,
};

/// Writes a part's records from behind `logged` on; the log's end, when any is in it.
pub(super) fn write_records(
    part: &Part,
    logged: &mut Lsn,
    log: &mut Log,
    now: Duration,
    level_of: impl Fn(TableId) -> Option<Level>,
) -> Result<Option<LogPosition>, ReserveError> {
    let mut position = None;
    for lsn in (logged.next().0..=part.replica.log().last().0).map(Lsn) {
        let Some(Ok(record)) = part.held(lsn).map(Held::record) else {
            let (partition, last) = (part.partition, *logged);
            return Err(ReserveError::Order { partition, last, found: lsn });
        };
        // Who is forgotten is told with whatever is written next.
        let expires = record.kind() == Kind::Engine && record.tag() == EXPIRES;
        let level = if expires { Some(Level::Memory) } else { level_of(record.table()) };
        if let Some(level) = level {
            let level = if record.tag() & SYNC != 0 { level.stricter(Level::Sync) } else { level };
            let before = Lsn(lsn.0 - 1);
            if log.last_lsn(part.partition) < before {
                log.skip(part.partition, before, now)?;
            }
            position = Some(log.append(&record, Salt::NONE, level, now)?.position);
        }
        *logged = lsn;
    }
    Ok(position)
}

/// Writes that a partition begins anew, with what is in memory now.
pub(super) fn begin(part: &Part, log: &mut Log, now: Duration) -> Result<(), ReserveError> {
    let facts = Facts {
        kind: Kind::Begin,
        partition: part.partition,
        epoch: part.epoch(),
        table: TableId(0),
        dtype: DataType::F32,
        rows: RowRange::default(),
        tag: 0,
        durability: Level::Memory,
    };
    let draft = Draft::new(facts, Shape::default(), part.replica.log().last());
    let mut words = vec![0_u64; Shape::default().length() / 8];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    draft.prepare(bytes);
    draft.seal(bytes, Salt::NONE);
    let Ok(record) = Record::checked_before(bytes) else {
        unreachable!("what was sealed just now is a record")
    };
    log.append(&record, Salt::NONE, Level::Memory, now).map(drop)
}
