//! A whole server on simulated disks: shards with their own records, images, pieces, clocks and recovery,
//! pushed to by a client, until the power goes or a disk fails. What comes back is compared with what was
//! sent and what was acknowledged. A seed says what is pushed and what the disks do; threads are real, so that
//! its second run is only much like the first, and what holds must hold in each.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use windlass_client::chain;
use windlass_engine::{
    Server, ServerConfig,
    server::restore::{RestoreOptions, restore},
};
use windlass_wire::{ServerId, control::Provider};

use super::{
    damage::{Damage, Part, files_of_shards},
    disk::SharedDisk,
    ledger::{Ledger, PARTITIONS, Tables},
    random::Random,
    server_disks::{self, PROVIDER, ServerDisks, discard},
    workload::End,
};

/// Pushes of a life that nothing cuts short, at most.
const PUSHES: u64 = 400;

/// What goes wrong in a life, but for its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Each disk loses its power after so many of its events.
    pub events: Option<u64>,
    /// A sync of each disk fails, after so many others.
    pub fail_sync: Option<u64>,
}

/// Whether a server was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsRefused(pub bool);

/// A server of which one life follows another.
#[derive(Debug)]
pub struct Served {
    root: PathBuf,
    /// Directories that were restored into, the last of which is in use.
    restored: u32,
    random: Random,
    /// What its rows must hold.
    pub ledger: Ledger,
    /// Checkpoints that were asked for.
    pub checkpoints: u64,
    /// Starts that were refused because something could not be read.
    pub refused: u64,
    /// Directories of older groupings that were there again after a life that removed them.
    pub put_back: u64,
}

impl Served {
    /// A server without a life yet, in a directory of its own.
    #[must_use]
    pub fn new(root: &Path, seed: u64) -> Self {
        server_disks::seed(root, seed);
        Self {
            root: root.to_owned(),
            restored: 0,
            random: Random::new(seed),
            ledger: Ledger::default(),
            checkpoints: 0,
            refused: 0,
            put_back: 0,
        }
    }

    fn data(&self) -> PathBuf {
        self.root.join(format!("data-{}", self.restored))
    }

    fn disks(&self) -> ServerDisks {
        ServerDisks::of(&self.data())
    }

    fn start(&mut self, data: PathBuf) -> Result<Server, String> {
        let config = ServerConfig {
            data_dir: Some(data),
            storage: PROVIDER,
            shards: u16::try_from(1 + self.random.below(3)).expect("a few"),
            partitions: PARTITIONS,
            memory_len_max: 192 << 20,
            worker_timeout_ms: 600_000,
            providers: vec![Provider::Shm {}],
            ..ServerConfig::default()
        };
        Server::start(config).map_err(|error| chain(&error))
    }

    /// Starts, compares, and goes on until the end comes.
    ///
    /// # Panics
    /// When a row is not what it must be, or the server does not start although its disks are sound.
    pub fn live(&mut self, end: End, trouble: Trouble) {
        let disks = self.disks();
        let gone = disks.removed();
        disks.cut_after(trouble.events);
        match self.start(self.data()) {
            Ok(server) => {
                self.use_until_the_end(&server, end, trouble);
                if end != End::Close {
                    disks.cut();
                }
                server.stop();
            }
            Err(error) => assert!(disks.is_off(), "a server does not start: {error}"),
        }
        disks.end(end);
        if end == End::PowerCut {
            self.undo_removals(&gone);
        }
    }

    /// The power went while directories of an older grouping were being removed, after they had got new names
    /// and before those were durable: any but those that were gone before have their old names again.
    fn undo_removals(&mut self, gone: &[PathBuf]) {
        if self.random.one_in(2) {
            return;
        }
        let disks = self.disks();
        for directory in disks.removed() {
            if !gone.contains(&directory) && self.random.one_in(2) {
                disks.put_back(&directory);
                self.put_back += 1;
            }
        }
    }

