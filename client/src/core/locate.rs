//! Asking where the rows of a dense table lie.

use std::collections::BTreeSet;

use windlass_transport::error::chain;
use windlass_wire::{
    RowRange,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use super::{Core, message::Replica, places::Place, servers::is_passing, tables::TableIndex};
use crate::error::{RequestError, TableError};

/// Learns where rows of a dense table lie, unless that is known. Whether all of them are in view: they lie in
/// this host's memory, and can be copied.
pub(crate) fn view(
    core: &mut Core,
    table: TableIndex,
    replica: Replica,
    rows: RowRange,
) -> Result<bool, RequestError> {
    if core.tables.is_viewable(&core.links, table, replica, rows) {
        return Ok(true);
    }
    locate(core, table, replica, rows)?;
    Ok(core.tables.is_viewable(&core.links, table, replica, rows))
}

/// Learns where rows of a dense table lie, unless that is known. Asks only the shards that hold them.
#[inline(never)]
pub(crate) fn locate(
    core: &mut Core,
    table: TableIndex,
    replica: Replica,
    rows: RowRange,
) -> Result<(), RequestError> {
    let layout = core.tables[table].layout;
    let mut asked = None;
    for (partition, _) in layout.pieces_of(rows) {
        if core.tables[table].places.find(replica, partition.0 as usize).is_some() {
            continue;
        }
        let link = core.cluster.routes(replica).link_of(partition);
        let asked: &mut BTreeSet<usize> = asked.get_or_insert_default();
        if link < core.links.all.len() && asked.insert(link) {
            locate_at(core, table, replica, link)?;
        }
    }
    Ok(())
}

/// Learns where the rows lie that a shard holds.
fn locate_at(
    core: &mut Core,
    table: TableIndex,
    replica: Replica,
    link_at: usize,
) -> Result<(), RequestError> {
    core.tables.release_ended_views(&mut core.links);
    let setup = |text: String| RequestError::Setup { text };
    let id = core.tables[table].entry.id;
    if let Err(error) = core.links.make_link(&mut core.cluster, &mut core.session, link_at)
        && !core.links.all[link_at].state.failed
    {
        return Err(setup(chain(&error)));
    }
    let link = &core.links.all[link_at];
    let server = &mut core.cluster.servers[link.server_at];
    let request = ClientRequest::Locate { table: id, shard: link.shard };
    let gone = RequestError::ServerGone { server: server.id };
    if server.control.is_none() || link.state.failed {
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
            core.links.fail_forgotten(link_at);
            return Err(gone);
        }
        Ok(ClientReply::Refused { text, .. }) => return Err(setup(text)),
        Ok(_) => return Err(setup("unexpected answer to locate".to_owned())),
        Err(error) => {
            tracing::debug!(error = chain(&error), "a server is gone");
            core.cluster.check_servers(&mut core.tables, &mut core.links);
            return Err(match error {
                TableError::Interrupted => RequestError::Interrupted,
                _ => gone,
            });
        }
    };
    let partitions = core.cluster.map.partition_count();
    for at in located {
        let state = &core.tables[table];
        let place = Place::new(link_at, at, &state.layout, state.row_len);
        let Some(mut place) = place.filter(|_| at.partition.0 < partitions) else {
            return Err(setup("the server named an impossible place".to_owned()));
        };
        if core.cluster.routes(replica).link_of(at.partition) != link_at {
            continue;
        }
        let (address, len) = (place.line(0), place.len());
        let link = &core.links.all[link_at];
        place.view = core.links.transports[link.transport].view(link.queue_pair, address, len);
        core.tables[table].places.set(replica, partitions, place);
    }
    Ok(())
}
