//! `cargo run --release -p windlass-tests --example scale`: what placement, the map and a server's
//! death cost for 10, 100 and 1,000 servers, one JSON object per line.

#![allow(clippy::print_stdout, reason = "a tool")]

use windlass_tests::simulation::scale::measure;

fn main() {
    for (servers, partitions) in [(3, 64), (10, 256), (100, 2_048), (1_000, 16_384)] {
        println!("{}", measure(servers, partitions, 3).to_json());
    }
}
