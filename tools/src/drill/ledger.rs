//! Writers whose every push is counted in a row of its own.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use windlass_client::{
    Client, DataType, Limits, PendingPush, PullOptions, PushOptions, Table, TableSchema, UpdateRule,
};

use windlass_wire::Durability;

use crate::{
    remote::{RemoteError, connect},
    train::{Audit, message::Connection},
};

/// A writer pushes so many times a millisecond on average, at most.
const PUSHES_PER_MS_MAX: u64 = 2;
const LEDGER: &str = "windlass/drill/ledger";
const WEIGHTS: &str = "windlass/drill/weights";
/// Rows of the dense table that is pushed to beside the ledger.
const ROWS: u64 = 4096;
/// Rows of one push.
const ROWS_PUSHED: u16 = 256;
const IN_FLIGHT_MAX: usize = 4;
/// The key of a push is its writer's rank above its number.
const RANK_SHIFT: u32 = 40;
const AUDIT_CHUNK: u16 = 4096;

/// Writers on threads of their own; dropping them ends them.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), RemoteError>>>,
}

#[derive(Debug)]
struct Shared {
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Pushes acknowledged, by rank.
    acknowledged: Vec<AtomicU64>,
}

#[derive(Debug, Default)]
struct Gate {
    paused: bool,
    ended: bool,
    /// Writers with nothing in flight.
    idle: usize,
}

/// A writer could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Its push failed.
    #[error("a writer's push failed")]
    Push(#[source] RemoteError),
    /// The audit could not read the rows.
    #[error("the ledger cannot be read")]
    Audit(#[source] RemoteError),
    /// A writer's thread is gone.
    #[error("a writer ended by itself")]
    Gone,
}

impl Writers {
    /// Starts `count` writers.
    #[must_use]
    pub fn start(connection: &Connection, count: u32, durability: Durability) -> Self {
        let shared = Arc::new(Shared {
            gate: Mutex::new(Gate::default()),
            changed: Condvar::new(),
            acknowledged: (0..count).map(|_| AtomicU64::new(0)).collect(),
        });
        let threads = (0..count)
            .map(|rank| {
                let (shared, connection) = (Arc::clone(&shared), connection.clone());
                thread::spawn(move || {
                    let written = write(&shared, &connection, rank, durability);
                    // Who waits for all to be idle waits for this one no more.
                    shared.with_gate(|gate| gate.idle += 1);
                    written
                })
            })
            .collect();
        Self { shared, threads }
    }

    /// Has them wait, and returns when all their pushes are acknowledged.
    ///
    /// # Errors
    /// When one has ended.
    pub fn pause(&self) -> Result<(), LedgerError> {
        self.shared.with_gate(|gate| gate.paused = true);
        let gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.threads.len();
        drop(self.shared.changed.wait_while(gate, |gate| gate.idle < all));
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err(LedgerError::Gone);
        }
        Ok(())
    }

    /// Has them go on.
    pub fn go_on(&self) {
        self.shared.with_gate(|gate| gate.paused = false);
    }

    /// Pushes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Ends them. Returns the pushes of each, all acknowledged.
    ///
    /// # Errors
    /// When a push failed.
    pub fn end(mut self) -> Result<Vec<u64>, LedgerError> {
        self.shared.with_gate(|gate| gate.ended = true);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| LedgerError::Gone)?.map_err(LedgerError::Push)?;
        }
        let counts = self.shared.acknowledged.iter();
        Ok(counts.map(|count| count.load(Ordering::Relaxed)).collect())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.with_gate(|gate| gate.ended = true);
        for thread in self.threads.drain(..) {
            // Its error was of interest to whoever called `end`.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn with_gate(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits while paused; nothing is in flight. Returns whether to go on.
    fn pass(&self) -> bool {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.paused && !gate.ended {
            gate.idle += 1;
            self.changed.notify_all();
            let waited = self.changed.wait_while(gate, |gate| gate.paused && !gate.ended);
            gate = waited.unwrap_or_else(PoisonError::into_inner);
            gate.idle -= 1;
        }
        !gate.ended
    }

    fn must_stop(&self) -> bool {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.paused || gate.ended
    }
}

