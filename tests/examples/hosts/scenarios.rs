//! What is done to the servers, one after another, and what must hold after each.

mod coordinator;
mod sick;
mod store;
mod vanished;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, Table, TableSchema,
};

use crate::{
    Failure,
    network::{ADDRESSES, CLIENTS, Network},
    processes::{Cluster, Site, eventually},
    pusher::Pusher,
};

pub(crate) use vanished::work;

/// Table with a row in every partition.
pub(crate) const PROBE: &str = "probe";
const PARTITIONS: &str = "16";
const ROWS: usize = 16;
const ALL_ROWS: std::ops::Range<u64> = 0..ROWS as u64;
const SERVERS: [usize; 3] = [1, 2, 3];
const LISTEN: [&str; 6] =
    ["10.77.0.10:0", "10.77.0.1:0", "10.77.0.2:0", "10.77.0.3:0", "10.77.0.20:0", "10.77.0.30:0"];
/// Places in a chain.
const HEAD: usize = 0;
const TAIL: usize = 2;
const WRITERS: usize = 2;
/// Pushes between two things that happen.
const PUSHES: u64 = 20;
/// How long a slow link is used.
const SLOW_FOR: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster, the servers' numbers by host, and the client that measures.
struct Stage<'a> {
    network: &'a Network,
    cluster: Cluster,
    /// The server on each of [`SERVERS`].
    numbers: [u64; 3],
    probe: Table<i64>,
    probes: i64,
    acknowledged: u64,
    scenarios: usize,
    // After its table.
    _client: Client,
}

/// Runs all of them and prints the result.
pub(crate) fn run(network: &Network, link_downs: u32) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let mut stage = Stage::set(network, folder.path());
    let kill_ms = stage.kill();
    let stop_ms = stage.stop_and_go_on();
    let mut link_down_ms = Vec::new();
    for _ in 0..link_downs {
        link_down_ms.push(stage.pull_the_cable()?);
    }
    let cut_off_ms = stage.cut_off()?;
    let slow_link = stage.slow_down()?;
    let sick_ms = stage.fall_ill()?;
    let without_coordinator = stage.go_on_without_coordinator()?;
    stage.check_probe();
    let acknowledged = stage.acknowledged;
    drop(stage);
    let cut_from_store = store::cut_the_leader_off(network, "etcd", &[CLIENTS])?;
    let cut_from_servers = store::cut_the_leader_off(network, "its servers", &SERVERS)?;
    let vanished_ms = vanished::lose_a_host_of_workers(network)?;
    let result = json!({
        "kill_ms": kill_ms,
        "stop_ms": stop_ms,
        "link_down_ms": link_down_ms,
        "cut_off_ms": cut_off_ms,
        "slow_link": slow_link,
        "sick_ms": sick_ms,
        "without_coordinator": without_coordinator,
        "cut_from_store": cut_from_store,
        "cut_from_servers": cut_from_servers,
        "workers_given_up_ms": vanished_ms,
        "acknowledged": acknowledged,
        // Otherwise it would have ended before.
        "lost": 0,
        "doubled": 0,
        "divergent": 0,
    });
    println!("{result}");
    Ok(())
}

/// A host that loses half of what it is sent, so many times.
pub(crate) fn sicken(network: &Network, times: u32) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let mut stage = Stage::set(network, folder.path());
    for _ in 0..times {
        stage.lose_half()?;
    }
    stage.check_probe();
    Ok(())
}

/// What coordinators are told, with where they keep their map.
fn with_store(store: [&str; 2]) -> Vec<&str> {
    [&["--replicas", "3", "--partitions", PARTITIONS, "--insecure"][..], &store].concat()
}

/// A coordinator, on the first of the hosts.
fn start_cluster(network: &Network, folder: &Path, options: &[&str]) -> Cluster {
    let places = network.clone();
    let site = move |host| Site {
        launcher: places.launcher(host),
        listen: LISTEN[host],
        transports: "tcp",
    };
    Cluster::start_on(folder, Box::new(site), options)
}

