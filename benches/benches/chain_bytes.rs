//! Bytes on the links of chains of three beside the bytes that workers push, in rounds and applied at
//! once, for rows of several widths. Three servers in this process, over shared memory.
//!
//! `cargo bench -p windlass-benches --bench chain_bytes -- [--rounds N]`. Without arguments a small run.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use windlass_benches::chain_bytes::{Cluster, REPLICAS};
use windlass_client::Aggregation;

fn main() {
    let mut rounds = 4;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let value = arguments.next().expect("the option has a value");
            rounds = value.parse().expect("a number of rounds");
        }
    }
    let links = f64::from(REPLICAS - 1);
    let cluster = Cluster::start();
    println!("rows x f32 | mode | workers | pushed | on links | ratio | k/n | off");
    for shape in [(4096, 256), (4096, 16), (4096, 1), (64, 1)] {
        let modes = [
            ("rounds", Aggregation::Rounds { quorum: 0, fold_late: false }),
            ("immediate", Aggregation::Immediate {}),
        ];
        for (name, mode) in modes {
            for workers in [1, 2, 4, 8] {
                let bytes = cluster.measure(workers, shape, rounds, mode);
                let expected = links / f64::from(workers);
                let off = (bytes.ratio() / expected - 1.0) * 100.0;
                println!(
                    "{} x {} | {name} | {workers} | {} | {} | {:.3} | {expected:.3} | {off:+.1} %",
                    shape.0,
                    shape.1,
                    bytes.pushed,
                    bytes.chained,
                    bytes.ratio(),
                );
            }
        }
    }
}
