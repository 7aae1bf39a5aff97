//! Ten thousand malformed control frames and ten thousand malformed mailbox contents, over shared
//! memory and TCP, against a live server: each is refused or costs its own session only, and a good
//! client beside them loses nothing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use windlass_client::{Client, ClientOptions, Provider, PullOptions, PushOptions, TableSchema};
use windlass_engine::{Server, ServerConfig};
use windlass_tests::hostile::{
    Hostile, OWN_LEN, Target, attack_control_port, attack_mailbox, attack_with_extremes,
};
use windlass_wire::{Consistency, DataType, Durability, NotFinitePolicy, Status};

const ROWS: u64 = 5000;
const WIDTH: u32 = 4;

#[test]
fn malformed_input_costs_its_own_session_only_over_shm() {
    run(Provider::Shm {}, 0x5eed_0001);
}

#[test]
fn malformed_input_costs_its_own_session_only_over_tcp() {
    run(Provider::Tcp {}, 0x5eed_0002);
}

fn run(provider: Provider, seed: u64) {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 256 << 20,
        ..ServerConfig::default()
    };
    let server = Server::start(config).unwrap();
    let address = server.advertised().to_owned();
    let good = connect(&address, provider);
    // The numbers 1 and 2 differ in two bits: no single flip turns the target into the bystander.
    good.create_table::<i64>("dense", &TableSchema::dense(DataType::I64, ROWS, WIDTH)).unwrap();
    let target = good
        .create_table::<f32>("target", &TableSchema::dense(DataType::F32, 1000, WIDTH))
        .unwrap()
        .entry();
    good.create_table::<i64>("sparse", &TableSchema::sparse(DataType::I64, 1)).unwrap();
    assert_eq!((target.id.0, target.schema.width), (2, WIDTH));
    drop(good);

    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let trainer = scope.spawn(|| train(&address, provider, &stop));
        let outcome = std::panic::catch_unwind(|| {
            let refused = attack_control_port(&address, seed, 5000);
            let target = Target {
                address: address.clone(),
                provider,
                table: target.id,
                width: WIDTH,
                rows: 1000,
            };
            let tally = attack_mailbox(&target, seed, 5000);
            eprintln!("{}: {refused} frames refused in words, {tally:?}", provider.name());
            assert!(tally.refused > 500 && tally.ended > 500, "{tally:?}");
        });
        stop.store(true, Ordering::Release);
        let rounds = trainer.join().unwrap();
        outcome.unwrap();
        rounds
    });
    assert!(rounds > 10, "the good client got to push {rounds} times only");

    // Nothing is left of any attacker.
    let good = connect(&address, provider);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let statistics = good.server_statistics(server.id()).unwrap();
        // This client has sent nothing, and so has no link.
        if statistics.contains("\"sessions\":0,") {
            assert!(!statistics.contains("\"sessions_failed\":0,"), "{statistics}");
            break;
        }
        assert!(Instant::now() < deadline, "sessions are left: {statistics}");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.stop();
}

/// Pulls that nobody takes fill the way to their client and nothing else: the shard goes on with
/// others, and with the rest of the pulls once they are taken.
#[test]
fn a_client_that_takes_nothing_keeps_nobody_waiting() {
    const PULLS: u64 = 40;
    let provider = Provider::Tcp {};
    let config = ServerConfig { providers: vec![provider], ..ServerConfig::default() };
    let server = Server::start(config).unwrap();
    let good = connect(server.advertised(), provider);
    let schema = TableSchema::dense(DataType::F32, 1000, 256);
    let table = good.create_table::<f32>("wide", &schema).unwrap();
    let target = Target {
        address: server.advertised().to_owned(),
        provider,
        table: table.entry().id,
        width: 256,
        rows: 1000,
    };
    let mut slow = Hostile::connect(&target, 1).unwrap();
    let numbers = slow.pull_without_taking(&target, PULLS);

    let (push, pull) = (PushOptions::default(), PullOptions::default());
    let keys: Vec<u64> = (0..500).map(|key| key * 2).collect();
    let ones = vec![1.0; 500 * 256];
    for round in 1..=10 {
        table.push(&keys, &ones, &push).unwrap().wait().unwrap();
        let rows = table.pull(&keys, &pull).unwrap().wait().unwrap();
        assert!(rows.iter().all(|value| *value == round as f32), "round {round}");
    }
    let statistics = good.server_statistics(server.id()).unwrap();
    assert!(!statistics.contains("\"crowded\":0,"), "nothing was held back: {statistics}");

    // A machine that is busy for long enough ends the connection of who takes nothing.
    let patience = Duration::from_secs(20);
    for number in numbers {
        match slow.outcome(number, patience) {
            Some(word) => assert_eq!(word.status, Status::Done, "pull {number}"),
            None => assert!(slow.is_over(), "pull {number} was forgotten"),
        }
    }
    server.stop();
}

fn connect(address: &str, provider: Provider) -> Client {
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    Client::connect_with(address, options).unwrap()
}

