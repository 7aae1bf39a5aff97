//! Clients that have connected, pushed a row, and do nothing any more: several in each of a few processes.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use windlass_transport::error::chain;

use super::{ConnectionsError, counters::Counters, worker::push_once};
use crate::{
    process::{Process, ProcessError, wait_for_parent_to_go},
    remote::connect,
    train::message::Connection,
};

/// The idle clients; dropping them ends them.
#[derive(Debug)]
pub(super) struct Crowd {
    processes: Vec<Process>,
}

/// Not all idle clients are there.
#[derive(Debug, thiserror::Error)]
#[error("{connected} of {clients} idle clients connected, then one failed: {text}")]
pub struct CrowdError {
    connected: u32,
    clients: u32,
    text: String,
}

/// What a process of them is to do: the one line on its stdin.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    connection: Connection,
    clients: u32,
    /// Number of the first of them.
    first: u32,
}

/// What it says when it has done so.
#[derive(Debug, Serialize, Deserialize)]
struct Gathered {
    /// Clients that are connected.
    connected: u32,
    /// Why there are no more.
    failure: Option<String>,
}

impl Crowd {
    /// Starts processes and waits until all their clients are connected and have pushed.
    pub(super) fn gather(
        connection: &Connection,
        clients: u32,
        processes: u32,
    ) -> Result<Self, ConnectionsError> {
        let count = processes.min(clients);
        let words = ["bench", "idle"].map(str::to_owned);
        let processes: Result<Vec<_>, ProcessError> =
            (0..count).map(|at| Process::start(&format!("idle clients {at}"), &words)).collect();
        let mut crowd = Self { processes: processes? };
        let mut first = 0;
        for (at, process) in (0..).zip(&mut crowd.processes) {
            let share = clients / count + u32::from(at < clients % count);
            process.tell(&Task { connection: connection.clone(), clients: share, first })?;
            first += share;
        }
        let (mut connected, mut failed) = (0, None);
        for process in &mut crowd.processes {
            let gathered: Gathered = process.expect_line()?;
            connected += gathered.connected;
            failed = failed.or(gathered.failure);
        }
        match failed {
            Some(text) => Err(CrowdError { connected, clients, text }.into()),
            None => Ok(crowd),
        }
    }

    /// Kills all of them, and waits until the system has cleaned up after them.
    pub(super) fn kill(&mut self) {
        self.processes.iter_mut().for_each(Process::send_kill);
        self.processes.iter_mut().for_each(Process::kill);
    }

    /// Bytes of all of them, see [`Counters`].
    pub(super) fn pinned_bytes(&self) -> Result<u64, ConnectionsError> {
        let counters = self.processes.iter().map(|process| Counters::of(process.id()));
        counters.map(|counters| Ok(counters?.pinned_bytes)).sum()
    }
}

/// The whole life of a process of idle clients: a line that says how many, a line when they are there, and then
/// nothing until its parent is gone.
///
/// # Errors
/// When stdin or stdout cannot be used.
pub fn hold_clients() -> io::Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    let mut clients = Vec::new();
    let mut failure = None;
    for number in task.first..task.first + task.clients {
        let connected = connect(&task.connection)
            .and_then(|client| push_once(&client, number).map(|()| client));
        match connected {
            Ok(client) => clients.push(client),
            Err(error) => {
                failure = Some(chain(&error));
                break;
            }
        }
    }
    let connected = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    let mut said = serde_json::to_vec(&Gathered { connected, failure })?;
    said.push(b'\n');
    io::stdout().write_all(&said)?;
    wait_for_parent_to_go();
    drop(clients);
    Ok(())
}
