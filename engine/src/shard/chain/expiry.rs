//! Idle sessions are forgotten: the head of a chain names them in a record, so that every replica and
//! every recovery forgets them at one position.

use windlass_replication::Time;
use windlass_wire::{PartitionId, TableId};

use super::{Chain, Step, Times, append, append::Small};
use crate::{
    limits::{EXPIRY_LOOKS, SESSIONS_EXPIRED_PER_RECORD_MAX},
    persist::{
        frame::Kind,
        record::Shape,
        sessions::{EXPIRED_LEN, EXPIRES},
    },
    shard::{port::Port, tables::Tables},
};

/// Looks now and then which sessions are over.
pub(super) fn expire_sessions(port: &mut Port, tables: &mut Tables, chain: &mut Chain) {
    let expiry_us = u64::from(chain.map.session_expiry_ms) * 1_000;
    if expiry_us == 0 || chain.time.now < chain.time.next_expiry {
        return;
    }
    chain.time.next_expiry = chain.time.now.after(expiry_us / u64::from(EXPIRY_LOOKS));
    chain.note_taken();
    for index in 0..chain.parts.len() {
        expire_sessions_of(port, tables, chain, index, expiry_us);
    }
}

fn expire_sessions_of(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    index: usize,
    expiry_us: u64,
) {
    let part = |chain: &Chain| {
        let part = chain.parts[index].as_deref()?;
        Some((part.partition, part.replica.has_unrecorded()))
    };
    let Some((partition, has_unrecorded)) = part(chain) else {
        return;
    };
    if has_unrecorded {
        // What is noted is where the log ends: behind all pushes so far.
        append_expired(port, tables, chain, partition);
    }
    let Port { by_session, .. } = port;
    let Chain { parts, step: Step { expired, .. }, time: Times { now, .. }, .. } = chain;
    let part = parts[index].as_deref_mut().expect("the replica that was just looked at");
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
    if append_expired(port, tables, chain, partition).is_none() || is_more {
        look_again(chain);
    }
}

/// Records that some sessions are forgotten, or none.
pub(super) fn append_expired(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    partition: PartitionId,
) -> Option<()> {
    let expired = std::mem::take(&mut chain.step.expired);
    let shape = Shape { delta_bytes: expired.len() * EXPIRED_LEN, ..Shape::default() };
    let (kind, tag) = (Kind::Engine, EXPIRES);
    let small = Small { table: TableId(0), kind, tag, shape, expired: &expired };
    let appended = append::append_small(port, tables, chain, partition, &small, |record| {
        for (to, session) in record.delta().chunks_exact_mut(EXPIRED_LEN).zip(&expired) {
            to.copy_from_slice(&session.0.to_le_bytes());
        }
    });
    if appended.is_some() {
        port.statistics.sessions_expired += expired.len() as u64;
    }
    chain.step.expired = expired;
    chain.step.expired.clear();
    appended
}

fn look_again(chain: &mut Chain) {
    chain.time.next_expiry = Time(0);
}

impl Chain {
    /// Sessions that replicas remember, by partition and lane.
    pub(in crate::shard) fn sessions_remembered(&self) -> u64 {
        let parts = self.parts.iter().flatten();
        parts.map(|part| part.replica.sessions().count() as u64).sum()
    }
}