    /// Starts while a part of a file of one disk cannot be read. That may be refused; if it is not, nothing
    /// is missing. Either way nothing is made of it: all is there when it can be read again.
    ///
    /// # Panics
    /// When a row is not what it must be.
    pub fn start_unreadable(&mut self) {
        let files = |disk: &SharedDisk| {
            let named = |(name, length): (&str, u64)| (disk.clone(), name.to_owned(), length);
            disk.borrow().list().map(named).filter(|(.., length)| *length > 0).collect::<Vec<_>>()
        };
        let files: Vec<_> = self.disks().all().iter().flat_map(files).collect();
        if files.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(files.len() as u64)).expect("a few");
        let (disk, name, length) = &files[at];
        let first = self.random.below(length.div_ceil(4096)) * 4096;
        let last = first + 4096 * (1 + self.random.below(4));
        let part = usize::try_from(first).expect("short")..usize::try_from(last).expect("short");
        // Shown when the test fails.
        eprintln!("{name} cannot be read from {first} to {last}");
        disk.borrow_mut().fail_reads(Some((name, part)));
        match self.start(self.data()) {
            Ok(server) => {
                if let Some(tables) = self.connect(&server) {
                    assert!(self.ledger.compare(&tables), "rows cannot be read");
                    tables.vanish();
                }
                self.disks().cut();
                server.stop();
            }
            Err(_) => self.refused += 1,
        }
        disk.borrow_mut().fail_reads(None);
        self.disks().end(End::Kill);
    }

    /// Starts from a copy in which a block of one file is damaged. That is refused, and the refusal
    /// says which file, or nothing is missing. `None` when the file chosen holds nothing.
    ///
    /// # Panics
    /// When a row is not what it must be, or the refusal names another reason.
    pub fn start_damaged(&mut self, damage: Damage, part: Part) -> Option<IsRefused> {
        let data = self.root.join("damaged");
        self.disks().copy(&data);
        let started = self.start_damaged_in(&data, damage, part);
        discard(&data);
        started
    }

    fn start_damaged_in(&mut self, data: &Path, damage: Damage, part: Part) -> Option<IsRefused> {
        let files = files_of_shards(data);
        let at = self.random.below(files.len().max(1) as u64);
        let path = files.get(usize::try_from(at).expect("a few"))?;
        let name = path.file_name().expect("a file").to_string_lossy();
        // Shown when the test fails.
        eprintln!("{damage:?} of {}", path.display());
        if !damage.inflict(path, part, &mut self.random) {
            return None;
        }
        Some(match self.start(data.to_owned()) {
            Ok(server) => {
                let tables = self.connect(&server).expect("somebody connects");
                assert!(self.ledger.clone().compare(&tables), "rows cannot be read");
                tables.vanish();
                server.stop();
                IsRefused(false)
            }
            Err(error) => {
                assert!(error.contains(&*name), "{damage:?} of {name} is not named: {error}");
                self.refused += 1;
                IsRefused(true)
            }
        })
    }

    /// Goes on in a new directory, restored from this one's disks.
    ///
    /// # Panics
    /// When that fails.
    pub fn restore(&mut self) {
        self.disks().write_out();
        let from = vec![self.data()];
        self.restored += 1;
        let options = RestoreOptions { from, into: vec![self.data()], ..RestoreOptions::default() };
        restore(&options, &mut |_, _| {}).expect("all of it is there");
    }

    fn connect(&self, server: &Server) -> Option<Tables> {
        Tables::open(server.advertised(), Duration::ZERO, Duration::from_secs(10))
    }

    fn use_until_the_end(&mut self, server: &Server, end: End, trouble: Trouble) {
        let disks = self.disks();
        let Some(mut tables) = self.connect(server) else {
            assert!(disks.is_off(), "nobody connects");
            return;
        };
        if self.ledger.compare(&tables) {
            // Disks that were made in this life as well.
            disks.cut_after(trouble.events);
            for disk in disks.all() {
                disk.borrow_mut().fail_sync_after(trouble.fail_sync);
            }
            for _ in 0..1 + self.random.below(PUSHES) {
                if disks.is_off() {
                    break;
                }
                if self.random.one_in(40) && tables.client.checkpoint(ServerId(0)).is_ok() {
                    self.checkpoints += 1;
                }
                if !self.ledger.push(&mut tables, &mut self.random) {
                    break;
                }
            }
            if end != End::Close {
                disks.cut();
            }
            self.ledger.settle(&mut tables, 0);
            for disk in disks.all() {
                disk.borrow_mut().fail_sync_after(None);
            }
        } else {
            assert!(disks.is_off(), "rows cannot be read");
        }
        tables.vanish();
    }
}
