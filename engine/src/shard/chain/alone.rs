//! A push that is all of its turn, of rows of a dense table that are beside each other in one partition: most
//! pushes where few clients push. Its record is made without gathering and cutting anything.

use windlass_replication::{Admission, Covered, Lane, Push};
use windlass_wire::{RowRange, Rows};

use super::{
    Chain,
    build::{build_range, is_sync},
    head::facts_of,
};
use crate::{
    persist::{
        frame::Kind,
        record::{self, Shape},
    },
    shard::{
        Shard,
        tables::TableRows,
        work::{Values, Work},
    },
};

impl Shard {
    /// Carries such a push out. False when the turn holds something else, or its partition does not simply
    /// take it: nothing was done then.
    pub(super) fn push_alone(&mut self) -> bool {
        let Self { chain: Some(chain), tables, turn, sessions, staging, .. } = self else {
            return false;
        };
        let [work] = &*turn.works else { return false };
        let Work { header, session, .. } = work;
        let (Rows::Range { first }, Some(table)) = (header.rows, tables.get(&header.table)) else {
            return false;
        };
        let is_plain = matches!(table.rows, TableRows::Dense(_))
            && table.rounds.is_none()
            && table.clocks.is_none()
            && !is_sync(table, work);
        let has_values = !matches!(work.values, Values::None);
        if work.closed || !has_values || !header.kind.pushes() || header.row_count == 0 || !is_plain
        {
            return false;
        }
        let rows = RowRange::new(first, first + u64::from(header.row_count));
        let partition = table.layout.partition_of(first);
        let Some(session) = sessions[*session].as_ref().filter(|session| !session.refuses) else {
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
        let Chain { parts, spare, covered, shard_count, .. } = &mut **chain;
        let index = partition.0 as usize / usize::from(*shard_count);
        let Some(part) = parts.get_mut(index).and_then(Option::as_deref_mut) else { return false };
        let (session, incarnation, sequence) = (session.id, session.incarnation, header.sequence);
        let lane = Lane(0);
        let push = Push { session, incarnation, lane, sequence, previous: None };
        // Any other answer is given once more.
        if !matches!(part.replica.admit(&push), Ok(Admission::Apply)) {
            return false;
        }
        let lsn = part.replica.log().last().next();
        let facts =
            record::Facts { kind: Kind::Rows, rows, ..facts_of(table, partition, part.epoch()) };
        let its = record::Covered { session, incarnation, sequence };
        let from = (&*turn, &*staging, work, rule);
        let Some(held) = build_range((facts, shape), its, lsn, from, |len| spare.take(len)) else {
            return false;
        };
        covered.clear();
        covered.push(Covered { session, incarnation, lane, sequence });
        if let Some(wait) = self.begin_wait(0)
            && let Some(part) = self.chain.as_mut().and_then(|chain| chain.part_mut(partition))
        {
            part.waiting.push_back((lsn, wait));
            self.waits.add(wait);
        }
        self.turn.works[0].pushed = true;
        self.append_held(partition, held, false, &[]);
        self.finish_push(0, Ok(()));
        true
    }
}
