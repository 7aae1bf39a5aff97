//! Rows of a push that servers refused. Each message is applied or refused as a whole, so other rows of the
//! same push may have been applied.

use std::{collections::BTreeMap, ops::RangeInclusive};

use windlass_wire::{RequestHeader, Rows};

use super::{
    Links, Pending, REQUESTS_MAX, RequestId, filters::keys_of, link::InFlight, message::index,
};

/// Rows, or keys, by request: of those that may still be asked for.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<RequestId, Vec<RangeInclusive<u64>>>);

impl Refused {
    fn add(&mut self, request: RequestId, rows: impl IntoIterator<Item = RangeInclusive<u64>>) {
        self.0.retain(|id, _| id.saturating_add(REQUESTS_MAX as u64) > request);
        self.0.entry(request).or_default().extend(rows);
    }

    /// Those of one request, ascending, as few ranges as there can be.
    pub(super) fn of(&self, request: RequestId) -> Vec<RangeInclusive<u64>> {
        let mut rows = self.0.get(&request).cloned().unwrap_or_default();
        rows.sort_unstable_by_key(|range| *range.start());
        let mut joined: Vec<RangeInclusive<u64>> = Vec::new();
        for range in rows {
            match joined.last_mut() {
                Some(last) if last.end().checked_add(1) >= Some(*range.start()) => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

impl Pending {
    /// Notes the rows of a push that its server refused, as they are in the mailbox's mirror.
    #[cold]
    pub(super) fn note_refused(&mut self, links: &Links, link_at: usize, in_flight: &InFlight) {
        let mut bytes = Vec::new();
        let found = links.all[link_at].mailbox.writer.read_back(in_flight.number, &mut bytes);
        let decoded = RequestHeader::decode(&bytes, bytes.len() as u64);
        let Some(header) = decoded.ok().filter(|_| found) else {
            unreachable!("the mirror holds every message in flight as it was written");
        };
        if !header.kind.pushes() || header.row_count == 0 {
            return;
        }
        match header.rows {
            Rows::Range { first } => {
                let last = first + u64::from(header.row_count - 1);
                self.refused.add(in_flight.request, [first..=last]);
            }
            Rows::Keys => {
                let keys = &bytes[header.len()..][..index(header.sent_keys_len())];
                let link = &links.all[link_at];
                let keys = keys_of(link, in_flight.number, &header, keys);
                self.refused.add(in_flight.request, keys.into_iter().map(|key| key..=key));
            }
            Rows::Partition { .. } => unreachable!("a push is of the rows it names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_several_messages_are_told_as_few_ranges() {
        let mut refused = Refused::default();
        refused.add(7, [4, 5, 9].map(|key| key..=key));
        refused.add(7, [6..=8, u64::MAX..=u64::MAX, 0..=0]);
        refused.add(8, [1..=1]);
        assert_eq!(refused.of(7), [0..=0, 4..=9, u64::MAX..=u64::MAX]);
        assert_eq!(refused.of(9), []);
        refused.add(7 + REQUESTS_MAX as u64, [2..=2]);
        assert_eq!((refused.of(7), refused.of(8)), (vec![], vec![1..=1]), "nobody can ask for it");
    }
}
