//! Pushes while checkpoints are taken, beside pushes while none is, in turns: percentiles, and the longest
//! that any push waited. One server in this process, one client over shared memory, one push at a time.
//!
//! `cargo bench -p windlass-benches --bench checkpoint -- [--directory DIR] [--mib N] [--rounds N]
//! [--seconds S] [--durability sync|interval:MS]`. Without arguments, and in tests, a tiny run.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use windlass_client::{Client, Durability, Element, PushOptions, Table, TableSchema};
use windlass_engine::{Server, ServerConfig};
use windlass_transport::clock::Clock;
use windlass_wire::control::Provider;

/// Values of a row: 512 bytes.
const WIDTH: u32 = 128;
/// Rows of a push.
const ROWS: u64 = 8;

struct Options {
    directory: PathBuf,
    mib: u64,
    rounds: usize,
    time: Duration,
    durability: Durability,
}

/// Latencies of a phase, in nanoseconds, ascending, and what the client worked meanwhile.
struct Latencies(Vec<u64>, Worked);

/// Processor time of this thread while it pushed. It takes no checkpoint and never works for long: what is
/// long here is the machine's, interrupts and a hypervisor's other guests, which count as the work of
/// whom they interrupt.
#[derive(Default)]
struct Worked {
    ns: u64,
    /// Pushes in which it worked for more than a millisecond.
    long: u64,
    longest_ns: u64,
}

impl Latencies {
    /// In microseconds, below which so many thousandths lie.
    fn quantile(&self, thousandths: usize) -> f64 {
        // Times are far below 2^52 ns.
        self.0[(self.0.len() - 1) * thousandths / 1000] as f64 / 1e3
    }
}

fn main() {
    let options = options();
    let data = options.directory.join("checkpoint");
    let _ = std::fs::remove_dir_all(&data);
    let config = ServerConfig {
        data_dir: Some(data.clone()),
        providers: vec![Provider::Shm {}],
        memory_len_max: (options.mib << 21) + (256 << 20),
        ..ServerConfig::default()
    };
    let server = Server::start(config).expect("the server starts");
    let client = Client::connect(&format!("windlass://{}", server.advertised())).expect("connects");
    let rows = (options.mib << 20) / (u64::from(WIDTH) * 4);
    let schema = TableSchema {
        durability: options.durability,
        ..TableSchema::dense(f32::DTYPE, rows, WIDTH)
    };
    let table = client.create_table::<f32>("bench", &schema).expect("the table is made");
    touch_all(&table, rows);
    let (mut p99s, mut longest) = (Vec::new(), Vec::new());
    // The first one is full; then what it took is not counted any more.
    client.checkpoint(client.map().servers[0].id).expect("the checkpoint begins");
    settle(&client, client.map().servers[0].id);
    let mut before = Turns::of(&client);
    for _ in 0..options.rounds {
        let without = phase(&client, &table, rows, options.time, false);
        let with = phase(&client, &table, rows, options.time, true);
        let line = |name: &str, latencies: &Latencies| {
            println!(
                "{{\"bench\": \"checkpoint\", \"phase\": \"{name}\", \"pushes\": {}, \"p50_us\": \
                 {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \"longest_us\": {:.1}, \
                 \"client_cpu_ms\": {}, \"client_over_1_ms_of_cpu\": {}, \
                 \"client_longest_cpu_us\": {}}}",
                latencies.0.len(),
                latencies.quantile(500),
                latencies.quantile(990),
                latencies.quantile(999),
                latencies.quantile(1000),
                latencies.1.ns / 1_000_000,
                latencies.1.long,
                latencies.1.longest_ns / 1000
            );
        };
        line("without", &without);
        line("with", &with);
        let turns = Turns::of(&client);
        println!(
            "{{\"bench\": \"checkpoint\", \"phase\": \"turns\", \"checkpoints\": {}, \"turns\": {}, \
             \"mean_us\": {:.1}, \"mean_cpu_us\": {:.1}, \"over_1_ms\": {}, \"over_1_ms_of_cpu\": {}, \
             \"over_1_ms_blocked\": {}, \"longest_blocked_us_so_far\": {}, \
             \"longest_us_so_far\": {}, \"longest_cpu_us_so_far\": {}}}",
            turns.checkpoints - before.checkpoints,
            turns.count - before.count,
            (turns.us - before.us) as f64 / (turns.count - before.count).max(1) as f64,
            (turns.cpu_us - before.cpu_us) as f64 / (turns.count - before.count).max(1) as f64,
            turns.long - before.long,
            turns.cpu_long - before.cpu_long,
            turns.blocked - before.blocked,
            turns.longest_blocked_us,
            turns.longest_us,
            turns.longest_cpu_us
        );
        before = turns;
        p99s.push(with.quantile(990) / without.quantile(990));
        longest.push(with.quantile(1000) - without.quantile(1000));
    }
    println!(
        "median ratio of p99 {:.2}, longest wait beyond that without {:.0} us",
        median(&mut p99s),
        median(&mut longest)
    );
    drop(table);
    drop(client);
    server.stop();
    let _ = std::fs::remove_dir_all(&data);
}

