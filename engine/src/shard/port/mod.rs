//! A shard's transports, its sessions, and their requests.

mod fetching;
mod finish;
mod waits;

use std::collections::HashMap;

use windlass_transport::{Completion, QueuePairId, Transport};
use windlass_wire::{SessionId, control::Provider};

pub(in crate::shard) use self::{fetching::BESIDE_ROWS, finish::Unwritten, waits::Waits};
use super::{
    ShardError, ShardOptions, ShardStatistics, ids_hash::IdMap, sessions::Sessions,
    staging::Staging, work::Turn,
};
use crate::{limits::COMPLETIONS_PER_POLL, persist::commit::CommitQueue};

/// A shard's transports, its sessions, and their requests.
pub(in crate::shard) struct Port {
    pub(in crate::shard) options: ShardOptions,
    pub(in crate::shard) transports: Vec<Box<dyn Transport>>,
    pub(in crate::shard) staging: Staging,
    pub(in crate::shard) sessions: Sessions,
    pub(in crate::shard) by_session: HashMap<SessionId, usize>,
    /// Connections of sessions so far.
    pub(in crate::shard) session_lives: u64,
    pub(in crate::shard) by_queue_pair: IdMap<(usize, QueuePairId), usize>,
    /// What was taken from the mailboxes and is not carried out yet.
    pub(in crate::shard) turn: Turn,
    /// Buffers for the keys of parked requests.
    pub(in crate::shard) spare_keys: Vec<Vec<u64>>,
    /// Messages whose completion waits for chains or rounds.
    pub(in crate::shard) waits: Waits,
    /// Acknowledgements that wait for the disk.
    pub(in crate::shard) unwritten: CommitQueue<Unwritten>,
    pub(in crate::shard) completions: Box<[Completion]>,
    pub(in crate::shard) statistics: ShardStatistics,
    pub(in crate::shard) tells_in_flight: u32,
}

impl Port {
    /// Nobody is connected.
    ///
    /// # Errors
    /// When there is no memory for the staging area, or it cannot be registered.
    pub(in crate::shard) fn new(
        options: ShardOptions,
        mut transports: Vec<Box<dyn Transport>>,
    ) -> Result<Self, ShardError> {
        Ok(Self {
            options,
            staging: Staging::new(&mut transports)?,
            transports,
            sessions: Sessions::default(),
            by_session: HashMap::new(),
            session_lives: 0,
            by_queue_pair: IdMap::default(),
            turn: Turn::new(),
            spare_keys: Vec::new(),
            waits: Waits::default(),
            // Room comes with a log.
            unwritten: CommitQueue::new(0),
            completions: vec![Completion::EMPTY; COMPLETIONS_PER_POLL].into_boxed_slice(),
            statistics: ShardStatistics::default(),
            tells_in_flight: 0,
        })
    }

    /// Number of its mailboxes, if looking at memory shows what lands in each of them; where writes land
    /// only while their transport is polled, it shows nothing.
    pub(in crate::shard) fn visible_mailboxes(&self) -> Option<usize> {
        let mut sessions = self.sessions.iter_watched();
        sessions
            .all(|session| session.route.lands_unpolled)
            .then_some(self.sessions.watched().len())
    }
}

impl Port {
    pub(in crate::shard) fn transport_of(&self, provider: Provider) -> Result<usize, String> {
        let mut transports = self.transports.iter();
        transports
            .position(|transport| transport.capabilities().provider == provider.name())
            .ok_or_else(|| format!("the server has no {} transport", provider.name()))
    }
}
