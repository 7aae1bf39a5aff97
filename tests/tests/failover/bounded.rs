//! Two workers of a table kept on disk: one that runs ahead as far as the bound lets it, and a slow one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Consistency, Durability, Element, Provider, PullOptions, PushOptions,
    Table, TableSchema, WorkerClock,
};
use windlass_wire::WorkerRank;

const TAU: u64 = 1;
const ROWS: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a pull is looked at that must not end.
const HELD_BACK: Duration = Duration::from_millis(500);

/// Rounds of the fast worker: two ahead of the slow one, which finishes one after each restart.
const ROUNDS: u64 = 5;

pub(crate) struct Bounded {
    slow: Client,
    table: Table<f64>,
    rounds: u64,
    /// Pulls of the fast worker that have ended, and rounds that are acknowledged.
    pulled: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
    fast: JoinHandle<()>,
}

fn connect(addresses: &str, rank: u32) -> (Client, Table<f64>) {
    let options = ClientOptions {
        providers: vec![Provider::Shm {}, Provider::Tcp {}],
        rank: Some(WorkerRank(rank)),
        timeout: PATIENCE,
        retry_for: PATIENCE,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(addresses, options).unwrap();
    let schema = TableSchema {
        consistency: Consistency::Bounded { tau: TAU },
        durability: Durability::Sync {},
        ..TableSchema::dense(f64::DTYPE, ROWS, 1)
    };
    let table = client.create_table::<f64>("bounded", &schema).unwrap();
    (client, table)
}

fn push(table: &Table<f64>) {
    let ones = vec![1.0; usize::try_from(ROWS).unwrap()];
    table.push(0..ROWS, &ones, &PushOptions::default()).unwrap().wait().unwrap();
}

fn sum(table: &Table<f64>) -> f64 {
    let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
    rows[0]
}

impl Bounded {
    pub(crate) fn start(addresses: &str) -> Self {
        let (slow, table) = connect(addresses, 0);
        let (pulled, finished) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (pulls, rounds, addresses) = (pulled.clone(), finished.clone(), addresses.to_owned());
        let fast = std::thread::spawn(move || {
            let (client, table) = connect(&addresses, 1);
            table.wait_for_workers(2).unwrap();
            for round in 0..ROUNDS {
                let least = round + round.saturating_sub(TAU);
                let seen = sum(&table);
                assert!(seen >= least as f64, "{seen} in round {round}");
                pulls.store(round + 1, Ordering::Release);
                push(&table);
                client.wait(client.advance_clock().unwrap()).unwrap();
                rounds.store(round + 1, Ordering::Release);
            }
            client.wait_all().unwrap();
        });
        table.wait_for_workers(2).unwrap();
        Self { slow, table, rounds: 0, pulled, finished, fast }
    }

    /// Waits until the fast worker may go no further.
    pub(crate) fn await_held_back(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.finished.load(Ordering::Acquire) < self.rounds + TAU + 1 {
            assert!(!self.fast.is_finished(), "the fast worker has given up");
            assert!(Instant::now() < deadline, "the fast worker waits for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The slow worker comes back: the fast one is still held back by it, since long before.
    pub(crate) fn come_back_and_be_waited_for(&self) {
        push(&self.table);
        assert_eq!(self.slow.clock(), WorkerClock(self.rounds));
        std::thread::sleep(HELD_BACK);
        assert_eq!(self.pulled.load(Ordering::Acquire), self.rounds + TAU + 1);
    }

    /// The slow worker, whose push is there already, finishes its round.
    pub(crate) fn finish_a_round(&mut self) {
        self.slow.wait(self.slow.advance_clock().unwrap()).unwrap();
        self.rounds += 1;
    }

    /// The slow worker lets the fast one end: every push is there once.
    pub(crate) fn end_and_check(mut self) {
        while self.rounds + TAU + 1 < ROUNDS {
            self.await_held_back();
            push(&self.table);
            self.finish_a_round();
        }
        self.fast.join().unwrap();
        assert_eq!(sum(&self.table), (ROUNDS + self.rounds) as f64);
    }
}
