//! Tables in rounds through real servers in this process: sums are applied once a round, whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Element, Provider, PullOptions, PushOptions,
    RequestError, ServerId, Status, TableSchema, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};

const ROWS: u64 = 96;

const SHARDS: u16 = 2;

/// Messages of a push of all rows: each partition that has rows has two.
const PUSH_MESSAGES: u64 = ROWS / 2;

/// Messages of such a push, and of the end of its round.
const ROUND_MESSAGES: u64 = PUSH_MESSAGES + SHARDS as u64;

fn server(provider: Provider) -> Server {
    let config = ServerConfig {
        providers: vec![provider],
        shards: SHARDS,
        memory_len_max: 1 << 30,
        worker_timeout_ms: 300,
        ..ServerConfig::default()
    };
    Server::start(config).unwrap()
}

fn connect(address: &str, rank: Option<u32>) -> Client {
    let options = ClientOptions {
        rank: rank.map(WorkerRank),
        timeout: Duration::from_secs(30),
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).unwrap()
}

fn schema(quorum: u32, fold_late: bool) -> TableSchema {
    TableSchema {
        aggregation: Aggregation::Rounds { quorum, fold_late },
        consistency: Consistency::Sequential {},
        ..TableSchema::dense(f64::DTYPE, ROWS, 2)
    }
}

/// Messages that wait for a round.
fn waiting_count(client: &Client) -> u64 {
    let text = client.server_statistics(ServerId(0)).unwrap();
    let (_, after) = text.split_once("\"messages_waiting\":").unwrap();
    after.split(',').next().unwrap().parse().unwrap()
}

/// Goes on until so many messages wait for a round: what this client has sent is there then. Where a transport
/// goes on only while it is polled, a test that then waits for another client would wait for ever.
fn until_waiting(client: &Client, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while waiting_count(client) < count {
        assert!(Instant::now() < deadline, "{} messages wait", waiting_count(client));
        (0..64).for_each(|_| client.poll());
    }
}

/// Waits until no message waits for a round.
fn until_none_waits(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while waiting_count(client) > 0 {
        assert!(Instant::now() < deadline, "{} messages wait for nobody", waiting_count(client));
        thread::sleep(Duration::from_millis(5));
    }
}

/// Each of three workers adds its rank and one to every row, in two pushes a round. Whatever is
/// pulled is a whole number of rounds, and never fewer than the puller's own.
#[test]
fn every_pull_sees_whole_rounds_and_every_round_counts_once() {
    const WORKERS: u32 = 3;
    const ROUNDS: u64 = 40;
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let server = server(provider);
        let address = server.address().to_string();
        let keyed = TableSchema { kind: windlass_client::TableKind::Sparse {}, ..schema(0, false) };
        let owner = connect(&address, None);
        owner.create_table::<f64>("dense", &schema(0, false)).unwrap();
        owner.create_table::<f64>("sparse", &keyed).unwrap();
        let together = Barrier::new(WORKERS as usize);
        thread::scope(|scope| {
            for rank in 0..WORKERS {
                let (address, together) = (&address, &together);
                scope.spawn(move || {
                    let client = connect(address, Some(rank));
                    let names = ["dense", "sparse"];
                    let tables = names.map(|name| client.open_table::<f64>(name).unwrap());
                    for table in &tables {
                        table.wait_for_workers(u64::from(WORKERS)).unwrap();
                    }
                    together.wait();
                    let keys: Vec<u64> = (0..ROWS).collect();
                    for round in 0..ROUNDS {
                        for table in &tables {
                            let pulled = table.pull(&keys, &PullOptions::default()).unwrap();
                            let pulled = pulled.wait().unwrap();
                            let least = 6.0 * round as f64;
                            let is_whole = |value: &f64| *value >= least && value % 6.0 == 0.0;
                            assert!(pulled.iter().all(is_whole), "round {round}: {pulled:?}");
                            for half in keys.chunks(keys.len() / 2) {
                                let values = vec![f64::from(rank) + 1.0; half.len() * 2];
                                drop(table.push(half, &values, &PushOptions::default()).unwrap());
                            }
                        }
                        client.advance_clock().unwrap();
                    }
                    client.wait_all().unwrap();
                });
            }
        });
        for name in ["dense", "sparse"] {
            let keys: Vec<u64> = (0..ROWS).collect();
            let table = owner.open_table::<f64>(name).unwrap();
            let rows = table.pull(&keys, &PullOptions::default()).unwrap().wait().unwrap();
            assert!(rows.iter().all(|value| *value == 6.0 * ROUNDS as f64), "{name}: {rows:?}");
        }
    }
}

