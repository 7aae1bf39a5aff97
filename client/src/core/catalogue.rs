//! Operations on whole tables: created, opened, changed, dropped and listed by asking servers.

use std::time::Instant;

use windlass_wire::{
    Consistency, Expiry, ServerId, TableEntry, TableSchema,
    control::{ClientReply, ClientRequest, RefusalKind},
    schema::TABLE_NAME_LEN_MAX,
};

use super::{Cluster, Core, Session, clock::join_clock, servers::is_passing, tables::TableIndex};
use crate::error::{RequestError, TableError};

/// Creates a table, or finds the equal one.
pub(crate) fn create_table(
    core: &mut Core,
    name: &str,
    schema: &TableSchema,
) -> Result<TableIndex, TableError> {
    let request = ClientRequest::CreateTable { name: name.to_owned(), schema: schema.clone() };
    table(core, name, &request)
}

/// Finds a table.
pub(crate) fn open_table(core: &mut Core, name: &str) -> Result<TableIndex, TableError> {
    table(core, name, &ClientRequest::OpenTable { name: name.to_owned() })
}

/// Changes how far a table's workers may be apart.
pub(crate) fn set_consistency(
    core: &mut Core,
    name: &str,
    consistency: Consistency,
) -> Result<TableEntry, TableError> {
    let request = ClientRequest::AlterTable { name: name.to_owned(), consistency };
    alter_table(core, name, &request)
}

/// Changes hyper-parameters of a table's rule.
pub(crate) fn set_rule(
    core: &mut Core,
    name: &str,
    parameters: &str,
) -> Result<TableEntry, TableError> {
    let (owned, parameters) = (name.to_owned(), parameters.to_owned());
    alter_table(core, name, &ClientRequest::SetRule { name: owned, parameters })
}

/// Changes which rows of a sparse table go by themselves.
pub(crate) fn set_expiry(
    core: &mut Core,
    name: &str,
    expiry: Expiry,
) -> Result<TableEntry, TableError> {
    alter_table(core, name, &ClientRequest::SetExpiry { name: name.to_owned(), expiry })
}

fn alter_table(
    core: &mut Core,
    name: &str,
    request: &ClientRequest,
) -> Result<TableEntry, TableError> {
    match ask_tables(core, name, request)? {
        ClientReply::Table { table } => {
            for known in core.tables.iter_mut().filter(|known| known.entry.id == table.id) {
                known.entry = table.clone();
            }
            Ok(table)
        }
        _ => Err(TableError::Unexpected),
    }
}

/// Drops a table.
pub(crate) fn drop_table(core: &mut Core, name: &str) -> Result<(), TableError> {
    match ask_tables(core, name, &ClientRequest::DropTable { name: name.to_owned() })? {
        ClientReply::Done {} => {
            for table in core.tables.iter_mut().filter(|table| table.entry.name == name) {
                table.places.clear();
                table.dropped = true;
            }
            Ok(())
        }
        _ => Err(TableError::Unexpected),
    }
}

/// All tables.
pub(crate) fn list_tables(core: &mut Core) -> Result<Vec<TableEntry>, TableError> {
    match ask_tables(core, "", &ClientRequest::ListTables {})? {
        ClientReply::Tables { tables } => Ok(tables),
        _ => Err(TableError::Unexpected),
    }
}

/// Asks a server about tables.
pub(crate) fn ask_tables(
    core: &mut Core,
    name: &str,
    request: &ClientRequest,
) -> Result<ClientReply, TableError> {
    if name.len() > TABLE_NAME_LEN_MAX {
        let len = name.len();
        let text = format!("a table's name has at most {TABLE_NAME_LEN_MAX} bytes, not {len}");
        return Err(TableError::Refused { kind: RefusalKind::Invalid {}, text });
    }
    let (reply, asked_before) = ask_any(core, request)?;
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
        ClientReply::Refused { status, text } => Err(TableError::Refused { kind: status, text }),
        reply => Ok(reply),
    }
}

/// Asks one server.
pub(crate) fn ask_server(
    core: &mut Core,
    server: ServerId,
    request: &ClientRequest,
) -> Result<ClientReply, TableError> {
    let found = core.cluster.servers.iter_mut().find(|known| known.id == server);
    let asked = found.ok_or(TableError::OutOfReach { server })?.ask(request, None);
    if asked.is_err() {
        core.cluster.check_servers(&mut core.tables, &mut core.links);
    }
    match asked? {
        ClientReply::Refused { status, text } => Err(TableError::Refused { kind: status, text }),
        reply => Ok(reply),
    }
}

/// Asks the servers that are reached, one after the other, until one answers; tries again as
/// long as requests are retried. Says whether somebody was asked before.
fn ask_any(core: &mut Core, request: &ClientRequest) -> Result<(ClientReply, bool), TableError> {
    let since = Instant::now();
    let mut asked_before = false;
    let server = core.cluster.servers.first().map_or(ServerId(0), |server| server.id);
    let mut failed = TableError::OutOfReach { server };
    loop {
        for at in 0..core.cluster.servers.len() {
            if core.cluster.servers[at].control.is_none() {
                continue;
            }
            // One that says nothing leaves time for the others.
            let left = core.session.options.timeout.saturating_sub(since.elapsed());
            let others = &core.cluster.servers[at + 1..];
            let is_last = !others.iter().any(|server| server.control.is_some());
            let limit = if is_last { left } else { left / 2 };
            failed = match core.cluster.servers[at].ask(request, Some(limit)) {
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
        core.cluster.check_servers(&mut core.tables, &mut core.links);
        // Who is gone may come back; who says nothing has had its time.
        let is_silent = core.cluster.servers.iter().any(|server| server.silent && !server.left);
        let patience_max =
            if is_silent { core.session.options.timeout } else { core.session.options.retry_for };
        if since.elapsed() >= patience_max {
            return Err(if is_silent {
                core.cluster.silence(&core.session, failed)
            } else {
                failed
            });
        }
        core.recovery.start_trouble();
        let mut patience = None;
        let generation = core.cluster.generation;
        while core.cluster.generation == generation && since.elapsed() < patience_max {
            match core.wait_a_little(&mut patience) {
                Ok(()) => {}
                Err(RequestError::Interrupted) => return Err(TableError::Interrupted),
                Err(_) => break,
            }
        }
    }
}

fn table(core: &mut Core, name: &str, request: &ClientRequest) -> Result<TableIndex, TableError> {
    let ClientReply::Table { table } = ask_tables(core, name, request)? else {
        return Err(TableError::Unexpected);
    };
    if table.schema.validate().is_err() {
        return Err(TableError::Unexpected);
    }
    let index = core.tables.learn(table, core.cluster.map.partition_count());
    join_clock(core, index)?;
    Ok(index)
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
}
