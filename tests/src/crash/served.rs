//! Whole servers on simulated disks: shards with their own records, images, pieces, clocks and recovery,
//! pushed to by a client, until the power goes. What comes back is compared with what was sent and what
//! was acknowledged. Threads and clocks are real, so a seed gives no second run that is the same; what
//! holds must hold in each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Durability, Element, PendingPush, PullOptions, PushOptions, Table,
    TableSchema, chain,
};
use windlass_engine::{
    Server, ServerConfig,
    persist::storage::{Maker, Provider as Disks, Storage, StorageError},
};
use windlass_wire::{ServerId, control::Provider};

use super::{disk::SharedDisk, random::Random, simulated::SimulatedStorage, workload::End};

/// Rows of each table.
const ROWS: u64 = 96;
/// Pushes that wait for their answers at once.
const WINDOW: usize = 6;
/// How long a life lasts that nothing cuts short.
const LIFE: Duration = Duration::from_millis(400);

/// Disks by directory, as a server asks for them.
static DISKS: Mutex<BTreeMap<PathBuf, SharedDisk>> = Mutex::new(BTreeMap::new());
static DISKS_MADE: AtomicU64 = AtomicU64::new(1);

fn open_simulated(directory: &Path) -> Result<Box<dyn Storage>, StorageError> {
    // The directory is there, since recovery looks for it. One that was removed has lost its files.
    let mark = directory.join("simulated");
    let is_new = !mark.exists();
    std::fs::write(&mark, []).map_err(|source| StorageError {
        operation: "mark",
        name: mark.display().to_string(),
        source,
    })?;
    let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    if is_new {
        let seed = DISKS_MADE.fetch_add(1, Ordering::Relaxed);
        disks.insert(directory.to_owned(), SharedDisk::new(seed));
    }
    let disk = disks.get(directory).expect("a disk for each directory");
    Ok(Box::new(SimulatedStorage::new(disk.clone())))
}

/// The disks below a server's directory.
fn disks_of(data: &Path) -> Vec<SharedDisk> {
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    disks.iter().filter(|(path, _)| path.starts_with(data)).map(|(_, disk)| disk.clone()).collect()
}

/// What is known of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Pushes that were sent, and those of them that were acknowledged as durable.
    sent: u64,
    kept: u64,
}

/// A server of which one life follows another, and what its rows must hold.
#[derive(Debug)]
pub struct Served {
    data: PathBuf,
    random: Random,
    /// By table and row.
    known: BTreeMap<(&'static str, u64), Known>,
    /// Pushes acknowledged as durable, and lives in which a checkpoint was asked for.
    pub promised: u64,
    /// See above.
    pub checkpoints: u64,
}

/// Dense and sparse rows, each push in the log; rows of which the log has images.
const TABLES: [&str; 3] = ["dense", "sparse", "imaged"];

impl Served {
    /// A server without a life yet, in a directory of its own.
    #[must_use]
    pub fn new(data: &Path, seed: u64) -> Self {
        let (data, random) = (data.to_owned(), Random::new(seed));
        Self { data, random, known: BTreeMap::new(), promised: 0, checkpoints: 0 }
    }

    /// Starts, compares, and goes on until the end comes.
    ///
    /// # Panics
    /// When a row is not what it must be.
    pub fn live(&mut self, end: End, events: Option<u64>) {
        let config = ServerConfig {
            data_dir: Some(self.data.clone()),
            storage: Disks::Made(Maker(open_simulated)),
            shards: u16::try_from(1 + self.random.below(3)).expect("a few"),
            partitions: 8,
            memory_len_max: 192 << 20,
            providers: vec![Provider::Shm {}],
            ..ServerConfig::default()
        };
        for disk in disks_of(&self.data) {
            disk.borrow_mut().cut_after(events);
        }
        match Server::start(config) {
            Ok(server) => {
                self.use_until_the_end(&server, events);
                self.cut();
                server.stop();
            }
            Err(error) => {
                let is_off = disks_of(&self.data).iter().any(|disk| disk.borrow().is_off());
                assert!(is_off, "a server does not start: {}", chain(&error));
            }
        }
        for disk in disks_of(&self.data) {
            match end {
                End::PowerCut => disk.borrow_mut().power_cycle(),
                End::Kill | End::Close => disk.borrow_mut().kill(),
            }
        }
    }

    /// All disks of a server lose their power at once, or at least soon after the first.
    fn cut(&self) {
        disks_of(&self.data).iter().for_each(|disk| disk.borrow_mut().cut());
    }

