//! Duplicate suppression: per (session, lane) the highest sequence applied, and nothing else. The
//! table changes only by what log records carry, so replicas, checkpoints and copies agree on it.
//! Bounded by `sessions_max`; idle sessions expire by a record too. One that expired and pushes again
//! begins afresh: clients send nothing again that is old enough for that (see [`crate::idle`]).

use std::{
    collections::{BTreeMap, btree_map::Entry as MapEntry},
    ops::Bound,
};

use windlass_wire::{Incarnation, Lsn, Sequence, SessionId};

use crate::bytes::{DecodeError, Reader, write_count};

/// Pushes of one session that are applied in the order of their sequences. Lane 0 is for tables that
/// apply at once; each table in `rounds` mode has a lane of its own, because its pushes wait while
/// later ones of lane 0 are applied, and one number cannot tell those apart after a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u32);

/// What a client stamps on a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Push {
    /// The client's session.
    pub session: SessionId,
    /// The session's life; a later life starts its sequences anew.
    pub incarnation: Incarnation,
    /// The lane it is applied in.
    pub lane: Lane,
    /// Its sequence, from 1.
    pub sequence: Sequence,
    /// The sequence of the session's push before it to this partition and lane, 0 if it is the first.
    /// `None` skips the check that none was lost between them: only for transports on which a refused
    /// push always stops those behind it.
    pub previous: Option<Sequence>,
}

/// What a record covers of one session and lane: every push up to `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Covered {
    /// The session.
    pub session: SessionId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The lane.
    pub lane: Lane,
    /// The highest sequence in the record.
    pub sequence: Sequence,
}

/// What to do with a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// New: apply it, and cover it by the next record of its lane.
    Apply,
    /// Applied before, by a record no later than `lsn`: acknowledge once that is committed.
    Duplicate {
        /// The position to wait for.
        lsn: Lsn,
    },
    /// Accepted before, its record is not appended yet: acknowledge it with that record.
    Pending,
    /// A push before it is missing: the client resends from `expected`, the last one known.
    Gap {
        /// The highest sequence admitted of this session and lane.
        expected: Sequence,
    },
    /// Of an earlier life of the session: refuse it.
    StaleIncarnation,
    /// The table is full: the client waits until idle sessions have expired.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    incarnation: Incarnation,
    applied: Sequence,
    /// The record that applied it.
    lsn: Lsn,
    /// Life and highest sequence admitted at the head; not replicated.
    admitted: (Incarnation, Sequence),
}

/// The highest sequence applied per (session, lane).
#[derive(Clone, Debug)]
pub struct SessionTable {
    sessions: BTreeMap<(SessionId, Lane), Session>,
    sessions_max: usize,
}

impl PartialEq for SessionTable {
    /// Equal replicated state: what is only admitted does not count.
    fn eq(&self, other: &Self) -> bool {
        let applied = |table: &Self| {
            let kept = table.sessions.iter().filter(|(_, session)| session.lsn.0 > 0);
            kept.map(|(&key, session)| (key, session.incarnation, session.applied))
                .collect::<Vec<_>>()
        };
        applied(self) == applied(other)
    }
}

const SESSION_BYTES: usize = 36;

impl SessionTable {
    /// An empty table for at most `sessions_max` (session, lane) pairs.
    #[must_use]
    pub fn new(sessions_max: usize) -> Self {
        assert!(sessions_max > 0, "a session table needs room for a session");
        Self { sessions: BTreeMap::new(), sessions_max }
    }

    /// Decides on a push at the head, and remembers it as admitted.
    #[inline]
    pub fn admit(&mut self, push: &Push) -> Admission {
        let full = self.sessions.len() >= self.sessions_max;
        let session = match self.sessions.entry((push.session, push.lane)) {
            MapEntry::Occupied(entry) => entry.into_mut(),
            MapEntry::Vacant(_) if full => return Admission::Full,
            MapEntry::Vacant(entry) => entry.insert(Session {
                incarnation: push.incarnation,
                applied: Sequence(0),
                lsn: Lsn(0),
                admitted: (push.incarnation, Sequence(0)),
            }),
        };
        let (life, highest) = session.admitted;
        if push.incarnation < life {
            return Admission::StaleIncarnation;
        }
        let admitted = if push.incarnation > life { Sequence(0) } else { highest };
        if push.sequence <= admitted {
            let applied =
                push.incarnation == session.incarnation && push.sequence <= session.applied;
            return if applied {
                Admission::Duplicate { lsn: session.lsn }
            } else {
                Admission::Pending
            };
        }
        if push.previous.is_some_and(|previous| previous != admitted) {
            return Admission::Gap { expected: admitted };
        }
        session.admitted = (push.incarnation, push.sequence);
        Admission::Apply
    }

