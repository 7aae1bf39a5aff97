//! Pushes down chains of one, two and three servers over shared memory, in turns: what replication adds, or
//! on a machine with fewer cores than busy threads, what handing cores on does. Servers and client are threads of this process; one push at a time.
//!
//! `cargo bench -p windlass-benches --bench chains -- [--rounds N] [--pushes N] [--spin-us N] [--servers N]
//! [--together] [--directory DIR]`. With --together, all shards of a cluster share one thread on core 1;
//! keep the client off it by `taskset -c 0`. With a directory, the table is kept in it, `sync`.
//! Without arguments, and in tests, a tiny run.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, Durability, Element, PushOptions, Table, TableSchema,
};
use windlass_engine::{Server, ServerConfig, ShardThread};
use windlass_wire::control::Provider;

/// Rows of a push, and values of a row.
const ROWS: usize = 4;
const WIDTH: u32 = 4;

struct Options {
    rounds: usize,
    pushes: usize,
    spin_us: u32,
    servers: u8,
    together: bool,
    directory: Option<PathBuf>,
}

/// Servers with as many copies of each row, and a client of them.
struct Cluster {
    name: String,
    table: Table<f32>,
    _client: Client,
    servers: Vec<Server>,
    /// Microseconds of each push, over all rounds.
    times: Vec<f64>,
    medians: Vec<f64>,
}

impl Cluster {
    fn start(length: u8, options: &Options) -> Self {
        let thread =
            options.together.then(|| ShardThread::start("bench", Some(1)).expect("a thread"));
        let spin_us = options.spin_us;
        let data_dir = options.directory.as_ref().map(|root| root.join(format!("chains-{length}")));
        if let Some(data) = &data_dir {
            let _ = std::fs::remove_dir_all(data);
        }
        let durability = match data_dir {
            Some(_) => Durability::Sync {},
            None => Durability::Memory {},
        };
        let config = ServerConfig {
            providers: vec![Provider::Shm {}],
            memory_len_max: 256 << 20,
            partitions: 16,
            spin_us,
            thread,
            data_dir,
            replicas: length,
            expected_servers: u32::from(length),
            ..ServerConfig::default()
        };
        let servers = Server::start_together(&config).expect("the servers start");
        let options = ClientOptions { spin: Duration::from_micros(50), ..ClientOptions::default() };
        let client =
            Client::connect_with(servers[0].advertised(), options).expect("the client connects");
        let schema = TableSchema { durability, ..TableSchema::dense(f32::DTYPE, 4096, WIDTH) };
        let table = client.create_table::<f32>("bench", &schema).expect("the table is made");
        let name = length.to_string();
        Self { name, table, _client: client, servers, times: Vec::new(), medians: Vec::new() }
    }

    fn push(&mut self, count: usize) {
        let values = [1.0; ROWS * WIDTH as usize];
        let mut times = Vec::with_capacity(count);
        for number in 0..count {
            let first = (number * ROWS % 4096) as u64;
            let began = Instant::now();
            self.table
                .push(first..first + ROWS as u64, &values, &PushOptions::default())
                .and_then(windlass_client::PendingPush::wait)
                .expect("the push is acknowledged");
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        self.medians.push(quantile(&mut times.clone(), 500));
        self.times.extend(times);
    }
}

fn main() {
    let options = options();
    let clusters = 1..=options.servers;
    let mut clusters: Vec<_> = clusters.map(|length| Cluster::start(length, &options)).collect();
    for _ in 0..options.rounds {
        for cluster in &mut clusters {
            cluster.push(options.pushes / 10);
            cluster.medians.pop();
            cluster.times.truncate(cluster.times.len() - options.pushes / 10);
            cluster.push(options.pushes);
        }
    }
    let alone = quantile(&mut clusters[0].times.clone(), 500);
    for mut cluster in clusters {
        let (p50, p99) = (quantile(&mut cluster.times, 500), quantile(&mut cluster.times, 990));
        println!(
            "{{\"bench\": \"chains\", \"replicas\": \"{}\", \"pushes\": {}, \"p50_us\": {p50:.2}, \
             \"p99_us\": {p99:.2}, \"to_unreplicated\": {:.2}, \"p50_us_by_round\": {:.2?}}}",
            cluster.name,
            cluster.times.len(),
            p50 / alone,
            cluster.medians,
        );
        cluster.servers.reverse();
        cluster.servers.into_iter().for_each(Server::stop);
    }
}

/// Below which so many thousandths of the times lie.
fn quantile(times: &mut [f64], thousandths: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * thousandths / 1000]
}

fn options() -> Options {
    let mut options = Options {
        rounds: 1,
        pushes: 20,
        spin_us: 50,
        servers: 3,
        together: false,
        directory: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let given = words.next().and_then(|word| word.parse().ok());
            given.unwrap_or_else(|| panic!("{word} needs a number"))
        };
        match word.as_str() {
            "--rounds" => options.rounds = number(),
            "--pushes" => options.pushes = number(),
            "--spin-us" => options.spin_us = u32::try_from(number()).expect("microseconds"),
            "--servers" => options.servers = u8::try_from(number()).expect("a few servers"),
            "--together" => options.together = true,
            "--directory" => options.directory = words.next().map(PathBuf::from),
            // What `cargo bench` and `cargo test` add.
            _ => {}
        }
    }
    options
}