/// Pushes ones everywhere in every way until told to stop; every sum has to be exact.
fn train(address: &str, provider: Provider, stop: &AtomicBool) -> i64 {
    let client = connect(address, provider);
    let dense = client.open_table::<i64>("dense").unwrap();
    let sparse = client.open_table::<i64>("sparse").unwrap();
    let (push, pull) = (PushOptions::default(), PullOptions::default());
    let keys: Vec<u64> = (0..500).map(|key| key * key * 977).collect();
    let ones = vec![1_i64; 5000 * 4];
    let mut rounds = 0_i64;
    while !stop.load(Ordering::Acquire) {
        dense.push(0..ROWS, &ones, &push).unwrap().wait().unwrap();
        dense.push(&[0, 17, 4999], &ones[..12], &push).unwrap().wait().unwrap();
        sparse.push(&keys, &ones[..500], &push).unwrap().wait().unwrap();
        rounds += 1;
        let rows = dense.pull(15..18, &pull).unwrap().wait().unwrap();
        assert_eq!(rows[..4], [rounds; 4]);
        assert_eq!(rows[8..], [2 * rounds; 4]);
        std::thread::sleep(Duration::from_micros(500));
    }
    let rows = dense.pull(0..ROWS, &pull).unwrap().wait().unwrap();
    for (row, values) in rows.chunks(4).enumerate() {
        let expected = if [0, 17, 4999].contains(&row) { 2 * rounds } else { rounds };
        assert_eq!(values, [expected; 4], "row {row}");
    }
    let rows = sparse.pull(&keys, &pull).unwrap().wait().unwrap();
    assert!(rows.iter().all(|value| *value == rounds), "{rounds} rounds: {rows:?}");
    rounds
}

/// What was checked is what is applied, although the client writes its values all the time.
#[test]
fn values_by_reference_are_checked_as_they_are_applied() {
    const ROW_COUNT: u32 = 1 << 15;
    const PUSHES: u32 = 400;
    let provider = Provider::Shm {};
    let config = ServerConfig { providers: vec![provider], ..ServerConfig::default() };
    let server = Server::start(config).unwrap();
    let good = connect(server.advertised(), provider);
    let schema = TableSchema {
        not_finite: NotFinitePolicy::Reject {},
        ..TableSchema::dense(DataType::F32, u64::from(ROW_COUNT), WIDTH)
    };
    let table = good.create_table::<f32>("finite", &schema).unwrap();
    let target = Target {
        address: server.advertised().to_owned(),
        provider,
        table: table.entry().id,
        width: WIDTH,
        rows: u64::from(ROW_COUNT),
    };
    let mut hostile = Hostile::connect(&target, 1).unwrap();
    let pages = hostile.own_pages();
    // Of the last row, which is looked at last, both times.
    let last = OWN_LEN as u64 / 2 + u64::from((ROW_COUNT - 1) * WIDTH) * 4;
    // Pushes may come before the thread below has begun.
    pages.store_u64(last, u64::from(1.0_f32.to_bits()));
    let stop = AtomicBool::new(false);
    let statuses = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                for value in [f32::NAN, 1.0] {
                    pages.store_u64(last, u64::from(value.to_bits()));
                    let until = Instant::now() + Duration::from_micros(40);
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        let push = |_| {
            let number = hostile.push_own(&target, ROW_COUNT);
            hostile.outcome(number, Duration::from_secs(20)).unwrap().status
        };
        let statuses: Vec<Status> = (0..PUSHES).map(push).collect();
        stop.store(true, Ordering::Release);
        statuses
    });
    let applied = statuses.iter().filter(|status| **status == Status::Done).count();
    let refused = statuses.iter().filter(|status| **status == Status::NotFinite).count();
    assert_eq!(applied + refused, statuses.len(), "{statuses:?}");
    assert!(applied > 0 && refused > 0, "{applied} applied, {refused} refused: no race");
    let row = u64::from(ROW_COUNT) - 1;
    let values = table.pull(row..row + 1, &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(values[0], applied as f32, "the last row holds what passed");
}

/// Sequences, clocks, epochs, rows, widths and counts at the ends of their numbers, at servers of every
/// durability: they may be refused or done, and the server goes on.
#[test]
fn extreme_numbers_cost_their_own_session_only() {
    for (seed, replicas) in [(1, 1), (2, 2), (3, 3)] {
        let data = tempfile::tempdir().unwrap();
        let provider = Provider::Shm {};
        let config = ServerConfig {
            providers: vec![provider],
            memory_len_max: 256 << 20,
            partitions: 4,
            replicas,
            expected_servers: u32::from(replicas),
            data_dir: Some(data.path().to_owned()),
            ..ServerConfig::default()
        };
        let servers = Server::start_together(&config).unwrap();
        let address = servers[0].advertised().to_owned();
        let good = connect(&address, provider);
        let durabilities =
            [Durability::Memory {}, Durability::Interval { milliseconds: 5 }, Durability::Sync {}];
        let mut targets = Vec::new();
        for (at, durability) in durabilities.into_iter().enumerate() {
            let dense = TableSchema::dense(DataType::F32, 1000, WIDTH);
            let sparse = TableSchema::sparse(DataType::F32, WIDTH);
            let consistency = Consistency::Bounded { tau: 3 };
            let clocked = TableSchema { consistency, ..sparse.clone() };
            for (kind, schema) in [("dense", dense), ("sparse", sparse), ("clocked", clocked)] {
                let schema = TableSchema { durability, ..schema };
                let table = good.create_table::<f32>(&format!("{kind}{at}"), &schema).unwrap();
                targets.push(table.entry().id);
            }
        }
        let schema = TableSchema::sparse(DataType::I64, 1);
        let schema = TableSchema { durability: Durability::Sync {}, ..schema };
        let table = good.create_table::<i64>("bystander", &schema).unwrap();
        for round in 1..=20 {
            attack_with_extremes(&address, provider, &targets, seed * 100 + round, 100);
            let options = PushOptions::default();
            table.push(&[7, u64::MAX], &[1, 1], &options).unwrap().wait().unwrap();
            let rows = table.pull(&[7, u64::MAX], &PullOptions::default()).unwrap();
            assert_eq!(rows.wait().unwrap(), [i64::try_from(round).unwrap(); 2]);
        }
        assert!(!servers.iter().any(Server::has_panicked), "{replicas} replicas");
        drop((table, good));
        servers.into_iter().rev().for_each(Server::stop);
    }
}
