//! Workers of a table whose staleness is bounded. Each counts its rounds in a column of its own, so
//! that every pull tells how stale it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Consistency, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_wire::WorkerRank;

const TAU: u64 = 2;
const ROWS: u64 = 256;
const WORKERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(120);

/// Training workers, each in a thread.
pub(crate) struct Workers {
    is_over: Arc<AtomicBool>,
    rounds: Arc<[AtomicU64; WORKERS]>,
    threads: Vec<JoinHandle<()>>,
}

fn connect(addresses: &str, rank: Option<u32>) -> Client {
    let options = ClientOptions {
        providers: vec![Provider::Shm {}, Provider::Tcp {}],
        rank: rank.map(WorkerRank),
        timeout: PATIENCE,
        retry_for: PATIENCE,
        ..ClientOptions::default()
    };
    Client::connect_with(addresses, options).unwrap()
}

fn schema() -> TableSchema {
    let consistency = Consistency::Bounded { tau: TAU };
    TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, ROWS, 2) }
}

impl Workers {
    pub(crate) fn start(addresses: &str) -> Self {
        let (is_over, rounds) = (Arc::<AtomicBool>::default(), Arc::<[AtomicU64; 2]>::default());
        connect(addresses, None).create_table::<f64>("bounded", &schema()).unwrap();
        let threads = (0..WORKERS).map(|rank| {
            let (addresses, end) = (addresses.to_owned(), Arc::clone(&is_over));
            let rounds = Arc::clone(&rounds);
            std::thread::spawn(move || run(&addresses, rank, &end, &rounds))
        });
        Self { threads: threads.collect(), is_over, rounds }
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.rounds[0].load(Ordering::Acquire)
    }

    /// Waits until the first worker has gone on for so many rounds.
    pub(crate) fn wait_for_more(&self, rounds: u64) {
        let wanted = self.rounds() + rounds;
        let deadline = Instant::now() + PATIENCE;
        while self.rounds() < wanted {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a worker has given up");
            assert!(Instant::now() < deadline, "workers wait for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A worker that does nothing holds the others back, until it is gone, as a killed process is.
    pub(crate) fn be_held_back(&self, addresses: &str, meanwhile: impl FnOnce()) {
        let idle = connect(addresses, Some(7));
        drop(idle.open_table::<f64>("bounded").unwrap());
        let last = idle.clock().0 + TAU + 1;
        meanwhile();
        assert!(self.rounds() <= last, "{} rounds, and {last} were allowed", self.rounds());
        idle.vanish();
        self.wait_for_more(20);
    }

    /// Ends the training: every push is there once.
    pub(crate) fn end_and_check(self, addresses: &str) {
        self.is_over.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let table = connect(addresses, None).open_table::<f64>("bounded").unwrap();
        let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let expected = [0, 1].map(|rank| self.rounds[rank].load(Ordering::Acquire) as f64);
        rows.chunks(WORKERS).for_each(|row| assert_eq!(row, expected));
    }
}

fn run(addresses: &str, rank: usize, is_over: &AtomicBool, rounds: &[AtomicU64; WORKERS]) {
    let client = connect(addresses, Some(u32::try_from(rank).unwrap()));
    let table = client.open_table::<f64>("bounded").unwrap();
    table.wait_for_workers(WORKERS as u64).unwrap();
    let keys: Vec<u64> = (0..ROWS).collect();
    let mut ones = vec![0.0; usize::try_from(ROWS).unwrap() * WORKERS];
    ones.chunks_mut(WORKERS).for_each(|row| row[rank] = 1.0);
    let mut round = 0_u64;
    loop {
        let is_last = is_over.load(Ordering::Acquire);
        let options = PullOptions::default();
        let pulled = match round.is_multiple_of(2) {
            true => table.pull(0..ROWS, &options).unwrap().wait().unwrap(),
            false => table.pull(&keys, &options).unwrap().wait().unwrap(),
        };
        // Whoever has ended its training is not waited for.
        if !is_over.load(Ordering::Acquire) {
            let least = round.saturating_sub(TAU) as f64;
            assert!(pulled.iter().all(|found| *found >= least), "{rank}, {round}: {pulled:?}");
        }
        if is_last {
            break;
        }
        drop(table.push(0..ROWS, &ones, &PushOptions::default()).unwrap());
        client.advance_clock().unwrap();
        round += 1;
        rounds[rank].store(round, Ordering::Release);
        std::thread::sleep(Duration::from_millis(rank as u64 * 5));
    }
    client.wait_all().unwrap();
}
