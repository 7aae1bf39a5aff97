//! Workers' clocks through real servers in this process: who waits for whom, and for how long.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use windlass_client::{
    Client, ClientOptions, Consistency, Element, Provider, PullOptions, PushOptions, RequestError,
    Table, TableError, TableSchema, WorkerClock, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];
const ROWS: u64 = 100;

fn server(provider: Provider, shards: u16, worker_timeout_ms: u32) -> Server {
    let config = ServerConfig {
        providers: vec![provider],
        shards,
        memory_len_max: 1 << 30,
        worker_timeout_ms,
        ..ServerConfig::default()
    };
    Server::start(config).unwrap()
}

fn connect(address: &str, rank: Option<u32>) -> Client {
    let options = ClientOptions {
        rank: rank.map(WorkerRank),
        timeout: Duration::from_secs(20),
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).unwrap()
}

fn impatient(address: &str, rank: u32) -> Client {
    let options = ClientOptions {
        rank: Some(WorkerRank(rank)),
        timeout: Duration::from_secs(1),
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).unwrap()
}

fn dense(consistency: Consistency) -> TableSchema {
    TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, ROWS, 2) }
}

fn sparse(consistency: Consistency) -> TableSchema {
    TableSchema { consistency, ..TableSchema::sparse(f64::DTYPE, 2) }
}

fn push_ones(table: &Table<f64>, keys: &[u64]) {
    let values = vec![1.0; keys.len() * 2];
    table.push(keys, &values, &PushOptions::default()).unwrap().wait().unwrap();
}

fn pull(table: &Table<f64>, keys: &[u64]) -> Result<Vec<f64>, RequestError> {
    table.pull(keys, &PullOptions::default())?.wait()
}

/// Runs a test at each kind of server, where nobody vanishes unless the machine stalls for long.
fn each(test: impl Fn(&str)) {
    each_that_waits(10_000, test);
}

/// As `each`, at servers that wait so long for a worker that has vanished.
fn each_that_waits(worker_timeout_ms: u32, test: impl Fn(&str)) {
    for provider in PROVIDERS {
        for shards in [1, 3] {
            let server = server(provider, shards, worker_timeout_ms);
            test(server.advertised());
        }
    }
}

