//! Who is connected to a shard, by which transports, and what they have asked for.

use std::collections::HashMap;

use windlass_transport::{Completion, QueuePairId, Transport};
use windlass_wire::SessionId;

use super::{
    ShardError, ShardOptions, ShardStatistics, chain::Waits, durable::Unwritten, ids_hash::IdMap,
    sessions::Sessions, staging::Staging, work::Turn,
};
use crate::{limits::COMPLETIONS_PER_POLL, persist::commit::CommitQueue};

/// A shard's transports, its sessions, and their requests.
pub(super) struct Port {
    pub(super) options: ShardOptions,
    pub(super) transports: Vec<Box<dyn Transport>>,
    pub(super) staging: Staging,
    pub(super) sessions: Sessions,
    pub(super) by_session: HashMap<SessionId, usize>,
    /// Connections of sessions so far.
    pub(super) session_lives: u64,
    pub(super) by_queue_pair: IdMap<(usize, QueuePairId), usize>,
    /// What was taken from the mailboxes and is not carried out yet.
    pub(super) turn: Turn,
    /// Buffers for the keys of parked requests.
    pub(super) spare_keys: Vec<Vec<u64>>,
    /// Messages whose completion waits for chains or rounds.
    pub(super) waits: Waits,
    /// Acknowledgements that wait for the disk.
    pub(super) unwritten: CommitQueue<Unwritten>,
    pub(super) completions: Box<[Completion]>,
    pub(super) statistics: ShardStatistics,
    pub(super) tells_in_flight: u32,
}

impl Port {
    /// Nobody is connected.
    ///
    /// # Errors
    /// When there is no memory for the staging area, or it cannot be registered.
    pub(super) fn new(
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
    pub(super) fn visible_mailboxes(&self) -> Option<usize> {
        let mut sessions = self.sessions.iter_watched();
        sessions.all(|session| session.lands_unpolled).then_some(self.sessions.watched().len())
    }
}