impl<'a> Stage<'a> {
    fn set(network: &'a Network, folder: &Path) -> Self {
        let options = with_store(["--data-dir", "coordinator"]);
        let mut cluster = start_cluster(network, folder, &options);
        let numbers = SERVERS.map(|host| cluster.add_server_on(host, &["--insecure"]));
        let addresses = cluster.addresses();
        wait_until_whole(&cluster, &numbers);
        let options = ClientOptions {
            providers: vec![Provider::Tcp {}],
            timeout: PATIENCE,
            retry_for: PATIENCE,
            ..ClientOptions::default()
        };
        let client = Client::connect_with(&addresses, options).unwrap();
        let schema = TableSchema::dense(i64::DTYPE, ROWS as u64, 1);
        let probe = client.create_table::<i64>(PROBE, &schema).unwrap();
        let mut stage = Self {
            network,
            cluster,
            numbers,
            probe,
            probes: 0,
            acknowledged: 0,
            scenarios: 0,
            _client: client,
        };
        stage.push();
        stage
    }

    /// kill -9, and a new server in its place.
    fn kill(&mut self) -> f64 {
        let writers = self.start_writers();
        let at = self.busiest(HEAD);
        let took = self.measure("killed", |stage| stage.cluster.kill(stage.numbers[at]));
        more(&writers);
        self.numbers[at] = self.cluster.add_server_on(SERVERS[at], &["--insecure"]);
        self.end(writers);
        took
    }

    /// SIGSTOP, and SIGCONT when the others have gone on without it: what it holds counts for nothing
    /// until it has caught up, in another life.
    fn stop_and_go_on(&mut self) -> f64 {
        let writers = self.start_writers();
        let at = self.busiest(HEAD);
        let life = self.life(at);
        let took =
            self.measure("stopped", |stage| stage.cluster.stop_for_a_while(stage.numbers[at]));
        more(&writers);
        self.cluster.go_on(self.numbers[at]);
        self.wait_for_another_life(at, life);
        self.end(writers);
        took
    }

    /// A host that is there, and silent.
    fn pull_the_cable(&mut self) -> Result<f64, Failure> {
        let writers = self.start_writers();
        let at = self.busiest(HEAD);
        let life = self.life(at);
        let network = self.network;
        let took = self.measure("cable pulled", |_| network.set_link(SERVERS[at], false).unwrap());
        more(&writers);
        network.set_link(SERVERS[at], true)?;
        self.wait_for_another_life(at, life);
        self.end(writers);
        Ok(took)
    }

    /// A minority of one, which clients still reach. It fences itself: its rows can be read there as
    /// they were, but not strongly.
    fn cut_off(&mut self) -> Result<f64, Failure> {
        let writers = self.start_writers();
        let at = self.busiest(TAIL);
        let life = self.life(at);
        assert_eq!(self.pulls_on_its_host(at), "any\nstrong\n", "while nothing is wrong");
        let network = self.network;
        let took = self.measure("cut off", |_| network.set_cut_off(SERVERS[at], true).unwrap());
        more(&writers);
        assert_eq!(self.pulls_on_its_host(at), "any\n", "cut off, it was read strongly");
        network.set_cut_off(SERVERS[at], false)?;
        self.wait_for_another_life(at, life);
        self.end(writers);
        Ok(took)
    }

    /// Clients go on over a link that is slow and loses packets; whether somebody is taken for dead
    /// meanwhile is up to the machine.
    fn slow_down(&mut self) -> Result<String, Failure> {
        let at = self.busiest(HEAD);
        let how = match self.network.slow_down(SERVERS[at]) {
            Ok(how) => how,
            Err(reason) => {
                eprintln!("hosts: no slow link, for this kernel cannot: {reason}");
                return Ok(format!("not run: {reason}"));
            }
        };
        let writers = self.start_writers();
        let end = Instant::now() + SLOW_FOR;
        while Instant::now() < end {
            more(&writers);
        }
        self.network.speed_up(SERVERS[at])?;
        self.end(writers);
        Ok(how.to_owned())
    }

