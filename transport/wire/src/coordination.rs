//! What the coordinator and those it coordinates say to each other: servers over a connection that
//! turned round with `Join`, operators and workers by requests.
//!
//! After `Joined`, both directions are asynchronous: the coordinator sends [`Order`]s, the server
//! [`Report`]s. An order with a number other than zero wants [`Report::Answer`] with it.

use crate::{
    control::RefusalKind,
    expiry::Expiry,
    ids::{Epoch, Incarnation, Lsn, PartitionId, ServerId, TableId, WorkerClock, WorkerRank},
    map::ClusterMap,
    proof::Ticket,
    rule::UpdateRule,
    schema::{Consistency, TableEntry},
};

/// What a server that joins holds of what it acknowledged, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// All: its memory was never lost, or its disk has every acknowledged push.
    Whole {},
    /// What its disk holds: rows in memory only are gone, and others may be as of a while ago.
    Disk {},
    /// Nothing.
    Nothing {},
}

/// What the coordinator tells a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// The map in force from now on.
    InstallMap {
        /// The map.
        map: ClusterMap,
    },
    /// A new table.
    CreateTable {
        /// The table.
        table: TableEntry,
    },
    /// A table that is no more.
    DropTable {
        /// The table.
        table: TableId,
    },
    /// What this life of the server proves itself by to the others, in place of what it was told before.
    Introduce {
        /// One for each other server.
        tickets: Vec<PeerTicket>,
    },
    /// Nothing: is the server there? It sends a heartbeat at once. If the order has a number, the
    /// server says in [`Report::Hearing`] that it has come.
    Ping {},
    /// All tables: those that are not among them and have smaller numbers than `next_table` were
    /// dropped.
    SetTables {
        /// Partitions of the cluster: a server may not have its map yet.
        partitions: u32,
        /// The number of the next table.
        next_table: u32,
        /// The tables.
        tables: Vec<TableEntry>,
    },
    /// This life of the server is over: it ends its links, and joins again with a life above
    /// `known`.
    Fence {
        /// The life that is over.
        incarnation: Incarnation,
        /// The newest life of it that is known.
        known: Incarnation,
    },
    /// The training workers; who is not live is not waited for.
    SetWorkers {
        /// All that are known.
        workers: Vec<WorkerEntry>,
    },
    /// The server is no longer of the cluster, and stops.
    Leave {},
    /// A table's workers may be this far apart from now on.
    AlterTable {
        /// The table.
        table: TableId,
        /// How stale pulls may be.
        consistency: Consistency,
    },
    /// Pushes to a table go by this rule from now on: that of the table with other hyper-parameters.
    SetRule {
        /// The table.
        table: TableId,
        /// The rule.
        rule: UpdateRule,
    },
    /// Other rows of a table go by themselves from now on.
    SetExpiry {
        /// The table.
        table: TableId,
        /// Which.
        expiry: Expiry,
    },
}

/// What a server proves itself by to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTicket {
    /// The other one.
    pub server: ServerId,
    /// The ticket.
    pub ticket: Ticket,
}

/// A numbered instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What the answer carries; zero wants none. Of a ping, what [`Report::Hearing`] carries.
    pub number: u64,
    /// What to do.
    pub instruction: Instruction,
}

/// What a server tells the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// It is alive.
    Heartbeat {
        /// The newest map it acts by.
        map_epoch: Epoch,
        /// Workers whose connections to it are open.
        workers: Vec<WorkerPulse>,
    },
    /// What became of an order.
    Answer {
        /// The order's number.
        number: u64,
        /// Why it was not carried out, if it was not.
        refusal: Option<OrderRefusal>,
    },
    /// Which peers it hears late, sent before heartbeats while there are any, and once there are none.
    Hearing {
        /// The number of the newest ping that has come.
        ping: u64,
        /// The peers.
        late: Vec<LatePeer>,
    },
    /// A neighbour is dead or unreachable.
    Suspect {
        /// Which.
        server: ServerId,
    },
    /// This learner has caught up.
    CaughtUp {
        /// The partition.
        partition: PartitionId,
        /// In which chain epoch.
        epoch: Epoch,
    },
    /// This tail holds all that was committed.
    Synchronised {
        /// The partition.
        partition: PartitionId,
        /// In which chain epoch.
        epoch: Epoch,
    },
    /// The server next in a chain holds no prefix of this one's log.
    Rejected {
        /// The partition.
        partition: PartitionId,
        /// In which chain epoch.
        epoch: Epoch,
        /// The server next in the chain.
        server: ServerId,
    },
    /// This server has no memory for rows that the map gives to it, or its replica of them lacks some change.
    CannotHold {
        /// The partition.
        partition: PartitionId,
        /// In which chain epoch.
        epoch: Epoch,
    },
    /// Its map is older than one it has heard of.
    WantMap {},
    /// Its disk refused a write: chains with other members should go on without it.
    DiskFailed {},
    /// It came back with what its disk holds, which is nothing of these tables.
    Emptied {
        /// Tables of durability `memory` in partitions that it brought back.
        tables: Vec<TableId>,
    },
}