/// Two of three workers close a round; what the third pushes for it then is dropped, or counts in
/// the next.
#[test]
fn late_pushes_are_dropped_or_count_in_the_next_round() {
    for (fold_late, expected) in [(false, 6.0), (true, 9.0)] {
        let server = server(Provider::Shm {});
        let address = server.address().to_string();
        let workers = [0, 1, 2].map(|rank| connect(&address, Some(rank)));
        let tables: Vec<_> = workers
            .iter()
            .map(|worker| worker.create_table::<f64>("t", &schema(2, fold_late)).unwrap())
            .collect();
        let push = |rank: usize| {
            let values = vec![rank as f64 + 1.0; usize::try_from(ROWS).unwrap() * 2];
            tables[rank].push(0..ROWS, &values, &PushOptions::default()).unwrap()
        };
        let rows = |rank: usize| {
            tables[rank].pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap()
        };
        let push_round = |meanwhile: &dyn Fn()| {
            let already = waiting_count(&workers[0]);
            let first = push(0);
            workers[0].advance_clock().unwrap();
            until_waiting(&workers[0], already + ROUND_MESSAGES);
            meanwhile();
            let second = push(1);
            workers[1].advance_clock().unwrap();
            second.wait().unwrap();
            first.wait().unwrap();
        };
        push_round(&|| assert!(rows(2).iter().all(|value| *value == 0.0), "one has finished it"));
        assert!(rows(2).iter().all(|value| *value == 3.0), "its round is applied");
        let late = push(2);
        if fold_late {
            until_waiting(&workers[2], PUSH_MESSAGES);
        } else {
            late.wait().unwrap();
        }
        push_round(&|| ());
        assert!(rows(0).iter().all(|value| *value == expected), "{:?}", rows(0));
    }
}

/// A worker that is gone closes no round and holds none open; one without a rank cannot take part.
#[test]
fn a_round_closes_without_a_worker_that_is_gone() {
    let server = server(Provider::Shm {});
    let address = server.address().to_string();
    let workers = [0, 1].map(|rank| connect(&address, Some(rank)));
    let [first, second] =
        [0, 1].map(|at: usize| workers[at].create_table::<f64>("t", &schema(0, false)).unwrap());
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
    let pushed = first.push(0..ROWS, &ones, &PushOptions::default()).unwrap();
    workers[0].advance_clock().unwrap();
    drop(second);
    let [first_worker, second_worker] = workers;
    second_worker.vanish();
    pushed.wait().unwrap();
    let rows = first.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(rows.iter().all(|value| *value == 1.0), "{rows:?}");
    let visitor = connect(&address, None);
    let table = visitor.open_table::<f64>("t").unwrap();
    let refused = table.push(0..ROWS, &ones, &PushOptions::default()).unwrap().wait();
    assert!(matches!(refused, Err(RequestError::Refused { .. })), "{refused:?}");
    drop((table, first));
    drop(first_worker);
}

/// A worker that comes back as another session has not finished what it had said it had: its round
/// stays open until it has pushed its part.
#[test]
fn a_worker_that_comes_back_is_waited_for_again() {
    let server = server(Provider::Shm {});
    let address = server.address().to_string();
    let stays = connect(&address, Some(0));
    let table = stays.create_table::<f64>("t", &schema(0, false)).unwrap();
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
    let leaves = connect(&address, Some(1));
    let its = leaves.open_table::<f64>("t").unwrap();
    drop(its.push(0..ROWS, &ones, &PushOptions::default()).unwrap());
    leaves.advance_clock().unwrap();
    until_waiting(&leaves, ROUND_MESSAGES);
    drop((its, leaves));
    until_none_waits(&stays);
    let back = connect(&address, Some(1));
    let its = back.open_table::<f64>("t").unwrap();
    let pushed = table.push(0..ROWS, &ones, &PushOptions::default()).unwrap();
    stays.advance_clock().unwrap();
    until_waiting(&stays, ROUND_MESSAGES);
    let visitor = connect(&address, None);
    let seen = visitor.open_table::<f64>("t").unwrap();
    let rows = seen.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(rows.iter().all(|value| *value == 0.0), "{rows:?}");
    let again = its.push(0..ROWS, &ones, &PushOptions::default()).unwrap();
    back.advance_clock().unwrap();
    again.wait().unwrap();
    pushed.wait().unwrap();
    // What it had pushed before it left was not acknowledged, and counts too.
    let rows = seen.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    assert!(rows.iter().all(|value| *value == 3.0), "{rows:?}");
}

/// What waits for a round of a table that is dropped is told so.
#[test]
fn a_dropped_table_ends_its_rounds() {
    let server = server(Provider::Shm {});
    let address = server.address().to_string();
    let worker = connect(&address, Some(0));
    let table = worker.create_table::<f64>("t", &schema(0, false)).unwrap();
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * 2];
    let pushed = table.push(0..ROWS, &ones, &PushOptions::default()).unwrap();
    connect(&address, None).drop_table("t").unwrap();
    let refused = pushed.wait();
    let is_so = |status: &Status| *status == Status::UnknownTable;
    assert!(matches!(&refused, Err(RequestError::Refused { status, .. }) if is_so(status)));
}

