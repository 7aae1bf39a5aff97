//! One server killed, one put in its place.

use std::time::{Duration, Instant};

use windlass_client::{
    Client, DataType, PushOptions, RequestError, Table, TableError, TableSchema,
};
use windlass_wire::{ClusterMap, Durability, PartitionId, ServerId, TableKind, map::Layout};

use crate::{
    control::{AskError, Control},
    process::ProcessError,
    remote::{RemoteError, connect},
    replicas::{Comparison, compare_within, wait_until_whole},
    train::{Servers, message::Connection},
};

/// How long a new server may take to hold its copies.
const JOIN_TIME_MAX: Duration = Duration::from_secs(60);
/// How long replicas may take to be at one position when nobody pushes.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(20);
/// Table that is pushed to as soon as a server is dead: a row in each partition.
const PROBE: &str = "windlass/probe";

/// A cluster whose servers are killed.
#[derive(Debug)]
pub struct Drill {
    probe: Table<i64>,
    rows: u64,
    pushes: i64,
    connection: Connection,
    // After its tables.
    _client: Client,
}

/// What a kill cost.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// Who was killed.
    pub killed: ServerId,
    /// From the kill until a push that touches every partition was acknowledged.
    pub first_push: Duration,
    /// Who took its place.
    pub joined: ServerId,
    /// From its start until every chain was whole again.
    pub whole: Duration,
}

/// Why a drill could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// A process did not start or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A push or pull failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The cluster does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The server to kill is none of ours.
    #[error("there is no server {0} here to kill")]
    NoServer(ServerId),
    /// A push of the drill itself is lost or doubled.
    #[error("a push to all partitions was not applied exactly once: please report this")]
    NotExact,
    /// The new server did not get its copies.
    #[error(
        "chains are not whole {0:?} after server {1} has joined: see `windlass cluster status`"
    )]
    NotWhole(Duration, ServerId),
}

impl From<TableError> for DrillError {
    fn from(error: TableError) -> Self {
        Self::Remote(error.into())
    }
}

impl From<RequestError> for DrillError {
    fn from(error: RequestError) -> Self {
        Self::Remote(error.into())
    }
}

impl Drill {
    /// Connects, and pushes once to every partition.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn new(connection: &Connection, durability: Durability) -> Result<Self, DrillError> {
        let client = connect(connection)?;
        let rows = map(connection)?.chains.len() as u64;
        let schema = TableSchema { durability, ..TableSchema::dense(DataType::I64, rows, 1) };
        let probe = client.create_table::<i64>(PROBE, &schema)?;
        let mut drill =
            Self { probe, rows, pushes: 0, connection: connection.clone(), _client: client };
        drill.push()?;
        Ok(drill)
    }

    /// Kills a server, waits until pushes to all partitions are acknowledged again, and has a new
    /// server take its place.
    ///
    /// # Errors
    /// When they are not, or it does not.
    pub fn kill_and_replace(
        &mut self,
        servers: &mut Servers,
        victim: ServerId,
    ) -> Result<Recovery, DrillError> {
        let killed_at = Instant::now();
        if !servers.kill(victim) {
            return Err(DrillError::NoServer(victim));
        }
        self.push()?;
        let first_push = killed_at.elapsed();
        let started_at = Instant::now();
        let joined = servers.add()?;
        if !wait_until_whole(servers.address(), self.token(), JOIN_TIME_MAX)? {
            return Err(DrillError::NotWhole(JOIN_TIME_MAX, joined));
        }
        Ok(Recovery { killed: victim, first_push, joined, whole: started_at.elapsed() })
    }

    /// Compares the replicas of all partitions; nobody may push meanwhile.
    ///
    /// # Errors
    /// When a server does not answer.
    pub fn compare(&self, servers: &Servers) -> Result<Comparison, DrillError> {
        Ok(compare_within(servers.address(), self.token(), SETTLE_TIME_MAX)?)
    }

    /// Whether every push of the drill itself was applied exactly once.
    ///
    /// # Errors
    /// When the rows cannot be pulled.
    pub fn is_exact(&self) -> Result<bool, DrillError> {
        let sums = self.probe.pull(0..self.rows, &windlass_client::PullOptions::default())?;
        Ok(sums.wait()?.iter().all(|sum| *sum == self.pushes))
    }

    fn push(&mut self) -> Result<(), DrillError> {
        let ones = vec![1; usize::try_from(self.rows).unwrap_or_default()];
        self.probe.push(0..self.rows, &ones, &PushOptions::default())?.wait()?;
        self.pushes += 1;
        Ok(())
    }

    fn token(&self) -> Option<&str> {
        self.connection.token.as_deref()
    }
}

/// The head of the chain that holds a key of a sparse table, where that chain has others to go on.
///
/// # Errors
/// When the cluster or the table is not there.
pub fn busy_head(
    connection: &Connection,
    table: &str,
    key: u64,
) -> Result<Option<ServerId>, DrillError> {
    let map = map(connection)?;
    let entry = connect(connection)?.table_entry(table)?;
    let count = u32::try_from(map.chains.len()).unwrap_or(1);
    let PartitionId(partition) =
        Layout::new(entry.id, TableKind::Sparse {}, count).partition_of(key);
    let chain = &map.chains[partition as usize];
    Ok(chain.servers.first().copied().filter(|_| chain.servers.len() > 1))
}

/// The map in force.
fn map(connection: &Connection) -> Result<ClusterMap, DrillError> {
    Ok(Control::connect(&connection.address, connection.token.as_deref())?.map()?)
}
