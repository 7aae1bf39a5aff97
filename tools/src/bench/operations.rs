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
    /// Whether each operation is waited for before the next.
    waits: bool,
    /// Keys beside each other, where those are named.
    keys: Vec<u64>,
    /// Keys that were drawn, where those are named.
    draw: Option<Draw>,
    /// The next rows in turn, of so many of the table.
    range: std::ops::Range<u64>,
    table_rows: u64,
    values: Vec<T>,
    into: Vec<T>,
}

pub(super) enum Pending<T: Value> {
    /// Over already: a pull that is waited for at once.
    Pulled,
    Push(PendingPush<T>),
    Pull(PendingPull<T>),
}

impl<T: Value> Operations<T> {
    pub(super) fn new(client: &Client, options: &TargetOptions) -> Result<Self, RemoteError> {
        let shape = if options.is_sparse {
            TableSchema::sparse(options.dtype, options.width)
        } else {
            TableSchema::dense(options.dtype, options.table_rows, options.width)
        };
        let schema = TableSchema { rule: options.rule, durability: options.durability, ..shape };
        let table = client.create_table::<T>(TABLE, &schema)?;
        let count = usize::try_from(options.rows).unwrap_or(usize::MAX) * options.width as usize;
        if options.is_sparse {
            fill(&table, options)?;
        }
        let (keys, draw) = match options.naming {
            Naming::Range => (Vec::new(), None),
            Naming::Neighbours => ((0..options.rows).collect(), None),
            Naming::Drawn(distribution) => {
                let TargetOptions { rows, table_rows, is_sparse, .. } = *options;
                (Vec::new(), Some(Draw::new(distribution, rows, table_rows, is_sparse)))
            }
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
            pull: PullOptions { from: options.from, ..PullOptions::default() },
            waits: options.window == 1,
            keys,
            draw,
            range: 0..options.rows,
            table_rows: options.table_rows,
            values: gradients().take(count).collect(),
            into: vec![T::one(); count],
        })
    }

    /// Takes the next rows of the table, from its start again behind its end.
    fn go_on(&mut self) {
        if let Some(draw) = &mut self.draw {
            return draw.go_on();
        }
        let rows = self.range.end - self.range.start;
        let start = if self.range.end + rows <= self.table_rows { self.range.end } else { 0 };
        self.range = start..start + rows;
    }

    fn selection(&self) -> RowSelection<'_> {
        selection(&self.draw, &self.keys, &self.range)
    }
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

fn selection<'a>(
    draw: &'a Option<Draw>,
    keys: &'a [u64],
    range: &std::ops::Range<u64>,
) -> RowSelection<'a> {
    match draw {
        Some(draw) => RowSelection::Keys(draw.keys()),
        None if keys.is_empty() => RowSelection::Range(range.clone()),
        None => RowSelection::Keys(keys),
    }
}

impl<T: Value> Subject for Operations<T> {
    type Pending = Pending<T>;
    type Error = RemoteError;

    fn start(&mut self) -> Result<Pending<T>, RemoteError> {
        let options = PushOptions::default();
        self.go_on();
        Ok(match self.operation {
            Operation::Push => Pending::Push(match self.free.pop() {
                Some(rows) => self.table.push_rows(self.selection(), rows, &options)?,
                None => self.table.push(self.selection(), &self.values, &options)?,
            }),
            Operation::Pull if self.waits => {
                let rows = selection(&self.draw, &self.keys, &self.range);
                self.table.pull_into(rows, &mut self.into, &self.pull)?;
                Pending::Pulled
            }
            Operation::Pull => Pending::Pull(self.table.pull(self.selection(), &self.pull)?),
            Operation::PushPull => {
                Pending::Pull(self.table.push_pull(self.selection(), &self.values, &options)?)
            }
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
