//! What a seed makes go wrong, as a list: so that it can be printed, shortened and replayed.

use super::gray::Gray;
use super::options::{Mode, Options};
use super::random::Random;

/// Virtual microseconds during which faults begin.
pub(super) const FAULTS_US: u64 = 400_000;
/// When everything is healed; what is not acknowledged some time after is stuck.
pub(super) const HEAL_US: u64 = 520_000;
/// The end of patience.
pub(super) const END_US: u64 = 3_000_000;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong. Servers are named by their place in the cluster, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The process is killed; its memory is lost and, with `kept`, its disk is not. `visible`: its
    /// memory stays readable to clients that have it mapped.
    Crash {
        /// Which server.
        server: usize,
        /// Whether the log on its disk survives.
        kept: bool,
        /// Whether its last memory can still be read.
        visible: bool,
        /// When it starts again.
        restart_us: u64,
    },
    /// The process stands still; its memory is served by the network card.
    Pause {
        /// Which server.
        server: usize,
        /// For how long.
        us: u64,
    },
    /// The server is cut off from all other servers and the coordinator, not from clients.
    Isolate {
        /// Which server.
        server: usize,
        /// For how long.
        us: u64,
        /// Whether clients are cut off too.
        clients: bool,
    },
    /// A server and the coordinator cannot reach each other; peers and clients notice nothing.
    LoseControl {
        /// Which server.
        server: usize,
        /// For how long.
        us: u64,
    },
    /// Two servers cannot reach each other.
    Cut {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// For how long.
        us: u64,
    },
    /// The connection between two servers breaks and is made anew.
    Reconnect {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// A client's connection to a server breaks and is made anew.
    ClientReconnect {
        /// The client.
        client: usize,
        /// The server.
        server: usize,
    },
    /// The leading coordinator is replaced by a standby; `both`: it does not know for a while.
    Takeover {
        /// Whether the old one goes on.
        both: bool,
        /// How long nobody leads.
        us: u64,
    },
    /// An operator drains a server.
    Drain {
        /// Which server.
        server: usize,
    },
    /// An operator takes a drained server back.
    Undrain {
        /// Which server.
        server: usize,
    },
    /// A server crashes, and its disk holds less than it acknowledged; those that share chains with it are
    /// cut off meanwhile.
    Apart {
        /// Which server.
        server: usize,
        /// When it starts again.
        restart_us: u64,
        /// How long the others are cut off.
        us: u64,
    },
    /// A server crashes and loses its disk; those that share chains with it crash, too, and are back later.
    Replace {
        /// Which server.
        server: usize,
        /// When it starts again.
        restart_us: u64,
        /// When the others do.
        others_us: u64,
    },
    /// A server's machine stands still, and its clock with it; for a while more it hears no server and no
    /// coordinator, and clients can read it.
    Freeze {
        /// Which server.
        server: usize,
        /// For how long.
        us: u64,
        /// How much longer it hears nobody.
        deaf_us: u64,
    },
    /// The coordinators' processes stand still; what they were sent waits for them.
    StallCoordinator {
        /// For how long.
        us: u64,
    },
    /// The leading coordinator no longer reaches the store.
    CutStore {
        /// For how long.
        us: u64,
    },
    /// A network fails by half.
    Gray(Gray),
    /// All servers lose power; what is on disk survives.
    PowerLoss {
        /// When they start again.
        restart_us: u64,
    },
}

/// The shape of one seed's cluster.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Servers.
    pub servers: usize,
    /// Members per chain.
    pub replicas: u8,
    /// Partitions.
    pub partitions: u32,
    /// Clients.
    pub clients: usize,
    /// Every push is on every replica's disk before it is acknowledged.
    pub sync: bool,
    /// Records a server keeps before its log ring overwrites them: small ones force block copies.
    pub log_records: u64,
    /// Clock drift per server, in parts per million.
    pub drift_ppm: Vec<i64>,
    /// The faults, in order of time.
    pub faults: Vec<Fault>,
}

