//! Idle sessions are forgotten: the head of a chain names them in a record, so that every replica and
//! every recovery forgets them at one position.

use windlass_replication::Time;
use windlass_wire::{PartitionId, TableId};

use super::Chain;
use crate::{
    limits::{EXPIRY_LOOKS, SESSIONS_EXPIRED_PER_RECORD_MAX},
    persist::{
        frame::Kind,
        record::Shape,
        sessions::{EXPIRED_LEN, EXPIRES},
    },
    shard::Shard,
};

impl Shard {
    /// Looks now and then which sessions are over.
    pub(super) fn expire_sessions(&mut self) {
        let expiry_us = u64::from(self.map.session_expiry_ms) * 1_000;
        let Some(chain) = self.chain.as_deref_mut() else { return };
        if expiry_us == 0 || chain.now < chain.next_expiry {
            return;
        }
        chain.next_expiry = chain.now.after(expiry_us / u64::from(EXPIRY_LOOKS));
        chain.note_taken();
        for index in 0..chain.parts.len() {
            self.expire_sessions_of(index, expiry_us);
        }
    }

    fn expire_sessions_of(&mut self, index: usize, expiry_us: u64) {
        let part = |chain: &Chain| {
            let part = chain.parts[index].as_deref()?;
            Some((part.partition, part.replica.has_unrecorded()))
        };
        let Some((partition, has_unrecorded)) = self.chain.as_deref().and_then(part) else {
            return;
        };
        if has_unrecorded {
            // What is noted is where the log ends: behind all pushes so far.
            self.append_expired(partition);
        }
        let Self { chain: Some(chain), by_session, .. } = self else { return };
        let Chain { parts, expired, now, .. } = &mut **chain;
        let Some(part) = parts[index].as_deref_mut() else { return };
        // Who is connected may have a push in its mailbox that is as old as its connection.
        let idle = part.replica.idle_sessions(*now, expiry_us);
        let gone = idle.filter(|session| !by_session.contains_key(session));
        expired.extend(gone.take(SESSIONS_EXPIRED_PER_RECORD_MAX));
        if expired.is_empty() || part.broken {
            expired.clear();
            return;
        }
        // The rest is for the next look, which is soon.
        let is_more = expired.len() == SESSIONS_EXPIRED_PER_RECORD_MAX;
        if self.append_expired(partition).is_none() || is_more {
            self.look_again();
        }
    }

    /// Records that some sessions are forgotten, or none.
    pub(super) fn append_expired(&mut self, partition: PartitionId) -> Option<()> {
        let Some(chain) = &mut self.chain else { return None };
        let expired = std::mem::take(&mut chain.expired);
        let shape = Shape { delta_bytes: expired.len() * EXPIRED_LEN, ..Shape::default() };
        let what = (TableId(0), Kind::Engine, EXPIRES);
        let appended = self.append_small(partition, what, shape, &expired, |record| {
            for (to, session) in record.delta().chunks_exact_mut(EXPIRED_LEN).zip(&expired) {
                to.copy_from_slice(&session.0.to_le_bytes());
            }
        });
        if appended.is_some() {
            self.statistics.sessions_expired += expired.len() as u64;
        }
        if let Some(chain) = &mut self.chain {
            chain.expired = expired;
            chain.expired.clear();
        }
        appended
    }

    fn look_again(&mut self) {
        if let Some(chain) = &mut self.chain {
            chain.next_expiry = Time(0);
        }
    }
}

impl Chain {
    /// Sessions that replicas remember, by partition and lane.
    pub(in crate::shard) fn sessions_remembered(&self) -> u64 {
        let parts = self.parts.iter().flatten();
        parts.map(|part| part.replica.sessions().count() as u64).sum()
    }
}
