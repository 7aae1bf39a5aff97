//! Which rows of which pushes go into one record. Pushes of the same rows share their spans, so that
//! the usual case, many workers pushing one range or one list of keys, sorts nothing.

use std::ops::Range;

use windlass_wire::{self as wire, Layout, Lsn, PartitionId, RowRange, TableId};

use crate::{
    limits::RECORD_VALUES_MAX,
    persist::{limits::KEYS_MAX, record::Covered},
    shard::work::{Work, scans_do_not_push},
};

/// Consecutive rows of a push in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) partition: PartitionId,
    /// Its first row, by row or key of the table.
    pub(super) first: u64,
    pub(super) count: u32,
    /// Its first row, by row of the push.
    pub(super) row: u32,
    /// Which of the [`Gathered::leaders`] it is of.
    pub(super) leader: u32,
}

/// Neighbouring rows that some push brings. By its last row and not one past it: the highest key has none
/// behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Rows {
    /// Number of rows, at least one.
    pub(super) fn count(self) -> u64 {
        self.last - self.first + 1
    }

    /// The rows of a dense table: it has far fewer than there are keys.
    pub(super) fn range(self) -> RowRange {
        RowRange::new(self.first, self.last + 1)
    }
}

impl Span {
    /// Its last row.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.count - 1)
    }
}

/// A push that brings rows, and those after it that bring the very same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    /// Index of its first member.
    pub(super) first: usize,
    /// Number of its members.
    pub(super) count: usize,
    /// The partition in hand when it was last looked at, and its members in [`Gathered::touched`].
    pub(super) partition: Option<PartitionId>,
    pub(super) touched: (usize, usize),
}

/// A push that touches the partition in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    /// Its place among the members.
    pub(super) place: usize,
    /// Whether the partition does not hold it yet.
    pub(super) fresh: bool,
    /// The record by which the partition has it already, at the latest.
    pub(super) known: Option<Lsn>,
}

/// Leaders that a push is compared with: what brings still other rows is its own leader.
const COMPARED_MAX: usize = 8;

/// The pushes of a turn to one table, by the rows they touch. Its memory is used again each turn.
#[derive(Debug, Default)]
pub(in crate::shard) struct Gathered {
    /// Places in the turn's works; those of one leader beside each other, each in order of arrival.
    pub(super) members: Vec<usize>,
    pub(super) leaders: Vec<Leader>,
    /// By partition, then by first row.
    pub(super) spans: Vec<Span>,
    /// Of the partition in hand: who touches it, whom its record covers, the spans that bring
    /// anything new, and their union, ascending, no run adjacent to the next.
    pub(super) touched: Vec<Touched>,
    pub(super) covered: Vec<Covered>,
    pub(super) kept: Vec<Span>,
    pub(super) runs: Vec<Rows>,
    /// Members and their leaders in order of arrival, where that decides.
    pub(in crate::shard) order: Vec<(usize, u32)>,
    /// Sessions with a push to another table that is not carried out yet.
    behind: Vec<usize>,
    picked: Vec<usize>,
}

impl Gathered {
    /// Picks the push at `first` and later ones to the same table, keeping each session's pushes in
    /// their order whatever their tables: duplicates are told by the highest sequence.
    /// Sessions in `refused` have to send an earlier push again first.
    pub(super) fn pick(
        &mut self,
        works: &[Work],
        first: usize,
        keys: &[u64],
        refused: impl Iterator<Item = usize>,
    ) {
        let table: TableId = works[first].header.table;
        self.behind.clear();
        self.behind.extend(refused);
        self.picked.clear();
        let (mut bytes, mut rows) = (0, 0);
        for (at, work) in works.iter().enumerate().skip(first) {
            if work.closed
                || work.pushed
                || !work.header.kind.pushes()
                || self.behind.contains(&work.session)
            {
                continue;
            }
            let len = work.header.values_len();
            let more_rows = rows + work.header.row_count as usize;
            let fits =
                self.picked.is_empty() || bytes + len <= RECORD_VALUES_MAX && more_rows <= KEYS_MAX;
            if work.header.table != table || !fits {
                self.behind.push(work.session);
                continue;
            }
            (bytes, rows) = (bytes + len, more_rows);
            self.picked.push(at);
        }
        self.group(works, keys);
    }

