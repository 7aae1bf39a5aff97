//! `windlass cluster {status,map,plan,join,leave,drain,rebalance,fail,accept-loss}`.

mod plan;
mod result;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;
use windlass_wire::{ClusterMap, ServerId, coordination::Operation, map::ServerState};

use self::result::{MapResult, StatusResult};
use super::{ExitStatus, Failure, Output, connection::ADDRESS_DEFAULT, token};
use crate::{
    control::{AskError, Control},
    replicas::is_whole,
};

const STATUS_HELP: &str = "\
JSON keys: epoch; replicas; partitions; leads (whether the coordinator asked leads); store (memory, \
file or etcd); store_error (why it cannot be written, or null); copies_under_way; short_partitions \
(with fewer copies than replicas); down_partitions (all copies are on servers that are down); \
lost_partitions (no copy is left); waiting: a list of servers, any of which brings back so many \
partitions, which are down; emptied: a list of table (its number), server, seconds (since 1970), of \
tables in memory only whose rows went with that server's restart; resting: a list of servers that get \
no copies for a while because they were not heard in time; separated: a list of pairs of servers that \
share no chain for a while because the link between them is bad; servers: a list of server, address, \
state (up, draining or down), connected, shards, incarnation, heads, copies, learning (numbers of partitions); workers: a list of \
rank, live, clock.";

const MAP_HELP: &str = "\
JSON keys: epoch; replicas; servers: a list of server, address, state, shards, incarnation; chains: a \
list, by partition, of partition, epoch, servers (head first), tail_joining, learner (or null).";

const CHANGE_HELP: &str =
    "JSON keys: done (the command), server (or null), epoch (of the map then).";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show servers, workers and how whole the chains are
    #[command(after_help = STATUS_HELP)]
    Status {
        #[command(flatten)]
        connection: ControlArguments,
    },
    /// Show the chain of every partition
    #[command(after_help = MAP_HELP)]
    Map {
        #[command(flatten)]
        connection: ControlArguments,
    },
    /// Say what a cluster of some size would take of each machine, before it is started
    #[command(after_help = plan::HELP)]
    Plan(plan::PlanArguments),
    /// Take a draining server back, and wait until copies are where they should be. New servers join
    /// by `windlass serve --coordinator`
    #[command(after_help = CHANGE_HELP)]
    Join(ServerArguments),
    /// Drain a server, wait until it holds nothing, and let it go: it stops
    #[command(after_help = CHANGE_HELP)]
    Leave(ServerArguments),
    /// Move a server's copies to others, while all serve, and wait until it holds nothing
    #[command(after_help = CHANGE_HELP)]
    Drain(ServerArguments),
    /// Work out anew where copies should be, and wait until they are there
    #[command(after_help = CHANGE_HELP)]
    Rebalance {
        #[command(flatten)]
        connection: ControlArguments,
        #[command(flatten)]
        patience: Patience,
    },
    /// Treat a server as dead at once
    #[command(after_help = CHANGE_HELP)]
    Fail(ServerArguments),
    /// Start partitions whose last copy is gone empty again
    #[command(after_help = CHANGE_HELP)]
    AcceptLoss {
        #[command(flatten)]
        connection: ControlArguments,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServerArguments {
    /// The server's number
    server: u32,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connection: ControlArguments,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Patience {
    /// How long to wait, in seconds; what was begun goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ControlArguments {
    /// A server or a coordinator of the cluster, or several
    #[arg(long, value_name = "ADDRESS[,ADDRESS]", default_value = ADDRESS_DEFAULT)]
    pub(super) connect: String,
    /// The file with the token that they ask for
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// What `--json` prints of a change.
#[derive(Serialize)]
struct Done {
    done: &'static str,
    server: Option<u32>,
    epoch: u64,
}

/// Between two looks at the map.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn run(command: &ClusterCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status { connection } => {
            let mut control = connect(connection)?;
            let status = control.status().map_err(failure)?;
            let status = StatusResult::new(&status, &status.map);
            output.result(&status, || status.to_text())
        }
        ClusterCommand::Map { connection } => {
            let map = MapResult::new(&connect(connection)?.map().map_err(failure)?);
            output.result(&map, || map.to_text())
        }
        ClusterCommand::Plan(arguments) => plan::run(arguments, output),
        ClusterCommand::Join(arguments) => {
            let server = ServerId(arguments.server);
            let mut change = Change::new("join", &arguments.connection, arguments.patience)?;
            let state = change.state(server)?;
            if state == ServerState::Draining {
                change.operate(Operation::Undrain { server })?;
            }
            change.wait_for(|map| is_up(map, server) && is_whole(map))?;
            change.end(Some(server), output)
        }
        ClusterCommand::Leave(arguments) => {
            let server = ServerId(arguments.server);
            let mut change = Change::new("leave", &arguments.connection, arguments.patience)?;
            drain(&mut change, server)?;
            change.operate(Operation::Forget { server })?;
            change.end(Some(server), output)
        }
        ClusterCommand::Drain(arguments) => {
            let server = ServerId(arguments.server);
            let mut change = Change::new("drain", &arguments.connection, arguments.patience)?;
            drain(&mut change, server)?;
            change.end(Some(server), output)
        }
        ClusterCommand::Rebalance { connection, patience } => {
            let mut change = Change::new("rebalance", connection, *patience)?;
            change.operate(Operation::Rebalance {})?;
            change.wait_for(is_whole)?;
            change.end(None, output)
        }
        ClusterCommand::Fail(arguments) => {
            let server = ServerId(arguments.server);
            let mut change = Change::new("fail", &arguments.connection, arguments.patience)?;
            change.operate(Operation::Fail { server })?;
            change.end(Some(server), output)
        }
        ClusterCommand::AcceptLoss { connection } => {
            let mut change = Change::new("accept-loss", connection, Patience { timeout: 60 })?;
            change.operate(Operation::AcceptLoss {})?;
            change.end(None, output)
        }
    }
}

