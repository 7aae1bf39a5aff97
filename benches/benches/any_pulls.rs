//! Pulls of one partition's rows from any replica, simulated: the client's choice of replica, servers
//! that carry out one pull at a time, readers that ask again as soon as they have an answer. Says what
//! more replicas bring where a machine has too few cores to run them. Deterministic.
//!
//! `cargo bench -p windlass-benches --bench any_pulls -- [--service-ns N] [--away-ns N] [--readers N]`.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::{cmp::Reverse, collections::BinaryHeap};

use windlass_wire::{
    ClusterMap, Epoch, PartitionId, ServerId, SessionId,
    map::{Chain, mix},
};

/// The partition that everybody pulls.
const HOT: PartitionId = PartitionId(0);

/// Nanoseconds that are simulated.
const UNTIL_NS: u64 = 400_000_000;

/// Readers' sessions are drawn anew so many times.
const DRAWS: u64 = 20;

#[derive(Clone, Copy)]
struct Scene {
    replicas: u32,
    /// Each with one pull under way.
    readers: u64,
    /// Nanoseconds that a server works for a pull.
    service_ns: u64,
    /// Nanoseconds of a pull that are spent elsewhere: at the client and on the way.
    away_ns: u64,
    /// Whether readers choose any replica, or all read the tail.
    any: bool,
    /// How many times as long as the others the tail works.
    slowness: u64,
}

struct Seen {
    reads_per_s: f64,
    /// The part of all pulls that the busiest server answered.
    busiest: f64,
    p50_ns: u64,
    p99_ns: u64,
}

impl Scene {
    #[expect(clippy::cast_precision_loss, reason = "pulls of less than a second")]
    fn run(&self, draw: u64) -> Seen {
        let servers = (0..self.replicas).map(ServerId).collect();
        let chain = Chain { epoch: Epoch(1), servers, ..Chain::default() };
        let map = ClusterMap { chains: vec![chain], ..ClusterMap::default() };
        let tail = map.read_tail(HOT);
        let chosen = |reader: u64| {
            let session = SessionId(mix(draw << 32 | reader));
            if self.any { map.any_of(HOT, session).next() } else { tail }
        };
        let mut free_at = vec![0_u64; self.replicas as usize];
        let mut answered = vec![0_u64; self.replicas as usize];
        let mut times = Vec::new();
        // Readers by the time at which their next pull is at its server.
        let mut pulls: BinaryHeap<_> =
            (0..self.readers).map(|reader| Reverse((reader, reader))).collect();
        while let Some(Reverse((arrived, reader))) = pulls.pop() {
            if arrived >= UNTIL_NS {
                break;
            }
            let Some(server) = chosen(reader) else { break };
            let at = server.0 as usize;
            let slowness = if Some(server) == tail { self.slowness } else { 1 };
            free_at[at] = free_at[at].max(arrived) + self.service_ns * slowness;
            answered[at] += 1;
            times.push(free_at[at] - arrived + self.away_ns);
            pulls.push(Reverse((free_at[at] + self.away_ns, reader)));
        }
        times.sort_unstable();
        let quantile = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(0);
        let busiest = answered.iter().copied().max().unwrap_or(0);
        Seen {
            reads_per_s: times.len() as f64 / (UNTIL_NS as f64 / 1e9),
            busiest: busiest as f64 / times.len().max(1) as f64,
            p50_ns: quantile(50),
            p99_ns: quantile(99),
        }
    }
}

fn main() {
    let mut given = Scene {
        replicas: 1,
        readers: 0,
        service_ns: 2_000,
        away_ns: 7_000,
        any: true,
        slowness: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let target = match word.as_str() {
            "--service-ns" => &mut given.service_ns,
            "--away-ns" => &mut given.away_ns,
            "--readers" => &mut given.readers,
            // What `cargo bench` and `cargo test` add.
            _ => continue,
        };
        let value = words.next().and_then(|value| value.parse().ok());
        *target = value.unwrap_or_else(|| panic!("{word} needs a number"));
    }
    let readers = if given.readers > 0 { vec![given.readers] } else { vec![1, 4, 16, 64] };
    for readers in readers {
        for (replicas, any, slowness) in
            [(1, true, 1), (3, false, 1), (3, true, 1), (5, true, 1), (3, false, 4), (3, true, 4)]
        {
            let scene = Scene { replicas, readers, any, slowness, ..given };
            let mut seen: Vec<Seen> = (0..DRAWS).map(|draw| scene.run(draw)).collect();
            seen.sort_by(|a, b| a.reads_per_s.total_cmp(&b.reads_per_s));
            let (least, middle, most) = (&seen[0], &seen[seen.len() / 2], &seen[seen.len() - 1]);
            println!(
                "{{\"bench\": \"any_pulls\", \"replicas\": {replicas}, \"from\": \"{}\", \
                 \"readers\": {readers}, \"tail_slowness\": {slowness}, \"reads_per_s\": {:.0}, \
                 \"least\": {:.0}, \"most\": {:.0}, \"busiest_server\": {:.2}, \"p50_ns\": {}, \
                 \"p99_ns\": {}}}",
                if any { "any" } else { "tail" },
                middle.reads_per_s,
                least.reads_per_s,
                most.reads_per_s,
                middle.busiest,
                middle.p50_ns,
                middle.p99_ns,
            );
        }
    }
}