    /// Puts pushes of the same rows beside each other.
    fn group(&mut self, works: &[Work], keys: &[u64]) {
        self.members.clear();
        self.leaders.clear();
        let mut at = 0;
        while at < self.picked.len() {
            let lead = self.picked[at];
            let first = self.members.len();
            self.members.push(lead);
            at += 1;
            if self.leaders.len() < COMPARED_MAX {
                let members = &mut self.members;
                let rest = at;
                let mut index = 0;
                self.picked.retain(|work| {
                    index += 1;
                    let same = index > rest && same_rows(&works[lead], &works[*work], keys);
                    if same {
                        members.push(*work);
                    }
                    !same
                });
            }
            let count = self.members.len() - first;
            self.leaders.push(Leader { first, count, partition: None, touched: (0, 0) });
        }
    }

    /// Cuts the leaders' rows at partitions and gaps.
    pub(super) fn cut(&mut self, works: &[Work], keys: &[u64], layout: &Layout) {
        self.spans.clear();
        for (leader, group) in (0_u32..).zip(&self.leaders) {
            let work = &works[self.members[group.first]];
            match work.header.rows {
                wire::Rows::Range { first } => {
                    let end = first + u64::from(work.header.row_count);
                    cut_range(layout, RowRange::new(first, end), leader, &mut self.spans);
                }
                wire::Rows::Keys => {
                    cut_keys(layout, &keys[work.keys.0..work.keys.1], leader, &mut self.spans);
                }
                wire::Rows::Partition { .. } => scans_do_not_push(),
            }
        }
        let order = |span: &Span| (span.partition, span.first, span.leader);
        if !self.spans.is_sorted_by_key(order) {
            self.spans.sort_unstable_by_key(order);
        }
    }

    /// The spans of one partition that begin with span `start`; `None` behind the last.
    pub(super) fn next_partition(&self, start: usize) -> Option<Range<usize>> {
        let partition = self.spans.get(start)?.partition;
        let same = self.spans[start..].iter().take_while(|span| span.partition == partition);
        Some(start..start + same.count())
    }

    /// The partition of these spans.
    pub(in crate::shard) fn partition_of(&self, spans: &Range<usize>) -> PartitionId {
        self.spans[spans.start].partition
    }

    /// The members with rows in these spans of one partition whose outcome is good so far, in the order in
    /// which they came, each with its leader.
    pub(in crate::shard) fn arrivals<T, E>(
        &mut self,
        spans: Range<usize>,
        outcomes: &[Result<T, E>],
    ) -> Vec<(usize, u32)> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        let mut leaders: Vec<u32> = self.spans[spans].iter().map(|span| span.leader).collect();
        leaders.sort_unstable();
        leaders.dedup();
        for leader in leaders {
            let Leader { first, count, .. } = self.leaders[leader as usize];
            let places = (first..first + count).filter(|place| outcomes[*place].is_ok());
            order.extend(places.map(|place| (self.members[place], leader)));
        }
        order.sort_unstable();
        order
    }

    /// The rows of a leader in these spans: where each is in the push, and its row or key in the table.
    pub(in crate::shard) fn rows_of(
        &self,
        spans: Range<usize>,
        leader: u32,
    ) -> impl Iterator<Item = (u32, u64)> + Clone + '_ {
        let spans = self.spans[spans].iter().filter(move |span| span.leader == leader);
        spans.flat_map(|span| (span.row..span.row + span.count).zip(span.first..=span.last()))
    }

    /// Keeps the spans whose leaders bring anything new to the partition in hand, and unites them;
    /// returns the number of rows.
    pub(super) fn unite(&mut self, spans: Range<usize>) -> u64 {
        self.kept.clear();
        self.runs.clear();
        for span in &self.spans[spans] {
            let (from, to) = self.leaders[span.leader as usize].touched;
            if !self.touched[from..to].iter().any(|entry| entry.fresh) {
                continue;
            }
            self.kept.push(*span);
            match self.runs.last_mut() {
                // What the highest row is adjacent to is itself.
                Some(run) if span.first <= run.last.saturating_add(1) => {
                    run.last = run.last.max(span.last());
                }
                _ => self.runs.push(Rows { first: span.first, last: span.last() }),
            }
        }
        self.runs.iter().map(|run| run.count()).sum()
    }

    /// The members of a leader that bring something new to the partition in hand.
    pub(super) fn fresh_of(&self, leader: u32) -> impl Iterator<Item = usize> + '_ {
        let (from, to) = self.leaders[leader as usize].touched;
        let fresh = self.touched[from..to].iter().filter(|entry| entry.fresh);
        fresh.map(|entry| self.members[entry.place])
    }
}

