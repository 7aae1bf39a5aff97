//! Tables as the client knows them.

use std::{
    ops::{Index, IndexMut},
    time::Instant,
};

use windlass_wire::{
    Consistency, Layout, PartitionId, ServerId, TableEntry, TableKind, TableSchema,
    control::{ClientReply, ClientRequest, RefusalKind},
    schema::TABLE_NAME_LEN_MAX,
};

use super::{
    Cluster, Core, Session,
    clock::TableClock,
    connect::chain,
    places::{Place, Places, is_sound},
    push::Replica,
};
use crate::error::{RequestError, TableError};

/// A table in [`Tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableIndex(pub(crate) usize);

/// A table and, once a one-sided pull asked for it, where its rows lie.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(crate) entry: TableEntry,
    pub(crate) layout: Layout,
    pub(crate) row_len: u64,
    /// Place of each partition; empty until it is needed.
    pub(super) places: Places,
    /// Dropped by this client: clocks do not go on there.
    pub(crate) dropped: bool,
    /// Where its workers' clocks are, if it keeps any.
    pub(super) clock: Option<TableClock>,
    /// The only copy of its rows went with its server; until it is opened again.
    pub(crate) rows_lost: bool,
}

/// The tables that were opened, by [`TableIndex`].
#[derive(Debug, Default)]
pub(crate) struct Tables(Vec<TableState>);

impl Index<TableIndex> for Tables {
    type Output = TableState;

    #[inline]
    fn index(&self, table: TableIndex) -> &TableState {
        &self.0[table.0]
    }
}

impl IndexMut<TableIndex> for Tables {
    #[inline]
    fn index_mut(&mut self, table: TableIndex) -> &mut TableState {
        &mut self.0[table.0]
    }
}

impl Tables {
    pub(super) fn iter(&self) -> std::slice::Iter<'_, TableState> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, TableState> {
        self.0.iter_mut()
    }

    /// The index of each.
    pub(super) fn indices(&self) -> impl Iterator<Item = TableIndex> + use<> {
        (0..self.0.len()).map(TableIndex)
    }
}

impl TableState {
    fn new(entry: TableEntry, partition_count: u32) -> Self {
        Self {
            layout: Layout::new(entry.id, entry.schema.kind, partition_count),
            row_len: entry.schema.row_len(),
            places: Places::default(),
            dropped: false,
            clock: None,
            rows_lost: false,
            entry,
        }
    }

    /// Rows of a dense table.
    pub(crate) fn dense_rows(&self) -> Option<u64> {
        match self.entry.schema.kind {
            TableKind::Dense { rows } => Some(rows),
            TableKind::Sparse {} => None,
        }
    }

    /// Whether rows of the table may be in a partition: of a dense one none are in partitions beyond its last.
    pub(super) fn may_have_rows_in(&self, partition: PartitionId) -> bool {
        self.dense_rows().is_none() || !self.layout.rows_of(partition).is_empty()
    }
}

impl Core {
    /// Creates a table, or finds the equal one.
    pub(crate) fn create_table(
        &mut self,
        name: &str,
        schema: &TableSchema,
    ) -> Result<TableIndex, TableError> {
        let request = ClientRequest::CreateTable { name: name.to_owned(), schema: schema.clone() };
        self.table(name, &request)
    }

    /// Finds a table.
    pub(crate) fn open_table(&mut self, name: &str) -> Result<TableIndex, TableError> {
        self.table(name, &ClientRequest::OpenTable { name: name.to_owned() })
    }

    /// Changes how far a table's workers may be apart.
    pub(crate) fn set_consistency(
        &mut self,
        name: &str,
        consistency: Consistency,
    ) -> Result<TableEntry, TableError> {
        let request = ClientRequest::AlterTable { name: name.to_owned(), consistency };
        self.alter_table(name, &request)
    }

    /// Changes hyper-parameters of a table's rule.
    pub(crate) fn set_rule(
        &mut self,
        name: &str,
        parameters: &str,
    ) -> Result<TableEntry, TableError> {
        let (owned, parameters) = (name.to_owned(), parameters.to_owned());
        self.alter_table(name, &ClientRequest::SetRule { name: owned, parameters })
    }

    fn alter_table(
        &mut self,
        name: &str,
        request: &ClientRequest,
    ) -> Result<TableEntry, TableError> {
        match self.ask_tables(name, request)? {
            ClientReply::Table { table } => {
                for known in self.tables.iter_mut().filter(|known| known.entry.id == table.id) {
                    known.entry = table.clone();
                }
                Ok(table)
            }
            _ => Err(TableError::Unexpected),
        }
    }

