//! Connecting: greet a server, learn the map, link to its shards as they are used (`lazy`).

use std::time::Instant;

use windlass_transport::{Completion, random, spin::Spin};
use windlass_wire::{
    ClusterMap, Incarnation, Sequence, SessionId,
    control::{ClientReply, ClientRequest},
    map::ServerState,
};

use super::{
    COMPLETIONS_PER_POLL, Cluster, Core, Links, Pending, Scratch, Session,
    clock::Clocks,
    control::Control,
    greet::{Welcome, ask},
    reach::reach,
    retry_queue::RetryQueue,
    rounds::Rounds,
    route::Routes,
    tables::Tables,
    trouble::Recovery,
};
use crate::{config::ClientOptions, error::ConnectError, fork::Process, watch::Watching};

pub(crate) use windlass_transport::error::chain;

/// A core that knows nobody yet.
pub(super) fn unconnected(addresses: &str, options: ClientOptions) -> Result<Core, ConnectError> {
    let session = SessionId(random::number());
    let (staging_len, retry_for) = (options.staging_len, options.retry_for);
    Ok(Core {
        session: Session {
            id: session,
            incarnation: Incarnation(session.0),
            addresses: parse(addresses)?,
            sequence: Sequence(0),
            sends_leave_notice: true,
            watching: Watching::new(options.watch.clone()),
            process: Process::current(),
            options,
        },
        links: Links {
            all: Vec::new(),
            lost: Vec::new(),
            transports: Vec::new(),
            blanks: Vec::new(),
            completions: vec![Completion::EMPTY; COMPLETIONS_PER_POLL].into_boxed_slice(),
            polls: 0,
            spin: Spin::over(&[]),
        },
        cluster: Cluster {
            map: ClusterMap::default(),
            servers: Vec::new(),
            heads: Routes::default(),
            tails: Routes::default(),
            strong: Routes::default(),
            any: Routes::default(),
            generation: 0,
        },
        retries: RetryQueue::new(),
        recovery: Recovery::new(retry_for, session.0),
        tables: Tables::default(),
        pending: Pending::new(staging_len),
        rounds: Rounds::default(),
        clocks: Clocks::default(),
        scratch: Scratch::default(),
    })
}

/// Connects to the cluster that a server or coordinator at one of `addresses` knows.
pub(crate) fn connect(addresses: &str, options: ClientOptions) -> Result<Core, ConnectError> {
    let mut core = unconnected(addresses, options)?;
    let until = Instant::now() + core.session.options.timeout;
    let mut first = Some(first_map(&mut core, until)?);
    let mut failed = None;
    for entry in core.cluster.map.servers.clone() {
        if entry.state == ServerState::Down {
            continue;
        }
        let greeted = match first.take_if(|(_, welcome)| welcome.server == entry.id) {
            Some(greeted) => Ok(greeted),
            None => {
                let left = until.saturating_duration_since(Instant::now());
                // A silent one leaves time for those who have its rows, too.
                let limit = if core.cluster.map.replicas > 1 { left / 2 } else { left };
                core.session.greet(&entry.address, limit)
            }
        };
        let reached = greeted.and_then(|(mut control, welcome)| {
            control.set_deadline(until);
            reach(&mut core, &entry, control, welcome)
        });
        match reached {
            Ok(()) => {}
            Err(ConnectError::Interrupted) => return Err(ConnectError::Interrupted),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        // Where others have the rows too, the rest can wait.
        Some(error) if core.cluster.map.replicas <= 1 || core.cluster.servers.is_empty() => {
            return Err(error);
        }
        Some(_) => core.recovery.start_trouble(),
        None => {}
    }
    core.cluster.route_partitions(&core.session, &core.links, &mut core.scratch);
    Ok(core)
}

/// Learns the map from the first of the addresses that answers. Each has its share of the time.
fn first_map(core: &mut Core, until: Instant) -> Result<(Control, Welcome), ConnectError> {
    let mut failed = None;
    let addresses = core.session.addresses.clone();
    for (address, remaining) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(remaining).unwrap_or(u32::MAX);
        let asked =
            core.session.greet(address, share).and_then(|(mut control, welcome)| {
                match ask(&mut control, &ClientRequest::Map {})? {
                    ClientReply::Map { map } => Ok((map, control, welcome)),
                    _ => Err(ConnectError::Unexpected { address: address.clone() }),
                }
            });
        match asked {
            Ok((map, control, welcome)) => {
                core.cluster.map = map;
                return Ok((control, welcome));
            }
            Err(ConnectError::Interrupted) => return Err(ConnectError::Interrupted),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or(ConnectError::Address { address: String::new() }))
}

/// The addresses in `windlass://HOST:PORT,HOST:PORT`.
fn parse(addresses: &str) -> Result<Vec<String>, ConnectError> {
    let listed = addresses.strip_prefix("windlass://").unwrap_or(addresses);
    let listed: Vec<String> = listed
        .trim_end_matches('/')
        .split(',')
        .map(|address| address.trim().trim_start_matches("windlass://").to_owned())
        .collect();
    match listed.iter().find(|address| !address.contains(':')) {
        Some(address) => Err(ConnectError::Address { address: address.clone() }),
        None => Ok(listed),
    }
}
