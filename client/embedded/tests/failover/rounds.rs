//! A table in rounds while servers die and join: what was in the sums of a head that died comes again
//! from the workers, and counts once.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use windlass_client::{Aggregation, Consistency, Element, PullOptions, TableSchema, WorkerRank};
use windlass_engine::shard::ShardCommand;
use windlass_wire::Epoch;

use crate::{Cluster, FROM, PROVIDERS, cluster::SHARDS, connect, from, push};

const ROWS: u64 = 64;
const WORKERS: u32 = 2;

pub(crate) fn schema() -> TableSchema {
    TableSchema {
        aggregation: Aggregation::Rounds { quorum: 0, fold_late: false },
        consistency: Consistency::Sequential {},
        ..TableSchema::dense(f64::DTYPE, ROWS, 2)
    }
}

#[test]
fn rounds_count_once_when_servers_are_killed_and_join() {
    for provider in PROVIDERS {
        let mut cluster = Cluster::start(provider);
        let (addresses, is_over) = (cluster.addresses(), AtomicBool::new(false));
        let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            for rank in 0..WORKERS {
                let (addresses, is_over, rounds) = (&addresses, &is_over, &rounds);
                scope.spawn(move || {
                    let client = connect(addresses, Some(rank));
                    let table = client.open_table::<f64>("in rounds").unwrap();
                    table.wait_for_workers(u64::from(WORKERS)).unwrap();
                    let keys: Vec<u64> = (0..ROWS).collect();
                    let values = vec![f64::from(rank) + 1.0; keys.len() * 2];
                    let mut round = 0_u64;
                    while !is_over.load(Ordering::SeqCst) {
                        let options = from(FROM[usize::try_from(round % 3).unwrap()]);
                        let pulled: Vec<f64> = if round.is_multiple_of(2) {
                            table.pull(0..ROWS, &options).unwrap().wait().unwrap()
                        } else {
                            table.pull(&keys, &options).unwrap().wait().unwrap()
                        };
                        // Rounds are the same for all, as long as all go on.
                        let least = 3.0 * round as f64;
                        let is_whole = |value: &f64| *value >= least && value % 3.0 == 0.0;
                        assert!(
                            is_over.load(Ordering::SeqCst) || pulled.iter().all(is_whole),
                            "round {round}: {pulled:?}"
                        );
                        drop(table.push(0..ROWS, &values, &push()).unwrap());
                        client.advance_clock().unwrap();
                        round += 1;
                        rounds[rank as usize].store(round, Ordering::SeqCst);
                    }
                    // Whoever ends first closes its last rounds for the other by leaving.
                    client.wait_all().unwrap();
                });
            }
            let go_on = |more| {
                let before = rounds[0].load(Ordering::SeqCst);
                let deadline = Instant::now() + Duration::from_secs(60);
                while rounds[0].load(Ordering::SeqCst) < before + more {
                    assert!(Instant::now() < deadline, "rounds go on");
                    std::thread::sleep(Duration::from_millis(2));
                }
            };
            go_on(20);
            cluster.kill(2, Duration::from_millis(20));
            go_on(20);
            cluster.learn(4);
            cluster.promote(4);
            go_on(20);
            cluster.kill(1, Duration::ZERO);
            go_on(20);
            cluster.kill(3, Duration::ZERO);
            go_on(20);
            is_over.store(true, Ordering::SeqCst);
        });
        let client = connect(&cluster.addresses(), None);
        let table = client.open_table::<f64>("in rounds").unwrap();
        let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let [first, second] = rounds.map(|one| one.load(Ordering::SeqCst) as f64);
        let expected = first + 2.0 * second;
        assert!(rows.iter().all(|value| *value == expected), "{expected}: {rows:?}");
        cluster.assert_equal_replicas();
    }
}

/// Maps that change nothing reach workers that wait for each other in a round. If a worker waited for
/// answers that only come once the others go on, it would cut its links after a while.
#[test]
fn a_new_map_stops_no_round() {
    const ROUNDS: u32 = 5;
    for provider in PROVIDERS {
        let mut cluster = Cluster::start(provider);
        let (addresses, together) = (cluster.addresses(), Barrier::new(3));
        std::thread::scope(|scope| {
            for rank in 0..WORKERS {
                let (addresses, together) = (&addresses, &together);
                scope.spawn(move || {
                    let client = connect(addresses, Some(rank));
                    let table = client.open_table::<f64>("in rounds").unwrap();
                    table.wait_for_workers(u64::from(WORKERS)).unwrap();
                    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
                    for round in 0..ROUNDS {
                        drop(table.push(0..ROWS, &ones, &push()).unwrap());
                        if rank == round % 2 {
                            client.advance_clock().unwrap();
                        }
                        together.wait();
                        together.wait();
                        if rank != round % 2 {
                            client.advance_clock().unwrap();
                        }
                        client.wait_all().unwrap();
                    }
                });
            }
            for _ in 0..ROUNDS {
                together.wait();
                cluster.map.epoch = Epoch(cluster.map.epoch.0 + 1);
                cluster.tell();
                together.wait();
            }
        });
        for (_, port) in &cluster.servers {
            assert_eq!(port.mailboxes(), u64::from(WORKERS) * u64::from(SHARDS));
        }
        let client = connect(&cluster.addresses(), None);
        let table = client.open_table::<f64>("in rounds").unwrap();
        let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let expected = f64::from(ROUNDS * WORKERS);
        assert!(rows.iter().all(|value| *value == expected), "{rows:?}");
        cluster.assert_equal_replicas();
    }
}

/// A worker dies in the middle of a round: once it is given up, the round closes without it.
#[test]
fn a_worker_that_dies_in_a_round_keeps_it_open_no_longer_than_it_is_waited_for() {
    let cluster = Cluster::start(PROVIDERS[0]);
    let [stays, dies] = [0, 1].map(|rank| connect(&cluster.addresses(), Some(rank)));
    let table = stays.open_table::<f64>("in rounds").unwrap();
    let its = dies.open_table::<f64>("in rounds").unwrap();
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
    drop(its.push(0..ROWS, &ones, &push()).unwrap());
    let pushed = table.push(0..ROWS, &ones, &push()).unwrap();
    stays.advance_clock().unwrap();
    drop(its);
    dies.vanish();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A shard that has not seen the end of its connection yet goes on waiting for it.
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                for shard in cluster.servers.iter().flat_map(|(node, _)| &node.handles) {
                    shard.send(ShardCommand::RetireWorker { rank: WorkerRank(1), unheard: false });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let waited = pushed.wait();
        is_over.store(true, Ordering::SeqCst);
        waited.unwrap();
    });
    let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    // What it had pushed was not acknowledged: each shard may have taken it, or not.
    assert!(rows.iter().all(|value| [1.0, 2.0].contains(value)), "{rows:?}");
    cluster.assert_equal_replicas();
}