    /// Drops a table.
    pub(crate) fn drop_table(&mut self, name: &str) -> Result<(), TableError> {
        match self.ask_tables(name, &ClientRequest::DropTable { name: name.to_owned() })? {
            ClientReply::Done {} => {
                for table in self.tables.iter_mut().filter(|table| table.entry.name == name) {
                    table.places.clear();
                    table.dropped = true;
                }
                Ok(())
            }
            _ => Err(TableError::Unexpected),
        }
    }

    /// All tables.
    pub(crate) fn list_tables(&mut self) -> Result<Vec<TableEntry>, TableError> {
        match self.ask_tables("", &ClientRequest::ListTables {})? {
            ClientReply::Tables { tables } => Ok(tables),
            _ => Err(TableError::Unexpected),
        }
    }

    /// Asks a server about tables.
    pub(crate) fn ask_tables(
        &mut self,
        name: &str,
        request: &ClientRequest,
    ) -> Result<ClientReply, TableError> {
        if name.len() > TABLE_NAME_LEN_MAX {
            let len = name.len();
            let text = format!("a table's name has at most {TABLE_NAME_LEN_MAX} bytes, not {len}");
            return Err(TableError::Refused { kind: RefusalKind::Invalid {}, text });
        }
        let (reply, asked_before) = self.ask_any(request)?;
        match reply {
            // It was dropped by the first try, whose answer was lost.
            ClientReply::Refused { status: RefusalKind::UnknownTable {}, .. }
                if asked_before && matches!(request, ClientRequest::DropTable { .. }) =>
            {
                Ok(ClientReply::Done {})
            }
            ClientReply::Refused { status: RefusalKind::UnknownTable {}, .. } => {
                Err(TableError::Unknown { name: name.to_owned() })
            }
            ClientReply::Refused { status: RefusalKind::TableExists {}, .. } => {
                Err(TableError::Exists { name: name.to_owned() })
            }
            ClientReply::Refused { status, text } => {
                Err(TableError::Refused { kind: status, text })
            }
            reply => Ok(reply),
        }
    }

    /// Asks one server.
    pub(crate) fn ask_server(
        &mut self,
        server: ServerId,
        request: &ClientRequest,
    ) -> Result<ClientReply, TableError> {
        let found = self.cluster.servers.iter_mut().find(|known| known.id == server);
        let asked = found.ok_or(TableError::OutOfReach { server })?.ask(request, None);
        if asked.is_err() {
            self.check_servers();
        }
        match asked? {
            ClientReply::Refused { status, text } => {
                Err(TableError::Refused { kind: status, text })
            }
            reply => Ok(reply),
        }
    }

    /// Asks the servers that are reached, one after the other, until one answers; tries again as
    /// long as requests are retried. Says whether somebody was asked before.
    fn ask_any(&mut self, request: &ClientRequest) -> Result<(ClientReply, bool), TableError> {
        let since = Instant::now();
        let mut asked_before = false;
        let server = self.cluster.servers.first().map_or(ServerId(0), |server| server.id);
        let mut failed = TableError::OutOfReach { server };
        loop {
            for at in 0..self.cluster.servers.len() {
                if self.cluster.servers[at].control.is_none() {
                    continue;
                }
                // One that says nothing leaves time for the others.
                let left = self.session.options.timeout.saturating_sub(since.elapsed());
                let others = &self.cluster.servers[at + 1..];
                let is_last = !others.iter().any(|server| server.control.is_some());
                let limit = if is_last { left } else { left / 2 };
                failed = match self.cluster.servers[at].ask(request, Some(limit)) {
                    Ok(ClientReply::Refused { status, text }) if is_passing(status) => {
                        TableError::Refused { kind: status, text }
                    }
                    Ok(reply) => return Ok((reply, asked_before)),
                    Err(TableError::Interrupted) => return Err(TableError::Interrupted),
                    Err(error) => {
                        asked_before = true;
                        error
                    }
                };
            }
            self.check_servers();
            // Who is gone may come back; who says nothing has had its time.
            let is_silent = self.cluster.servers.iter().any(|server| server.silent && !server.left);
            let patience_max = if is_silent {
                self.session.options.timeout
            } else {
                self.session.options.retry_for
            };
            if since.elapsed() >= patience_max {
                return Err(if is_silent {
                    self.cluster.silence(&self.session, failed)
                } else {
                    failed
                });
            }
            self.recovery.start_trouble();
            let mut patience = None;
            let generation = self.cluster.generation;
            while self.cluster.generation == generation && since.elapsed() < patience_max {
                match self.wait_a_little(&mut patience) {
                    Ok(()) => {}
                    Err(RequestError::Interrupted) => return Err(TableError::Interrupted),
                    Err(_) => break,
                }
            }
        }
    }

