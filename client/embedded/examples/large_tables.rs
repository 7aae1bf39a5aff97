//! What making and dropping a large dense table costs those who push to another one meanwhile: the longest
//! push, and the longest turn of a shard by its thread's CPU time. Run by hand:
//!
//! ```console
//! $ cargo run -p windlass-embedded --example large_tables -- MIB [replicas]
//! ```
//!
//! With replicas, three servers of one process hold a copy each, and the table takes three times as much.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people at a terminal")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::bounded;
use rustix::time::{ClockId, clock_gettime};
use windlass_client::{Client, ClientOptions, Element, PushOptions, TableSchema};
use windlass_engine::{
    Server, ServerConfig,
    shard::{ChainContext, Shard, ShardCommand, ShardOptions, SharedLeases},
};
use windlass_replication::LeaseTimings;
use windlass_transport::{
    Transport,
    shm::{Shm, ShmOptions},
};
use windlass_wire::{
    ClusterMap, DataType, Epoch, ServerId, ShardId, TableEntry, TableId, map::Chain,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().and_then(|text| text.parse().ok()).expect("MiB of the table");
    let replicas: u8 = arguments.next().map_or(1, |text| text.parse().expect("replicas"));
    if replicas == 1 {
        longest_turn(mib);
    }
    longest_push(mib, replicas);
}

fn schema(mib: u64) -> TableSchema {
    TableSchema::dense(DataType::F32, mib << 12, 64)
}

/// A shard that this thread turns itself.
fn longest_turn(mib: u64) {
    let transports: Vec<Box<dyn Transport>> =
        vec![Box::new(Shm::open(ShmOptions::default()).unwrap())];
    let options = ShardOptions {
        spin_us: 20,
        by_reference_len: None,
        log_len_max: None,
        memory_len_max: u64::MAX,
        worker_timeout_ms: 5000,
    };
    let server = ServerId(1);
    let context = ChainContext {
        leases: Arc::new(SharedLeases::new(LeaseTimings::default())),
        events: crossbeam::channel::unbounded().0,
        ended: crossbeam::channel::unbounded().0,
    };
    let (mut shard, handle) =
        Shard::new(ShardId(0), server, 1, options, transports, context).unwrap();
    let chain = Chain { epoch: Epoch(1), servers: vec![server], ..Chain::default() };
    let map = ClusterMap { epoch: Epoch(1), chains: vec![chain; 64], ..ClusterMap::default() };
    let mut carry_out = |what: &str, command: ShardCommand, answered: &dyn Fn() -> bool| {
        handle.send(command);
        let started = Instant::now();
        let (mut longest, mut turns) = (0, 0_u64);
        let mut after = 0;
        // What goes on in the turns behind the answer counts, too.
        while after < 2000 {
            let before = cpu_time_ns();
            shard.turn();
            longest = longest.max(cpu_time_ns() - before);
            turns += 1;
            after += u64::from(after > 0 || answered());
            if turns.is_multiple_of(64) {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        println!(
            "{what}: {turns} turns in {:.2} s, the longest {:.2} ms of CPU time",
            started.elapsed().as_secs_f64(),
            longest as f64 / 1e6
        );
    };
    let (answer, answered) = bounded(1);
    let command = ShardCommand::InstallMap { map: map.into(), answer };
    carry_out("map", command, &|| answered.try_recv().is_ok());
    let (answer, answered) = bounded(1);
    let entry = TableEntry { id: TableId(1), name: "large".to_owned(), schema: schema(mib) };
    let command = ShardCommand::CreateTable { entry, answer };
    carry_out("create", command, &|| answered.try_recv().is_ok());
    let (answer, answered) = bounded(1);
    let command = ShardCommand::DropTable { table: TableId(1), answer };
    carry_out("drop", command, &|| answered.try_recv().is_ok());
}

/// CPU time of this thread.
fn cpu_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

fn longest_push(mib: u64, replicas: u8) {
    let config = ServerConfig {
        memory_len_max: 8 << 30,
        replicas,
        expected_servers: u32::from(replicas),
        ..ServerConfig::default()
    };
    let servers = Server::start_together(&config).unwrap();
    let connect =
        || Client::connect_with(servers[0].advertised(), ClientOptions::default()).unwrap();
    let (longest_ns, pushes, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let maker = connect();
        let (longest, pushes, stop) = (&longest_ns, &pushes, &stop);
        scope.spawn(move || {
            let (pusher, small) = (connect(), TableSchema::dense(f32::DTYPE, 1000, 4));
            let small = pusher.create_table::<f32>("small", &small).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                let pushed = small.push(&[3, 700], &[1.0; 8], &PushOptions::default());
                pushed.unwrap().wait().unwrap();
                let took = u64::try_from(started.elapsed().as_nanos()).unwrap();
                longest.fetch_max(took, Ordering::Relaxed);
                pushes.fetch_add(1, Ordering::Relaxed);
            }
        });
        let during = |what: &str, work: &dyn Fn()| {
            std::thread::sleep(Duration::from_millis(300));
            longest.store(0, Ordering::Relaxed);
            let (before, started) = (pushes.load(Ordering::Relaxed), Instant::now());
            work();
            let took = started.elapsed();
            std::thread::sleep(Duration::from_millis(300));
            println!(
                "{what} in {:.2} s with {replicas} copies: {} pushes meanwhile, the longest {:.2} ms",
                took.as_secs_f64(),
                pushes.load(Ordering::Relaxed) - before,
                longest.load(Ordering::Relaxed) as f64 / 1e6
            );
        };
        during("nothing", &|| std::thread::sleep(Duration::from_secs(1)));
        during("create", &|| drop(maker.create_table::<f32>("large", &schema(mib)).unwrap()));
        during("drop", &|| maker.drop_table("large").unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    // The first has the coordinator.
    servers.into_iter().rev().for_each(drop);
}
