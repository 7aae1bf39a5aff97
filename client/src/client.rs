//! The public face of a client.

use windlass_transport::error::AllocateError;
use windlass_wire::{
    ClusterMap, Consistency, Expiry, ServerId, TableEntry, TableSchema, Timestamp, WorkerClock,
    control::{ClientReply, ClientRequest, Provider},
};

use crate::{
    config::ClientOptions,
    core::{
        advance_clock, ask_server, connect, create_table, drop_table, list_tables, open_table,
        set_consistency, set_expiry, set_keys, set_rows, set_rule,
    },
    element::Element,
    error::{ConnectError, RequestError, TableError},
    rows::Rows,
    shared::SharedCore,
    table::Table,
};

pub use crate::core::Counters;

/// A connection to a cluster. It belongs to the thread and process that made it, and is cheap to clone there.
#[derive(Clone, Debug)]
pub struct Client {
    core: SharedCore,
}

impl Client {
    /// Connects to the cluster that the server at `address` belongs to: `windlass://HOST:PORT` or
    /// `HOST:PORT`. Several addresses of servers or coordinators may be given, `HOST:PORT,HOST:PORT`; some of them
    /// may be unreachable.
    ///
    /// A client survives failures of servers: it resends what they did not acknowledge to the servers that now hold the
    /// rows, and each push is applied once. [`ClientOptions::retry_for`] bounds that.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or shares no transport with this host.
    pub fn connect(address: &str) -> Result<Self, ConnectError> {
        Self::connect_with(address, ClientOptions::default())
    }

