//! A client that pushes ones to rows of its choice, waits for each push, and knows what must be there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_tests::crash::random::Random;
use windlass_wire::Durability;

const ROWS: u64 = 512;
const ROWS_PER_PUSH: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Pusher {
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Pusher {
    pub(crate) fn start(addresses: &str) -> Self {
        Self::start_as("", addresses)
    }

    /// One with tables of its own, whose names begin with `name`.
    pub(crate) fn start_as(name: &str, addresses: &str) -> Self {
        Self::start_with(name, addresses, Durability::Memory {})
    }

    /// One with tables of this durability.
    pub(crate) fn start_with(name: &str, addresses: &str, durability: Durability) -> Self {
        let (is_over, acknowledged) = (Arc::default(), Arc::default());
        let (name, addresses) = (name.to_owned(), addresses.to_owned());
        let (end, count) = (Arc::clone(&is_over), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || run(&name, &addresses, durability, &end, &count));
        Self { is_over, acknowledged, thread }
    }

    /// Waits until so many more pushes are acknowledged.
    pub(crate) fn wait_for_more(&self, pushes: u64) {
        let wanted = self.acknowledged.load(Ordering::Acquire) + pushes;
        let deadline = Instant::now() + PATIENCE;
        while self.acknowledged.load(Ordering::Acquire) < wanted {
            assert!(!self.thread.is_finished(), "the client has given up");
            assert!(Instant::now() < deadline, "no push is acknowledged any more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the pushing and compares all rows with what was pushed; how many pushes there were.
    pub(crate) fn end_and_check(self) -> u64 {
        self.is_over.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.acknowledged.load(Ordering::Acquire)
    }
}

fn run(
    name: &str,
    addresses: &str,
    durability: Durability,
    is_over: &AtomicBool,
    acknowledged: &AtomicU64,
) {
    let options = ClientOptions {
        providers: vec![Provider::Shm {}, Provider::Tcp {}],
        timeout: PATIENCE,
        retry_for: PATIENCE,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(addresses, options).unwrap();
    let create = |kind: &str, schema| {
        let schema = TableSchema { durability, ..schema };
        client.create_table::<f64>(&format!("{name}{kind}"), &schema)
    };
    let dense = create("dense", TableSchema::dense(f64::DTYPE, ROWS, 1));
    let sparse = create("sparse", TableSchema::sparse(f64::DTYPE, 1));
    let tables = [dense.unwrap(), sparse.unwrap()];
    let mut expected = vec![[0.0; 2]; usize::try_from(ROWS).unwrap()];
    let mut random = Random::new(u64::from(std::process::id()));
    let ones = [1.0; ROWS_PER_PUSH];
    while !is_over.load(Ordering::Acquire) {
        let which = usize::from(random.one_in(2));
        let mut keys: Vec<u64> = Vec::new();
        while keys.len() < ROWS_PER_PUSH {
            let key = random.below(ROWS);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        tables[which].push(&keys, &ones, &PushOptions::default()).unwrap().wait().unwrap();
        for key in keys {
            expected[usize::try_from(key).unwrap()][which] += 1.0;
        }
        acknowledged.fetch_add(1, Ordering::Release);
    }
    let keys: Vec<u64> = (0..ROWS).collect();
    for (which, table) in tables.iter().enumerate() {
        let rows: Vec<f64> = table.pull(&keys, &PullOptions::default()).unwrap().wait().unwrap();
        for (key, found) in rows.iter().enumerate() {
            let sent = expected[key][which];
            let verdict = if *found < sent { "lost" } else { "applied twice" };
            assert!(
                found.to_bits() == sent.to_bits(),
                "row {key} of table {which}: {sent} were acknowledged and {found} are there: {verdict}"
            );
        }
    }
}
