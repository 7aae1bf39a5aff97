//! Two servers that hold a copy of each row, on simulated disks that lose their power in turn: the other one
//! goes on, alone, and may have to come back from its own disk before the first has copied anything.
//! Who comes back begins its partitions anew in its log, and is held to what that and its checkpoints say.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use windlass_client::chain;
use windlass_engine::{CoordinatorConfig, CoordinatorServer, Server, ServerConfig};
use windlass_transport::control::ControlStream;
use windlass_wire::{
    ClusterMap, Incarnation, ServerId, SessionId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Provider},
};

use super::{
    ledger::{Ledger, PARTITIONS, Tables},
    random::Random,
    server_disks::{self, PROVIDER, ServerDisks},
    workload::End,
};

/// How long anything may take that is to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether a server is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A server, looked after as its own process would: it ends when it has left its cluster.
#[derive(Debug)]
struct Running {
    id: ServerId,
    address: String,
    is_to_end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Running {
    fn of(server: Server) -> Self {
        let (id, address) = (server.id(), server.advertised().to_owned());
        let is_to_end = Arc::new(AtomicBool::new(false));
        let asked = is_to_end.clone();
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Acquire) && !server.wait_for_stop(LOOK_INTERVAL) {}
            server.stop();
        });
        Self { id, address, is_to_end, thread }
    }

    fn end(self) {
        self.is_to_end.store(true, Ordering::Release);
        self.thread.join().expect("it ends in order");
    }
}

/// The two, their coordinator, and what rows must hold.
#[derive(Debug)]
pub struct Chained {
    root: PathBuf,
    coordinator: CoordinatorServer,
    servers: [Option<Running>; 2],
    random: Random,
    /// What rows must hold.
    pub ledger: Ledger,
    /// How often a server came back from its disk alone.
    pub alone: u64,
    /// How often one lost its power while it took in what it had missed.
    pub interrupted: u64,
}

impl Chained {
    /// A cluster of two servers that holds nothing yet.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn new(root: &Path, seed: u64) -> Self {
        server_disks::seed(root, seed);
        let config = CoordinatorConfig {
            partitions: PARTITIONS,
            expected_servers: 1,
            worker_timeout: Duration::from_secs(600),
            ..CoordinatorConfig::new(2)
        };
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let coordinator = CoordinatorServer::start(anywhere, None, false, config);
        let mut chained = Self {
            root: root.to_owned(),
            coordinator: coordinator.expect("a coordinator starts"),
            servers: [None, None],
            random: Random::new(seed),
            ledger: Ledger::default(),
            alone: 0,
            interrupted: 0,
        };
        for at in 0..2 {
            chained.start(at).expect("a new server starts");
        }
        chained
    }

    fn data(&self, at: usize) -> PathBuf {
        self.root.join(format!("server-{at}"))
    }

    fn disks(&self, at: usize) -> ServerDisks {
        ServerDisks::of(&self.data(at))
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        let config = ServerConfig {
            data_dir: Some(self.data(at)),
            storage: PROVIDER,
            shards: 2,
            coordinators: vec![self.coordinator.address().to_string()],
            memory_len_max: 192 << 20,
            worker_timeout_ms: 600_000,
            providers: vec![Provider::Shm {}],
            ..ServerConfig::default()
        };
        let server = Server::start(config).map_err(|error| chain(&error))?;
        self.servers[at] = Some(Running::of(server));
        Ok(())
    }

    fn end(&mut self, at: usize) {
        self.disks(at).cut();
        if let Some(server) = self.servers[at].take() {
            server.end();
        }
        let end = if self.random.one_in(3) { End::Kill } else { End::PowerCut };
        self.disks(at).end(end);
    }

    fn connect(&self, at: usize) -> Tables {
        let address = self.servers[at].as_ref().expect("it runs").address.clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(tables) = Tables::open(&address, PATIENCE, PATIENCE) {
                return tables;
            }
            assert!(Instant::now() < deadline, "nobody connects");
        }
    }

    /// Pushes for a while, or until a disk is off.
    fn push(&mut self, tables: &mut Tables, at: usize, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until && !self.disks(at).is_off() {
            let is_pushed = self.ledger.push(tables, &mut self.random);
            assert!(is_pushed, "{:?} of server {at}: {:?}", self.ledger.failure, self.map());
        }
    }

    /// What the coordinator has decided.
    fn map(&self) -> ClusterMap {
        let mut stream =
            ControlStream::connect(&self.coordinator.address().to_string()).expect("it listens");
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: String::new(),
            session: SessionId(1),
            incarnation: Incarnation(1),
            rank: None,
            host: String::new(),
            peer: None,
        };
        let _: ClientReply = stream.ask(&hello).expect("it answers");
        match stream.ask(&ClientRequest::CoordinatorStatus {}) {
            Ok(ClientReply::CoordinatorStatus { status }) => status.map,
            other => panic!("no status: {other:?}"),
        }
    }

    /// Waits until these servers are all that hold rows, and hold all.
    fn await_members(&self, members: &[usize]) {
        let id = |at: &usize| self.servers[*at].as_ref().expect("it runs").id;
        let ids: Vec<ServerId> = members.iter().map(id).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let map = self.map();
            let is_so = map.chains.iter().all(|chain| {
                !chain.tail_joining
                    && chain.servers.len() == ids.len()
                    && ids.iter().all(|id| chain.servers.contains(id))
            });
            if is_so {
                return;
            }
            assert!(Instant::now() < deadline, "not {ids:?}: {:?}", map.chains);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One of the two loses its power, the other goes on, now and then after it did, too; then both are
    /// there again.
    ///
    /// # Panics
    /// When a row is not what it must be, or a server does not come back.
    pub fn live(&mut self) {
        let victim = usize::from(self.random.one_in(2));
        let other = 1 - victim;
        let mut tables = self.connect(other);
        self.await_members(&[0, 1]);
        assert!(self.ledger.compare(&tables), "rows cannot be read");
        let events = 1 + self.random.below(1500);
        self.disks(victim).cut_after(Some(events));
        self.push(&mut tables, victim, Duration::from_millis(400));
        self.end(victim);
        self.push(&mut tables, other, Duration::from_millis(100));
        self.await_members(&[other]);
        assert!(self.ledger.settle(&mut tables, 0), "{:?}: {:?}", self.ledger.failure, self.map());
        if self.random.one_in(2) {
            self.end(other);
            tables.vanish();
            self.start(other).expect("it comes back from what its disk holds");
            self.alone += 1;
            tables = self.connect(other);
            assert!(self.ledger.compare(&tables), "rows cannot be read");
            self.push(&mut tables, other, Duration::from_millis(50));
        }
        if self.random.one_in(2) {
            let events = 1 + self.random.below(400);
            self.disks(victim).cut_after(Some(events));
            // It may not even come as far as to join.
            let _ = self.start(victim);
            self.push(&mut tables, other, Duration::from_millis(150));
            self.interrupted += u64::from(self.disks(victim).is_off());
            self.end(victim);
        }
        self.start(victim).expect("it comes back");
        self.push(&mut tables, other, Duration::from_millis(50));
        self.await_members(&[0, 1]);
        assert!(self.ledger.settle(&mut tables, 0), "{:?}: {:?}", self.ledger.failure, self.map());
        assert!(self.ledger.compare(&tables), "rows cannot be read");
        tables.vanish();
    }
}