    /// Connects with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(address: &str, options: ClientOptions) -> Result<Self, ConnectError> {
        Ok(Self { core: SharedCore::new(connect(address, options)?) })
    }

    /// Creates a table with values of type `T`, or opens the one of that name and schema.
    ///
    /// # Errors
    /// When the schema is not valid, another of that name exists, or the servers have no room.
    pub fn create_table<T: Element>(
        &self,
        name: &str,
        schema: &TableSchema,
    ) -> Result<Table<T>, TableError> {
        check_dtype::<T>(name, schema)?;
        let index = create_table(&mut *self.core.enter()?, name, schema)?;
        Ok(Table::new(&self.core, index))
    }

    /// Opens a table with values of type `T`.
    ///
    /// # Errors
    /// When there is none of that name, or its values are of another type.
    pub fn open_table<T: Element>(&self, name: &str) -> Result<Table<T>, TableError> {
        let index = open_table(&mut *self.core.enter()?, name)?;
        check_dtype::<T>(name, &self.core.look().tables[index].entry.schema)?;
        Ok(Table::new(&self.core, index))
    }

    /// The number, name and schema of a table.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn table_entry(&self, name: &str) -> Result<TableEntry, TableError> {
        let index = open_table(&mut *self.core.enter()?, name)?;
        Ok(self.core.look().tables[index].entry.clone())
    }

    /// Drops a table and its rows, everywhere.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn drop_table(&self, name: &str) -> Result<(), TableError> {
        drop_table(&mut *self.core.enter()?, name)
    }

    /// All tables.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn list_tables(&self) -> Result<Vec<TableEntry>, TableError> {
        list_tables(&mut *self.core.enter()?)
    }

    /// `len` zeroed values in registered memory.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn allocate<T: Element>(&self, len: usize) -> Result<Rows<T>, AllocateError> {
        Rows::allocate(&self.core, len)
    }

    /// Changes the staleness bound of a table while workers use it. Workers that see the servers' memory use the new
    /// bound from their next pull on, others within eight rounds. `Eventual` is stored as `Bounded` by `u64::MAX`
    /// rounds: workers still keep clocks, and nobody waits for them.
    ///
    /// # Errors
    /// When there is no such table, or it was created as `Eventual`: its workers keep no clocks.
    pub fn set_consistency(
        &self,
        name: &str,
        consistency: Consistency,
    ) -> Result<TableEntry, TableError> {
        set_consistency(&mut *self.core.enter()?, name, consistency)
    }

    /// Changes which rows of a sparse table go by themselves, while it is in use. Rows have an age from the table's
    /// creation on or not at all, so one without an expiry gets none, and none becomes one without. Returns the
    /// table as it is now.
    ///
    /// # Errors
    /// When there is no such table, or it was created without an expiry.
    pub fn set_expiry(&self, name: &str, expiry: Expiry) -> Result<TableEntry, TableError> {
        set_expiry(&mut *self.core.enter()?, name, expiry)
    }

    /// Changes hyper-parameters of a table's update rule while the table is in use; the others stay. `parameters` is
    /// `key=value,...` as in the rule's text: `learning_rate=0.01` or `lr=0.01,momentum=0.95`. Pushes acknowledged
    /// before used the old values; pushes sent after this returns use the new ones. A push in flight meanwhile uses
    /// either, but one message uses the same values for all its rows in a partition. Returns the table as it is now.
    ///
    /// # Errors
    /// - There is no such table.
    /// - The rule has no such key, a value is out of range, or rows would need state that they lack. The error names the
    ///   valid keys or values, and nothing changes.
    /// - A server cannot be told within `retry_for`. The change is stored and applies there once the server is back.
    pub fn set_hyper_parameters(
        &self,
        name: &str,
        parameters: &str,
    ) -> Result<TableEntry, TableError> {
        set_rule(&mut *self.core.enter()?, name, parameters)
    }

    /// Ends this worker's round: increments its clock on every table it has opened that bounds staleness. Its earlier
    /// pushes count for the round. If rows have replicas, it first waits until those pushes are acknowledged.
    ///
    /// # Errors
    /// When a server is gone, or the client has no rank.
    pub fn advance_clock(&self) -> Result<Timestamp, RequestError> {
        advance_clock(&mut *self.core.enter()?).map(Timestamp)
    }

    /// The worker's clock: rounds it has ended.
    #[must_use]
    pub fn clock(&self) -> WorkerClock {
        self.core.look().clocks.own
    }

    /// Waits for the request with this timestamp.
    ///
    /// # Errors
    /// Why it failed. Only the outcomes of the last 1,024 requests are known.
    pub fn wait(&self, timestamp: Timestamp) -> Result<(), RequestError> {
        self.core.enter()?.wait_for(timestamp.0)
    }

    /// Waits for all requests made so far.
    ///
    /// # Errors
    /// The first failure among the last 1,024 requests.
    pub fn wait_all(&self) -> Result<(), RequestError> {
        self.core.enter()?.wait_for_all()
    }

    /// Processes what has arrived, without waiting; for trainers with their own loop. Does nothing in a forked child.
    pub fn poll(&self) {
        if let Ok(mut core) = self.core.enter() {
            core.poll();
        }
    }

    /// The cluster map in use.
    #[must_use]
    pub fn map(&self) -> ClusterMap {
        self.core.look().cluster.map.clone()
    }

    /// The provider in use for each server, and why better ones are not used.
    #[must_use]
    pub fn providers(&self) -> Vec<(ServerId, Provider, Vec<String>)> {
        let core = self.core.look();
        core.cluster
            .servers
            .iter()
            .map(|server| (server.id, server.provider, server.notes.clone()))
            .collect()
    }

    /// Whether every transport in use lets servers read memory that the caller owns, as
    /// [`Rows::borrow`] needs. Shared memory does not: it can share only what it allocated.
    #[must_use]
    pub fn shares_foreign_memory(&self) -> bool {
        self.core.look().links.shares_foreign_memory()
    }

    /// Ends without a leave notice, like a killed process.
    #[cfg(feature = "test-support")]
    pub fn vanish(self) {
        if let Ok(mut core) = self.core.enter() {
            core.session.sends_leave_notice = false;
        }
    }

    /// What this client has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.look().pending.counters
    }

    /// The counters of one server as JSON.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn server_statistics(&self, server: ServerId) -> Result<String, TableError> {
        match ask_server(&mut *self.core.enter()?, server, &ClientRequest::Statistics {})? {
            ClientReply::Statistics { json } => {
                String::from_utf8(json.0).map_err(|_| TableError::Unexpected)
            }
            _ => Err(TableError::Unexpected),
        }
    }

    /// Sets consecutive rows of a dense table, whatever its rule, and resets their optimiser state. Meant for loading
    /// the output of other programs: a concurrent push of the same rows may be applied before or after. `values` are
    /// whole rows, little-endian. Returns once every replica has them, with the table's durability.
    ///
    /// # Errors
    /// When the rows are not all in the table, or a server is gone.
    pub fn set_rows(
        &self,
        table: &TableEntry,
        first: u64,
        values: &[u8],
    ) -> Result<(), TableError> {
        set_rows(&mut *self.core.enter()?, table, first, values)
    }

    /// Sets rows of a sparse table and makes the missing ones. `values` has the values of each key. `state`, if given,
    /// has the state of each as in [`ScanBatch::state`](crate::ScanBatch::state), from a table whose rule keeps the
    /// same amount of state.
    ///
    /// # Errors
    /// When a length is not right, there is no memory for new rows, or a server is gone.
    pub fn set_keys(
        &self,
        table: &TableEntry,
        keys: &[u64],
        values: &[u8],
        state: Option<&[u8]>,
    ) -> Result<(), TableError> {
        set_keys(&mut *self.core.enter()?, table, keys, values, state)
    }

    /// Asks a server to begin a checkpoint of what it keeps on disk.
    ///
    /// # Errors
    /// When the server is gone or keeps nothing on disk.
    pub fn checkpoint(&self, server: ServerId) -> Result<(), TableError> {
        match ask_server(&mut *self.core.enter()?, server, &ClientRequest::Checkpoint {})? {
            ClientReply::Done {} => Ok(()),
            _ => Err(TableError::Unexpected),
        }
    }

    /// Asks a server to finish its requests and stop.
    ///
    /// # Errors
    /// When the server is gone or refuses.
    pub fn shut_down(&self, server: ServerId) -> Result<(), TableError> {
        match ask_server(&mut *self.core.enter()?, server, &ClientRequest::Shutdown {})? {
            ClientReply::Done {} => Ok(()),
            _ => Err(TableError::Unexpected),
        }
    }
}

impl Client {
    pub(crate) fn core(&self) -> &SharedCore {
        &self.core
    }
}

fn check_dtype<T: Element>(name: &str, schema: &TableSchema) -> Result<(), TableError> {
    if schema.dtype == T::DTYPE {
        Ok(())
    } else {
        Err(TableError::Dtype { name: name.to_owned(), found: schema.dtype, asked: T::DTYPE })
    }
}