    /// Forgets what was admitted but not applied: the partition has a new head or a new epoch.
    pub fn forget_admitted(&mut self) {
        self.sessions.retain(|_, session| {
            session.admitted = (session.incarnation, session.applied);
            session.lsn.0 > 0
        });
    }

    /// Applies what the record at `lsn` covers and expires.
    #[inline]
    pub fn apply(&mut self, lsn: Lsn, covered: &[Covered], expired: &[SessionId]) {
        for one in covered {
            let new = Session {
                incarnation: one.incarnation,
                applied: one.sequence,
                lsn,
                admitted: (one.incarnation, one.sequence),
            };
            match self.sessions.entry((one.session, one.lane)) {
                MapEntry::Vacant(entry) => {
                    entry.insert(new);
                }
                MapEntry::Occupied(mut entry) => {
                    let old = *entry.get();
                    if (one.incarnation, one.sequence) > (old.incarnation, old.applied) {
                        let admitted = old.admitted.max(new.admitted);
                        entry.insert(Session { admitted, ..new });
                    }
                }
            }
        }
        for &session in expired {
            self.expire(session, lsn);
        }
    }

    /// Sessions whose every lane was last applied at or before `idle_since`, oldest id first: what the
    /// head may name as expired in its next record. A client gives up its retries well before.
    pub fn idle(&self, idle_since: Lsn) -> impl Iterator<Item = SessionId> + '_ {
        let mut entries = self.sessions.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let (&(id, _), first) = entries.next()?;
                let idle = |session: &Session| {
                    session.lsn <= idle_since
                        && session.admitted == (session.incarnation, session.applied)
                };
                let mut all_idle = idle(first);
                while let Some((_, lane)) = entries.next_if(|((next, _), _)| *next == id) {
                    all_idle &= idle(lane);
                }
                if all_idle {
                    return Some(id);
                }
            }
        })
    }

    /// Takes in a copy of another replica's table: the later of both for each session.
    pub fn merge(&mut self, copied: &Self) {
        for (&key, its) in &copied.sessions {
            if its.lsn.0 == 0 {
                continue;
            }
            let own = self.sessions.entry(key).or_insert(*its);
            if (its.incarnation, its.applied) > (own.incarnation, own.applied) {
                *own = *its;
            }
        }
    }

    /// Removes what records before `lsn` have applied of a session. What it has pushed since stays.
    pub fn expire(&mut self, session: SessionId, lsn: Lsn) {
        let lanes = (session, Lane(0))..=(session, Lane(u32::MAX));
        let of_it = self.sessions.range(lanes).filter(|(_, entry)| entry.lsn < lsn);
        let over: Vec<(SessionId, Lane)> = of_it.map(|(key, _)| *key).collect();
        for key in over {
            self.sessions.remove(&key);
        }
    }

    /// The highest sequence applied and its life, `None` for a session not known here.
    #[must_use]
    pub fn applied(&self, session: SessionId, lane: Lane) -> Option<(Incarnation, Sequence)> {
        let entry = self.sessions.get(&(session, lane)).filter(|entry| entry.lsn.0 > 0)?;
        Some((entry.incarnation, entry.applied))
    }

    /// (session, lane) pairs held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Appends the replicated part:
    ///
    /// ```text
    /// 0       4
    /// | count | entries ...
    /// 0         8      12            20         28    36
    /// | session | lane | incarnation | sequence | lsn |
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_piece(None, usize::MAX, out);
    }

    /// Appends a piece of the replicated part, from behind the entry `after` on: a table of its own of at
    /// most `entries_max` entries, to be merged again. What changes between two pieces is in one of them
    /// as it was, or as it is.
    pub fn encode_piece(
        &self,
        after: Option<(SessionId, Lane)>,
        entries_max: usize,
        out: &mut Vec<u8>,
    ) {
        let piece = || self.applied_behind(after).take(entries_max);
        write_count(out, piece().count());
        for (key, session) in piece() {
            encode_entry(key, session, out);
        }
    }

    /// The entry with which that piece ends, if there are others behind it.
    #[must_use]
    pub fn last_of_piece(
        &self,
        after: Option<(SessionId, Lane)>,
        entries_max: usize,
    ) -> Option<(SessionId, Lane)> {
        let mut behind = self.applied_behind(after).map(|(key, _)| *key);
        let last = behind.nth(entries_max.checked_sub(1)?)?;
        behind.next().map(|_| last)
    }

    fn applied_behind(
        &self,
        after: Option<(SessionId, Lane)>,
    ) -> impl Iterator<Item = (&(SessionId, Lane), &Session)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.sessions.range((from, Bound::Unbounded));
        behind.filter(|(_, session)| session.lsn.0 > 0)
    }

    /// Reads a table from all of `bytes`; refuses more than `sessions_max` entries.
    pub fn decode(bytes: &[u8], sessions_max: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "a session table");
        let mut table = Self::new(sessions_max);
        let count = reader.count("a session table's entries", sessions_max, SESSION_BYTES)?;
        for _ in 0..count {
            let key = (SessionId(reader.u64()?), Lane(reader.u32()?));
            let incarnation = Incarnation(reader.u64()?);
            let applied = Sequence(reader.u64()?);
            let lsn = Lsn(reader.u64()?);
            if lsn.0 == 0 || table.sessions.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Malformed { what: "a session's id", value: key.0.0 });
            }
            let session = Session { incarnation, applied, lsn, admitted: (incarnation, applied) };
            table.sessions.insert(key, session);
        }
        reader.finish()?;
        Ok(table)
    }
}

