//! Asking where the rows of a dense table lie.

use windlass_transport::error::chain;
use windlass_wire::{
    PartitionId,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use super::{
    Cluster, Core,
    message::Replica,
    places::{Place, is_sound},
    servers::is_passing,
    tables::{TableIndex, Tables},
};
use crate::error::{RequestError, TableError};

/// Learns where the rows of a dense table lie, unless that is known.
pub(crate) fn locate(
    core: &mut Core,
    table: TableIndex,
    replica: Replica,
) -> Result<(), RequestError> {
    if !core.tables[table].places.of(replica).is_empty() {
        return Ok(());
    }
    core.tables.release_ended_views(&mut core.links);
    let setup = |text: String| RequestError::Setup { text };
    let id = core.tables[table].entry.id;
    let mut places = vec![None; core.cluster.map.partition_count() as usize];
    for link_at in 0..core.links.all.len() {
        if !core.cluster.reads_from(&core.tables, table, replica, link_at) {
            continue;
        }
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
        for at in located {
            let state = &core.tables[table];
            let slot = places.get_mut(at.partition.0 as usize);
            let Some(slot) = slot.filter(|_| is_sound(&at, &state.layout, state.row_len)) else {
                return Err(setup("the server named an impossible place".to_owned()));
            };
            if core.cluster.routes(replica).link_of(at.partition) != link_at {
                continue;
            }
            let mut place = Place::new(link_at, at);
            let (address, len) = (place.line(0), place.len());
            let link = &core.links.all[link_at];
            place.view = core.links.transports[link.transport].view(link.queue_pair, address, len);
            *slot = Some(place);
        }
    }
    *core.tables[table].places.of_mut(replica) = places;
    Ok(())
}

impl Cluster {
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
