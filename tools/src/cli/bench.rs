//! `windlass bench {push,pull,push-pull}`.

use std::{path::PathBuf, time::Duration};

use windlass_client::{DataType, Durability, FilterStack, UpdateRule};

use super::{
    ExitStatus, Failure, Output, bench_connections, connection::Means, progress, replica::Replica,
    size,
};
use crate::{
    bench::{
        Distribution, Naming, Operation, Target, TargetOptions,
        connections::hold_clients,
        driver::Schedule,
        limit::{Quantity, allowed_cores},
    },
    report::{BenchResult, Latency, Plot, Scale, svg, table, units},
    train::{ServerOptions, Servers},
};

const AFTER_HELP: &str = "\
Measures in slices, and between them what the machine can do without a parameter server; ratio is \
this over that limit: p50 over the limit's time for operations of up to 4 KiB, rate over rate above.
Times are less what reading the clock takes. Client and server are pinned to the first and the last
core, which --json names, and the limit is measured between the same two.

  transport   up to 4 KiB               above
  shm         cross-core round trip     p += g (push), memcpy (pull), both (push-pull)
  tcp         TCP ping-pong, spinning   TCP stream
  verbs       perftest, if installed    perftest, if installed

--keys draws the rows of each operation from --table-rows; over shm the limit above 4 KiB is then \"bare
positions\": the same rows of as large a table, copied (pull), added to or updated by Adagrad (push) by one
thread of this process that knows where each one is.

With --durability sync the limit is fio, if installed: sequential O_DIRECT writes, each followed by
fdatasync, in the same directory, of blocks as long as the log's writes are; ratio compares writes
per second. A new log makes its files as it goes and fills them with zeros, until checkpoints give files
back: pushes before that do not count, for up to eight times as long as is measured, and the result
says how many files were made all the same. --json adds how many pushes share a write, and values
acknowledged beside fio with blocks that hold all pushes in flight. With interval the limit is fio with blocks of 1 MiB.

--clients N connects N times, each on a thread of its own that is not pinned: rates are those of all
together, times those of every operation. With --from any each reads the replicas that fall to it.

Examples:
  windlass bench push --rows 1
  windlass bench push --transport tcp --rows 1048576 --window 4 --plot
  windlass bench push --rows 4 --width 128 --window 16 --durability sync --data-dir bench-data
  windlass bench pull --rows 500 --width 128 --keys --neighbours --svg pull.svg --json
  windlass bench pull --rows 4096 --width 16 --sparse --table-rows 4000000 --distribution zipf:1.05";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure
    #[arg(required = true)]
    operation: Option<Operation>,
    /// Rows of an operation
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    rows: u64,
    /// Values of a row
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    width: u32,
    /// Type of a value
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: DataType,
    /// Operations in flight
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: u32,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Rows of the table, which operations take in turn [default: the rows of an operation]
    #[arg(long, value_name = "N")]
    table_rows: Option<u64>,
    /// Name rows one by one, drawn anew for each operation, instead of as a range
    #[arg(long)]
    keys: bool,
    /// With --keys, name rows beside each other
    #[arg(long, requires = "keys", conflicts_with_all = ["sparse", "distribution"])]
    neighbours: bool,
    /// Use a sparse table of --table-rows rows, which are made before; implies --keys
    #[arg(long)]
    sparse: bool,
    /// How rows are drawn for --keys and --sparse: uniform, or zipf:S
    #[arg(long, value_name = "DISTRIBUTION", default_value = "uniform")]
    distribution: Distribution,
    /// What a push does
    #[arg(long, value_name = "RULE", default_value = "add")]
    rule: UpdateRule,
    /// When a push is acknowledged: memory, interval:MS or sync
    #[arg(long, value_name = "LEVEL", value_parser = super::table::durability, default_value = "memory")]
    durability: Durability,
    /// Which replica pulls read, in a cluster where rows have several
    #[arg(long, value_name = "REPLICA", default_value = "tail", requires = "connect")]
    from: Replica,
    /// Send pushes, and pulls by key, through these filters, apart by commas: key-cache, delta-keys, snappy, bf16, f16,
    /// fixed:1 to fixed:4
    #[arg(long, value_name = "FILTERS", default_value = "", value_parser = super::filters::parse)]
    filters: FilterStack,
    /// Data directory of the server started for the bench, for a durability other than memory
    #[arg(long, value_name = "DIR", conflicts_with = "connect")]
    data_dir: Option<PathBuf>,
    /// Slices
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Time of a slice in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    slice_ms: u64,
    /// Draw the latency distribution on the terminal
    #[arg(long)]
    plot: bool,
    /// Draw the latency distribution into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Use the servers at this address instead of one started for the bench
    #[arg(long, value_name = "ADDRESS", help_heading = "Connection")]
    connect: Option<String>,
    /// Memory of a server started for the bench
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "4GiB", help_heading = "Connection")]
    memory: u64,
    #[command(flatten)]
    by: Means,
}

/// What else than operations can be measured.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Measure what idle clients cost a server, and a client that works among them
    Connections(bench_connections::Arguments),
    /// Hold idle clients: what `bench connections` starts
    #[command(hide = true)]
    Idle,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    match &arguments.other {
        Some(Other::Connections(arguments)) => bench_connections::run(arguments, output),
        Some(Other::Idle) => hold_clients().map_err(Failure::failed),
        None => measure(arguments, output),
    }
}

