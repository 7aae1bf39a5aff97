//! The operations of a bench, carried out one after the other.

use windlass_client::{
    Client, PendingPull, PendingPush, PullOptions, PushOptions, RequestError, RowSelection, Rows,
    Table, TableSchema,
};

use super::{
    draw::{Draw, Naming, key_of},
    driver::Subject,
    target::{LATENCY_BYTES_MAX, Operation, TABLE, TargetOptions},
};
use crate::{element::Value, remote::RemoteError};

/// Rows of one of the pushes that fill a sparse table.
const FILLED_AT_ONCE: u64 = 1 << 16;

/// The operation itself.
pub(super) struct Operations<T: Value> {
    // Rows before the table they are pushed to: fields are dropped in this order.
    free: Vec<Rows<T>>,
    table: Table<T>,
    operation: Operation,
    pull: PullOptions,
    push: PushOptions,
    /// Whether each operation is waited for before the next.
    waits: bool,
    named: Named,
    table_rows: u64,
    values: Vec<T>,
    into: Vec<T>,
}

/// The rows that are next.
enum Named {
    Range(std::ops::Range<u64>),
    /// By keys beside each other.
    Neighbours(Vec<u64>),
    Drawn(Draw),
}

pub(super) enum Pending<T: Value> {
    /// Over already: a pull that is waited for at once.
    Pulled,
    Push(PendingPush<T>),
    Pull(PendingPull<T>),
}

impl<T: Value> Operations<T> {
    /// Operations on the table that [`make_table`] has made; `draw` are the rows that it names, if any.
    pub(super) fn new(
        client: &Client,
        options: &TargetOptions,
        draw: Option<&Draw>,
    ) -> Result<Self, RemoteError> {
        let schema = schema_of(options);
        let table = client.create_table::<T>(TABLE, &schema)?;
        let count = usize::try_from(options.rows).unwrap_or(usize::MAX) * options.width as usize;
        let named = match (options.naming, draw) {
            (Naming::Drawn(_), Some(draw)) => Named::Drawn(draw.clone()),
            (Naming::Neighbours, _) => Named::Neighbours((0..options.rows).collect()),
            _ => Named::Range(0..options.rows),
        };
        let is_large = options.rows * schema.row_len() > LATENCY_BYTES_MAX;
        let mut free = Vec::new();
        if options.operation == Operation::Push && is_large {
            for _ in 0..options.window {
                let mut rows = client
                    .allocate::<T>(count)
                    .map_err(|error| RequestError::Setup { text: error.to_string() })?;
                rows.iter_mut().zip(gradients()).for_each(|(value, gradient)| *value = gradient);
                free.push(rows);
            }
        }
        Ok(Self {
            free,
            table,
            operation: options.operation,
            pull: PullOptions {
                from: options.from,
                filters: options.filters,
                ..PullOptions::default()
            },
            push: PushOptions { filters: options.filters, ..PushOptions::default() },
            waits: options.window == 1,
            named,
            table_rows: options.table_rows,
            values: gradients().take(count).collect(),
            into: vec![T::one(); count],
        })
    }
}

impl Named {
    /// Takes the next rows of the table: of a range those behind it, from the start again at the end.
    fn go_on(&mut self, table_rows: u64) {
        match self {
            Self::Range(range) => {
                let rows = range.end - range.start;
                let start = if range.end + rows <= table_rows { range.end } else { 0 };
                *range = start..start + rows;
            }
            Self::Neighbours(_) => {}
            Self::Drawn(draw) => draw.go_on(),
        }
    }

    fn selection(&self) -> RowSelection<'_> {
        match self {
            Self::Range(range) => RowSelection::Range(range.clone()),
            Self::Neighbours(keys) => RowSelection::Keys(keys),
            Self::Drawn(draw) => RowSelection::Keys(draw.keys()),
        }
    }
}

fn schema_of(options: &TargetOptions) -> TableSchema {
    let TargetOptions { dtype, table_rows, width, rule, durability, .. } = *options;
    let shape = if options.is_sparse {
        TableSchema::sparse(dtype, width)
    } else {
        TableSchema::dense(dtype, table_rows, width)
    };
    TableSchema { rule, durability, ..shape }
}

/// Makes the table, and every row of a sparse one.
pub(super) fn make_table<T: Value>(
    client: &Client,
    options: &TargetOptions,
) -> Result<(), RemoteError> {
    let table = client.create_table::<T>(TABLE, &schema_of(options))?;
    if options.is_sparse { fill(&table, options) } else { Ok(()) }
}

/// What is pushed, again and again: small values whose sums are seldom exact, as gradients are. An emulated
/// processor adds exact ones slower.
fn gradients<T: Value>() -> impl Iterator<Item = T> {
    let gradients: Vec<T> =
        (1..=251).map(|at| T::parse(&format!("0.{at:04}")).unwrap_or(T::one())).collect();
    gradients.into_iter().cycle()
}

/// Makes every row of a sparse table.
fn fill<T: Value>(table: &Table<T>, options: &TargetOptions) -> Result<(), RemoteError> {
    let mut first = 0;
    while first < options.table_rows {
        let end = options.table_rows.min(first + FILLED_AT_ONCE);
        let mut keys: Vec<u64> = (first..end).map(|row| key_of(row, true)).collect();
        keys.sort_unstable();
        let values: Vec<T> = gradients().take(keys.len() * options.width as usize).collect();
        table.push(&keys, &values, &PushOptions::default())?.wait()?;
        first = end;
    }
    Ok(())
}

impl<T: Value> Subject for Operations<T> {
    type Pending = Pending<T>;
    type Error = RemoteError;

    fn start(&mut self) -> Result<Pending<T>, RemoteError> {
        let options = self.push;
        self.named.go_on(self.table_rows);
        Ok(match self.operation {
            Operation::Push => Pending::Push(match self.free.pop() {
                Some(rows) => self.table.push_rows(self.named.selection(), rows, &options)?,
                None => self.table.push(self.named.selection(), &self.values, &options)?,
            }),
            Operation::Pull if self.waits => {
                let rows = self.named.selection();
                self.table.pull_into(rows, &mut self.into, &self.pull)?;
                Pending::Pulled
            }
            Operation::Pull => Pending::Pull(self.table.pull(self.named.selection(), &self.pull)?),
            Operation::PushPull => Pending::Pull(self.table.push_pull(
                self.named.selection(),
                &self.values,
                &options,
            )?),
        })
    }

    fn finish(&mut self, pending: Pending<T>) -> Result<(), RemoteError> {
        match pending {
            Pending::Pulled => {}
            Pending::Push(push) => {
                let (rows, outcome) = push.wait_rows();
                self.free.extend(rows);
                outcome?;
            }
            Pending::Pull(pull) => pull.wait_into(&mut self.into)?,
        }
        Ok(())
    }
}
