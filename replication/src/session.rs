//! Duplicate suppression: per (session, lane) the highest sequence applied, and nothing else. The
//! table changes only by what log records carry, so replicas, checkpoints and copies agree on it.
//! Bounded by `sessions_max`; idle sessions expire by a record too. One that expired and pushes again
//! begins afresh: clients send nothing again that is old enough for that (see [`crate::idle`]).

use std::{
    collections::{BTreeMap, btree_map::Entry as MapEntry},
    ops::Bound,
};

use windlass_wire::{Incarnation, Lsn, Sequence, SessionId};

use windlass_wire::codec::{DecodeError, Reader, encode_len};

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

impl Push {
    /// What a record with this push, or its application without one, covers.
    #[must_use]
    pub fn covered(&self) -> Covered {
        let Self { session, incarnation, lane, sequence, .. } = *self;
        Covered { session, incarnation, lane, sequence }
    }
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

impl Session {
    #[inline]
    fn look(&self, push: &Push) -> Admission {
        let (life, highest) = self.admitted;
        if push.incarnation < life {
            return Admission::StaleIncarnation;
        }
        let admitted = if push.incarnation > life { Sequence(0) } else { highest };
        if push.sequence <= admitted {
            let applied = push.incarnation == self.incarnation && push.sequence <= self.applied;
            return if applied {
                Admission::Duplicate { lsn: self.lsn }
            } else {
                Admission::Pending
            };
        }
        if push.previous.is_some_and(|previous| previous != admitted) {
            return Admission::Gap { expected: admitted };
        }
        Admission::Apply
    }
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
        let admission = session.look(push);
        if admission == Admission::Apply {
            session.admitted = (push.incarnation, push.sequence);
        }
        admission
    }

    /// What would become of a push if it were decided on beside `others` new sessions.
    #[must_use]
    #[inline]
    pub fn look(&self, push: &Push, others: usize) -> Admission {
        let Some(session) = self.sessions.get(&(push.session, push.lane)) else {
            let is_full = self.sessions.len() + others >= self.sessions_max;
            return if is_full { Admission::Full } else { Admission::Apply };
        };
        session.look(push)
    }

    /// Sessions of a lane that pushed behind a position: of each, what a record covers.
    pub fn since(&self, lsn: Lsn, lane: Lane) -> impl Iterator<Item = Covered> + '_ {
        let of_lane = self.sessions.iter().filter(move |(key, _)| key.1 == lane);
        of_lane.filter(move |(_, entry)| entry.lsn > lsn).map(|(&(session, lane), entry)| Covered {
            session,
            incarnation: entry.incarnation,
            lane,
            sequence: entry.applied,
        })
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
        encode_len(piece().count(), out);
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
        let mut reader = Reader::new(bytes);
        let mut table = Self::new(sessions_max);
        let count = reader.count("a session table's entries", sessions_max, SESSION_BYTES)?;
        for _ in 0..count {
            let key = (SessionId(reader.read()?), Lane(reader.read()?));
            let incarnation = Incarnation(reader.read()?);
            let applied = Sequence(reader.read()?);
            let lsn = Lsn(reader.read()?);
            if lsn.0 == 0 || table.sessions.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Malformed { field: "a session's id", value: key.0.0 });
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
mod tests;
