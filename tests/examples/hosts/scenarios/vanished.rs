//! A host of workers that vanishes without a word: what its server keeps for them is given up within a
//! bounded time, by the probes of the kernel, and others wait for them no longer.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, Table, TableSchema,
};
use windlass_wire::WorkerRank;

use super::{ALL_ROWS, ROWS, SERVERS, start_cluster};
use crate::{
    Failure,
    network::{ADDRESSES, Network, WORKERS},
    processes::eventually,
};

const TABLE: &str = "watched";

/// A worker that asks for nothing, and one that pulls all the time: nothing is on its way to the one,
/// and always something to the other.
const IDLE: u32 = 7;
const BUSY: u32 = 8;

/// Kernels find a peer gone after 11 s (control connections), and 3 s (data path).
const GIVEN_UP_MAX: Duration = Duration::from_secs(25);

const PATIENCE: Duration = Duration::from_secs(60);

/// What `/proc/net/tcp` calls a connection that both sides have.
const ESTABLISHED: &str = "01";

/// The name of a thread that serves a control connection.
const CONTROL_THREAD: &str = "windlass-client";

/// Workers that were started on their host.
struct Started(Vec<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have given up by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Milliseconds from the end of the host until its server had given up the last connection to it.
pub(super) fn lose_a_host_of_workers(network: &Network) -> Result<f64, Failure> {
    let folder = tempfile::tempdir()?;
    let options = ["--replicas", "1", "--insecure", "--data-dir", "coordinator"];
    let mut cluster = start_cluster(network, folder.path(), &options);
    cluster.add_server_on(SERVERS[0], &["--insecure"]);
    let addresses = cluster.addresses();
    let client = connect(&addresses, None);
    let schema = TableSchema::dense(i64::DTYPE, ROWS as u64, 1);
    let table = client.create_table::<i64>(TABLE, &schema).unwrap();
    push(&table);
    let server = network.process(SERVERS[0])?;
    let threads = control_threads(server);
    let workers = [IDLE, BUSY].map(|rank| start(network, &addresses, rank));
    let _workers = Started(workers.into_iter().collect::<Result<_, _>>()?);
    let live = |rank: u32| {
        let status = cluster.run(&["cluster", "status"]);
        let is_it = |worker: &Value| worker["rank"] == rank && worker["live"] == true;
        status["workers"].as_array().unwrap().iter().any(is_it)
    };
    // A control connection and at least one of the data path for each.
    assert!(connections(server) >= 4, "{} connections", connections(server));
    assert_eq!(control_threads(server), threads + 2, "a thread for each control connection");
    eventually("the coordinator has heard of both", || {
        (live(IDLE) && live(BUSY), cluster.run(&["cluster", "status"]))
    });

    network.set_link(WORKERS, false)?;
    let from = Instant::now();
    while connections(server) > 0 || control_threads(server) > threads {
        assert!(
            from.elapsed() < GIVEN_UP_MAX,
            "{} connections and {} threads for a host that vanished {:?} ago",
            connections(server),
            control_threads(server) - threads,
            from.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = (from.elapsed().as_secs_f64() * 1e4).round() / 10.0;
    eprintln!("hosts: a host of workers vanished: its server gave it up after {took} ms");
    eventually("nobody waits for its workers", || {
        (!live(IDLE) && !live(BUSY), cluster.run(&["cluster", "status"]))
    });
    push(&table);
    network.set_link(WORKERS, true)?;
    Ok(took)
}

/// A worker on its own host, in this same program. It has pulled when this returns.
fn start(network: &Network, addresses: &str, rank: u32) -> Result<Child, Failure> {
    let launcher = network.launcher(WORKERS);
    let mut child = Command::new(&launcher[0])
        .args(&launcher[1..])
        .arg(std::env::current_exe()?)
        .args(["worker", addresses, &rank.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)?;
    assert_eq!(line, "ready\n", "worker {rank} has connected");
    Ok(child)
}

/// What a worker does, until it is killed.
pub(crate) fn work(addresses: &str, rank: u32) -> Result<(), Failure> {
    let client = connect(addresses, Some(WorkerRank(rank)));
    let table = client.open_table::<i64>(TABLE).unwrap();
    let keys: Vec<u64> = ALL_ROWS.collect();
    let pull = || table.pull(&keys, &PullOptions::default()).unwrap().wait();
    pull().unwrap();
    println!("ready");
    loop {
        if rank == BUSY {
            pull().map_err(|error| Failure(windlass_client::chain(&error)))?;
        } else {
            std::thread::park();
        }
    }
}

fn connect(addresses: &str, rank: Option<WorkerRank>) -> Client {
    let options = ClientOptions {
        providers: vec![Provider::Tcp {}],
        rank,
        timeout: PATIENCE,
        retry_for: PATIENCE,
        ..ClientOptions::default()
    };
    Client::connect_with(addresses, options).unwrap()
}

fn push(table: &Table<i64>) {
    table.push(ALL_ROWS, &[1; ROWS], &PushOptions::default()).unwrap().wait().unwrap();
}

/// Connections of a process's host with the workers' host.
fn connections(process: u32) -> usize {
    let address: std::net::Ipv4Addr = ADDRESSES[WORKERS].parse().unwrap();
    let remote = format!("{:08X}:", u32::from_le_bytes(address.octets()));
    let listed = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|to| to.starts_with(&remote)) && words.next() == Some(ESTABLISHED)
    };
    listed.lines().filter(is_one).count()
}

/// Threads of a process that serve control connections.
fn control_threads(process: u32) -> usize {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let names = fs::read_dir(tasks).unwrap().map(|task| {
        // A thread may end while it is looked at.
        fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    });
    names.filter(|name| name.trim_end() == CONTROL_THREAD).count()
}
