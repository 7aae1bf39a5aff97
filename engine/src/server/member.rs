//! A server as a member of its cluster: its connection to the coordinator, its lives.
//!
//! Four threads: one connects, reads orders and answers probes at once; one carries out long orders in sequence; one
//! makes and drops tables; one sends heartbeats and the shards' reports. The data path needs none of them.

mod maps;
mod orders;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use windlass_transport::control::ControlStream;
use windlass_wire::{
    Epoch, Incarnation, ServerId, ServerSecret,
    coordination::{Instruction, Kept, Order, Report},
};

use self::maps::MapsTold;
use super::{
    cluster::Cluster,
    coordinators::{Coordinators, Downlink, JoinError},
    hearing::Hearing,
    identity::{Identity, IdentityError, next_life},
    presence::Presence,
    tickets::new_secret,
};
use crate::{
    complaints::Complaints,
    coordinator::Joining,
    shard::{ServerEvent, SharedLeases},
};

/// The member, shared by its threads.
#[derive(Debug)]
pub(super) struct Member {
    coordinators: Coordinators,
    cluster: Arc<Cluster>,
    presence: Presence,
    hearing: Hearing,
    data: Option<PathBuf>,
    address: String,
    shard_count: u16,
    life: Mutex<Life>,
    uplink: Mutex<Option<Uplink>>,
    maps: MapsTold,
    stopping: AtomicBool,
    /// The disk refused a write: a fenced life is the last.
    disk_failed: AtomicBool,
    false_peers: Mutex<Complaints>,
    fences: Mutex<Complaints>,
    /// Set when the coordinator says that this server is no longer of the cluster.
    has_left: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    server: Option<ServerId>,
    cluster: u64,
    incarnation: Incarnation,
    /// The first of this process.
    started: Incarnation,
    kept: Kept,
    heartbeat: Duration,
    secret: ServerSecret,
}

/// How reports go out.
#[derive(Debug)]
pub(super) enum Uplink {
    Local { desk: crate::coordinator::Desk, connection: u64 },
    Remote(ControlStream),
}

/// What a member is made of.
#[derive(Debug)]
pub(super) struct MemberOptions {
    pub(super) coordinators: Coordinators,
    pub(super) cluster: Arc<Cluster>,
    pub(super) leases: Arc<SharedLeases>,
    pub(super) data: Option<PathBuf>,
    pub(super) address: String,
    pub(super) shard_count: u16,
    /// What the data directory has of what it acknowledged, if it was here before.
    pub(super) kept: Kept,
    /// Set when it is not to join any more.
    pub(super) give_up: Arc<AtomicBool>,
}

/// How long a first join is tried while no coordinator answers.
const FIRST_JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to reach a coordinator: short at first, since a new leader fails whoever
/// does not find it.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// A coordinator says something every second; one silent for this long is gone.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(3);

impl Member {
    /// Joins the cluster for the first time in this process.
    pub(super) fn join(options: MemberOptions) -> Result<(Arc<Self>, Downlink), StartMemberError> {
        let found = match &options.data {
            Some(data) => Identity::load(data)?,
            None => None,
        };
        let secret = match found {
            Some(identity) => identity.secret,
            None => new_secret().map_err(|source| StartMemberError::Random { source })?,
        };
        let started = next_life(found.map_or(Incarnation(0), |found| found.incarnation));
        let life = Life {
            secret,
            server: found.map(|identity| identity.server),
            cluster: found.map_or(0, |identity| identity.cluster),
            incarnation: started,
            started,
            kept: options.kept,
            heartbeat: Duration::from_millis(100),
        };
        options.cluster.begin_life(life.incarnation);
        let member = Arc::new(Self {
            coordinators: options.coordinators,
            cluster: options.cluster,
            presence: Presence::default(),
            hearing: Hearing::new(options.leases),
            data: options.data,
            address: options.address,
            shard_count: options.shard_count,
            life: Mutex::new(life),
            uplink: Mutex::new(None),
            maps: MapsTold::default(),
            stopping: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
            false_peers: Mutex::default(),
            fences: Mutex::default(),
            has_left: AtomicBool::new(false),
        });
        let deadline = Instant::now() + FIRST_JOIN_PATIENCE;
        let mut delay = RETRY_DELAY_MIN;
        loop {
            match member.connect() {
                Ok(downlink) => return Ok((member, downlink)),
                Err(_) if options.give_up.load(Ordering::Acquire) => {
                    return Err(StartMemberError::GivenUp);
                }
                Err(MemberError::Join(error))
                    if error.is_passing() && Instant::now() < deadline =>
                {
                    std::thread::sleep(delay);
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                }
                Err(MemberError::Join(error)) => return Err(error.into()),
                Err(MemberError::Identity(error)) => return Err(error.into()),
            }
        }
    }

