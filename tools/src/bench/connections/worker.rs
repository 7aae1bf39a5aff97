//! The client that works: pushes of one row, to each shard in turn or to one of them.

use std::time::{Duration, Instant};

use windlass_client::{
    Client, DataType, PushOptions, RequestError, RowSelection, Table, TableSchema,
};

use super::ConnectionsError;
use crate::{bench::target::TABLE, remote::RemoteError, report::Latency};

/// The working client's table, a row for each partition: rows beside each other are of different shards.
#[derive(Debug)]
pub(super) struct Worker {
    table: Table<f32>,
    rows: u64,
    next: u64,
}

impl Worker {
    /// Makes the table.
    pub(super) fn new(client: &Client) -> Result<Self, ConnectionsError> {
        let rows = u64::from(client.map().partition_count());
        let table = client.create_table(TABLE, &TableSchema::dense(DataType::F32, rows, 1))?;
        Ok(Self { table, rows, next: 0 })
    }

    /// Half of the time pushes to all shards in turn, the other half to one.
    pub(super) fn push_for(
        &mut self,
        time: Duration,
        latency: &mut [Latency; 2],
    ) -> Result<(), ConnectionsError> {
        for (step, latency) in [1, 0].into_iter().zip(latency) {
            let begun = Instant::now();
            let mut now = begun;
            while now - begun < time / 2 {
                push_row(&self.table, self.next)?;
                let ended = Instant::now();
                latency.record(ended - now);
                now = ended;
                self.next = (self.next + step) % self.rows;
            }
        }
        Ok(())
    }
}

/// What an idle client has done before: one push, the `number`-th client's to the `number`-th row.
pub(super) fn push_once(client: &Client, number: u32) -> Result<(), RemoteError> {
    let table = client.open_table::<f32>(TABLE)?;
    let rows = u64::from(client.map().partition_count());
    Ok(push_row(&table, u64::from(number) % rows)?)
}

fn push_row(table: &Table<f32>, row: u64) -> Result<(), RequestError> {
    table
        .push(RowSelection::Range(row..row + 1), &[1.0_f32][..], &PushOptions::default())?
        .wait()?;
    Ok(())
}
