//! What is measured: one kind of operation of a client on rows of one table.

use std::{path::PathBuf, time::Instant};

use windlass_client::{Client, DataType, Durability, FilterStack, PullFrom, UpdateRule};

use super::{
    draw::{Draw, Naming},
    driver::{BenchError, Measured, Schedule, Subject, measure, measure_together, warm_up},
    limit::{
        AtPositions, Limit, LimitError, LimitKind, PerftestProgram, Pinned, Quantity, allowed_cores,
    },
    log_use::LogUse,
    operations::{Operations, make_table},
};
use crate::{
    element::with_dtype,
    remote::{RemoteError, connect},
    report::{BenchResult, Latency, LogResult},
    train::message::Connection,
};

/// Up to here an operation is compared by its latency, above by its rate.
pub(super) const LATENCY_BYTES_MAX: u64 = 4096;
pub(super) const TABLE: &str = "windlass-bench";
/// Bytes of a record of the log beside its values, about: header, session, share of its batch.
const RECORD_HEADER_BYTES: usize = 128;
const LARGE_WRITE_BYTES: usize = 1 << 20;
/// What the log's writes are multiples of.
const BLOCK_BYTES: usize = 4096;
/// How much longer than it is measured a log is used before at most: a slow one, or few pushes, never
/// fill its files.
const SETTLE_TIMES_MAX: u32 = 8;

/// What a bench does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// Push values and wait for the acknowledgement.
    Push,
    /// Pull values.
    Pull,
    /// Push values and pull the same rows.
    PushPull,
}

impl Operation {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::PushPull => "push-pull",
        }
    }
}

/// The shape of a bench.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetOptions {
    /// What it does.
    pub operation: Operation,
    /// Rows of an operation.
    pub rows: u64,
    /// Values of a row.
    pub width: u32,
    /// Type of a value.
    pub dtype: DataType,
    /// Operations in flight.
    pub window: u32,
    /// Rows of the table.
    pub table_rows: u64,
    /// How an operation names its rows.
    pub naming: Naming,
    /// Whether the table is sparse; its rows are made before the measurement.
    pub is_sparse: bool,
    /// What a push does.
    pub rule: UpdateRule,
    /// When a push is acknowledged.
    pub durability: Durability,
    /// Which replica a pull reads.
    pub from: PullFrom,
    /// Filters of pushes and pulls.
    pub filters: FilterStack,
    /// Clients that do it at once, each on a thread of its own.
    pub clients: u32,
}

/// A connected client with its table.
#[derive(Debug)]
pub struct Target {
    client: Client,
    connection: Connection,
    options: TargetOptions,
    /// The rows that operations name by key, where those are drawn.
    draw: Option<Draw>,
    transport: &'static str,
    /// The server's data directory, if pushes are kept there.
    data: Option<PathBuf>,
    /// Core of the server's only shard, if it is known.
    server_core: Option<usize>,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// For people and programs.
    pub result: BenchResult,
    /// What the limit is a limit of.
    pub quantity: Quantity,
    /// The whole distribution.
    pub latency: Latency,
}

impl Target {
    /// Connects and makes the table anew.
    pub fn new(
        connection: &Connection,
        options: TargetOptions,
        data: Option<PathBuf>,
        server_core: Option<usize>,
    ) -> Result<Self, RemoteError> {
        let client = connect(connection)?;
        if client.list_tables()?.iter().any(|table| table.name == TABLE) {
            client.drop_table(TABLE)?;
        }
        let transport =
            client.providers().first().map_or("none", |(_, provider, _)| provider.name());
        let connection = connection.clone();
        let TargetOptions { naming, rows, table_rows, is_sparse, .. } = options;
        let draw = match naming {
            Naming::Drawn(distribution) => {
                Some(Draw::new(distribution, rows, table_rows, is_sparse))
            }
            Naming::Range | Naming::Neighbours => None,
        };
        Ok(Self { client, connection, options, draw, transport, data, server_core })
    }