    /// Starts to be alive for the coordinator; `events` are what shards report. What it orders
    /// waits for [`Member::start_obeying`].
    pub(super) fn run(
        self: &Arc<Self>,
        downlink: Downlink,
        events: Receiver<ServerEvent>,
    ) -> std::io::Result<Receiver<Order>> {
        let (orders, to_do) = unbounded();
        let member = self.clone();
        thread("windlass-member").spawn(move || member.listen(downlink, &orders))?;
        let member = self.clone();
        thread("windlass-pulse").spawn(move || member.pulse(&events))?;
        Ok(to_do)
    }

    /// Starts to carry out orders, now that there are shards.
    pub(super) fn start_obeying(self: &Arc<Self>, orders: Receiver<Order>) -> std::io::Result<()> {
        let (tables, to_make) = unbounded();
        let (member, maker) = (self.clone(), self.clone());
        thread("windlass-tables").spawn(move || maker.change_tables(&to_make))?;
        thread("windlass-orders").spawn(move || member.obey(&orders, &tables)).map(drop)
    }

    /// This server's number.
    pub(super) fn server(&self) -> ServerId {
        self.life().server.unwrap_or_default()
    }

    /// Its present life.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.life().incarnation
    }

    /// What it proves itself by, and the cluster that knows it.
    pub(super) fn proves_by(&self) -> (ServerSecret, u64) {
        let life = self.life();
        (life.secret, life.cluster)
    }

    /// Connections that were no servers' though they said so.
    pub(super) fn false_peers(&self) -> MutexGuard<'_, Complaints> {
        self.false_peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life this process began with.
    pub(super) fn started(&self) -> Incarnation {
        self.life().started
    }

    /// Workers that are connected to this server.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The coordinators.
    pub(super) fn coordinators(&self) -> &Coordinators {
        &self.coordinators
    }

    /// Whether the server is no longer of the cluster, and is to stop.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Whether the disk refused a write.
    pub(super) fn has_failed(&self) -> bool {
        self.disk_failed.load(Ordering::Acquire)
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.hang_up();
    }

    fn connect(&self) -> Result<Downlink, MemberError> {
        let life = *self.life();
        let joining = Joining {
            server: life.server,
            cluster: life.cluster,
            address: self.address.clone(),
            shard_count: self.shard_count,
            incarnation: life.incarnation,
            kept: life.kept,
            secret: life.secret,
        };
        let (joined, uplink, downlink) = self.coordinators.join(joining, COORDINATOR_TIMEOUT)?;
        let identity = {
            let mut life = self.life();
            life.server = Some(joined.server);
            life.cluster = joined.cluster;
            life.heartbeat = joined.heartbeat;
            Identity {
                server: joined.server,
                cluster: joined.cluster,
                incarnation: life.incarnation,
                secret: life.secret,
            }
        };
        if let Some(data) = &self.data {
            identity.store(data)?;
        }
        self.cluster.set_server(joined.server);
        *self.uplink() = Some(uplink);
        self.hearing.tell_again();
        self.cluster.repeat_reports();
        Ok(downlink)
    }

    /// Reads orders; connects again when the connection is gone.
    fn listen(&self, mut downlink: Downlink, orders: &Sender<Order>) {
        let mut delay = RETRY_DELAY_MIN;
        let mut told = String::new();
        loop {
            while let Some(order) = downlink.next() {
                delay = RETRY_DELAY_MIN;
                if self.is_stopping() {
                    return;
                }
                self.take(order, orders);
                if self.has_left() {
                    return;
                }
            }
            drop(downlink);
            self.hang_up();
            downlink = loop {
                if self.is_stopping() {
                    return;
                }
                match self.connect() {
                    Ok(downlink) => break downlink,
                    Err(error) => {
                        let text = error.to_string();
                        if error.is_passing() || text == told {
                            tracing::debug!(%error, "no coordinator yet");
                        } else {
                            tracing::error!(%error, "the cluster does not take this server back");
                            told = text;
                        }
                        std::thread::sleep(delay);
                        delay = (delay * 2).min(RETRY_DELAY_MAX);
                    }
                }
            };
        }
    }

    fn take(&self, order: Order, orders: &Sender<Order>) {
        match &order.instruction {
            Instruction::Ping {} => {
                if order.number != 0 {
                    self.hearing.pinged(order.number);
                }
                self.beat();
            }
            Instruction::Fence { incarnation, known } => {
                if self.incarnation() == *incarnation && self.has_failed() {
                    tracing::error!(
                        "the disk refused a write, and the cluster goes on without this server: \
                         repair or free the disk, then start it again"
                    );
                    self.cluster.begin_life(next_life(*incarnation));
                    self.has_left.store(true, Ordering::Release);
                } else if self.incarnation() == *incarnation {
                    self.begin_new_life(*known);
                }
            }
            Instruction::Leave {} => {
                tracing::warn!("this server is no longer of the cluster");
                self.has_left.store(true, Ordering::Release);
            }
            other => {
                if let Instruction::InstallMap { map } = other
                    && !self.maps.take(map.epoch)
                {
                    return;
                }
                // The other end lives as long as the process.
                let _ = orders.send(order);
            }
        }
    }

    /// This life is over: links go, and a new one asks to be taken in with what it holds.
    fn begin_new_life(&self, known: Incarnation) {
        let incarnation = {
            let mut life = self.life();
            life.incarnation = next_life(known.max(life.incarnation));
            // Once it has acted by a map, what it acknowledged since is in its memory. Before, it is known
            // only what it came with.
            if self.cluster.applied() > Epoch(0) {
                life.kept = Kept::Whole {};
            }
            life.incarnation
        };
        let now = Instant::now();
        let fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner).due(now);
        if let Some(count) = fences {
            tracing::warn!(incarnation = incarnation.0, count, "fenced: beginning a new life");
        }
        self.cluster.begin_life(incarnation);
        self.hang_up();
    }

    /// Sends heartbeats, and what shards report.
    fn pulse(&self, events: &Receiver<ServerEvent>) {
        let mut next = Instant::now();
        while !self.is_stopping() {
            match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(event) => self.report(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
            if Instant::now() >= next {
                self.beat();
                next = Instant::now() + self.life().heartbeat;
            }
        }
    }

    fn report(&self, event: ServerEvent) {
        let report = match event {
            ServerEvent::CaughtUp { partition, epoch } => Report::CaughtUp { partition, epoch },
            ServerEvent::Synchronised { partition, epoch } => {
                Report::Synchronised { partition, epoch }
            }
            ServerEvent::Rejected { partition, epoch, server } => {
                Report::Rejected { partition, epoch, server }
            }
            ServerEvent::CannotHold { partition, epoch } => Report::CannotHold { partition, epoch },
            ServerEvent::Suspect { server } => Report::Suspect { server },
            ServerEvent::StaleMap { epoch } if epoch > self.maps.newest() => Report::WantMap {},
            ServerEvent::StaleMap { .. } => return,
            ServerEvent::DiskFailed {} => {
                self.disk_failed.store(true, Ordering::Release);
                Report::DiskFailed {}
            }
        };
        self.send(&report);
    }

    /// Tells the coordinator what changes by itself.
    pub(super) fn beat(&self) {
        if let Some(report) = self.hearing.report() {
            self.send(&report);
        }
        let map_epoch = self.cluster.applied();
        self.send(&Report::Heartbeat { map_epoch, workers: self.presence.pulses() });
        let mut emptied = self.cluster.emptied();
        if !emptied.is_empty() && self.send(&Report::Emptied { tables: emptied.clone() }) {
            emptied.clear();
        }
    }

    /// Whether it was sent.
    fn send(&self, report: &Report) -> bool {
        let mut uplink = self.uplink();
        let is_broken = match uplink.as_mut() {
            Some(Uplink::Local { desk, connection }) => {
                desk.report(*connection, report.clone());
                false
            }
            Some(Uplink::Remote(stream)) => stream.send(report).is_err(),
            None => return false,
        };
        if is_broken {
            drop(uplink);
            self.hang_up();
        }
        !is_broken
    }

    /// Ends the connection; the reading thread makes another one.
    fn hang_up(&self) {
        match self.uplink().take() {
            Some(Uplink::Local { desk, connection }) => desk.close(connection),
            Some(Uplink::Remote(stream)) => stream.shutdown(),
            None => {}
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uplink(&self) -> MutexGuard<'_, Option<Uplink>> {
        self.uplink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
enum MemberError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl MemberError {
    /// Whether it is no more than that no coordinator answers.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Join(error) if error.is_passing())
    }
}

/// Why a server did not become a member.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartMemberError {
    #[error("the start was given up")]
    GivenUp,
    #[error("the system gives no random bytes")]
    Random { source: std::io::Error },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}