/// A peer that was not heard in time lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatePeer {
    /// Which.
    pub server: ServerId,
    /// By how much in all, in milliseconds, over the last seconds.
    pub late_ms: u32,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderRefusal {
    /// Its kind.
    pub status: RefusalKind,
    /// A sentence for people.
    pub text: String,
}

/// A sign of life of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerPulse {
    /// Its rank.
    pub rank: WorkerRank,
    /// Its life.
    pub incarnation: Incarnation,
    /// Rounds it has finished.
    pub clock: WorkerClock,
}

/// A worker as the coordinator has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerEntry {
    /// Its rank.
    pub rank: WorkerRank,
    /// Whether anybody waits for it: a dead worker is retired until it registers again.
    pub live: bool,
    /// Where its clock stands, or starts from.
    pub clock: WorkerClock,
}

/// What an operator wants changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Move a server's copies away, and give it no new ones.
    Drain {
        /// The server.
        server: ServerId,
    },
    /// Take a draining server back.
    Undrain {
        /// The server.
        server: ServerId,
    },
    /// A server that holds nothing is gone for good, and stops.
    Forget {
        /// The server.
        server: ServerId,
    },
    /// Treat a server as dead.
    Fail {
        /// The server.
        server: ServerId,
    },
    /// Work out anew where everything should be, and move it there.
    Rebalance {},
    /// Start partitions whose last copy is gone empty again.
    AcceptLoss {},
}

/// What one replica holds of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionChecksum {
    /// The partition.
    pub partition: PartitionId,
    /// Its last record applied.
    pub lsn: Lsn,
    /// Of all values and optimiser state at that position.
    pub checksum: u64,
}

/// A table whose rows were in memory only, and went with the restart of a server that nobody went on
/// without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptiedTable {
    /// The table.
    pub table: TableId,
    /// The server that was restarted.
    pub server: ServerId,
    /// When the coordinator heard of it, in seconds since 1970.
    pub seconds: u64,
}

/// Two servers that share no chain for a while: the link between them is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeparatedPair {
    /// The lesser number.
    pub a: ServerId,
    /// The greater number.
    pub b: ServerId,
}

/// How a coordinator is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorStatus {
    /// Whether this one leads.
    pub leads: bool,
    /// Where the map is kept: `memory`, `file` or `etcd`.
    pub store: String,
    /// Why the store cannot be written, if it cannot: changes wait.
    pub store_error: Option<String>,
    /// Servers connected to it.
    pub connected: Vec<ServerId>,
    /// Servers that get no copies for a while: they were failed for what was not heard of them.
    pub resting: Vec<ServerId>,
    /// Pairs that share no chain for a while.
    pub separated: Vec<SeparatedPair>,
    /// Workers known.
    pub workers: Vec<WorkerEntry>,
    /// Copies under way.
    pub copies_under_way: u32,
    /// Tables that lost rows with a server's restart.
    pub emptied: Vec<EmptiedTable>,
    /// The map in force, also before chains are created.
    pub map: ClusterMap,
}

crate::codec::wire_enum!(Kept {
    0 => Nothing {},
    1 => Whole {},
    2 => Disk {},
});
crate::codec::wire_enum!(Instruction {
    1 => InstallMap { map },
    2 => CreateTable { table },
    3 => DropTable { table },
    4 => Ping {},
    5 => SetTables { partitions, next_table, tables },
    6 => Fence { incarnation, known },
    7 => SetWorkers { workers },
    8 => Leave {},
    9 => Introduce { tickets },
    20 => AlterTable { table, consistency },
    21 => SetRule { table, rule },
    22 => SetExpiry { table, expiry },
});
crate::codec::wire_struct!(PeerTicket { server, ticket });
crate::codec::wire_struct!(Order { number, instruction });
crate::codec::wire_enum!(Report {
    1 => Heartbeat { map_epoch, workers },
    2 => Answer { number, refusal },
    3 => Suspect { server },
    4 => CaughtUp { partition, epoch },
    5 => Synchronised { partition, epoch },
    6 => Rejected { partition, epoch, server },
    7 => WantMap {},
    8 => DiskFailed {},
    9 => Emptied { tables },
    10 => CannotHold { partition, epoch },
    11 => Hearing { ping, late },
});
crate::codec::wire_struct!(LatePeer { server, late_ms });
crate::codec::wire_struct!(OrderRefusal { status, text });
crate::codec::wire_struct!(WorkerPulse { rank, incarnation, clock });
crate::codec::wire_struct!(WorkerEntry { rank, live, clock });
crate::codec::wire_enum!(Operation {
    1 => Drain { server },
    2 => Undrain { server },
    3 => Forget { server },
    4 => Fail { server },
    5 => Rebalance {},
    6 => AcceptLoss {},
});
crate::codec::wire_struct!(SeparatedPair { a, b });
crate::codec::wire_struct!(EmptiedTable { table, server, seconds });
crate::codec::wire_struct!(PartitionChecksum { partition, lsn, checksum });
crate::codec::wire_struct!(CoordinatorStatus {
    leads,
    store,
    store_error,
    connected,
    resting,
    separated,
    workers,
    copies_under_way,
    emptied,
    map,
});
