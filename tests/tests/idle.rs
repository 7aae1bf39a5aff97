//! What a cluster does when nobody asks anything of it: nothing. And what asks after a silence is
//! answered at once, never by the net under the wake-up protocol.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use windlass_client::{Client, ClientOptions, Provider, PullOptions, PushOptions, TableSchema};
use windlass_engine::{Server, ServerConfig};
use windlass_wire::DataType;

const PROVIDERS: [Provider; 2] = [Provider::Shm {}, Provider::Tcp {}];

fn server(provider: Provider, shards: u16) -> Server {
    let config = ServerConfig {
        providers: vec![provider],
        shards,
        memory_len_max: 256 << 20,
        ..ServerConfig::default()
    };
    Server::start(config).unwrap()
}

fn connect(server: &Server, provider: Provider) -> Client {
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    Client::connect_with(server.advertised(), options).unwrap()
}

/// Nanoseconds of processor time that all threads of this process named `windlass...` have had.
fn server_time_ns() -> u64 {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if !name.starts_with("windlass") {
            continue;
        }
        let times = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        let on_cpu = times.split_whitespace().next().and_then(|text| text.parse::<u64>().ok());
        total += on_cpu.unwrap_or(0);
    }
    total
}

fn counter(client: &Client, server: &Server, name: &str) -> u64 {
    let statistics = client.server_statistics(server.id()).unwrap();
    let from = statistics.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    let digits: String = statistics[from..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// One test, so that no other server's threads are counted.
#[test]
fn silence_costs_nothing_and_ends_at_once() {
    for provider in PROVIDERS {
        idle_clients_cost_next_to_nothing(provider);
        requests_after_a_silence_are_answered_by_wake_ups(provider);
        pushes_that_nobody_waits_for_are_applied(provider);
        turns_look_at_whoever_was_heard_lately(provider);
    }
}

fn idle_clients_cost_next_to_nothing(provider: Provider) {
    let server = server(provider, 2);
    let clients: Vec<Client> = (0..3).map(|_| connect(&server, provider)).collect();
    for client in &clients {
        let schema = TableSchema::dense(DataType::F32, 1000, 4);
        let table = client.create_table::<f32>("t", &schema).unwrap();
        for _ in 0..100 {
            table.push(0..1000, &[1.0; 4000], &PushOptions::default()).unwrap().wait().unwrap();
        }
        table.pull(0..1000, &PullOptions::default()).unwrap().wait().unwrap();
    }
    // Clients that are connected, have worked, and now compute: they neither poll nor wait.
    std::thread::sleep(Duration::from_millis(300));
    let (before, since) = (server_time_ns(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let (used, passed) = (server_time_ns() - before, since.elapsed());
    let share = used as f64 / passed.as_nanos() as f64;
    eprintln!("{}: an idle server takes {:.3} % of a core", provider.name(), share * 100.0);
    assert!(share < 0.01, "an idle server takes {:.2} % of a core", share * 100.0);
    drop(clients);
    server.stop();
}

fn requests_after_a_silence_are_answered_by_wake_ups(provider: Provider) {
    let server = server(provider, 1);
    let client = connect(&server, provider);
    let table = client.create_table::<i64>("t", &TableSchema::sparse(DataType::I64, 1)).unwrap();
    let (mut sum, mut longest) = (0, Duration::ZERO);
    for round in 0..120_u64 {
        // Around the time a shard takes to fall asleep, and far beyond it.
        let silence = match round % 4 {
            0 => Duration::from_micros(round * 2),
            1 => Duration::from_micros(round % 80),
            2 => Duration::from_millis(round / 8),
            _ => Duration::from_millis(if round % 24 == 3 { 300 } else { 1 }),
        };
        std::thread::sleep(silence);
        let asked = Instant::now();
        table.push(&[7], &[1], &PushOptions::default()).unwrap().wait().unwrap();
        sum += 1;
        let rows = table.pull(&[7], &PullOptions::default()).unwrap().wait().unwrap();
        longest = longest.max(asked.elapsed());
        assert_eq!(rows, [sum]);
    }
    let (sleeps, late) =
        (counter(&client, &server, "sleeps"), counter(&client, &server, "late_wakes"));
    eprintln!(
        "{}: {sleeps} sleeps, {late} ended by the net, longest answer {longest:?}",
        provider.name()
    );
    assert!(sleeps > 20, "the shard slept {sleeps} times only");
    // On a busy machine a message may come just as the net's timer fires; lost wake-ups are many.
    assert!(late * 20 <= sleeps, "wake-ups were lost: {late} of {sleeps} sleeps");
    drop(client);
    server.stop();
}

/// The client goes away to compute right after sending: nothing of it polls again.
fn pushes_that_nobody_waits_for_are_applied(provider: Provider) {
    let server = server(provider, 1);
    let client = connect(&server, provider);
    let table = client.create_table::<i64>("t", &TableSchema::sparse(DataType::I64, 1)).unwrap();
    for round in 0..400_u64 {
        // The shard spins for 50 microseconds before it sleeps: aim around that.
        let aim = Instant::now() + Duration::from_micros(40 + round % 60);
        while Instant::now() < aim {
            std::hint::spin_loop();
        }
        let _pushed = table.push(&[round % 5], &[1], &PushOptions::default()).unwrap();
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(110));
        }
    }
    client.wait_all().unwrap();
    let rows = table.pull(&[0, 1, 2, 3, 4], &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(rows, [80; 5]);
    let (sleeps, late) =
        (counter(&client, &server, "sleeps"), counter(&client, &server, "late_wakes"));
    let name = provider.name();
    assert!(late * 20 <= sleeps, "{name} lost wake-ups: {late} of {sleeps} sleeps");
    drop(client);
    server.stop();
}

/// A shard that never sleeps forgets about clients that say nothing, and hears them when they do.
fn turns_look_at_whoever_was_heard_lately(provider: Provider) {
    const QUIET: usize = 24;
    let server = server(provider, 1);
    let busy = connect(&server, provider);
    let schema = TableSchema::sparse(DataType::I64, 1);
    let table = busy.create_table::<i64>("t", &schema).unwrap();
    let quiet: Vec<Client> = (0..QUIET).map(|_| connect(&server, provider)).collect();
    let mut pushed = 0;
    for round in 0..4 {
        let late = counter(&busy, &server, "late_wakes");
        for client in &quiet {
            let table = client.open_table::<i64>("t").unwrap();
            table.push(&[7], &[1], &PushOptions::default()).unwrap().wait().unwrap();
            pushed += 1;
        }
        // The net under the wake-ups looks at a few every tenth of a second.
        let late = counter(&busy, &server, "late_wakes") - late;
        assert!(late <= 2, "{provider:?}: of {QUIET} messages {late} woke nobody in round {round}");
        let since = Instant::now();
        loop {
            for _ in 0..1000 {
                table.push(&[7], &[1], &PushOptions::default()).unwrap().wait().unwrap();
                pushed += 1;
            }
            let watched = counter(&busy, &server, "sessions_watched");
            if watched == 1 {
                break;
            }
            let waited = since.elapsed();
            assert!(waited < Duration::from_secs(20), "{provider:?}: {watched} after {waited:?}");
        }
    }
    assert_eq!(counter(&busy, &server, "sessions"), QUIET as u64 + 1);
    let rows = table.pull(&[7], &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(rows, [pushed]);
    drop((busy, quiet));
    server.stop();
}