fn options() -> Options {
    let mut options = Options {
        directory: std::env::temp_dir()
            .join(format!("windlass-checkpoint-bench-{}", std::process::id())),
        mib: 8,
        rounds: 1,
        time: Duration::from_millis(50),
        durability: Durability::Sync {},
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--directory" => options.directory = value().into(),
            "--mib" => options.mib = value().parse().expect("a number of MiB"),
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--seconds" => {
                options.time = Duration::from_secs_f64(value().parse().expect("seconds"));
            }
            "--durability" => {
                options.durability = match value().strip_prefix("interval:") {
                    Some(text) => {
                        Durability::Interval { milliseconds: text.parse().expect("milliseconds") }
                    }
                    None => Durability::Sync {},
                };
            }
            _ => {}
        }
    }
    options
}

/// Makes every row worth a place in the first checkpoint.
fn touch_all(table: &Table<f32>, rows: u64) {
    let mut first = 0;
    while first < rows {
        let count = (rows - first).min(1024);
        let values = vec![1.0; values_of(count)];
        let push = table.push(first..first + count, &values, &PushOptions::default());
        push.and_then(|push| push.wait()).expect("the push is acknowledged");
        first += count;
    }
}

fn values_of(rows: u64) -> usize {
    usize::try_from(rows * u64::from(WIDTH)).expect("rows in memory")
}

/// Pushes for a while, one at a time, spread over the table.
fn phase(
    client: &Client,
    table: &Table<f32>,
    rows: u64,
    time: Duration,
    checkpoints: bool,
) -> Latencies {
    let server = client.map().servers[0].id;
    let values = vec![0.5; values_of(ROWS)];
    let (mut latencies, mut worked) = (Vec::new(), Worked::default());
    let (begun, mut asked, mut first) = (Instant::now(), None, 0);
    while begun.elapsed() < time {
        // As one ends the next begins; asking while one is taken begins another right behind it.
        if checkpoints && asked.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(20)) {
            client.checkpoint(server).expect("the checkpoint begins");
            asked = Some(Instant::now());
        }
        first = (first + 7919 * ROWS) % (rows - ROWS);
        let (worked_before, sent) = (thread_ns(), Instant::now());
        let push = table.push(first..first + ROWS, &values, &PushOptions::default());
        push.and_then(|push| push.wait()).expect("the push is acknowledged");
        latencies.push(u64::try_from(sent.elapsed().as_nanos()).expect("a short time"));
        let ns = thread_ns() - worked_before;
        worked.ns += ns;
        worked.long += u64::from(ns > 1_000_000);
        worked.longest_ns = worked.longest_ns.max(ns);
    }
    if checkpoints {
        // What is under way must not disturb the next phase.
        settle(client, server);
    }
    latencies.sort_unstable();
    Latencies(latencies, worked)
}

/// Time that this thread has had a core, in nanoseconds.
fn thread_ns() -> u64 {
    u64::try_from(Clock::Thread.now().as_nanos()).expect("a short time")
}

/// Turns of the shards that did a piece of a checkpoint, and what those took.
struct Turns {
    checkpoints: u64,
    count: u64,
    us: u64,
    cpu_us: u64,
    /// Those of more than a millisecond, and those with as much of the processor's time.
    long: u64,
    cpu_long: u64,
    /// Those of more than a millisecond in which the shard slept inside the kernel.
    blocked: u64,
    longest_blocked_us: u64,
    longest_us: u64,
    longest_cpu_us: u64,
}

impl Turns {
    fn of(client: &Client) -> Self {
        let server = client.map().servers[0].id;
        let statistics = client.server_statistics(server).expect("the server answers");
        let counter = |name| counter_of(&statistics, name).parse().expect("a number");
        Self {
            checkpoints: counter("checkpoints"),
            count: counter("checkpoint_turns"),
            us: counter("checkpoint_us"),
            cpu_us: counter("checkpoint_cpu_us"),
            long: counter("checkpoint_turns_long"),
            cpu_long: counter("checkpoint_turns_cpu_long"),
            blocked: counter("checkpoint_turns_blocked"),
            longest_blocked_us: counter("checkpoint_blocked_us_max"),
            longest_us: counter("checkpoint_turn_us_max"),
            longest_cpu_us: counter("checkpoint_turn_cpu_us_max"),
        }
    }
}

fn counter_of(statistics: &str, name: &str) -> String {
    let (_, rest) = statistics.split_once(&format!("\"{name}\":")).expect("the counter is there");
    rest.split([',', '}']).next().unwrap_or_default().to_owned()
}

/// Waits until nothing of checkpoints is done any more, what they leave behind removed included.
fn settle(client: &Client, server: windlass_wire::ServerId) {
    let (mut last, mut since) = (String::new(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        let statistics = client.server_statistics(server).expect("the server answers");
        let count = counter_of(&statistics, "checkpoint_turns");
        if count != last {
            (last, since) = (count, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
