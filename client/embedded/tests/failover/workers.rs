//! Workers of a table whose staleness is bounded, while servers die and join: each worker counts its
//! rounds in a column of its own, so that every pull tells how stale it is.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{Client, Consistency, Element, PullFrom, PullOptions, TableSchema};
use windlass_engine::shard::ShardCommand;
use windlass_wire::WorkerRank;

use crate::{Cluster, FROM, PROVIDERS, connect, push};

const TAU: u64 = 1;
const ROWS: u64 = 64;
const WORKERS: usize = 3;

pub(crate) fn schema() -> TableSchema {
    let consistency = Consistency::Bounded { tau: TAU };
    let width = u32::try_from(WORKERS).unwrap();
    TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, ROWS, width) }
}

/// What one worker has done, as the test sees it.
#[derive(Default)]
struct Worker {
    rounds: AtomicU64,
    /// A worker that joins late, and stops, does not bind pulls outside of that.
    binds: AtomicBool,
}

/// One round: a pull that sees all but the last rounds of everybody, a push to its own column.
fn round(client: &Client, rank: usize, workers: &[Worker], from: PullFrom) {
    let table = client.open_table::<f64>("by worker").unwrap();
    let round = workers[rank].rounds.load(Ordering::SeqCst);
    let bind: Vec<bool> = workers.iter().map(|one| one.binds.load(Ordering::SeqCst)).collect();
    let options = PullOptions { from, ..PullOptions::default() };
    let pulled = if round.is_multiple_of(2) {
        table.pull(0..ROWS, &options).unwrap().wait().unwrap()
    } else {
        let keys: Vec<u64> = (0..ROWS).collect();
        table.pull(&keys, &options).unwrap().wait().unwrap()
    };
    // One that leaves meanwhile binds nobody.
    let binds = |other: usize| bind[other] && workers[other].binds.load(Ordering::SeqCst);
    for row in pulled.chunks(WORKERS) {
        for (other, found) in row.iter().enumerate().filter(|(other, _)| binds(*other)) {
            let least = round.saturating_sub(TAU) as f64;
            let its = workers[other].rounds.load(Ordering::SeqCst);
            assert!(
                *found >= least,
                "worker {rank}, round {round}, {from:?}: {found} of worker {other}, who is at {its}"
            );
        }
    }
    let mut ones = vec![0.0; usize::try_from(ROWS).unwrap() * WORKERS];
    ones.chunks_mut(WORKERS).for_each(|row| row[rank] = 1.0);
    drop(table.push(0..ROWS, &ones, &push()).unwrap());
    client.advance_clock().unwrap();
    workers[rank].rounds.fetch_add(1, Ordering::SeqCst);
}

/// Every round's push is there once.
fn assert_each_once(cluster: &Cluster, workers: &[Worker]) {
    let client = connect(&cluster.addresses(), None);
    let table = client.open_table::<f64>("by worker").unwrap();
    let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    let rounds: Vec<f64> =
        workers.iter().map(|one| one.rounds.load(Ordering::SeqCst) as f64).collect();
    rows.chunks(WORKERS).for_each(|row| assert_eq!(row, rounds));
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Two workers train throughout, the second slow and often far from the library; servers die and
/// others take their place meanwhile, until none is left of those that the workers first met.
#[test]
fn no_pull_at_a_server_that_joined_is_staler_than_bound() {
    for provider in PROVIDERS {
        let mut cluster = Cluster::start(provider);
        let (addresses, is_over) = (cluster.addresses(), AtomicBool::new(false));
        let workers: [Worker; WORKERS] = Default::default();
        workers[..2].iter().for_each(|one| one.binds.store(true, Ordering::SeqCst));
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let (addresses, is_over, workers) = (&addresses, &is_over, &workers);
                scope.spawn(move || {
                    let client = connect(addresses, Some(u32::try_from(rank).unwrap()));
                    let table = client.open_table::<f64>("by worker").unwrap();
                    table.wait_for_workers(2).unwrap();
                    while !is_over.load(Ordering::SeqCst) {
                        for from in FROM {
                            round(&client, rank, workers, from);
                        }
                        if rank == 1 {
                            std::thread::sleep(Duration::from_millis(40));
                        }
                    }
                    client.wait_all().unwrap();
                    workers[rank].binds.store(false, Ordering::SeqCst);
                });
            }
            let go_on = |rounds| {
                let before = workers[0].rounds.load(Ordering::SeqCst);
                wait_until("workers go on", || {
                    workers[0].rounds.load(Ordering::SeqCst) >= before + rounds
                });
            };
            for (newcomer, victim) in (4..).zip(1..=3) {
                go_on(4);
                cluster.learn(newcomer);
                cluster.promote(newcomer);
                go_on(4);
                cluster.kill(victim, Duration::from_millis(20));
            }
            go_on(6);
            is_over.store(true, Ordering::SeqCst);
        });
        assert_each_once(&cluster, &workers);
        cluster.assert_equal_replicas();
    }
}

/// A third worker joins while a server has copied everything and is not the tail yet. It is waited
/// for there, and by the heads that take over, also if the coordinator gives it up while it is
/// connected; once it is gone, nobody waits for it.
#[test]
fn who_comes_and_goes_while_a_server_joins_is_known_there() {
    for (provider, retired) in [(PROVIDERS[0], false), (PROVIDERS[1], true)] {
        let mut cluster = Cluster::start(provider);
        let (addresses, is_over) = (cluster.addresses(), AtomicBool::new(false));
        let workers: [Worker; WORKERS] = Default::default();
        workers[..2].iter().for_each(|one| one.binds.store(true, Ordering::SeqCst));
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let (addresses, is_over, workers) = (&addresses, &is_over, &workers);
                scope.spawn(move || {
                    let client = connect(addresses, Some(u32::try_from(rank).unwrap()));
                    let table = client.open_table::<f64>("by worker").unwrap();
                    table.wait_for_workers(2).unwrap();
                    while !is_over.load(Ordering::SeqCst) {
                        round(&client, rank, workers, PullFrom::Tail);
                    }
                    client.wait_all().unwrap();
                    workers[rank].binds.store(false, Ordering::SeqCst);
                });
            }
            let rounds = || workers[0].rounds.load(Ordering::SeqCst);
            wait_until("workers begin", || rounds() > 3);
            cluster.learn(4);
            let late = connect(&addresses, Some(2));
            drop(late.open_table::<f64>("by worker").unwrap());
            let last = late.clock().0 + TAU + 1;
            cluster.promote(4);
            cluster.kill(1, Duration::ZERO);
            std::thread::sleep(Duration::from_millis(200));
            cluster.kill(2, Duration::ZERO);
            std::thread::sleep(Duration::from_millis(200));
            // Held back by one that does nothing, wherever they pull.
            assert!(rounds() <= last, "{} rounds, and {last} were allowed", rounds());
            if retired {
                for (node, _) in &cluster.servers {
                    for shard in &node.handles {
                        let (rank, unheard) = (WorkerRank(2), false);
                        shard.send(ShardCommand::RetireWorker { rank, unheard });
                    }
                }
                // A coordinator that was cut off says so of a worker that is connected: it is waited for.
                std::thread::sleep(Duration::from_millis(200));
                assert!(rounds() <= last, "{} rounds, and {last} were allowed", rounds());
            }
            drop(late);
            wait_until("nobody waits for a worker that left", || rounds() > last + 10);
            is_over.store(true, Ordering::SeqCst);
        });
        assert_each_once(&cluster, &workers);
        cluster.assert_equal_replicas();
    }
}