fn measure(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let operation = arguments.operation.expect("clap requires it without a subcommand");
    let table_rows = arguments.table_rows.unwrap_or(arguments.rows);
    check(arguments, operation)?;
    let naming = naming(arguments)?;
    // The shard is on the last core, the client on the first: the limit is measured between them.
    let last_core = allowed_cores()
        .ok()
        .filter(|_| arguments.clients == 1)
        .filter(|cores| cores.len() > 1)
        .and_then(|cores| cores.last().copied());
    let (servers, connection) = match &arguments.connect {
        Some(address) => (None, arguments.by.connection(address)?),
        None => {
            let transports =
                arguments.by.transport.iter().map(|provider| provider.name().to_owned());
            let servers = Servers::start(&ServerOptions {
                transports: transports.collect(),
                memory_bytes: arguments.memory,
                data: arguments.data_dir.clone(),
                verbs: arguments.by.verbs.clone(),
                core: last_core,
                ..ServerOptions::default()
            })
            .map_err(Failure::failed)?;
            let connection = arguments.by.connection(servers.address())?;
            (Some(servers), connection)
        }
    };
    let target = Target::new(
        &connection,
        TargetOptions {
            operation,
            rows: arguments.rows,
            width: arguments.width,
            dtype: arguments.dtype,
            window: arguments.window,
            table_rows,
            naming,
            is_sparse: arguments.sparse,
            rule: arguments.rule,
            durability: arguments.durability,
            from: arguments.from.pull_from(),
            filters: arguments.filters,
            clients: arguments.clients,
        },
        arguments.data_dir.clone(),
        last_core.filter(|_| servers.is_some()),
    )
    .map_err(super::table::remote)?;
    let slice = Duration::from_millis(arguments.slice_ms);
    let schedule = Schedule {
        window: arguments.window,
        rounds: arguments.rounds,
        slice,
        limit_slice: slice / 4,
    };
    let bar = progress::bar(u64::from(arguments.rounds), "measuring");
    let measured = target.measure(schedule, || bar.inc(1)).map_err(Failure::failed)?;
    bar.finish_and_clear();
    let result = measured.result;
    output.result(&result, || text(&result, measured.quantity))?;
    let plot = latency_plot(&result, &measured.latency);
    if let Some(path) = &arguments.svg {
        svg::write(&plot, path).map_err(Failure::failed)?;
    }
    if arguments.plot { output.text(&plot.render(72, 12)) } else { Ok(()) }
}

/// Refuses what does not go together.
fn check(arguments: &Arguments, operation: Operation) -> Result<(), Failure> {
    let table_rows = arguments.table_rows.unwrap_or(arguments.rows);
    if table_rows < arguments.rows {
        return Err(Failure::new(
            ExitStatus::Usage,
            format!(
                "--table-rows {table_rows} is below --rows {}: an operation touches each row once",
                arguments.rows
            ),
        ));
    }
    let starts_server = arguments.connect.is_none();
    let is_durable = arguments.durability != (Durability::Memory {});
    if is_durable && starts_server && arguments.data_dir.is_none() {
        return Err(Failure::new(
            ExitStatus::Usage,
            "a durability other than memory needs --data-dir DIR for the log of the server that is \
             started for the bench",
        ));
    }
    if arguments.from != Replica::Tail && operation != Operation::Pull {
        return Err(Failure::new(
            ExitStatus::Usage,
            "--from says which replica `bench pull` reads: pushes go to the first of the chain",
        ));
    }
    Ok(())
}

fn naming(arguments: &Arguments) -> Result<Naming, Failure> {
    match (arguments.keys || arguments.sparse, arguments.neighbours) {
        (true, false) => Ok(Naming::Drawn(arguments.distribution)),
        (true, true) => Ok(Naming::Neighbours),
        (false, _) if arguments.distribution != Distribution::Uniform => Err(Failure::new(
            ExitStatus::Usage,
            "--distribution says how rows are drawn for --keys or --sparse: add one of them",
        )),
        (false, _) => Ok(Naming::Range),
    }
}

fn text(result: &BenchResult, quantity: Quantity) -> String {
    let limit = match quantity {
        Quantity::BytesPerSecond => units::bytes_per_s(result.limit),
        Quantity::Micros => units::micros(result.limit),
    };
    let shape = format!("{} x {} {}", units::grouped(result.rows), result.width, result.dtype);
    let mut facts = vec![
        ("operation", format!("{} of {shape} by {}", result.op, result.transport)),
        ("clients", result.clients.to_string()),
        ("in flight", result.window.to_string()),
        ("p50", units::micros(result.p50_us)),
        ("p99", units::micros(result.p99_us)),
        ("p99.9", units::micros(result.p999_us)),
        ("rows/s", units::count(result.rows_per_s)),
        ("values", units::bytes_per_s(result.bytes_per_s)),
        ("limit", format!("{limit} ({})", result.limit_name)),
        ("ratio to it", format!("{:.2}", result.ratio)),
    ];
    if let Some(log) = result.log {
        let (pushes, bytes) = (log.pushes_per_write, log.write_bytes / 1024.0);
        facts.push(("a write", format!("{pushes:.1} pushes, {bytes:.1} KiB")));
        for (block, ratio) in
            [(log.push_block_bytes, log.push_ratio), (log.window_block_bytes, log.window_ratio)]
        {
            facts.push(("to blocks of", format!("{} KiB: {ratio:.2} in values", block / 1024)));
        }
        if log.segments_made > 0 {
            facts.push(("log files made", format!("{} meanwhile", log.segments_made)));
        }
    }
    table::facts(&facts)
}

fn latency_plot(result: &BenchResult, latency: &Latency) -> Plot {
    Plot {
        title: format!("Latency of {} by {}", result.op, result.transport),
        x_label: "nines (1 = 90 %, 2 = 99 %, 3 = 99.9 %)".to_owned(),
        y_label: "microseconds".to_owned(),
        scale: Scale::Logarithmic,
        curves: vec![(result.op.clone(), latency.curve())],
    }
}