    /// Measures, pinned to the first core of this process if there is another for the server and one
    /// client.
    pub fn measure(
        &self,
        schedule: Schedule,
        on_round: impl FnMut(),
    ) -> Result<Outcome, BenchError<RemoteError>> {
        if self.options.clients > 1 {
            return self.measure_together(schedule, on_round);
        }
        let cores = allowed_cores().unwrap_or_default();
        let (kind, measured, log) = with_dtype!(self.options.dtype, T => {
            let mut subject = make_table::<T>(&self.client, &self.options)
                .and_then(|()| {
                    Operations::<T>::new(&self.client, &self.options, self.draw.as_ref())
                })
                .map_err(BenchError::Operation)?;
            self.settle_log(&mut subject, schedule)?;
            let before = self.log_use()?;
            let mut writes = None;
            if let Some(before) = before {
                // How long the log's writes become shows when it is used.
                warm_up(&mut subject, schedule.window, schedule.slice)?;
                writes = self.log_use()?.map(|now| now.since(before));
            }
            // Limits choose their cores among those of this thread, all of them until it is pinned.
            let mut limits = self.limits(writes)?;
            let kind = limits[0].kind();
            let _pinned = if cores.len() > 1 { Pinned::to(cores[0]).ok() } else { None };
            let before = self.log_use()?;
            let measured = measure(&mut subject, &mut limits, schedule, on_round)?;
            let used = self.log_use()?.zip(before).map(|(now, before)| now.since(before));
            let log = used.zip(writes).map(|(used, first)| self.log_result(used, first, &measured));
            Ok::<_, BenchError<RemoteError>>((kind, measured, log))
        })?;
        let mut outcome = self.outcome(kind, &measured, log);
        let client_core = if cores.len() > 1 { cores.first().copied() } else { None };
        outcome.result.cores = client_core.zip(self.server_core).map(<[usize; 2]>::from);
        Ok(outcome)
    }

