//! `windlass cluster plan` beside what real processes open.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use support::{Server, fails, folder, json};
use windlass_client::{Client, ClientOptions, Provider, PullOptions, PushOptions, TableSchema};
use windlass_wire::DataType;

const SHARDS: &str = "4";
const ROWS: u32 = 10_000;
const CLIENTS: u64 = 300;

fn plan(folder: &Path, arguments: &[&str]) -> Value {
    json(folder, &[&["cluster", "plan", "--json"], arguments].concat())
}

fn open_files(process: u32) -> u64 {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count() as u64
}

/// Shared memory that this process has touched, in KiB.
fn resident_shared_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What is planned is enough, and not much more than what is used.
fn suits(planned: &Value, used: u64) {
    let planned = planned.as_u64().unwrap();
    assert!(used <= planned && planned <= used + used / 4, "planned {planned}, used {used}");
}

/// Held by each test: one counts the files of its own process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_plan_counts_what_a_server_and_its_workers_open() {
    let _alone = alone();
    let folder = folder();
    for (provider, workers) in [(Provider::Shm {}, 1), (Provider::Tcp {}, 3)] {
        let server = Server::start(folder.path(), &["--shards", SHARDS]);
        let own = open_files(std::process::id());
        let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
        let clients: Vec<Client> = (0..workers)
            .map(|_| Client::connect_with(&server.address, options.clone()).unwrap())
            .collect();
        let schema = TableSchema::dense(DataType::F32, ROWS.into(), 1);
        let values = vec![1.0_f32; ROWS as usize];
        for client in &clients {
            let table = client.create_table::<f32>("rows", &schema).unwrap();
            table.push(0..ROWS.into(), &values, &PushOptions::default()).unwrap().wait().unwrap();
        }
        let workers = workers.to_string();
        let planned = plan(
            folder.path(),
            &[
                "--workers",
                &workers,
                "--servers",
                "1",
                "--shards",
                SHARDS,
                "--transport",
                provider.name(),
            ],
        );
        assert_eq!(planned["worker"]["links"], 4);
        assert_eq!(planned["server"]["links"], 4 * clients.len());
        suits(&planned["server"]["open_files"], open_files(server.process()));
        let each = (open_files(std::process::id()) - own) / clients.len() as u64;
        suits(&planned["worker"]["open_files"], each);
    }
}

#[test]
fn three_hundred_workers_fit_into_a_server_of_1024_files() {
    let _alone = alone();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    for provider in [Provider::Shm {}, Provider::Tcp {}] {
        let folder = folder();
        let server = Server::start_limited(folder.path(), 1024, &["--shards", "16"]);
        let schema = TableSchema::dense(DataType::F32, ROWS.into(), 1);
        let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
        let resident = resident_shared_kib();
        let clients: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let client = Client::connect_with(&server.address, options.clone()).unwrap();
                let table = client.create_table::<f32>("rows", &schema).unwrap();
                table.push(0..1, &[1.0], &PushOptions::default()).unwrap().wait().unwrap();
                table.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
                client
            })
            .collect();
        let table = clients[0].open_table::<f32>("rows").unwrap();
        let row = table.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(row, [300.0]);
        // A client takes the memory that it uses, not what it may use.
        let each = (resident_shared_kib() - resident) / CLIENTS;
        assert!(each <= 128, "each client takes {each} KiB over {provider:?}");
        let open = open_files(server.process());
        assert!(open <= 1024, "{open} files are open");
    }
}