/// Pushes one row of the ledger and some of the weights at a time.
fn write(
    shared: &Shared,
    connection: &Connection,
    rank: u32,
    durability: Durability,
) -> Result<(), RemoteError> {
    let client = connect(connection)?;
    let (ledger, weights) = tables(&client, durability)?;
    let gradients = [0.001; ROWS_PUSHED as usize];
    let mut in_flight: VecDeque<(PendingPush<i64>, PendingPush<f32>)> = VecDeque::new();
    let mut number = 0;
    let options = PushOptions::default();
    let began = Instant::now();
    loop {
        // The ledger has a row for each push, and servers have to hold all of them.
        if Duration::from_millis(number / PUSHES_PER_MS_MAX) > began.elapsed() {
            thread::sleep(Duration::from_millis(1));
        }
        while in_flight.len() >= IN_FLIGHT_MAX || (shared.must_stop() && !in_flight.is_empty()) {
            if let Some((count, gradient)) = in_flight.pop_front() {
                count.wait()?;
                gradient.wait()?;
                shared.acknowledged[rank as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
        if in_flight.is_empty() && !shared.pass() {
            return Ok(());
        }
        let count = ledger.push(&[key(rank, number)], &[1], &options)?;
        let first = number.wrapping_mul(u64::from(ROWS_PUSHED)) % ROWS;
        let gradient = weights.push(first..first + u64::from(ROWS_PUSHED), &gradients, &options)?;
        in_flight.push_back((count, gradient));
        number += 1;
    }
}

fn tables(
    client: &Client,
    durability: Durability,
) -> Result<(Table<i64>, Table<f32>), RemoteError> {
    let schema = TableSchema { durability, ..TableSchema::sparse(DataType::I64, 1) };
    let ledger = client.create_table(LEDGER, &schema)?;
    // State is replicated like values: a rule that has some.
    let rule = UpdateRule::Adagrad {
        limits: Limits::NONE,
        learning_rate: 0.1,
        epsilon: 1e-10,
        initial_accumulator: 0.0,
        weight_decay: 0.0,
    };
    let schema = TableSchema { rule, durability, ..TableSchema::dense(DataType::F32, ROWS, 1) };
    Ok((ledger, client.create_table(WEIGHTS, &schema)?))
}

fn key(rank: u32, number: u64) -> u64 {
    (u64::from(rank) << RANK_SHIFT) | number
}

/// What the writers wrote, read back.
#[derive(Debug)]
pub struct Ledger;

impl Ledger {
    /// Each of the `pushes[rank]` acknowledged pushes of each writer must be there once.
    ///
    /// # Errors
    /// When rows cannot be pulled.
    pub fn audit(connection: &Connection, pushes: &[u64]) -> Result<Audit, LedgerError> {
        Self::read(connection, pushes).map_err(LedgerError::Audit)
    }

    fn read(connection: &Connection, pushes: &[u64]) -> Result<Audit, RemoteError> {
        let client = connect(connection)?;
        let ledger = client.open_table::<i64>(LEDGER)?;
        let mut audit = Audit { acknowledged: pushes.iter().sum(), ..Audit::default() };
        for (rank, &count) in (0_u32..).zip(pushes) {
            for first in (0..count).step_by(AUDIT_CHUNK.into()) {
                let keys: Vec<u64> = (first..count.min(first + u64::from(AUDIT_CHUNK)))
                    .map(|number| key(rank, number))
                    .collect();
                for found in ledger.pull(&keys, &PullOptions::default())?.wait()? {
                    audit.lost += u64::from(found < 1);
                    audit.doubled += u64::from(found > 1);
                }
            }
        }
        Ok(audit)
    }
}
