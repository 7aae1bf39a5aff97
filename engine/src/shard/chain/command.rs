//! Commands of control threads that concern chains.

use windlass_transport::Endpoint;
use windlass_wire::{
    ServerId,
    control::{Peer, Provider, SharedRegion},
};

use super::{
    Chain, PartitionChecksum, PartitionStatus, checksum, configure, connect, status, turn,
};
use crate::shard::{command::Answer, disk::Disk, durable, port::Port, tables::Tables};

/// One command.
#[derive(Debug)]
pub enum ChainCommand {
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
}

pub(in crate::shard) fn carry_out_chain(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    command: ChainCommand,
) {
    // An asker that is gone needs no answer.
    match command {
        ChainCommand::LinkOpen { peer, provider, answer } => {
            let _ = answer.send(connect::link_open(port, chain, peer, provider));
        }
        ChainCommand::LinkConnect { peer, endpoint, answer } => {
            let _ = answer.send(connect::link_connect(port, chain, peer, &endpoint));
        }
        ChainCommand::LinkAttach { peer, mailbox, ring_len, answer } => {
            let _ = answer.send(connect::link_attach(port, tables, chain, peer, mailbox, ring_len));
        }
        ChainCommand::KnowTables { next_table } => {
            tables.below = tables.below.max(next_table);
        }
        ChainCommand::BeginLife { answer } => {
            configure::begin_life(port, tables, chain, disk);
            let _ = answer.send(Ok(()));
        }
        ChainCommand::LinkClose { server } => connect::link_close(port, chain, server),
        ChainCommand::RepeatReports {} => turn::repeat_reports(port, tables, chain),
        ChainCommand::Checksums { answer } => checksum::ask_checksums(chain, answer),
        ChainCommand::States { answer } => {
            let _ = answer.send(Ok(status::partition_states(chain)));
        }
        ChainCommand::FailDisk {} => durable::fail_disk(disk),
    }
}