    fn table(&mut self, name: &str, request: &ClientRequest) -> Result<TableIndex, TableError> {
        let ClientReply::Table { table } = self.ask_tables(name, request)? else {
            return Err(TableError::Unexpected);
        };
        if table.schema.validate().is_err() {
            return Err(TableError::Unexpected);
        }
        let found = self.tables.iter().position(|known| known.entry.id == table.id);
        let index = TableIndex(found.unwrap_or(self.tables.0.len()));
        match self.tables.0.get_mut(index.0) {
            // Others may have changed it meanwhile.
            Some(known) => known.entry = table,
            None => self.tables.0.push(TableState::new(table, self.cluster.map.partition_count())),
        }
        self.tables[index].rows_lost = false;
        self.join_clock(index)?;
        Ok(index)
    }

    /// Learns where the rows of a dense table lie, unless that is known.
    pub(crate) fn locate(
        &mut self,
        table: TableIndex,
        replica: Replica,
    ) -> Result<(), RequestError> {
        if !self.tables[table].places.of(replica).is_empty() {
            return Ok(());
        }
        self.tables.release_ended_views(&mut self.links);
        let setup = |text: String| RequestError::Setup { text };
        let id = self.tables[table].entry.id;
        let mut places = vec![None; self.cluster.map.partition_count() as usize];
        for link_at in 0..self.links.all.len() {
            if !self.cluster.reads_from(&self.tables, table, replica, link_at) {
                continue;
            }
            if let Err(error) = self.links.make_link(&mut self.cluster, &mut self.session, link_at)
                && !self.links.all[link_at].failed
            {
                return Err(setup(chain(&error)));
            }
            let link = &self.links.all[link_at];
            let server = &mut self.cluster.servers[link.server_at];
            let request = ClientRequest::Locate { table: id, shard: link.shard };
            let gone = RequestError::ServerGone { server: server.id };
            if server.control.is_none() || link.failed {
                return Err(gone);
            }
            let located = match server.ask(&request, None) {
                Ok(ClientReply::Located { places }) => places,
                Ok(ClientReply::Refused { status, .. }) if is_passing(status) => {
                    return Err(gone);
                }
                Ok(ClientReply::Refused { status: RefusalKind::UnknownTable {}, .. }) => {
                    return Err(RequestError::NotCurrent { server: server.id });
                }
                Ok(ClientReply::Refused { status: RefusalKind::NoMailbox {}, .. }) => {
                    self.links.fail_forgotten(link_at);
                    return Err(gone);
                }
                Ok(ClientReply::Refused { text, .. }) => return Err(setup(text)),
                Ok(_) => return Err(setup("unexpected answer to locate".to_owned())),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "a server is gone");
                    self.check_servers();
                    return Err(match error {
                        TableError::Interrupted => RequestError::Interrupted,
                        _ => gone,
                    });
                }
            };
            for at in located {
                let state = &self.tables[table];
                let slot = places.get_mut(at.partition.0 as usize);
                let Some(slot) = slot.filter(|_| is_sound(&at, &state.layout, state.row_len))
                else {
                    return Err(setup("the server named an impossible place".to_owned()));
                };
                if self.cluster.routes(replica).link_of(at.partition) != link_at {
                    continue;
                }
                let mut place = Place::new(link_at, at);
                let (address, len) = (place.line(0), place.len());
                let link = &self.links.all[link_at];
                place.view =
                    self.links.transports[link.transport].view(link.queue_pair, address, len);
                *slot = Some(place);
            }
        }
        *self.tables[table].places.of_mut(replica) = places;
        Ok(())
    }
}

impl Cluster {
    /// Why nobody answered where somebody is known to say nothing: only who was never reached at all is not
    /// there.
    fn silence(&self, session: &Session, failed: TableError) -> TableError {
        let TableError::OutOfReach { server } = failed else { return failed };
        match self.map.server(server) {
            Some(entry) => TableError::Timeout {
                address: entry.address.clone(),
                timeout: session.options.timeout,
            },
            None => failed,
        }
    }

    /// Whether pulls of a table by one replica's routes go to a link.
    fn reads_from(
        &self,
        tables: &Tables,
        table: TableIndex,
        replica: Replica,
        link: usize,
    ) -> bool {
        let (state, routes) = (&tables[table], self.routes(replica));
        let mut partitions = (0..self.map.partition_count()).map(PartitionId);
        partitions.any(|at| routes.link_of(at) == link && state.may_have_rows_in(at))
    }
}

/// Whether a refusal may be over soon.
pub(super) fn is_passing(kind: RefusalKind) -> bool {
    matches!(
        kind,
        RefusalKind::ShuttingDown {}
            | RefusalKind::NoCoordinator {}
            | RefusalKind::StaleEpoch { .. }
    )
}