    fn use_until_the_end(&mut self, server: &Server, events: Option<u64>) {
        let options = ClientOptions {
            retry_for: Duration::ZERO,
            timeout: Duration::from_secs(5),
            ..ClientOptions::default()
        };
        let Ok(client) = Client::connect_with(server.advertised(), options) else { return };
        let Ok(tables) = TABLES.iter().map(|name| open(&client, name)).collect::<Result<_, _>>()
        else {
            return;
        };
        let tables: Vec<Table<u64>> = tables;
        if !self.compare(&tables) {
            return;
        }
        // Disks that were made in this life.
        for disk in disks_of(&self.data) {
            if events.is_some() && !disk.borrow().is_cut() {
                disk.borrow_mut().cut_after(events);
            }
        }
        let until = Instant::now() + LIFE;
        let mut pending: Vec<(&'static str, u64, PendingPush<u64>)> = Vec::new();
        while Instant::now() < until
            && !disks_of(&self.data).iter().any(|disk| disk.borrow().is_off())
        {
            if self.random.one_in(40) && client.checkpoint(ServerId(0)).is_ok() {
                self.checkpoints += 1;
            }
            let at = usize::try_from(self.random.below(TABLES.len() as u64)).expect("few");
            let (name, first) = (TABLES[at], self.random.below(ROWS / 2) * 2);
            let keys = [key_of(name, first), key_of(name, first + 1)];
            // Both rows in one partition, and so in one record: they stay equal.
            for row in [first, first + 1] {
                self.known.entry((name, row)).or_default().sent += 1;
            }
            match tables[at].push(&keys, &[1; 4], &PushOptions::default()) {
                Ok(push) => pending.push((name, first, push)),
                Err(_) => break,
            }
            if pending.len() >= WINDOW {
                let (name, first, push) = pending.remove(0);
                if push.wait().is_err() {
                    break;
                }
                self.note_acknowledged(name, first);
            }
        }
        self.cut();
        for (name, first, push) in pending {
            if push.wait().is_ok() {
                self.note_acknowledged(name, first);
            }
        }
    }

    fn note_acknowledged(&mut self, name: &'static str, first: u64) {
        if name == "imaged" {
            // Of these it says that it was applied.
            return;
        }
        self.promised += 1;
        for row in [first, first + 1] {
            self.known.entry((name, row)).or_default().kept += 1;
        }
    }

    /// Compares all rows; false when they could not be read because the power went.
    fn compare(&mut self, tables: &[Table<u64>]) -> bool {
        for (name, table) in TABLES.into_iter().zip(tables) {
            let keys: Vec<u64> = (0..ROWS).map(|row| key_of(name, row)).collect();
            let pulled = table.pull(&keys, &PullOptions::default());
            let Ok(values) = pulled.and_then(windlass_client::PendingPull::wait) else {
                return false;
            };
            for (row, values) in (0..ROWS).zip(values.chunks_exact(2)) {
                let known = self.known.entry((name, row)).or_default();
                let what = format!("row {row} of {name}: {values:?}, {known:?}");
                assert_eq!(values[0], values[1], "half a row: {what}");
                assert!(values[0] >= known.kept, "lost: {what}");
                assert!(values[0] <= known.sent, "doubled: {what}");
                *known = Known { sent: values[0], kept: values[0] };
            }
            for first in (0..ROWS).step_by(2) {
                let pair = [first, first + 1].map(|row| self.known[&(name, row)]);
                assert_eq!(pair[0], pair[1], "half a push: rows from {first} of {name}");
            }
        }
        true
    }
}

/// Sparse keys that are far from each other, two of which are of one partition.
fn key_of(name: &str, row: u64) -> u64 {
    if name != "sparse" {
        return row;
    }
    (0..)
        .map(|salt| row << 32 | salt)
        .find(|key| windlass_wire::map::mix(*key) % 8 == row / 2 % 8)
        .expect("one in eight keys is")
}

fn open(client: &Client, name: &str) -> Result<Table<u64>, windlass_client::TableError> {
    let schema = match name {
        "sparse" => TableSchema::sparse(u64::DTYPE, 2),
        _ => TableSchema::dense(u64::DTYPE, ROWS, 2),
    };
    let durability = match name {
        "imaged" => Durability::Interval { milliseconds: 3 },
        _ => Durability::Sync {},
    };
    client.create_table::<u64>(name, &TableSchema { durability, ..schema })
}
