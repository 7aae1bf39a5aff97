//! The weights on servers: a sparse table of one f32 a row with the rule FTRL, and beside it, if
//! asked for, a ledger in which every push is counted.

use std::collections::{BTreeMap, VecDeque};

use windlass_client::{
    Client, Consistency, DataType, FilterStack, PendingPull, PendingPush, PullOptions, PushOptions,
    RequestError, Sparsifier, Table, TableSchema, UpdateRule, WorkerRank,
};

use super::{
    Audit, Filters, Pace, Parameters,
    message::{Connection, Task},
};
use crate::remote::{RemoteError, connect, connect_as};

/// Pushes that may be under way before the oldest is waited for.
const PUSHES_IN_FLIGHT_MAX: usize = 8;
/// Ledger rows pulled at a time.
const AUDIT_CHUNK: usize = 4096;
/// A ledger row counts one push; its key is the worker's rank above the number of the push.
const RANK_SHIFT: u32 = 40;

/// The weights, as one client sees them.
#[derive(Debug)]
pub struct Weights {
    // Tables before the client they belong to: fields are dropped in this order.
    in_flight: VecDeque<InFlight>,
    weights: Table<f32>,
    ledger: Option<Ledger>,
    /// Of the messages of pushes and pulls of the weights.
    filters: FilterStack,
    /// What chooses the rows of pushes, and holds the others.
    sparsifier: Option<Sparsifier<f32>>,
    client: Client,
}

#[derive(Debug)]
struct Ledger {
    table: Table<i64>,
    rank: u64,
    count: u64,
}

#[derive(Debug)]
enum InFlight {
    Weights(PendingPush<f32>),
    Ledger(PendingPush<i64>),
}

impl Weights {
    /// Connects and creates the tables, or finds them as they are.
    pub fn create(
        connection: &Connection,
        table: &str,
        rule: UpdateRule,
        consistency: Consistency,
        ledger: Option<&str>,
    ) -> Result<Self, RemoteError> {
        let client = connect(connection)?;
        let schema = TableSchema { rule, consistency, ..TableSchema::sparse(DataType::F32, 1) };
        let weights = client.create_table::<f32>(table, &schema)?;
        let ledger = match ledger {
            Some(name) => {
                let schema = TableSchema::sparse(DataType::I64, 1);
                let table = client.create_table::<i64>(name, &schema)?;
                Some(Ledger { table, rank: 0, count: 0 })
            }
            None => None,
        };
        let filters = FilterStack::default();
        let in_flight = VecDeque::new();
        Ok(Self { in_flight, weights, ledger, filters, sparsifier: None, client })
    }

    /// Connects as the worker of a task.
    pub fn open(task: &Task) -> Result<Self, RemoteError> {
        let in_rounds = task.pace == Pace::InRounds;
        let rank = u32::try_from(task.source.rank).ok().filter(|_| in_rounds).map(WorkerRank);
        let client = connect_as(&task.connection, rank)?;
        let weights = client.open_table::<f32>(&task.table)?;
        if in_rounds {
            weights.wait_for_workers(task.source.workers)?;
        }
        let ledger = match &task.ledger {
            Some(name) => {
                let table = client.open_table::<i64>(name)?;
                Some(Ledger { table, rank: task.source.rank, count: 0 })
            }
            None => None,
        };
        let filters: Filters = task.filters.parse().map_err(RequestError::from)?;
        let sparsifier = filters.sparsifier(weights.width(), &weights.schema().rule);
        let sparsifier = sparsifier.map_err(RequestError::from)?;
        let filters = filters.messages;
        let in_flight = VecDeque::new();
        Ok(Self { in_flight, weights, ledger, filters, sparsifier, client })
    }

