//! The client's core: sessions with servers, links to shards, registered memory, requests in flight.
//! Everything here runs on the caller's thread.
//!
//! Three layers, and calls go down only. Operations (`push`, `pull`, `clock`, `catalogue` and so on) are
//! functions of the whole [`Core`], because they may have to wait. Waiting runs the event loop (`wait`,
//! `recover`, `event_loop`). The loop moves the parts of the core, which own their state and know of no core.

mod age;
mod attach;
mod backoff;
mod begin;
mod blocking_pull;
mod catalogue;
mod clock;
mod connect;
mod control;
mod event_loop;
mod filters;
mod greet;
mod inline_push;
mod key_lists;
mod landed;
mod learn;
mod link;
mod locate;
mod memory;
mod message;
mod places;
mod pull;
mod push;
mod push_part;
mod reach;
mod read;
mod readers;
mod recover;
mod refused;
mod remedy;
mod remove_rows;
mod requests;
mod retry_queue;
mod rounds;
mod route;
pub(crate) mod scan;
mod send;
mod servers;
mod set_rows;
mod tables;
mod trouble;
mod view;
mod vigil;
mod wait;
mod write;

#[cfg(test)]
mod tests;

use windlass_transport::{Completion, Transport, spin::Spin};
use windlass_wire::{
    ClusterMap, Incarnation, Sequence, SessionId,
    filter::{BodyEncoder, SavedBytes},
};

pub(crate) use self::{
    catalogue::{
        ask_server, create_table, drop_table, list_tables, open_table, set_consistency, set_expiry,
        set_rule,
    },
    clock::{advance_clock, wait_for_workers},
    connect::connect,
    memory::RegionId,
    message::Source,
    pull::{claim, pull_keys, pull_range},
    push::{push_keys, push_range},
    read::{pull_into, pull_keys_into},
    remove_rows::{remove_below, remove_keys},
    requests::RequestId,
    set_rows::{set_keys, set_rows},
    tables::TableIndex,
};
use self::{
    clock::Clocks,
    link::{Blank, Link},
    memory::Memory,
    read::Reads,
    readers::Readers,
    refused::Refused,
    requests::Requests,
    retry_queue::RetryQueue,
    rounds::Rounds,
    route::Routes,
    servers::ServerLink,
    tables::Tables,
    trouble::Recovery,
};
use crate::{config::ClientOptions, fork::Process, watch::Watching};

/// Most bytes of values in one message: bounds how long a shard is busy with it.
pub(crate) const PART_LEN_MAX: u64 = 1 << 20;

/// Most bytes of values in one message where values of any length are written into the mailbox: the shard
/// sums one part while the next is on its way.
pub(crate) const WRITTEN_PART_LEN_MAX: u64 = 256 << 10;

/// Most rows in one message that names keys: they travel in the mailbox.
pub(crate) const PART_KEYS_MAX: usize = 16 << 10;

/// Most keys of one message that pushes to a sparse table, whose shard may have to make a row for each.
pub(crate) const PART_NEW_KEYS_MAX: usize = 4 << 10;

const _: () = assert!(
    WRITTEN_PART_LEN_MAX + 8 * PART_KEYS_MAX as u64 <= windlass_wire::request::BODY_LEN_MAX
);

/// Bytes of a local mirror of each mailbox ring come from the server; requests of one client in
/// flight at most, over all links.
pub(crate) const REQUESTS_MAX: usize = 1024;

/// Completions polled in one call.
const COMPLETIONS_PER_POLL: usize = 32;

/// Everything of one client, in parts that own their state.
pub(crate) struct Core {
    pub(crate) session: Session,
    pub(crate) links: Links,
    pub(crate) cluster: Cluster,
    retries: RetryQueue,
    recovery: Recovery,
    pub(crate) tables: Tables,
    pub(crate) pending: Pending,
    rounds: Rounds,
    pub(crate) clocks: Clocks,
    scratch: Scratch,
}

/// Who this client is, and how it was asked to behave.
pub(crate) struct Session {
    pub(crate) options: ClientOptions,
    id: SessionId,
    incarnation: Incarnation,
    /// Where servers and coordinators may be, as the user said.
    addresses: Vec<String>,
    /// Sequence of the newest message.
    sequence: Sequence,
    /// Whether servers are told when this client ends.
    pub(crate) sends_leave_notice: bool,
    watching: Watching,
    /// Which process this belongs to.
    process: Process,
}

/// The links to shards, and the transports that carry them.
pub(crate) struct Links {
    all: Vec<Link>,
    /// Lost links whose messages in flight are not settled yet.
    lost: Vec<usize>,
    transports: Vec<Box<dyn Transport>>,
    /// What links by each transport have before they are made.
    blanks: Vec<Option<Blank>>,
    completions: Box<[Completion]>,
    polls: u32,
    spin: Spin,
}

/// The map, the servers that it names, and which links lead to which rows.
pub(crate) struct Cluster {
    pub(crate) map: ClusterMap,
    pub(crate) servers: Vec<ServerLink>,
    /// Links to the head of each partition, and to the replica that pulls read.
    heads: Routes,
    tails: Routes,
    strong: Routes,
    any: Routes,
    /// Goes up when routes may have changed.
    generation: u64,
}

/// Requests under way, the memory they use, and the reads that bring their rows.
pub(crate) struct Pending {
    requests: Requests,
    refused: Refused,
    pub(crate) memory: Memory,
    readers: Readers,
    reads: Reads,
    pub(crate) counters: Counters,
}

/// Buffers used again and again, so that requests allocate nothing.
#[derive(Debug, Default)]
struct Scratch {
    /// The request's keys by link, and their positions in it; keys that no link leads to have an entry, too.
    by_link: Vec<LinkScratch>,
    values: Vec<u8>,
    /// Rows that were decoded, in words so that they are aligned.
    decoded: Vec<u64>,
    encoder: BodyEncoder,
}

#[derive(Debug, Default)]
struct LinkScratch {
    keys: Vec<u64>,
    positions: Vec<u32>,
}

/// What a client counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of values pushed.
    pub bytes_pushed: u64,
    /// Bytes of values pulled.
    pub bytes_pulled: u64,
    /// Pushes made.
    pub pushes: u64,
    /// Pulls made.
    pub pulls: u64,
    /// Blocks read again because they changed meanwhile.
    pub reads_retried: u64,
    /// One-sided reads of rows and versions asked for, and bytes that they bring.
    pub reads: u64,
    /// See [`Counters::reads`].
    pub bytes_read: u64,
    /// Times the client slept in a wait.
    pub sleeps: u64,
    /// Times a pull waited for a slower worker.
    pub clock_waits: u64,
    /// Microseconds of idle time: of waiting for slower workers.
    pub clock_wait_us: u64,
    /// Messages sent again, because a server was gone or the map had changed.
    pub resent: u64,
    /// Servers connected to again.
    pub reconnects: u64,
    /// Pulls of dense rows that their servers sent, because one-sided reads of them kept meeting pushes; a large
    /// one may count several times.
    pub pulls_served: u64,
    /// Bytes that filters kept from being sent.
    pub saved: SavedBytes,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Core")
            .field("session", &self.session.id)
            .field("links", &self.links.all.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if !self.session.process.is_current() {
            // What ends a transport would reach the peer, on behalf of the process that goes on.
            std::mem::forget(std::mem::take(&mut self.links.transports));
            return;
        }
        self.cluster.leave_clocks(&self.session, &self.tables);
        for link in &self.links.all {
            self.links.transports[link.transport].disconnect(link.queue_pair);
        }
    }
}
