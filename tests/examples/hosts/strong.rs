//! A strong pull of a row whose tail is one server, started on that server's host.

use std::time::Duration;

use windlass_client::{Client, ClientOptions, Provider, PullFrom, PullOptions};
use windlass_wire::{ServerId, TableKind, map::Layout};

use crate::{Failure, scenarios::PROBE};

/// A server cut off from all others can only be reached from its own host.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Pulls the row, once from any replica and once strongly; prints `any` and `strong` as they succeed.
pub(crate) fn pull(address: &str, server: u32) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure(windlass_client::chain(error));
    let options = ClientOptions {
        providers: vec![Provider::Tcp {}],
        timeout: TIMEOUT,
        retry_for: TIMEOUT,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(address, options).map_err(|error| failed(&error))?;
    let map = client.map();
    let rows = u32::try_from(map.chains.len()).unwrap_or(1);
    let table = client.open_table::<i64>(PROBE).map_err(|error| failed(&error))?;
    let entry = client.table_entry(PROBE).map_err(|error| failed(&error))?;
    let layout = Layout::new(entry.id, TableKind::Dense { rows: u64::from(rows) }, rows);
    let ends_here = |row: &u64| map.tail(layout.partition_of(*row)) == Some(ServerId(server));
    let row = (0..u64::from(rows)).find(ends_here);
    let row = row.ok_or_else(|| Failure(format!("server {server} is no tail")))?;
    for (from, name) in [(PullFrom::Any, "any"), (PullFrom::Strong, "strong")] {
        let pulled = table
            .pull(&[row], &PullOptions { from, ..PullOptions::default() })
            .and_then(windlass_client::PendingPull::wait);
        match pulled {
            Ok(_) => println!("{name}"),
            Err(error) => {
                eprintln!("hosts: {name} pull of row {row}: {}", windlass_client::chain(&error))
            }
        }
    }
    Ok(())
}
