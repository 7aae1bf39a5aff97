//! Servers of one process whose shards share one thread.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod same_rows;

use std::time::{Duration, Instant};

use same_rows::assert_same_rows;
use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_engine::{
    Server, ServerConfig, ShardThread, StartError, limits::SHARDS_PER_THREAD_MAX,
};

/// Servers with a copy of each row on each of them, all on one thread.
fn start(provider: Provider, count: u8, thread: &ShardThread) -> Vec<Server> {
    let config = ServerConfig {
        providers: vec![provider],
        memory_len_max: 64 << 20,
        partitions: 8,
        shards: 2,
        replicas: count,
        expected_servers: u32::from(count),
        thread: Some(thread.clone()),
        ..ServerConfig::default()
    };
    Server::start_together(&config).unwrap()
}

#[test]
fn chains_of_three_on_one_thread_lose_a_server_and_nothing_else() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let thread = ShardThread::start("shared", None).unwrap();
        let mut servers = start(provider, 3, &thread);
        let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
        let client = Client::connect_with(servers[0].advertised(), options).unwrap();
        let schema = TableSchema::dense(f32::DTYPE, 64, 4);
        let table = client.create_table::<f32>("shared", &schema).unwrap();
        let push = |count: usize| {
            for _ in 0..count {
                table.push(0..64, &[1.0; 256], &PushOptions::default()).unwrap().wait().unwrap();
            }
        };
        push(50);
        // Not the first, which has the coordinator.
        servers.pop().unwrap().stop();
        push(50);
        let rows = table.pull(0..64, &PullOptions::default()).unwrap().wait().unwrap();
        assert_same_rows(&rows, &[100.0; 256], &format!("{provider:?}"));
        drop(client);
        servers.drain(..).rev().for_each(Server::stop);
    }
}

/// What a bug in a shard does to the program that has the server in it: nothing hangs, and nothing is silent.
#[test]
fn a_panic_of_a_shard_is_told_and_clients_get_errors() {
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let thread = ShardThread::start("panics", None).unwrap();
        let servers = start(provider, 1, &thread);
        let timeout = Duration::from_secs(2);
        let providers = vec![provider];
        let options =
            ClientOptions { providers, timeout, retry_for: timeout, ..ClientOptions::default() };
        let client = Client::connect_with(servers[0].advertised(), options).unwrap();
        let schema = TableSchema::dense(f32::DTYPE, 64, 4);
        let table = client.create_table::<f32>("t", &schema).unwrap();
        let push = || table.push(0..64, &[1.0; 256], &PushOptions::default())?.wait();
        push().unwrap();
        assert!(!servers[0].has_panicked());
        thread.carry_out(|| panic!("told to"));
        let begun = Instant::now();
        while !servers[0].has_panicked() {
            // What comes before it is carried out as ever.
            assert!(begun.elapsed() < timeout, "the thread has not heard of it");
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        let failed = push().unwrap_err();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{provider:?}: after {took:?} {failed}");
        assert!(servers[0].has_panicked());
        assert!(table.pull(0..64, &PullOptions::default()).and_then(|rows| rows.wait()).is_err());
        drop(client);
        // Neither does stopping hang.
        servers.into_iter().for_each(Server::stop);
        assert!(thread.has_panicked());
    }
}

#[test]
fn a_full_thread_takes_no_more_until_a_shard_has_gone() {
    let thread = ShardThread::start("full", None).unwrap();
    let config = ServerConfig {
        providers: vec![Provider::Shm {}],
        memory_len_max: 1 << 20,
        shards: 4,
        thread: Some(thread),
        ..ServerConfig::default()
    };
    let mut servers: Vec<_> =
        (0..SHARDS_PER_THREAD_MAX / 4).map(|_| Server::start(config.clone()).unwrap()).collect();
    let refused = Server::start(config.clone()).unwrap_err();
    assert!(matches!(refused, StartError::Crowded { max: SHARDS_PER_THREAD_MAX }), "{refused}");
    servers.pop().unwrap().stop();
    // One that has room for some of its shards only leaves none behind.
    let longer = ServerConfig { shards: 5, ..config.clone() };
    assert!(matches!(Server::start(longer), Err(StartError::Crowded { .. })));
    servers.push(Server::start(config).unwrap());
}