    fn start_writers(&mut self) -> Vec<Pusher> {
        self.scenarios += 1;
        let name = |writer| format!("{}-{writer}-", self.scenarios);
        let addresses = self.cluster.addresses();
        let writers: Vec<Pusher> =
            (0..WRITERS).map(|writer| Pusher::start_as(&name(writer), &addresses)).collect();
        more(&writers);
        writers
    }

    /// All is well again, and nothing was lost or applied twice.
    fn end(&mut self, writers: Vec<Pusher>) {
        wait_until_whole(&self.cluster, &self.numbers);
        more(&writers);
        self.acknowledged += writers.into_iter().map(Pusher::end_and_check).sum::<u64>();
        self.check_probe();
        let verified = self.cluster.verify();
        assert_eq!(verified["replicas"], 3 * ROWS as u64, "{verified}");
    }

    /// Milliseconds from what is done until a push to every partition is acknowledged.
    fn measure(&mut self, what: &str, done: impl FnOnce(&mut Self)) -> f64 {
        let from = Instant::now();
        done(self);
        self.push();
        let took = (from.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        eprintln!("hosts: {what}: pushes went on after {took} ms");
        took
    }

    fn push(&mut self) {
        let ones = [1; ROWS];
        self.probe.push(ALL_ROWS, &ones, &PushOptions::default()).unwrap().wait().unwrap();
        self.probes += 1;
    }

    fn check_probe(&self) {
        let rows = self.probe.pull(ALL_ROWS, &PullOptions::default()).unwrap().wait().unwrap();
        assert_eq!(rows, [self.probes; ROWS], "pushes lost or applied twice");
    }

    /// Which of [`SERVERS`] is at a place of the most chains.
    fn busiest(&self, place: usize) -> usize {
        let map = self.cluster.map();
        let chains = map["chains"].as_array().unwrap();
        let count = |at: &usize| {
            chains.iter().filter(|chain| chain["servers"][place] == self.numbers[*at]).count()
        };
        (0..SERVERS.len()).max_by_key(count).unwrap()
    }

    fn entry(&self, at: usize) -> Value {
        let map = self.cluster.map();
        let servers = map["servers"].as_array().unwrap();
        let entry = servers.iter().find(|entry| entry["server"] == self.numbers[at]);
        entry.unwrap_or_else(|| panic!("no server {} in {map}", self.numbers[at])).clone()
    }

    fn life(&self, at: usize) -> u64 {
        self.entry(at)["incarnation"].as_u64().unwrap()
    }

    fn wait_for_another_life(&self, at: usize, life: u64) {
        eventually("it is back in another life", || {
            let entry = self.entry(at);
            let is_another = entry["incarnation"].as_u64().unwrap() > life;
            (is_another && entry["state"] == "up", entry)
        });
    }

    /// What pulls succeed at a server, asked on its own host.
    fn pulls_on_its_host(&self, at: usize) -> String {
        let launcher = self.network.launcher(SERVERS[at]);
        let number = self.numbers[at];
        let output = Command::new(&launcher[0])
            .args(&launcher[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["strong", self.cluster.address(number), &number.to_string()])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        eprint!("{stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn more(writers: &[Pusher]) {
    writers.iter().for_each(|writer| writer.wait_for_more(PUSHES));
}

/// Waits until these servers hold a copy of everything each.
fn wait_until_whole(cluster: &Cluster, numbers: &[u64]) {
    eventually("every chain has its three servers", || {
        let map = cluster.map();
        let is_whole = map["chains"].as_array().unwrap().iter().all(|chain| {
            let servers = chain["servers"].as_array().unwrap();
            chain["tail_joining"] == false
                && chain["learner"].is_null()
                && servers.len() == numbers.len()
                && numbers.iter().all(|number| servers.iter().any(|one| one == number))
        });
        (is_whole, map)
    });
}

const _: () = assert!(LISTEN.len() == ADDRESSES.len());