/// Workers on threads, each adding one to every row a round. What a pull sees has a bound from
/// below, the staleness, and one from above, what anybody can have pushed.
fn run_workers(address: &str, name: &str, schema: &TableSchema, tau: u64, rounds: u64) {
    const WORKERS: u32 = 3;
    let furthest = Arc::new(AtomicU64::new(0));
    let begun = Arc::new(Barrier::new(WORKERS as usize));
    let threads: Vec<_> = (0..WORKERS)
        .map(|rank| {
            let (address, name, schema) = (address.to_owned(), name.to_owned(), schema.clone());
            let (furthest, begun) = (furthest.clone(), begun.clone());
            thread::spawn(move || {
                let client = connect(&address, Some(rank));
                let table = client.create_table::<f64>(&name, &schema).unwrap();
                table.wait_for_workers(u64::from(WORKERS)).unwrap();
                begun.wait();
                let all: Vec<u64> = (0..ROWS).collect();
                let some: Vec<u64> = (0..ROWS).step_by(7).collect();
                for round in 0..rounds {
                    let keys = if round % 2 == 0 { &all } else { &some };
                    let rows = pull(&table, keys).unwrap();
                    let least = round.saturating_sub(tau) as f64 * f64::from(WORKERS);
                    let own = round as f64;
                    let others = furthest.load(Ordering::SeqCst) as f64 + 1.0;
                    let most = own + f64::from(WORKERS - 1) * others.max(own + tau as f64 + 1.0);
                    for value in &rows {
                        assert!(*value >= least.max(own), "{value} in round {round}, tau {tau}");
                        assert!(*value <= most, "{value} in round {round}, tau {tau}");
                    }
                    let values = vec![1.0; all.len() * 2];
                    let pushed = table.push(&all, &values, &PushOptions::default()).unwrap();
                    furthest.fetch_max(round + 1, Ordering::SeqCst);
                    client.advance_clock().unwrap();
                    drop(pushed);
                }
                // Nobody leaves before the others are done: leaving would let them run free.
                let rows = pull(&table, &all).unwrap();
                begun.wait();
                assert_eq!(client.clock(), WorkerClock(rounds));
                if tau == 0 {
                    assert!(rows.iter().all(|value| *value == (rounds * 3) as f64));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn no_pull_is_staler_than_its_table_allows() {
    each(|address| {
        for (tau, consistency) in [
            (0, Consistency::Sequential {}),
            (1, Consistency::Bounded { tau: 1 }),
            (4, Consistency::Bounded { tau: 4 }),
        ] {
            run_workers(address, &format!("dense {tau}"), &dense(consistency), tau, 12);
            run_workers(address, &format!("sparse {tau}"), &sparse(consistency), tau, 12);
        }
    });
}

#[test]
fn a_pull_waits_for_the_slowest_worker_and_says_so_when_it_takes_too_long() {
    each(|address| {
        let slow = connect(address, Some(0));
        let fast = impatient(address, 1);
        let schema = dense(Consistency::Sequential {});
        let slows = slow.create_table::<f64>("t", &schema).unwrap();
        let fasts = fast.create_table::<f64>("t", &schema).unwrap();
        fasts.wait_for_workers(2).unwrap();
        pull(&fasts, &[3]).unwrap();
        fast.advance_clock().unwrap();
        let late = fasts.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap_err();
        assert!(
            matches!(late, RequestError::Behind { slowest, needed, .. }
                if slowest == WorkerClock(0) && needed == WorkerClock(1)),
            "{late}"
        );
        assert!(fast.counters().clock_wait_us >= 1_000_000);
        push_ones(&slows, &[3]);
        let ended = slow.advance_clock().unwrap();
        slow.wait(ended).unwrap();
        assert_eq!(pull(&fasts, &[3]).unwrap(), [1.0, 1.0]);
        assert_eq!(fasts.pull(3..4, &PullOptions::default()).unwrap().wait().unwrap(), [1.0, 1.0]);
        drop(slows);
    });
}

#[test]
fn rows_that_everybody_has_stamped_are_not_waited_for() {
    each(|address| {
        let (one, two) = (connect(address, Some(0)), connect(address, Some(1)));
        let schema = sparse(Consistency::Sequential {});
        let ones = one.create_table::<f64>("t", &schema).unwrap();
        let twos = two.create_table::<f64>("t", &schema).unwrap();
        two.wait(two.advance_clock().unwrap()).unwrap();
        let last = PushOptions { clock: Some(WorkerClock(1)), ..PushOptions::default() };
        ones.push(&[5, 9], &[1.0; 4], &last).unwrap().wait().unwrap();
        assert_eq!(pull(&twos, &[5, 9]).unwrap(), [1.0; 4]);
        let waits = two.counters().clock_waits;
        let pending = twos.pull(&[5, 6], &PullOptions::default()).unwrap();
        thread::sleep(Duration::from_millis(30));
        one.wait(one.advance_clock().unwrap()).unwrap();
        assert_eq!(pending.wait().unwrap(), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(waits, 0);
    });
}

#[test]
fn a_worker_that_leaves_or_vanishes_is_not_waited_for() {
    each_that_waits(200, |address| {
        let stays = connect(address, Some(0));
        let schema = dense(Consistency::Sequential {});
        let table = stays.create_table::<f64>("t", &schema).unwrap();
        for rank in [1, 2] {
            let other = connect(address, Some(rank));
            let others = other.create_table::<f64>("t", &schema).unwrap();
            table.wait_for_workers(2).unwrap();
            push_ones(&others, &[1]);
            stays.wait(stays.advance_clock().unwrap()).unwrap();
            let pending = table.pull(&[1], &PullOptions::default()).unwrap();
            drop(others);
            if rank == 1 {
                // Says that it leaves.
                drop(other);
            } else {
                other.vanish();
            }
            assert_eq!(pending.wait().unwrap(), [f64::from(rank); 2]);
            assert_eq!(
                table.pull(0..2, &PullOptions::default()).unwrap().wait().unwrap()[2],
                f64::from(rank)
            );
        }
    });
}

#[test]
fn a_late_worker_starts_where_the_others_are() {
    each(|address| {
        let first = connect(address, Some(0));
        let schema = dense(Consistency::Bounded { tau: 2 });
        let table = first.create_table::<f64>("t", &schema).unwrap();
        for _ in 0..7 {
            first.advance_clock().unwrap();
        }
        first.wait_all().unwrap();
        let late = connect(address, Some(5));
        let lates = late.create_table::<f64>("t", &schema).unwrap();
        assert_eq!(late.clock(), WorkerClock(7));
        pull(&lates, &[1]).unwrap();
        for _ in 0..2 {
            first.wait(first.advance_clock().unwrap()).unwrap();
            pull(&table, &[1]).unwrap();
        }
        let again = connect(address, Some(5)).open_table::<f64>("t").unwrap_err();
        assert!(
            matches!(again, TableError::Refused { ref text, .. } if text.contains("rank of its own")),
            "{again}"
        );
    });
}

#[test]
fn the_bound_can_be_changed_while_workers_wait() {
    each(|address| {
        let (one, two) = (connect(address, Some(0)), connect(address, Some(1)));
        let schema = dense(Consistency::Sequential {});
        let ones = one.create_table::<f64>("t", &schema).unwrap();
        let _twos = two.create_table::<f64>("t", &schema).unwrap();
        for _ in 0..3 {
            one.advance_clock().unwrap();
        }
        let by_key = ones.pull(&[1, 5], &PullOptions::default()).unwrap();
        let address = address.to_owned();
        let setter = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            let admin = connect(&address, None);
            admin.set_consistency("t", Consistency::Bounded { tau: 3 }).unwrap()
        });
        by_key.wait().unwrap();
        ones.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        assert!(one.counters().clock_waits > 0);
        let entry = setter.join().unwrap();
        assert_eq!(entry.schema.consistency, Consistency::Bounded { tau: 3 });
        // A worker that comes now asks for the schema it was written with.
        let three = connect(two.map().servers[0].address.as_str(), Some(2));
        three.create_table::<f64>("t", &schema).unwrap();
    });
}

#[test]
fn a_worker_that_was_free_waits_again_once_the_bound_is_narrower() {
    let pull_all = |rows: &Table<f64>| rows.pull(0..ROWS, &PullOptions::default())?.wait();
    each(|address| {
        let (fast, slow) = (impatient(address, 0), connect(address, Some(1)));
        let schema = dense(Consistency::Bounded { tau: 1 });
        let fast_rows = fast.create_table::<f64>("t", &schema).unwrap();
        let _slow_rows = slow.create_table::<f64>("t", &schema).unwrap();
        let free = fast.set_consistency("t", Consistency::Eventual {}).unwrap();
        assert_eq!(free.schema.consistency, Consistency::Bounded { tau: u64::MAX });
        for _ in 0..50 {
            fast.advance_clock().unwrap();
            pull_all(&fast_rows).unwrap();
        }
        fast.set_consistency("t", Consistency::Bounded { tau: 55 }).unwrap();
        let mut rounds = 50;
        while pull_all(&fast_rows).is_ok() {
            fast.advance_clock().unwrap();
            rounds += 1;
            assert!(rounds < 100, "nothing holds it back");
        }
        assert!((56..=59).contains(&rounds), "{rounds} rounds");
        fast.set_consistency("t", Consistency::Eventual {}).unwrap();
        pull_all(&fast_rows).unwrap();
    });
}

#[test]
fn clocks_need_a_rank_and_observers_wait_for_nobody() {
    let server = server(Provider::Shm {}, 1, 10_000);
    let worker = connect(server.advertised(), Some(0));
    let observer = connect(server.advertised(), None);
    let schema = dense(Consistency::Sequential {});
    let _table = worker.create_table::<f64>("t", &schema).unwrap();
    let observed = observer.open_table::<f64>("t").unwrap();
    assert!(matches!(observer.advance_clock(), Err(RequestError::NoRank)));
    pull(&observed, &[1]).unwrap();
    push_ones(&observed, &[1]);
    let eventual = observer.create_table::<f64>("free", &dense(Consistency::Eventual {})).unwrap();
    assert!(matches!(eventual.wait_for_workers(1), Err(RequestError::NoClock)));
    let refused = observer.set_consistency("free", Consistency::Sequential {}).unwrap_err();
    assert!(refused.to_string().contains("from its creation on"), "{refused}");
}