    /// Pushes until the log goes round: its first files are filled with zeros while it is used, until a
    /// checkpoint gives back others for new records.
    fn settle_log<S: Subject<Error = RemoteError>>(
        &self,
        subject: &mut S,
        schedule: Schedule,
    ) -> Result<(), BenchError<RemoteError>> {
        let Some(first) = self.log_use()? else { return Ok(()) };
        let begun = Instant::now();
        let longest = schedule.slice * schedule.rounds * SETTLE_TIMES_MAX;
        while begun.elapsed() < longest {
            warm_up(subject, schedule.window, schedule.slice)?;
            let Some(now) = self.log_use()? else { return Ok(()) };
            if now.checkpoints > first.checkpoints && !now.is_preparing {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Measures several clients at once.
    fn measure_together(
        &self,
        schedule: Schedule,
        on_round: impl FnMut(),
    ) -> Result<Outcome, BenchError<RemoteError>> {
        let (kind, measured) = with_dtype!(self.options.dtype, T => {
            // The table is there before they look for it.
            make_table::<T>(&self.client, &self.options).map_err(BenchError::Operation)?;
            let mut limits = self.limits(None)?;
            let (connection, options, draw) = (&self.connection, &self.options, &self.draw);
            let make = || Operations::<T>::new(&connect(connection)?, options, draw.as_ref());
            let count = options.clients;
            let measured = measure_together(count, make, &mut limits, schedule, on_round)?;
            Ok::<_, BenchError<RemoteError>>((limits[0].kind(), measured))
        })?;
        Ok(self.outcome(kind, &measured, None))
    }

    /// The counters of the log, where its writes are what is measured.
    fn log_use(&self) -> Result<Option<LogUse>, BenchError<RemoteError>> {
        if self.data.is_none() || self.options.durability != (Durability::Sync {}) {
            return Ok(None);
        }
        LogUse::now(&self.client).map(Some).map_err(BenchError::Operation)
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of a block stay below 2^53")]
    fn log_result(&self, used: LogUse, first: LogUse, measured: &Measured) -> LogResult {
        let (window, push) = (self.window_block(), self.push_block());
        // Of values, without what else is in a block.
        let limit = |at: usize, values: usize, block: usize| {
            measured.limits.get(at).copied().unwrap_or(0.0) * values as f64 / block as f64
        };
        let window_limit = limit(1, self.window_values(), window);
        let push_limit = limit(2, self.push_values(), push);
        let values_per_s = measured.operations_per_s * self.bytes() as f64;
        let ratio_to = |limit: f64| if limit > 0.0 { values_per_s / limit } else { 0.0 };
        LogResult {
            write_bytes: used.bytes_per_write(),
            pushes_per_write: used.pushes_per_write(),
            writes_per_s: measured.operations_per_s / used.pushes_per_write().max(1e-9),
            block_bytes: block_of(first) as u64,
            window_block_bytes: window as u64,
            window_limit,
            window_ratio: ratio_to(window_limit),
            push_block_bytes: push as u64,
            push_limit,
            push_ratio: ratio_to(push_limit),
            segments_made: used.segments,
        }
    }

    /// A block that holds all pushes in flight, each a record of its own.
    fn window_block(&self) -> usize {
        let records = self.options.window as usize * RECORD_HEADER_BYTES;
        (self.window_values() + records).next_multiple_of(BLOCK_BYTES)
    }

    fn window_values(&self) -> usize {
        self.push_values().saturating_mul(self.options.window as usize)
    }

    /// A block that holds one push.
    fn push_block(&self) -> usize {
        self.push_values().saturating_add(RECORD_HEADER_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    fn push_values(&self) -> usize {
        usize::try_from(self.bytes()).unwrap_or(usize::MAX)
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes and rows stay below 2^53")]
    fn outcome(&self, kind: LimitKind, measured: &Measured, log: Option<LogResult>) -> Outcome {
        let directions = if self.options.operation == Operation::PushPull { 2 } else { 1 };
        let bytes = (self.bytes() * directions) as f64;
        let quantity = kind.quantity();
        let result = BenchResult {
            op: self.options.operation.name().to_owned(),
            transport: self.transport.to_owned(),
            rows: self.options.rows,
            width: self.options.width,
            dtype: self.options.dtype.name().to_owned(),
            window: self.options.window,
            clients: self.options.clients,
            p50_us: measured.latency.quantile_us(0.5),
            p99_us: measured.latency.quantile_us(0.99),
            p999_us: measured.latency.quantile_us(0.999),
            rows_per_s: measured.operations_per_s * self.options.rows as f64,
            bytes_per_s: measured.operations_per_s * bytes,
            limit_name: kind.name().to_owned(),
            limit: measured.limit(),
            ratio: match log {
                // A write each, of as many bytes as nearly as blocks allow.
                Some(log) => {
                    measured.ratio(quantity, log.block_bytes as f64 / log.pushes_per_write)
                }
                None => measured.ratio(quantity, bytes),
            },
            cores: None,
            log,
        };
        Outcome { result, quantity, latency: measured.latency.clone() }
    }

    /// What it is compared with; `writes` are those of the log, where they are known.
    fn limits(&self, writes: Option<LogUse>) -> Result<Vec<Limit>, LimitError> {
        let bytes = usize::try_from(self.bytes()).unwrap_or(usize::MAX);
        Ok(match (&self.data, self.options.durability, writes) {
            (Some(data), _, Some(writes)) => {
                [block_of(writes), self.window_block(), self.push_block()]
                    .map(|bytes| Limit::of_disk(data, bytes))
                    .into()
            }
            // Writes are as large as the log likes, but every value is written.
            (Some(data), Durability::Interval { .. }, _) => {
                vec![Limit::of_disk(data, LARGE_WRITE_BYTES)]
            }
            _ => {
                if let Some(limit) = self.bare_positions() {
                    return Ok(vec![limit]);
                }
                let table_bytes = self.options.table_rows.saturating_mul(self.row_bytes());
                let table_bytes = usize::try_from(table_bytes).unwrap_or(usize::MAX);
                vec![Limit::new(self.limit_kind(), bytes, table_bytes)?]
            }
        })
    }

    /// The same rows where nothing has to be looked up, if this host's memory is what bounds an operation
    /// on keys that were drawn.
    fn bare_positions(&self) -> Option<Limit> {
        let what = match (self.options.operation, self.options.rule) {
            (Operation::Pull, _) => AtPositions::Gather,
            (Operation::Push, UpdateRule::Adagrad { .. }) => AtPositions::Adagrad,
            (Operation::Push, UpdateRule::Add) => AtPositions::Add,
            _ => return None,
        };
        let draw = self.draw.as_ref()?;
        if self.transport != "shm" || self.bytes() <= LATENCY_BYTES_MAX {
            return None;
        }
        let width = self.row_bytes().div_ceil(4);
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Some(Limit::of_rows(what, size(self.options.table_rows), size(width), draw.rows()))
    }

    fn row_bytes(&self) -> u64 {
        u64::from(self.options.width) * self.options.dtype.size() as u64
    }

    /// Bytes of values in one direction of an operation.
    fn bytes(&self) -> u64 {
        self.options.rows.saturating_mul(self.row_bytes())
    }

    fn limit_kind(&self) -> LimitKind {
        let is_small = self.bytes() <= LATENCY_BYTES_MAX;
        match (self.transport, self.options.operation) {
            ("tcp", _) if is_small => LimitKind::TcpSpinning,
            ("tcp", _) => LimitKind::TcpStream,
            ("verbs", operation) if LimitKind::has_perftest() => {
                LimitKind::Perftest(match (operation, is_small) {
                    (Operation::Pull, true) => PerftestProgram::ReadLatency,
                    (Operation::Pull, false) => PerftestProgram::ReadBandwidth,
                    (_, true) => PerftestProgram::WriteLatency,
                    (_, false) => PerftestProgram::WriteBandwidth,
                })
            }
            (_, _) if is_small => LimitKind::CrossCore,
            (_, Operation::Push) => LimitKind::Add,
            (_, Operation::Pull) => LimitKind::Memcpy,
            (_, Operation::PushPull) => LimitKind::AddThenMemcpy,
        }
    }
}

/// The log's writes in whole blocks.
fn block_of(writes: LogUse) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of bytes of memory"
    )]
    let bytes = writes.bytes_per_write().round() as usize;
    let half = BLOCK_BYTES / 2;
    ((bytes + half) / BLOCK_BYTES).max(1) * BLOCK_BYTES
}
