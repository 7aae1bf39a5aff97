//! Bytes written to the disk for each byte of values that pushes change, by log, new segments and
//! checkpoints: rows all over a table are pushed until they were as many bytes as the table several times,
//! once with a log as the server sizes it and once with one of a given length.
//!
//! `cargo bench -p windlass-benches --bench amplification -- [--directory DIR] [--mib N] [--times N]
//! [--log-mib N]`. Without arguments, and in tests, a tiny run.
#![allow(clippy::print_stdout, reason = "printing is what a bench does")]

use std::path::PathBuf;

use windlass_client::{Client, Durability, Element, PendingPush, PushOptions, TableSchema};
use windlass_engine::{Server, ServerConfig};
use windlass_wire::control::Provider;

/// Values of a row: 512 bytes.
const WIDTH: u32 = 128;
/// Rows of a push.
const ROWS: u64 = 256;
/// Pushes in flight.
const WINDOW: usize = 8;

struct Options {
    directory: PathBuf,
    mib: u64,
    times: u64,
    log_mib: u64,
}

fn main() {
    let options = options();
    run(&options, None);
    run(&options, Some(options.log_mib << 20));
}

fn run(options: &Options, log_len_max: Option<u64>) {
    let data = options.directory.join("amplification");
    let _ = std::fs::remove_dir_all(&data);
    let config = ServerConfig {
        data_dir: Some(data.clone()),
        providers: vec![Provider::Shm {}],
        memory_len_max: (options.mib << 21) + (256 << 20),
        log_len_max,
        ..ServerConfig::default()
    };
    let server = Server::start(config).expect("the server starts");
    let client = Client::connect(&format!("windlass://{}", server.advertised())).expect("connects");
    let rows = (options.mib << 20) / (u64::from(WIDTH) * 4);
    let schema = TableSchema {
        durability: Durability::Sync {},
        ..TableSchema::dense(f32::DTYPE, rows, WIDTH)
    };
    let table = client.create_table::<f32>("bench", &schema).expect("the table is made");
    let values = vec![1.0_f32; usize::try_from(ROWS * u64::from(WIDTH)).expect("few")];
    let mut pending: Vec<PendingPush<f32>> = Vec::with_capacity(WINDOW);
    for push in 0..options.times * rows / ROWS {
        // A stride that meets every part of the table, and all rows in the end.
        let first = push.wrapping_mul(0x9E37_79B9_7F4A_7C15) % rows;
        let mut keys: Vec<u64> =
            (0..ROWS).map(|row| (first + row * (rows / ROWS).max(1)) % rows).collect();
        keys.sort_unstable();
        keys.dedup();
        let values = &values[..keys.len() * WIDTH as usize];
        if pending.len() == WINDOW {
            pending.remove(0).wait().expect("the push is acknowledged");
        }
        pending.push(table.push(&keys, values, &PushOptions::default()).expect("a push"));
    }
    pending.into_iter().for_each(|push| push.wait().expect("the push is acknowledged"));
    let json = client.server_statistics(client.map().servers[0].id).expect("statistics");
    // An object of numbers, named.
    let count = |name: &str| -> u64 {
        let (_, rest) = json.split_once(&format!("\"{name}\":")).expect("a counter");
        rest.split(['}', ',']).next().and_then(|number| number.parse().ok()).expect("a number")
    };
    println!(
        "{{\"bench\": \"amplification\", \"table_mib\": {}, \"log_mib\": {}, \"values_mib\": {}, \
         \"log_written_mib\": {}, \"prepared_mib\": {}, \"checkpoints\": {}, \"checkpoint_mib\": {}, \
         \"written_per_byte\": {:.2}}}",
        options.mib,
        log_len_max.map_or_else(|| "null".to_owned(), |len| (len >> 20).to_string()),
        count("log_value_bytes") >> 20,
        count("log_bytes") >> 20,
        count("log_prepared_bytes") >> 20,
        count("checkpoints"),
        count("checkpoint_bytes") >> 20,
        count("written_percent") as f64 / 100.0
    );
    drop(table);
    drop(client);
    server.stop();
    let _ = std::fs::remove_dir_all(&data);
}

fn options() -> Options {
    let mut options = Options {
        directory: std::env::temp_dir()
            .join(format!("windlass-amplification-bench-{}", std::process::id())),
        mib: 2,
        times: 2,
        log_mib: 512,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let given = arguments.next().and_then(|word| word.parse().ok());
            given.unwrap_or_else(|| panic!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--mib" => options.mib = number(),
            "--times" => options.times = number(),
            "--log-mib" => options.log_mib = number(),
            "--directory" => {
                options.directory = arguments.next().expect("the option has a value").into();
            }
            // What `cargo bench` and `cargo test` add.
            _ => {}
        }
    }
    options
}