fn drain(change: &mut Change<'_>, server: ServerId) -> Result<(), Failure> {
    if change.state(server)? == ServerState::Up {
        change.operate(Operation::Drain { server })?;
    }
    change.wait_for(|map| !holds(map, server) && is_whole(map))
}

/// One change under way.
struct Change<'a> {
    name: &'static str,
    connection: &'a ControlArguments,
    control: Control,
    deadline: Instant,
}

impl<'a> Change<'a> {
    fn new(
        name: &'static str,
        connection: &'a ControlArguments,
        patience: Patience,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + Duration::from_secs(patience.timeout);
        Ok(Self { name, connection, control: connect(connection)?, deadline })
    }

    fn operate(&mut self, operation: Operation) -> Result<(), Failure> {
        self.control.operate(operation).map_err(failure)
    }

    fn state(&mut self, server: ServerId) -> Result<ServerState, Failure> {
        let map = self.control.map().map_err(failure)?;
        let entry = map.server(server).ok_or_else(|| {
            let there: Vec<String> = map.servers.iter().map(|one| one.id.to_string()).collect();
            Failure::failed(format!("there is no server {server}: there are {}", there.join(", ")))
        })?;
        Ok(entry.state)
    }

    fn wait_for(&mut self, is_done: impl Fn(&ClusterMap) -> bool) -> Result<(), Failure> {
        loop {
            match self.control.map() {
                Ok(map) if is_done(&map) => return Ok(()),
                Ok(_) => {}
                // Who was asked may be the one that goes.
                Err(error) if error.is_unreachable() => self.control = connect(self.connection)?,
                Err(error) => return Err(failure(error)),
            }
            if Instant::now() >= self.deadline {
                return Err(Failure::failed(
                    "it is not done yet, and goes on: see `windlass cluster status`, or wait \
                     longer with --timeout",
                ));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn end(mut self, server: Option<ServerId>, output: Output) -> Result<(), Failure> {
        let epoch = self.control.map().map_err(failure)?.epoch.0;
        let done = Done { done: self.name, server: server.map(|server| server.0), epoch };
        output.result(&done, || format!("{} is done, in epoch {epoch}", self.name))
    }
}

fn is_up(map: &ClusterMap, server: ServerId) -> bool {
    map.server(server).is_some_and(|entry| entry.state == ServerState::Up)
}

fn holds(map: &ClusterMap, server: ServerId) -> bool {
    map.chains.iter().any(|chain| chain.servers.contains(&server) || chain.learner == Some(server))
}

pub(super) fn connect(arguments: &ControlArguments) -> Result<Control, Failure> {
    connect_to(&arguments.connect, arguments)
}

/// Connects to another address with the same token.
pub(super) fn connect_to(address: &str, arguments: &ControlArguments) -> Result<Control, Failure> {
    let token = arguments.token_file.as_deref().map(token::read).transpose()?;
    Control::connect(address, token.as_deref()).map_err(failure)
}

pub(super) fn failure(error: AskError) -> Failure {
    let status = if error.is_unreachable() { ExitStatus::Unreachable } else { ExitStatus::Failed };
    Failure::new(status, error)
}