impl Schedule {
    /// What `seed` makes go wrong.
    #[must_use]
    pub fn of(seed: u64, options: &Options) -> Self {
        let mut random = Random::new(seed ^ 0x5C4E_D01E);
        let servers = 3 + random.index(3);
        let replicas = 2 + u8::from(!random.one_in(3));
        let replicas = if options.one_copy { 1 } else { replicas };
        let sync = random.one_in(4) && options.mode != Mode::Mixed;
        let count = random.below(u64::from(options.faults_max) + 1);
        let kind = match options.mode {
            Mode::Gray => kind_of_gray,
            Mode::Workers => kind_of_workers,
            Mode::Overlap => kind_of_overlap,
            Mode::Mixed => kind_of_mixed,
            Mode::Frozen => kind_of_frozen,
            Mode::Store => kind_of_store,
            _ if options.one_copy => kind_of_moves,
            _ => kind,
        };
        let count = if options.one_copy { 2 * count } else { count };
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| Fault {
                at_us: random.between(20_000, FAULTS_US),
                kind: kind(&mut random, servers, sync, options.clients_max),
            })
            .collect();
        faults.sort_by_key(|fault| fault.at_us);
        let drift = |random: &mut Random| i64::try_from(random.below(1_000)).unwrap_or(0) - 500;
        let partitions = 1 << random.below(2);
        let partitions = if options.mode == Mode::Store { 2 * partitions } else { partitions };
        Self {
            servers,
            replicas,
            partitions,
            clients: 1 + random.index(options.clients_max),
            sync,
            log_records: if random.one_in(2) { 4 } else { 10_000 },
            drift_ppm: (0..servers).map(|_| drift(&mut random)).collect(),
            faults,
        }
    }
}

fn kind(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    let server = random.index(servers);
    let other = (server + 1 + random.index(servers - 1)) % servers;
    let us = random.between(1_000, 150_000);
    match random.below(24) {
        0..=6 => FaultKind::Crash {
            server,
            kept: random.one_in(2),
            visible: random.one_in(2),
            restart_us: random.between(2_000, 150_000),
        },
        7..=9 => FaultKind::Pause { server, us },
        10..=12 => FaultKind::Isolate { server, us, clients: random.one_in(2) },
        13 => FaultKind::Cut { a: server, b: other, us },
        14..=15 => FaultKind::Reconnect { a: server, b: other },
        16 => FaultKind::ClientReconnect { client: random.index(clients), server },
        17 => FaultKind::Takeover { both: random.one_in(2), us: random.between(1, 60_000) },
        18 => FaultKind::Drain { server },
        20..=23 => FaultKind::LoseControl { server, us },
        _ if sync => FaultKind::PowerLoss { restart_us: random.between(2_000, 60_000) },
        _ => FaultKind::Pause { server, us },
    }
}

/// Networks that fail by half, and other faults beside them.
fn kind_of_gray(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.one_in(4) {
        true => kind(random, servers, sync, clients),
        false => super::gray::any(random, servers),
    }
}

/// A coordinator that hears nobody or stands still, and other faults beside it.
fn kind_of_workers(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.below(4) {
        0..=1 => kind(random, servers, sync, clients),
        2 => super::gray::deaf_coordinator(random),
        _ => FaultKind::StallCoordinator { us: random.between(5_000, 250_000) },
    }
}

/// Failures that overlap in one chain, and others beside them.
fn kind_of_overlap(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.one_in(2) {
        true => kind(random, servers, sync, clients),
        false => super::overlap::any(random, servers),
    }
}

/// Servers that fail however few are left, and other faults beside them.
fn kind_of_mixed(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.one_in(3) {
        true => kind(random, servers, sync, clients),
        false => super::mixed::any(random, servers),
    }
}

/// A store that is not reached, and other faults beside it.
fn kind_of_store(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.one_in(2) {
        true => kind(random, servers, sync, clients),
        false => super::store::any(random),
    }
}

/// Machines that stand still, and other faults beside them.
fn kind_of_frozen(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    match random.one_in(3) {
        true => kind(random, servers, sync, clients),
        false => FaultKind::Freeze {
            server: random.index(servers),
            us: random.between(1_000, 150_000),
            deaf_us: random.between(0, 30_000),
        },
    }
}

/// Where there is one copy, a server that holds one may not fail: what does is up to the world.
fn kind_of_moves(random: &mut Random, servers: usize, sync: bool, clients: usize) -> FaultKind {
    let server = random.index(servers);
    match random.below(8) {
        0..=2 => FaultKind::Drain { server },
        3..=4 => FaultKind::Undrain { server },
        5 => FaultKind::ClientReconnect { client: random.index(clients), server },
        _ => kind(random, servers, sync, clients),
    }
}
