//! What control threads ask of a shard about its chains.

use windlass_transport::Endpoint;
use windlass_wire::{
    ServerId,
    control::{Peer, Provider, SharedRegion},
};

use super::{ChainContext, PartitionChecksum, PartitionStatus, checksum::ask_checksums};
use crate::shard::{Shard, command::Answer};

/// One command.
#[derive(Debug)]
pub enum ChainCommand {
    /// Gives the shard what it needs to be part of chains; before its first map.
    Replicate {
        /// What it is.
        context: ChainContext,
    },
    /// First step of a link to the equal shard of a peer; any older link to it ends.
    LinkOpen {
        /// The peer.
        peer: Peer,
        /// By which provider.
        provider: Provider,
        /// This side's endpoint.
        answer: Answer<Endpoint>,
    },
    /// Second step: what the peer's shard answered.
    LinkConnect {
        /// The peer.
        peer: Peer,
        /// Its endpoint.
        endpoint: Endpoint,
        /// This side's reply region.
        answer: Answer<Option<SharedRegion>>,
    },
    /// Third step: the mailbox at the peer.
    LinkAttach {
        /// The peer.
        peer: Peer,
        /// Its region.
        mailbox: SharedRegion,
        /// Bytes of its ring.
        ring_len: u32,
        /// Answered when the link carries messages.
        answer: Answer<()>,
    },
    /// Tables with smaller numbers that were not made here were dropped: records of others wait until
    /// they are made.
    KnowTables {
        /// The number of the cluster's next table.
        next_table: u32,
    },
    /// The server's life before is over: all links end, what is held stays, and no pull is answered
    /// before a map takes the new life in.
    BeginLife {
        /// Answered when nothing of the old life can arrive or leave any more.
        answer: Answer<()>,
    },
    /// Ends the link to a peer.
    LinkClose {
        /// The peer.
        server: ServerId,
    },
    /// Tells again what the coordinator may have missed.
    RepeatReports {},
    /// What every partition amounts to.
    Checksums {
        /// One for each partition that this server is a member for, but those that keep changing.
        answer: Answer<Vec<PartitionChecksum>>,
    },
    /// How far every replica is.
    States {
        /// One for each partition that this server has a part in.
        answer: Answer<Vec<PartitionStatus>>,
    },
    /// Stops the log, as a disk does that refuses a write.
    FailDisk {},
    /// Ends the shard at once, as if its process had died: nothing more is carried out or said.
    Die {},
}

impl Shard {
    pub(in crate::shard) fn carry_out_chain(&mut self, command: ChainCommand) {
        // An asker that is gone needs no answer.
        match command {
            ChainCommand::Replicate { context } => self.replicate(context),
            ChainCommand::LinkOpen { peer, provider, answer } => {
                let _ = answer.send(self.link_open(peer, provider));
            }
            ChainCommand::LinkConnect { peer, endpoint, answer } => {
                let _ = answer.send(self.link_connect(peer, &endpoint));
            }
            ChainCommand::LinkAttach { peer, mailbox, ring_len, answer } => {
                let _ = answer.send(self.link_attach(peer, mailbox, ring_len));
            }
            ChainCommand::KnowTables { next_table } => {
                self.tables_below = self.tables_below.max(next_table);
            }
            ChainCommand::BeginLife { answer } => {
                self.begin_life();
                let _ = answer.send(Ok(()));
            }
            ChainCommand::LinkClose { server } => self.link_close(server),
            ChainCommand::RepeatReports {} => self.repeat_reports(),
            ChainCommand::Checksums { answer } => ask_checksums(self, answer),
            ChainCommand::States { answer } => {
                let _ = answer.send(Ok(self.partition_states()));
            }
            ChainCommand::FailDisk {} => self.fail_disk(),
            ChainCommand::Die {} => self.stopped = true,
        }
    }
}
