//! Log backpressure. Pushes stay in their mailboxes while the log has no room for them; the shard goes on
//! with everything else. A push that is let in always finds room, so no turn waits for the disk.

use std::time::Duration;

use windlass_wire::{RequestHeader, RequestKind};

use super::{
    chain::{Chain, has_room_for_records, is_settled},
    disk::Disk,
    durable::Durable,
    image::may_wait,
    port::Port,
    tables::ShardTable,
};
use crate::{
    limits::{LOG_RECORD_LEN, LOG_ROOM_LEN, RECORD_VALUES_MAX},
    persist::limits::RECORD_BYTES_MAX,
    update::Accumulator,
};

/// Pushes that wait for room in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldBack {
    /// When the first of them was left, if any is.
    since: Option<Duration>,
    /// The longest that was left in the last turn, in bytes of log: shorter ones must not take its
    /// room for ever.
    longest: u64,
    /// The longest such push found in this turn.
    found: u64,
    /// Bytes of log that the pushes of this turn take at most.
    taken: u64,
}

impl HeldBack {
    pub(super) fn is_any(&self) -> bool {
        self.since.is_some()
    }

    /// Whether a push of at most so many bytes of log is let in.
    fn admit(&mut self, len: u64, mut has_room: impl FnMut(u64) -> bool) -> bool {
        if has_room(self.taken + len.max(self.longest)) {
            self.taken += len;
            return true;
        }
        self.found = self.found.max(len);
        false
    }
}

/// Every mailbox was looked at: from now on waits who was left.
pub(super) fn note_held_back(port: &mut Port, disk: &mut Disk) {
    let Some(durable) = &mut disk.durable else { return };
    let mut held = durable.held;
    let found = std::mem::take(&mut held.found);
    (held.longest, held.taken) = (found, 0);
    match (held.since, found > 0) {
        (None, true) => {
            held.since = Some(durable.now());
            port.statistics.log_waits += 1;
        }
        (Some(since), false) => {
            let waited = durable.now().saturating_sub(since).as_micros();
            port.statistics.log_wait_us += u64::try_from(waited).unwrap_or(0);
            held.since = None;
        }
        (None, false) | (Some(_), true) => {}
    }
    durable.held = held;
}

impl Durable {
    /// Whether the log has room for a request, if it brings anything to a table that is kept; those
    /// before it in this turn are counted. To be asked once for each. Records that others have to hold as
    /// well are kept until the log takes them: see `chain::is_chain_full`.
    pub(super) fn admits(
        &mut self,
        header: &RequestHeader,
        table: Option<&ShardTable>,
        chain: &Chain,
    ) -> bool {
        let says = header.kind.pushes() || header.kind == RequestKind::AdvanceClock;
        let table = table.filter(|table| says && table.is_kept());
        let (Some(table), true) = (table, is_settled(chain)) else { return true };
        if table.goes_by_records() {
            return has_room_for_records(chain, self);
        }
        if !header.kind.pushes() {
            return true;
        }
        let records = u64::from(header.row_count).min(chain.part_count());
        let rows = match table.is_imaged() && may_wait(header) {
            true => u64::from(header.row_count) * table.row_image_len(),
            false => record_len(header),
        };
        let (mut held, rows) = (self.held, rows + records * LOG_RECORD_LEN);
        // With others before it, as far as records take them in.
        let record = 2 * RECORD_VALUES_MAX + rows.max(held.longest);
        let admitted = held.admit(rows, |len| self.has_room(len, record));
        self.held = held;
        admitted
    }

    /// Whether the log surely takes so many bytes now, in records of at most so many. One that has stopped
    /// takes none, and says so itself; the ring of an idle one has all the room there ever is.
    fn has_room(&mut self, len: u64, record: u64) -> bool {
        let is_first = self.held.taken == 0;
        let log = self.log_mut();
        if log.poison().is_some() {
            return true;
        }
        if log.is_nearly_full() {
            return false;
        }
        // Before the end of the ring a record may leave out as much as it is long.
        let gap = len.min(RECORD_BYTES_MAX as u64);
        let has_ring = log.has_ring_room(len + gap + LOG_ROOM_LEN) || log.is_idle() && is_first;
        has_ring && log.has_segment_room(len, record)
    }
}

/// Bytes of log that the rows of a push take at most, beside what each record takes.
fn record_len(header: &RequestHeader) -> u64 {
    let (pushed, sum) = (header.dtype.size(), Accumulator::sum_dtype(header.dtype).size());
    header.values_len() / pushed as u64 * pushed.max(sum) as u64 + u64::from(header.row_count) * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pushes_leave_room_for_a_long_one_that_waits() {
        let mut held = HeldBack::default();
        assert!(held.admit(10, |len| len <= 100));
        assert!(!held.admit(95, |len| len <= 100), "together they are too long");
        assert!(held.admit(80, |len| len <= 100));
        assert_eq!((held.found, held.taken), (95, 90));
        (held.longest, held.found, held.taken) = (95, 0, 0);
        assert!(!held.admit(1, |len| len <= 90));
        assert!(held.admit(1, |len| len <= 100));
    }
}