fn same_rows(a: &Work, b: &Work, keys: &[u64]) -> bool {
    a.header.rows == b.header.rows
        && a.header.row_count == b.header.row_count
        && keys[a.keys.0..a.keys.1] == keys[b.keys.0..b.keys.1]
}

fn cut_range(layout: &Layout, rows: RowRange, leader: u32, into: &mut Vec<Span>) {
    into.extend(layout.pieces_of(rows).map(|(partition, piece)| {
        span(partition, piece.start, piece.count(), piece.start - rows.start, leader)
    }));
}

fn cut_keys(layout: &Layout, keys: &[u64], leader: u32, into: &mut Vec<Span>) {
    for (row, key) in (0_u64..).zip(keys) {
        let partition = layout.partition_of(*key);
        if let Some(last) = into.last_mut()
            && row > 0
            && (last.leader, last.partition) == (leader, partition)
            && last.last().checked_add(1) == Some(*key)
            && u64::from(last.row + last.count) == row
        {
            last.count += 1;
            continue;
        }
        into.push(span(partition, *key, 1, row, leader));
    }
}

fn span(partition: PartitionId, first: u64, count: u64, row: u64, leader: u32) -> Span {
    let short = |value| u32::try_from(value).unwrap_or_else(|_| unreachable!("at most ROWS_MAX"));
    Span { partition, first, count: short(count), row: short(row), leader }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(fresh: bool) -> Touched {
        Touched { place: 0, fresh, known: None }
    }

    #[test]
    fn who_came_first_is_looked_at_first_whatever_rows_are_shared() {
        let span =
            |leader, first, row| Span { partition: PartitionId(0), first, count: 2, row, leader };
        let leader = |first, count| Leader { first, count, partition: None, touched: (0, 0) };
        // The first and the last push bring the same rows, and so share a leader.
        let mut gathered = Gathered {
            members: vec![3, 8, 5],
            leaders: vec![leader(0, 2), leader(2, 1)],
            spans: vec![span(0, 10, 0), span(1, 11, 4), span(0, 20, 2)],
            ..Gathered::default()
        };
        assert_eq!(gathered.next_partition(0), Some(0..3));
        assert_eq!(gathered.next_partition(3), None);
        let outcomes = [Ok::<(), ()>(()); 3];
        assert_eq!(gathered.arrivals(0..3, &outcomes), [(3, 0), (5, 1), (8, 0)]);
        assert_eq!(gathered.arrivals(0..3, &[Ok(()), Err(()), Ok(())]), [(3, 0), (5, 1)]);
        let rows: Vec<_> = gathered.rows_of(0..3, 0).collect();
        assert_eq!(rows, [(0, 10), (1, 11), (2, 20), (3, 21)]);
    }

    #[test]
    fn runs_are_the_union_of_what_is_new() {
        let span =
            |leader, first, count| Span { partition: PartitionId(0), first, count, row: 0, leader };
        let leader = |touched| Leader { first: 0, count: 1, partition: None, touched };
        let mut gathered = Gathered {
            spans: vec![span(0, 3, 4), span(1, 5, 1), span(0, 7, 2), span(2, 20, 1)],
            leaders: vec![leader((0, 1)), leader((0, 1)), leader((0, 1))],
            touched: vec![touched(true), touched(false)],
            ..Gathered::default()
        };
        assert_eq!(gathered.unite(0..4), 7);
        let rows = |first, last| Rows { first, last };
        assert_eq!(gathered.runs, [rows(3, 8), rows(20, 20)]);
        gathered.leaders[2].touched = (1, 2);
        assert_eq!(gathered.unite(0..4), 6);
        assert_eq!(gathered.kept.len(), 3);
    }

    #[test]
    fn the_highest_key_is_a_row_like_any_other() {
        let layout = Layout::new(TableId(1), wire::TableKind::Sparse {}, 1);
        let mut gathered = Gathered {
            leaders: vec![Leader { first: 0, count: 1, partition: None, touched: (0, 1) }],
            touched: vec![touched(true)],
            ..Gathered::default()
        };
        cut_keys(&layout, &[7, u64::MAX - 2, u64::MAX - 1, u64::MAX], 0, &mut gathered.spans);
        cut_keys(&layout, &[u64::MAX], 0, &mut gathered.spans);
        let spans = 0..gathered.spans.len();
        assert_eq!(gathered.unite(spans), 4);
        let last = Rows { first: u64::MAX - 2, last: u64::MAX };
        assert_eq!(gathered.runs, [Rows { first: 7, last: 7 }, last]);
    }
}