fn encode_entry((id, lane): &(SessionId, Lane), session: &Session, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&lane.0.to_le_bytes());
    out.extend_from_slice(&session.incarnation.0.to_le_bytes());
    out.extend_from_slice(&session.applied.0.to_le_bytes());
    out.extend_from_slice(&session.lsn.0.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(session: u64, sequence: u64, previous: u64) -> Push {
        Push {
            session: SessionId(session),
            incarnation: Incarnation(1),
            lane: Lane(0),
            sequence: Sequence(sequence),
            previous: Some(Sequence(previous)),
        }
    }

    fn covered(session: u64, sequence: u64) -> Covered {
        Covered {
            session: SessionId(session),
            incarnation: Incarnation(1),
            lane: Lane(0),
            sequence: Sequence(sequence),
        }
    }

    #[test]
    fn a_retry_is_acknowledged_but_not_applied() {
        let mut table = SessionTable::new(4);
        assert_eq!(table.admit(&push(1, 3, 0)), Admission::Apply);
        assert_eq!(table.admit(&push(1, 3, 0)), Admission::Pending);
        assert_eq!(table.admit(&push(1, 7, 3)), Admission::Apply);
        table.apply(Lsn(1), &[covered(1, 7)], &[]);
        assert_eq!(table.admit(&push(1, 3, 0)), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(table.admit(&push(1, 7, 3)), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(table.admit(&push(1, 9, 8)), Admission::Gap { expected: Sequence(7) });
        assert_eq!(table.admit(&push(1, 9, 7)), Admission::Apply);
        table.forget_admitted();
        assert_eq!(table.admit(&push(1, 9, 7)), Admission::Apply);
    }

    #[test]
    fn a_new_life_starts_anew_and_refuses_the_old_one() {
        let mut table = SessionTable::new(4);
        table.apply(Lsn(1), &[covered(1, 7)], &[]);
        let again = Push { incarnation: Incarnation(2), ..push(1, 1, 0) };
        assert_eq!(table.admit(&again), Admission::Apply);
        assert_eq!(table.admit(&push(1, 8, 7)), Admission::StaleIncarnation);
    }

    #[test]
    fn an_idle_session_makes_room_and_begins_afresh() {
        let mut table = SessionTable::new(2);
        table.apply(Lsn(1), &[covered(5, 1)], &[]);
        table.apply(Lsn(2), &[covered(6, 1)], &[]);
        assert_eq!(table.admit(&push(7, 1, 0)), Admission::Full);
        assert_eq!(table.idle(Lsn(1)).collect::<Vec<_>>(), [SessionId(5)]);
        table.apply(Lsn(3), &[], &[SessionId(5)]);
        assert_eq!(table.applied(SessionId(5), Lane(0)), None);
        let later = Push { previous: None, ..push(5, 2, 1) };
        assert_eq!(table.admit(&later), Admission::Apply);
        assert_eq!(table.admit(&later), Admission::Pending);
    }

    #[test]
    fn what_is_pushed_again_after_expiry_stays() {
        let mut table = SessionTable::new(4);
        table.apply(Lsn(1), &[covered(5, 1)], &[]);
        table.apply(Lsn(4), &[covered(5, 2)], &[]);
        table.expire(SessionId(5), Lsn(3));
        assert_eq!(table.applied(SessionId(5), Lane(0)), Some((Incarnation(1), Sequence(2))));
        table.expire(SessionId(5), Lsn(5));
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn who_has_something_under_way_is_not_idle() {
        let mut table = SessionTable::new(4);
        table.apply(Lsn(1), &[covered(5, 1)], &[]);
        let in_round = Push { lane: Lane(3), ..push(5, 2, 0) };
        assert_eq!(table.admit(&in_round), Admission::Apply);
        assert_eq!(table.idle(Lsn(9)).count(), 0);
        table.forget_admitted();
        assert_eq!(table.idle(Lsn(9)).collect::<Vec<_>>(), [SessionId(5)]);
    }

    #[test]
    fn lanes_are_apart() {
        let mut table = SessionTable::new(4);
        let in_round = Push { lane: Lane(3), ..push(1, 1, 0) };
        assert_eq!(table.admit(&in_round), Admission::Apply);
        assert_eq!(table.admit(&push(1, 2, 0)), Admission::Apply);
        table.apply(Lsn(1), &[covered(1, 2)], &[]);
        table.forget_admitted();
        assert_eq!(table.admit(&in_round), Admission::Apply, "the round was lost with its head");
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let mut table = SessionTable::new(8);
        let mut none = Vec::new();
        table.encode_piece(None, 2, &mut none);
        assert_eq!(SessionTable::decode(&none, 2), Ok(table.clone()), "an empty table is told too");
        table.apply(Lsn(4), &[covered(9, 2), covered(11, 5), covered(12, 1), covered(13, 3)], &[]);
        assert_eq!(pieces_of(&mut table, 2, |_, _| {}), (2, table.clone()));
        assert_eq!(pieces_of(&mut table, 3, |_, _| {}), (2, table.clone()));
        assert_eq!(pieces_of(&mut table, 9, |_, _| {}), (1, table.clone()));
    }

    /// The pieces of a table that changes between them, and what they make together.
    fn pieces_of(
        table: &mut SessionTable,
        entries_max: usize,
        mut between: impl FnMut(&mut SessionTable, usize),
    ) -> (usize, SessionTable) {
        let (mut whole, mut count, mut after) = (SessionTable::new(8), 0, None);
        loop {
            let mut piece = Vec::new();
            table.encode_piece(after, entries_max, &mut piece);
            after = table.last_of_piece(after, entries_max);
            whole.merge(&SessionTable::decode(&piece, entries_max).unwrap());
            count += 1;
            if after.is_none() {
                return (count, whole);
            }
            between(table, count);
        }
    }

    #[test]
    fn pieces_and_the_records_since_make_up_a_table_that_changes_between_them() {
        let mut table = SessionTable::new(8);
        table.apply(Lsn(4), &[covered(9, 2), covered(11, 5), covered(12, 1), covered(13, 3)], &[]);
        // One that is copied already goes on, one goes, one comes in front and one behind.
        let later = |table: &mut SessionTable, count: usize| {
            if count == 1 {
                table.apply(Lsn(5), &[covered(9, 3), covered(5, 1)], &[]);
                table.apply(Lsn(6), &[], &[SessionId(11)]);
            } else if count == 2 {
                table.apply(Lsn(7), &[covered(20, 1)], &[]);
            }
        };
        let (count, mut recovered) = pieces_of(&mut table, 1, later);
        assert_eq!(count, 4);
        later(&mut recovered, 1);
        later(&mut recovered, 2);
        assert_eq!(recovered, table);
    }

    #[test]
    fn bytes_round_trip_and_foreign_ones_are_refused() {
        let mut table = SessionTable::new(8);
        table.apply(Lsn(4), &[covered(9, 2), covered(11, 5)], &[]);
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        assert_eq!(SessionTable::decode(&bytes, 8), Ok(table));
        SessionTable::decode(&bytes, 1).unwrap_err();
        for cut in 0..bytes.len() {
            SessionTable::decode(&bytes[..cut], 8).unwrap_err();
        }
    }
}
