//! Filling a record: the values of its pushes are copied, or summed, into its delta.
#![allow(unsafe_code)]

use windlass_wire::rule::Merge;

use super::{gather::Gathered, write::Plan};
use crate::shard::{
    port::Port,
    staging::Staging,
    tables::ShardTable,
    work::{Turn, Work, values_pointer},
};

/// Values added at a time, so that a sum stays in the first cache while pushes are added to it.
const CHUNK_LEN: usize = 16 << 10;

/// Makes the sum of a record's pushes in its delta.
pub(super) struct Filler<'a> {
    pub(super) port: &'a Port,
    pub(super) table: &'a ShardTable,
    pub(super) gathered: &'a mut Gathered,
    pub(super) plan: Plan,
}

impl Filler<'_> {
    pub(super) fn fill(&mut self, delta: &mut [u8]) {
        if self.table.entry.schema.rule.merge() == Merge::Last {
            self.replace(delta);
            return;
        }
        let (mut run, mut run_row, mut filled) = (0, 0, 0_usize);
        for span in &self.gathered.kept {
            let runs = &self.gathered.runs;
            while span.last() > runs[run].last {
                run_row += rows(runs[run].count());
                run += 1;
                filled = 0;
            }
            // Spans ascend, so the first `filled` rows of the run hold values and others do not.
            let from = rows(span.first - runs[run].first);
            let count = span.count as usize;
            let known = filled.saturating_sub(from).min(count);
            filled = filled.max(from + count);
            let (row, at) = (span.row as usize, run_row + from);
            if known > 0 {
                self.add(span.leader, row, at, known, false, delta);
            }
            if known < count {
                self.add(span.leader, row + known, at + known, count - known, true, delta);
            }
        }
    }

    /// The last push of a row stays: as they came, over each other.
    fn replace(&mut self, delta: &mut [u8]) {
        let mut order = std::mem::take(&mut self.gathered.order);
        order.clear();
        for (at, leader) in (0_u32..).zip(&self.gathered.leaders) {
            if leader.partition == Some(self.plan.partition) {
                order.extend(self.gathered.fresh_of(at).map(|member| (member, at)));
            }
        }
        order.sort_unstable();
        for (member, leader) in &order {
            for span in self.gathered.kept.iter().filter(|span| span.leader == *leader) {
                let to = self.row_of(span.first);
                self.one(*member, span.row as usize, to, span.count as usize, true, delta);
            }
        }
        self.gathered.order = order;
    }

    /// Row of the record that holds a row of the table.
    fn row_of(&self, row: u64) -> usize {
        let runs = &self.gathered.runs;
        let run = runs.partition_point(|run| run.last < row);
        let before: u64 = runs[..run].iter().map(|run| run.count()).sum();
        rows(before + (row - runs[run].first))
    }

    /// Adds rows of a leader's members, `set` when the first of them finds no values yet.
    fn add(&self, leader: u32, from: usize, to: usize, count: usize, set: bool, delta: &mut [u8]) {
        let step = (CHUNK_LEN / self.plan.row_len).max(1);
        let mut done = 0;
        while done < count {
            // One push alone is copied in one go.
            let chunk = if self.plan.summed { step.min(count - done) } else { count };
            let mut set = set;
            for member in self.gathered.fresh_of(leader) {
                self.one(member, from + done, to + done, chunk, set, delta);
                set = false;
            }
            done += chunk;
        }
    }

    /// Adds rows of one push, or sets them.
    fn one(
        &self,
        member: usize,
        from: usize,
        to: usize,
        count: usize,
        set: bool,
        delta: &mut [u8],
    ) {
        let work = &self.port.turn.works[member];
        let values = self.port.values_pointer(work).expect("a push of rows has values");
        let pushed = values.wrapping_add(from * self.plan.pushed_len);
        let sum = &mut delta[to * self.plan.row_len..(to + count) * self.plan.row_len];
        let values = count * self.plan.width;
        if !self.plan.summed {
            // SAFETY: a push's values are readable for all of its rows, of which these are number
            // `from` and following; `sum` is as long, in the log's memory.
            unsafe { std::ptr::copy_nonoverlapping(pushed, sum.as_mut_ptr(), sum.len()) };
        } else if set {
            // SAFETY: as above; `sum` has room for as many values of the sum's type.
            unsafe { self.table.accumulator.set(sum.as_mut_ptr(), pushed, values) };
        } else {
            // SAFETY: as above, and the sum was set by an earlier push.
            unsafe { self.table.accumulator.add(sum.as_mut_ptr(), pushed, values) };
        }
    }
}

/// Copies the values of a push into a record's delta. Panics when the push has none, or not as many.
pub(in crate::shard) fn copy_values(turn: &Turn, staging: &Staging, work: &Work, to: &mut [u8]) {
    let values = values_pointer(turn, staging, work).expect("a push of rows has values");
    assert_eq!(to.len() as u64, work.header.values_len(), "a delta is the push's values");
    // SAFETY: `values` are readable for the rest of the turn, as many as the header says, which is the length
    // of the delta; the record is the shard's own memory.
    unsafe { std::ptr::copy_nonoverlapping(values, to.as_mut_ptr(), to.len()) };
}

#[expect(clippy::cast_possible_truncation, reason = "rows of a turn's pushes")]
const fn rows(count: u64) -> usize {
    count as usize
}
