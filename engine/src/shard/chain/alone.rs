//! The fast path for a push that is alone in its turn and covers neighbouring rows of one partition of a
//! dense table. Its record is made without gathering or cutting. Where few clients push, most pushes are of
//! this kind.

use windlass_replication::Admission;
use windlass_wire::{Durability, RowRange, Rows};

use super::{Chain, Kept, head, head::facts_of, part::Held};
use crate::{
    persist::{
        frame::{Kind, Salt},
        record,
        record::{Draft, RecordMut, Shape},
    },
    shard::{
        port::Port,
        record::copy_values,
        tables::{TableRows, Tables},
        work::{Values, Work},
    },
};

/// Carries such a push out. False when the turn holds something else, or its partition does not simply
/// take it: nothing was done then.
pub(in crate::shard) fn push_alone(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
) -> bool {
    let Port { turn, sessions, staging, .. } = port;
    let [work] = &*turn.works else { return false };
    let Work { header, session, .. } = work;
    let (Rows::Range { first }, Some(table)) = (header.rows, tables.by_id.get(&header.table))
    else {
        return false;
    };
    let is_plain = matches!(table.rows, TableRows::Dense(_))
        && table.rounds.is_none()
        && table.clocks.is_none()
        && !(header.sync || table.entry.schema.durability == (Durability::Sync {}));
    let has_values = !matches!(work.values, Values::None);
    if work.closed || !has_values || !header.kind.pushes() || header.row_count == 0 || !is_plain {
        return false;
    }
    let rows = RowRange::new(first, first + u64::from(header.row_count));
    let partition = table.layout.partition_of(first);
    let Some(session) = sessions[*session].as_ref().filter(|session| !session.gate.is_closed())
    else {
        return false;
    };
    let row_len = header.width as usize * header.dtype.size();
    let delta_bytes = header.row_count as usize * row_len;
    let rule = table.rule.suffix();
    let delta_bytes = delta_bytes + rule.len();
    let shape = Shape { covered_max: 1, stamps_max: 1, keys: 0, delta_bytes };
    if rows.end > table.layout.rows_of(partition).end || !shape.is_allowed() {
        return false;
    }
    let Chain { parts, kept: Kept { spare, .. }, shard_count, .. } = chain;
    let index = partition.0 as usize / usize::from(*shard_count);
    let Some(part) = parts.get_mut(index).and_then(Option::as_deref_mut) else { return false };
    let push = session.push(header.sequence);
    // Any other answer is given once more.
    if part.replica.look(&push, 0) != Admission::Apply || !part.replica.has_room() {
        return false;
    }
    let lsn = part.replica.log().last().next();
    let facts =
        record::Facts { kind: Kind::Rows, rows, ..facts_of(table, partition, part.epoch()) };
    let covered = session.covered(header.sequence);
    let mut words = spare.take(shape.length());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let mut draft = Draft::new(facts, shape, lsn);
    draft.prepare(bytes);
    let mut record = RecordMut::new(bytes, &mut draft);
    let (values, end) = record.delta().split_at_mut(delta_bytes - rule.len());
    copy_values(turn, staging, work, values);
    end.copy_from_slice(rule);
    record.cover(covered);
    draft.seal(bytes, Salt::NONE);
    head::wait_for_record(port, chain, partition, lsn, std::iter::once(0));
    head::hold(port, tables, chain, partition, Held { lsn, words }, false, &[covered]);
    port.finish_push(0, Ok(()));
    true
}
