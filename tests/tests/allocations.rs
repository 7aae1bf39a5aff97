//! No allocation per operation, on the client's thread or on any of the server's: a counting
//! allocator sees pushes, pushes by reference, and pulls go by over shared memory and TCP.
//!
//! Nor is there a lock: a client belongs to one thread (`Rc`, so the compiler proves it), a shard
//! owns everything it touches in a turn, and what they share is memory they access by atomics. The
//! only locks a server has are those of its control threads, which no request passes; a command's
//! channel is looked at once a turn, without a lock.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "a counting allocator, in a test"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

/// Counts the allocations of every thread while it is switched on.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATION_COUNT: AtomicU64 = AtomicU64::new(0);

fn count() {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATION_COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator; the counts are atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WARM_UP: u32 = 300;
const COUNTED: u32 = 1000;
/// Of so many attempts the one with the fewest counts: what a round allocates it does in all of them.
const ATTEMPTS: u32 = 8;
/// A client that reads in place asks its server so often whether it lives, which allocates at most so often
/// on both sides.
const ASKED_EVERY: Duration = Duration::from_millis(250);
const ALLOCATED_BY_ASKING: u64 = 100;
const _: () = assert!(ALLOCATED_BY_ASKING < COUNTED as u64 / 8, "one in 8 rounds would not show");

/// Allocations of `COUNTED` rounds in the steady state.
fn allocations(mut round: impl FnMut()) -> u64 {
    for _ in 0..WARM_UP {
        round();
    }
    let mut fewest = u64::MAX;
    for _ in 0..ATTEMPTS {
        fewest = fewest.min(counted(&mut round));
        if fewest == 0 {
            break;
        }
    }
    fewest
}

/// Allocations of `COUNTED` rounds, beside those of asking where they take so long that it cannot be missed.
fn counted(mut round: impl FnMut()) -> u64 {
    let began = Instant::now();
    ALLOCATION_COUNT.store(0, Ordering::SeqCst);
    IS_COUNTING.store(true, Ordering::SeqCst);
    for _ in 0..COUNTED {
        round();
    }
    IS_COUNTING.store(false, Ordering::SeqCst);
    let whole = began.elapsed().as_millis() / ASKED_EVERY.as_millis();
    let asked = if whole == 0 { 0 } else { u64::try_from(whole + 1).unwrap() };
    ALLOCATION_COUNT.load(Ordering::SeqCst).saturating_sub(ALLOCATED_BY_ASKING * asked)
}

/// One test, because the count is of the whole process.
#[test]
fn operations_allocate_nothing_in_the_steady_state() {
    let mut found = Vec::new();
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        for shards in [1, 2] {
            found.extend(operations(provider, shards));
        }
    }
    let allocating: Vec<&(String, u64)> = found.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(found.len(), 4 * 9);
    assert!(allocating.is_empty(), "allocations of {COUNTED} rounds: {allocating:#?}");
}

fn operations(provider: Provider, shards: u16) -> Vec<(String, u64)> {
    let config = ServerConfig {
        providers: vec![provider],
        shards,
        memory_len_max: 256 << 20,
        ..ServerConfig::default()
    };
    let server = Server::start(config).unwrap();
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    let client = Client::connect_with(server.advertised(), options).unwrap();
    let schema = TableSchema::dense(f32::DTYPE, 100_000, 1);
    let narrow = client.create_table::<f32>("narrow", &schema).unwrap();
    let adagrad = TableSchema {
        rule: "adagrad:lr=0.1,eps=1e-10".parse().unwrap(),
        ..TableSchema::sparse(f32::DTYPE, 128)
    };
    let wide = client.create_table::<f32>("wide", &adagrad).unwrap();
    let (push, pull) = (PushOptions::default(), PullOptions::default());

    let mut found = Vec::new();
    let mut note = |name: &str, count: u64| {
        found.push((format!("{name} over {} with {shards} shards", provider.name()), count));
    };
    note(
        "push of one row",
        allocations(|| narrow.push(&[77], &[1.0], &push).unwrap().wait().unwrap()),
    );
    let keys: Vec<u64> = (0..500).map(|key| key * 977).collect();
    let near: Vec<u64> = (0..500).map(|key| key * 2).collect();
    let values = vec![0.5_f32; 500 * 128];
    note(
        "push of 500 small rows",
        allocations(|| narrow.push(&near, &values[..500], &push).unwrap().wait().unwrap()),
    );
    note(
        "push of 500 rows of 512 bytes",
        allocations(|| wide.push(&keys, &values, &push).unwrap().wait().unwrap()),
    );
    note(
        "pipelined pushes to a table that sums",
        allocations(|| {
            for _ in 0..8 {
                let _pushed = wide.push(&keys[..10], &values[..1280], &push).unwrap();
            }
            client.wait_all().unwrap();
        }),
    );
    let mut rows = Some(client.allocate::<f32>(100_000).unwrap());
    note(
        "push by reference",
        allocations(|| {
            let pushed = narrow.push_rows(0..100_000, rows.take().unwrap(), &push).unwrap();
            let (back, outcome) = pushed.wait_rows();
            outcome.unwrap();
            rows = back;
        }),
    );
    let mut into = vec![0.0_f32; 100_000];
    note(
        "pull of a small range",
        allocations(|| narrow.pull_into(100..200, &mut into[..100], &pull).unwrap()),
    );
    note(
        "pull of a large range",
        allocations(|| narrow.pull_into(0..100_000, &mut into, &pull).unwrap()),
    );
    note(
        "pull of 10 rows by key",
        allocations(|| wide.pull_into(&keys[..10], &mut into[..1280], &pull).unwrap()),
    );
    note(
        "pull of 500 rows by key",
        allocations(|| wide.pull_into(&keys, &mut into[..64_000], &pull).unwrap()),
    );
    drop(rows);
    drop(client);
    server.stop();
    found
}