    /// Reads the ledger: each of the `pushes[rank]` acknowledged pushes of each worker must have
    /// been counted once.
    pub fn audit(&mut self, pushes: &[u64]) -> Result<Audit, RemoteError> {
        let mut audit = Audit { acknowledged: pushes.iter().sum(), ..Audit::default() };
        let Some(ledger) = &self.ledger else { return Ok(audit) };
        for (rank, &count) in (0_u64..).zip(pushes) {
            let keys: Vec<u64> = (0..count).map(|number| ledger_key(rank, number)).collect();
            for keys in keys.chunks(AUDIT_CHUNK) {
                let counts = ledger.table.pull(keys, &PullOptions::default())?.wait()?;
                for (key, count) in keys.iter().zip(counts) {
                    if count != 1 {
                        tracing::error!(key, count, "an acknowledged push was not applied once");
                    }
                    audit.lost += u64::from(count < 1);
                    audit.doubled += u64::from(count > 1);
                }
            }
        }
        Ok(audit)
    }

    /// Microseconds spent waiting for slower workers.
    #[must_use]
    pub fn idle_us(&self) -> u64 {
        self.client.counters().clock_wait_us
    }

    /// Bytes that filters kept from being sent, by filter.
    #[must_use]
    pub fn bytes_saved(&self) -> BTreeMap<String, u64> {
        let of_messages = self.client.counters().saved.by_filter();
        let of_rows = self.sparsifier.iter().flat_map(Sparsifier::bytes_saved);
        of_messages
            .into_iter()
            .chain(of_rows)
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect()
    }

    fn wait_for_oldest(&mut self) -> Result<(), RemoteError> {
        match self.in_flight.pop_front() {
            Some(InFlight::Weights(push)) => drop(push.wait()?),
            Some(InFlight::Ledger(push)) => drop(push.wait()?),
            None => {}
        }
        Ok(())
    }
}

impl Parameters for Weights {
    type Pull = PendingPull<f32>;
    type Error = RemoteError;

    fn begin_pull(&mut self, keys: &[u64]) -> Result<Self::Pull, RemoteError> {
        let options = PullOptions { filters: self.filters, ..PullOptions::default() };
        Ok(self.weights.pull(keys, &options)?)
    }

    fn finish_pull(&mut self, pull: Self::Pull, rows: &mut Vec<f32>) -> Result<(), RemoteError> {
        *rows = pull.wait()?;
        Ok(())
    }

    fn push(&mut self, keys: &[u64], rows: &[f32], gradients: &[f32]) -> Result<(), RemoteError> {
        while self.in_flight.len() >= PUSHES_IN_FLIGHT_MAX {
            self.wait_for_oldest()?;
        }
        let options = PushOptions::default();
        let filtered = PushOptions { filters: self.filters, ..options };
        let push = match &mut self.sparsifier {
            None => Some(self.weights.push(keys, gradients, &filtered)?),
            Some(by) => by.push(&self.weights, keys, gradients, Some(rows), &filtered)?,
        };
        self.in_flight.extend(push.map(InFlight::Weights));
        if let Some(ledger) = &mut self.ledger {
            let key = ledger_key(ledger.rank, ledger.count);
            ledger.count += 1;
            let push = ledger.table.push(&[key], &[1], &options)?;
            self.in_flight.push_back(InFlight::Ledger(push));
        }
        Ok(())
    }

    fn push_held(&mut self) -> Result<usize, RemoteError> {
        let Some(sparsifier) = &mut self.sparsifier else { return Ok(0) };
        let rows = sparsifier.held_rows();
        let options = PushOptions { filters: self.filters, ..PushOptions::default() };
        let push = sparsifier.push_held(&self.weights, &options)?;
        self.in_flight.extend(push.map(InFlight::Weights));
        Ok(rows)
    }

    fn end_round(&mut self) -> Result<(), RemoteError> {
        self.client.advance_clock()?;
        Ok(())
    }

    fn wait_for_pushes(&mut self) -> Result<(), RemoteError> {
        while !self.in_flight.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }
}

fn ledger_key(rank: u64, number: u64) -> u64 {
    (rank << RANK_SHIFT) | number
}