/// More pushes than there is room for before the round closes are refused, and the round can still be
/// ended.
#[test]
fn a_round_with_too_many_pushes_says_so() {
    let server = server(Provider::Shm {});
    let client = connect(server.address().to_string().as_str(), Some(0));
    let table = client.create_table::<f64>("t", &schema(0, false)).unwrap();
    let push = || table.push(0..1, &[1.0, 1.0], &PushOptions::default());
    let pushed = (0..2000).take_while(|_| push().is_ok()).count();
    assert_eq!(pushed, 1000);
    assert!(matches!(push(), Err(RequestError::RoundFull)));
    client.advance_clock().unwrap();
    client.wait_all().unwrap();
    drop(push().unwrap());
    let rows = table.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(rows, [1000.0; 2]);
}

/// Long lists of keys fill a mailbox before the number of pushes counts.
#[test]
fn a_round_with_too_many_keys_says_so() {
    let server = server(Provider::Shm {});
    let options = ClientOptions {
        rank: Some(WorkerRank(0)),
        timeout: Duration::from_millis(200),
        retry_for: Duration::from_millis(200),
        ..ClientOptions::default()
    };
    let address = server.address().to_string();
    let client = Client::connect_with(&address, options).unwrap();
    let keyed = TableSchema { kind: windlass_client::TableKind::Sparse {}, ..schema(0, false) };
    let table = client.create_table::<f64>("t", &keyed).unwrap();
    let keys: Vec<u64> = (0..20_000).collect();
    let values = vec![1.0; keys.len() * 2];
    let failed = (0..100).find_map(|_| table.push(&keys, &values, &PushOptions::default()).err());
    assert!(matches!(failed, Some(RequestError::RoundFull)), "{failed:?}");
    client.advance_clock().unwrap();
    let _ = client.wait_all();
    drop(table.push(&keys[..1], &[1.0, 1.0], &PushOptions::default()).unwrap());
}

/// Two workers whose pushes come late are left alone, and each waits for its own, at another shard:
/// neither waits for the other.
#[test]
fn late_workers_that_wait_in_different_partitions_do_not_wait_for_each_other() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let server = server(provider);
        let address = server.address().to_string();
        let [first, second] = [0, 1].map(|rank| connect(&address, Some(rank)));
        let tables =
            [&first, &second].map(|worker| worker.create_table::<f64>("t", &schema(2, true)));
        let [table, other] = tables.map(Result::unwrap);
        let (joined, alone) = (Barrier::new(3), Barrier::new(3));
        thread::scope(|scope| {
            for (rank, row) in [(2, 0), (3, ROWS - 1)] {
                let (address, joined, alone) = (&address, &joined, &alone);
                scope.spawn(move || {
                    let worker = connect(address, Some(rank));
                    let table = worker.open_table::<f64>("t").unwrap();
                    joined.wait();
                    alone.wait();
                    let late = table.push(row..row + 1, &[1.0; 2], &PushOptions::default());
                    late.unwrap().wait().unwrap();
                });
            }
            joined.wait();
            let early = table.push(0..ROWS, &[1.0; 192], &PushOptions::default()).unwrap();
            first.advance_clock().unwrap();
            until_waiting(&first, ROUND_MESSAGES);
            second.advance_clock().unwrap();
            second.wait_all().unwrap();
            early.wait().unwrap();
            drop((table, other, first, second));
            alone.wait();
        });
        let visitor = connect(&address, None);
        let seen = visitor.open_table::<f64>("t").unwrap();
        let rows = seen.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        let expected = |at: usize| if (2..190).contains(&at) { 1.0 } else { 2.0 };
        assert!(rows.iter().enumerate().all(|(at, row)| *row == expected(at)), "{rows:?}");
    }
}

/// What a client waited for in a round that does not close is forgotten with its connection.
#[test]
fn clients_that_come_again_and_again_leave_nothing_behind() {
    let server = server(Provider::Shm {});
    let address = server.address().to_string();
    let slow = connect(&address, Some(0));
    drop(slow.create_table::<f64>("t", &schema(0, false)).unwrap());
    for _ in 0..20 {
        let client = connect(&address, Some(1));
        let table = client.open_table::<f64>("t").unwrap();
        for _ in 0..10 {
            drop(table.push(0..ROWS, &[1.0; 192], &PushOptions::default()).unwrap());
        }
        client.advance_clock().unwrap();
        drop(table);
        client.vanish();
    }
    until_none_waits(&slow);
}
