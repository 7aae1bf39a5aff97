//! Pulls over a transport whose reads promise no order, and take bytes from the last to the first: how much
//! they ask for, and that what they bring is whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use windlass_client::{
    Client, ClientOptions, Element, Provider, PullOptions, PushOptions, TableSchema,
};
use windlass_embedded::{Embedded, EmbeddedClient};
use windlass_engine::ServerConfig;
use windlass_transport::tcp::TcpOptions;

fn options(reads_in_order: bool) -> ClientOptions {
    let tcp = TcpOptions { reads_in_order, ..TcpOptions::LOOPBACK };
    ClientOptions { providers: vec![Provider::Tcp {}], tcp, ..ClientOptions::default() }
}

fn client(partitions: u32, reads_in_order: bool) -> EmbeddedClient {
    let config =
        ServerConfig { providers: vec![Provider::Tcp {}], partitions, ..ServerConfig::default() };
    Client::embedded_with(config, options(reads_in_order)).unwrap()
}

/// Requests and bytes of one pull of `rows` rows from row `first` on.
fn cost(client: &Client, width: u32, table_rows: u64, first: u64, rows: u64) -> (u64, u64) {
    let name = format!("{width}-{table_rows}");
    let schema = TableSchema::dense(f32::DTYPE, table_rows, width);
    let table = client.create_table::<f32>(&name, &schema).unwrap();
    let len = usize::try_from(rows * u64::from(width)).unwrap();
    let pull = || {
        let mut into = vec![0.0; len];
        table.pull_into(first..first + rows, &mut into, &PullOptions::default()).unwrap();
        assert_eq!(into, vec![0.0; len]);
    };
    // The first one learns where the rows lie.
    pull();
    let before = client.counters();
    pull();
    let after = client.counters();
    assert_eq!(after.reads_retried, before.reads_retried, "nothing is pushed");
    (after.reads - before.reads, after.bytes_read - before.bytes_read)
}

/// What a pull asks for: requests and bytes.
struct Case {
    partitions: u32,
    /// Values of a row, rows of the table, and those pulled.
    table: (u32, u64),
    rows: (u64, u64),
    in_order: (u64, u64),
    unordered: (u64, u64),
}

#[test]
fn a_pull_asks_for_its_rows_once_and_for_versions_before_and_after() {
    let cases = [
        // One row of 256 bytes of a block of three, of 960 and of 4,096 in blocks of their own: no more
        // than the row and two words.
        Case {
            partitions: 1,
            table: (64, 100),
            rows: (42, 1),
            in_order: (1, 784),
            unordered: (3, 8 + 264 + 8),
        },
        Case {
            partitions: 1,
            table: (240, 100),
            rows: (7, 1),
            in_order: (1, 976),
            unordered: (3, 8 + 968 + 8),
        },
        Case {
            partitions: 1,
            table: (1024, 100),
            rows: (5, 1),
            in_order: (1, 4112),
            unordered: (3, 8 + 4104 + 8),
        },
        // Two blocks of 64 rows each.
        Case {
            partitions: 1,
            table: (16, 100_000),
            rows: (5_000, 64),
            in_order: (1, 8_272),
            unordered: (2 + 1 + 2, 16 + 4_168 + 16),
        },
        // 256 blocks of 4 KiB: the versions of 16 at once.
        Case {
            partitions: 1,
            table: (1024, 256),
            rows: (0, 256),
            in_order: (5, 1_064_720),
            unordered: (256 + 16 + 256, 1_068_288),
        },
        // Small blocks: their versions lie nearer to each other than a request is worth.
        Case {
            partitions: 1,
            table: (64, 100),
            rows: (0, 100),
            in_order: (1, 28_240),
            unordered: (3, 83_168),
        },
        // Partitions that lie one behind the other.
        Case {
            partitions: 16,
            table: (4, 100),
            rows: (0, 100),
            in_order: (1, 3_664),
            unordered: (3, 10_848),
        },
    ];
    for Case { partitions, table: (width, table_rows), rows: (first, rows), in_order, unordered } in
        cases
    {
        for (reads_in_order, expected) in [(true, in_order), (false, unordered)] {
            let client = client(partitions, reads_in_order);
            let found = cost(&client, width, table_rows, first, rows);
            assert_eq!(
                found, expected,
                "requests and bytes of {rows} rows of {width} values of {table_rows}, \
                 {partitions} partitions, in order: {reads_in_order}"
            );
        }
    }
}

/// Rows of one block, and those of a table of one partition.
struct Shape {
    width: u32,
    rows: u64,
    block_rows: u64,
}

#[test]
fn rows_are_whole_while_they_are_pushed_to() {
    // Blocks of one row and of several, small and large; one request, and many.
    for (width, rows, block_rows) in [(64, 12, 3), (240, 60, 1), (1024, 128, 1), (256, 600, 4)] {
        check_whole(&Shape { width, rows, block_rows });
    }
}

/// Pulls while all rows are pushed to at once: every block is of one push, and never older than before.
fn check_whole(shape: &Shape) {
    let client = client(1, false);
    let Shape { width, rows, block_rows } = *shape;
    let schema = TableSchema::dense(i32::DTYPE, rows, width);
    let table = client.create_table::<i32>("pushed", &schema).unwrap();
    let address = client.server().advertised().to_owned();
    let is_over = AtomicBool::new(false);
    let values = usize::try_from(rows * u64::from(width)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pusher = Client::connect_with(&address, options(true)).unwrap();
            let table = pusher.open_table::<i32>("pushed").unwrap();
            let ones = vec![1; values];
            while !is_over.load(Ordering::Relaxed) {
                table.push(0..rows, &ones, &PushOptions::default()).unwrap().wait().unwrap();
                // Leaves readers the time for a read.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        // The newest push that was whole in each block, when the pull began.
        let check = |first: u64, pulled: &[i32], began: &[i32], newest: &mut [i32]| {
            let block_values = usize::try_from(block_rows * u64::from(width)).unwrap();
            for (block, pulled) in (first / block_rows..).zip(pulled.chunks(block_values)) {
                let (seen, at) = (pulled[0], usize::try_from(block).unwrap());
                assert!(pulled.iter().all(|value| *value == seen), "torn block {block}");
                assert!(seen >= began[at], "block {block}: {seen} after {}", began[at]);
                newest[at] = newest[at].max(seen);
            }
        };
        let pull = PullOptions::default();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut round = 0;
            let mut newest = vec![0; usize::try_from(rows).unwrap()];
            while round < 100 || client.counters().reads_retried == 0 {
                assert!(round < 1_000_000, "no push ever met a pull");
                round += 1;
                // One block, waited for; then all, several pulls under way at once.
                let first = round % (rows / block_rows) * block_rows;
                let mut block = vec![0; usize::try_from(block_rows * u64::from(width)).unwrap()];
                table.pull_into(first..first + block_rows, &mut block, &pull).unwrap();
                let began = newest.clone();
                check(first, &block, &began, &mut newest);
                let began = newest.clone();
                let pulls = [0; 3].map(|_| table.pull(0..rows, &pull).unwrap());
                for pulled in pulls {
                    check(0, &pulled.wait().unwrap(), &began, &mut newest);
                }
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}