#[test]
fn a_plan_counts_what_servers_open_for_each_other() {
    let _alone = alone();
    let folder = folder();
    for transport in ["shm", "tcp"] {
        let base = ["--shards", SHARDS, "--transports", transport];
        let first = Server::start(folder.path(), &[&base[..], &["--replicas", "3"]].concat());
        let joined = [&base[..], &["--coordinator", &first.address]].concat();
        let others = [(); 2].map(|()| Server::start(folder.path(), &joined));
        let planned = plan(
            folder.path(),
            &[
                "--workers",
                "1",
                "--servers",
                "3",
                "--shards",
                SHARDS,
                "--replicas",
                "3",
                "--transport",
                transport,
            ],
        );
        assert_eq!(planned["server"]["peer_links"], 16);
        let servers = [&first, &others[0], &others[1]];
        let planned = planned["server"]["open_files"].as_u64().unwrap();
        // Links come after the map.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let most =
                servers.map(|server| open_files(server.process())).into_iter().max().unwrap();
            assert!(most <= planned, "planned {planned}, used {most}");
            if most * 3 / 2 > planned {
                break;
            }
            assert!(Instant::now() < deadline, "planned {planned}, used {most}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_plan_says_what_has_to_be_changed() {
    let _alone = alone();
    let folder = folder();
    let sizes = ["--workers", "1000", "--servers", "200", "--shards", "16", "--replicas", "3"];
    let whole = plan(folder.path(), &sizes);
    assert_eq!((&whole["partitions"], &whole["empty_shards"]), (&16_384.into(), &0.into()));
    assert_eq!(whole["worker"]["links"], 3_200);
    let advice = whole["advice"].to_string();
    assert!(advice.contains("queue pairs") && advice.contains("ulimit -l"), "{advice}");
    let sparse = plan(folder.path(), &[&sizes[..], &["--partitions", "256"]].concat());
    let advice = sparse["advice"].to_string();
    assert!(advice.contains("hold nothing: found the cluster with --partitions 16384"), "{advice}");
    assert!(sparse["empty_shards"].as_u64().unwrap() >= 3_200 - 3 * 256);

    // The largest there are add up.
    let largest = ["--workers", "1000000", "--servers", "2000", "--shards", "256"];
    assert!(plan(folder.path(), &largest)["total_ring_bytes"].as_u64().unwrap() > 1 << 50);

    let wrong = |arguments: &[&str]| {
        fails(folder.path(), 2, &[&["cluster", "plan", "--workers", "1"], arguments].concat())
    };
    let many = ["cluster", "plan", "--workers", "4000000000", "--servers", "1"];
    assert!(fails(folder.path(), 2, &many).contains("4000000000 workers are too many"));
    assert!(wrong(&["--servers", "0"]).contains("at least one of each"));
    assert!(
        wrong(&["--servers", "2", "--replicas", "3"]).contains("3 copies need as many servers")
    );
    assert!(wrong(&["--servers", "2", "--partitions", "100"]).contains("use a power of two"));
    assert!(wrong(&["--servers", "4000000000"]).contains("4000000000 servers are too many"));
    assert!(wrong(&["--servers", "2", "--shards", "60000"]).contains("at most 256"));
    assert!(wrong(&["--servers", "2", "--transport", "ipx"]).contains("verbs, shm or tcp"));
}

/// By default no shard is idle; whoever asks for fewer partitions is told while the cluster is empty.
#[test]
fn a_cluster_is_founded_with_partitions_for_all_its_shards() {
    let _alone = alone();
    let folder = folder();
    let status = |server: &Server| {
        json(folder.path(), &["cluster", "status", "--json", "--connect", &server.address])
    };
    let wide = Server::start_limited(folder.path(), 4096, &["--shards", "20"]);
    assert_eq!(status(&wide)["partitions"], 128);
    drop(wide);
    assert!(
        !fs::read_to_string(folder.path().join("server.log")).unwrap().contains("no partition")
    );
    let few = ["--shards", "20", "--partitions", "16"];
    let few = Server::start_limited(folder.path(), 4096, &few);
    assert_eq!(status(&few)["partitions"], 16);
    drop(few);
    let log = fs::read_to_string(folder.path().join("server.log")).unwrap();
    assert!(log.contains("shards hold no partition") && log.contains("wanted=128"), "{log}");
}
