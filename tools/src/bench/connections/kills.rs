//! Half of the idle clients die at once, again and again: what that costs a client that pushes, and what the server
//! keeps of the dead.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use windlass_client::Client;

use super::{
    ConnectionsError, ConnectionsOptions, counters::Counters, crowd::Crowd, queue_pairs,
    wait_until_forgotten, worker::Worker,
};
use crate::{report::Latency, train::message::Connection};

/// How long the working client pushes before the others are killed.
const HEAD_START: Duration = Duration::from_millis(50);

/// What it cost to kill half of the idle clients while one pushed. The keys are an interface, as those of
/// [`ConnectionsResult`](super::ConnectionsResult) are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillsResult {
    /// How often.
    pub rounds: u32,
    /// Clients killed each time, with SIGKILL.
    pub clients: u32,
    /// The longest push while they were killed, in microseconds, over all rounds.
    pub longest_push_us: f64,
    /// The longest push in as much time in which nobody was killed.
    pub undisturbed_longest_push_us: f64,
    /// The most seconds from a kill until the server had forgotten the dead.
    pub forgotten_s: f64,
    /// Bytes at the server beside the other half, after as many clients had come and left in order.
    pub server_pinned_bytes_before: u64,
    /// The most that it had after a kill.
    pub server_pinned_bytes_after: u64,
    /// Open descriptors of the server at the same moments.
    pub server_fds_before: u64,
    /// The most that it had after a kill.
    pub server_fds_after: u64,
}

/// Kills half of the clients as often as the options say.
pub(super) fn measure(
    options: &ConnectionsOptions,
    connection: &Connection,
    client: &Client,
    worker: &mut Worker,
    server: u32,
) -> Result<KillsResult, ConnectionsError> {
    let clients = options.clients.div_ceil(2);
    let processes = options.processes.div_ceil(2);
    let survivors = options.clients - clients;
    let _survivors = match survivors {
        0 => None,
        _ => Some(Crowd::gather(connection, survivors, processes)?),
    };
    let queue_pairs_before = queue_pairs(client)?;
    // What a server keeps once it has had so many clients is not that of the dead.
    drop(Crowd::gather(connection, clients, processes)?);
    wait_until_forgotten(client, queue_pairs_before)?;
    let before = Counters::of(server)?;
    let mut result = KillsResult {
        rounds: options.kills,
        clients,
        longest_push_us: 0.0,
        undisturbed_longest_push_us: 0.0,
        forgotten_s: 0.0,
        server_pinned_bytes_before: before.pinned_bytes,
        server_pinned_bytes_after: 0,
        server_fds_before: before.descriptors,
        server_fds_after: 0,
    };
    for _ in 0..options.kills {
        let mut doomed = Crowd::gather(connection, clients, processes)?;
        let longest = |latency: &[Latency; 2]| {
            latency.iter().map(|latency| latency.quantile_us(1.0)).fold(0.0, f64::max)
        };
        let mut undisturbed = [Latency::new(), Latency::new()];
        worker.push_for(options.slice, &mut undisturbed)?;
        let mut disturbed = [Latency::new(), Latency::new()];
        let (pushed, killed) = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                thread::sleep(HEAD_START);
                let begun = Instant::now();
                doomed.kill();
                begun
            });
            (worker.push_for(options.slice, &mut disturbed), killer.join())
        });
        pushed?;
        let killed = killed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        wait_until_forgotten(client, queue_pairs_before)?;
        let forgotten_s = killed.elapsed().as_secs_f64();
        let after = Counters::of(server)?;
        result.forgotten_s = result.forgotten_s.max(forgotten_s);
        result.longest_push_us = result.longest_push_us.max(longest(&disturbed));
        result.undisturbed_longest_push_us =
            result.undisturbed_longest_push_us.max(longest(&undisturbed));
        result.server_pinned_bytes_after = result.server_pinned_bytes_after.max(after.pinned_bytes);
        result.server_fds_after = result.server_fds_after.max(after.descriptors);
    }
    Ok(result)
}
