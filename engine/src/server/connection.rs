//! One control connection: identifies the peer and answers its requests.

use std::sync::{Arc, atomic::Ordering};

use windlass_transport::{
    Endpoint,
    control::{ControlError, ControlStream, host_identity},
};
use windlass_wire::{
    Blob, Incarnation, PartitionId, SessionId, ShardId, TableId, WorkerRank,
    control::{ClientReply, ClientRequest, Peer, PeerRole, Provider, RefusalKind},
    map::shard_of,
};

use super::Shared;
use crate::{
    coordinator::Joining,
    greeting::Greeting,
    refusal::{Refusal, internal, invalid, refused},
    shard::{Answer, Changed, RowsToSet, ServerStatistics, SetError, ShardCommand, ShardHandle},
};

/// A connection after its greeting.
struct Connection {
    shared: Arc<Shared>,
    session: SessionId,
    incarnation: Incarnation,
    peer: Option<Peer>,
    /// Tells it from other connections of the session.
    number: u64,
    rank: Option<WorkerRank>,
}

/// Serves one connection until it ends.
pub(super) fn serve(
    shared: &Arc<Shared>,
    mut stream: ControlStream,
    greeting: Greeting,
) -> Result<(), ControlError> {
    match welcome(shared, &greeting) {
        Ok(welcome) => stream.send(&welcome)?,
        Err(refusal) => return stream.send(&refused(refusal)),
    }
    let rank = greeting.rank.filter(|_| greeting.peer.is_none());
    let peer = match greeting.peer {
        Some(PeerRole::Links { peer, .. }) => Some(peer),
        Some(PeerRole::Joins {}) | None => None,
    };
    let connection = Connection {
        shared: shared.clone(),
        session: greeting.session,
        incarnation: greeting.incarnation,
        peer,
        number: shared.connections_ever.fetch_add(1, Ordering::Relaxed),
        rank,
    };
    if let Some(rank) = rank {
        shared.member.presence().enter(rank, connection.incarnation);
    }
    // From here on a client may be silent for as long as it trains.
    let patient = stream.set_read_timeout(greeting.silence_max());
    debug_assert!(patient.is_ok(), "the socket is open");
    while let Some(request) = stream.receive::<ClientRequest>()? {
        if shared.is_stopping() {
            let text = "the server is shutting down".to_owned();
            return stream.send(&refused(Refusal::new(RefusalKind::ShuttingDown {}, text)));
        }
        if let ClientRequest::Join { .. } = request {
            let Some(desk) = shared.member.coordinators().here() else {
                let text = "this server is not the coordinator: join by the address it joined by";
                stream
                    .send(&refused(Refusal::new(RefusalKind::NoCoordinator {}, text.to_owned())))?;
                continue;
            };
            return desk.serve(stream, Joining::from_request(request));
        }
        let stops = request == ClientRequest::Shutdown {};
        let reply = connection.answer(request).unwrap_or_else(refused);
        stream.send(&reply)?;
        if stops {
            shared.request_stop();
        }
    }
    Ok(())
}

/// The answer to a greeting.
fn welcome(shared: &Shared, greeting: &Greeting) -> Result<ClientReply, Refusal> {
    if shared.is_stopping() {
        return Err(Refusal::new(
            RefusalKind::ShuttingDown {},
            "the server is shutting down".to_owned(),
        ));
    }
    if let Some(PeerRole::Links { peer, ticket }) = greeting.peer {
        shared.member.check_ticket(peer, ticket)?;
    }
    let same_host = greeting.host == host_identity();
    let mut notes = shared.notes.clone();
    let mut providers = Vec::new();
    for provider in &shared.providers {
        if *provider == (Provider::Shm {}) && !same_host {
            notes.push(
                "shm: client and server are not on one host, network namespace and user".into(),
            );
        } else {
            providers.push(*provider);
        }
    }
    Ok(ClientReply::Welcome {
        session: greeting.session,
        server: shared.server_id(),
        incarnation: shared.member.incarnation(),
        started: shared.member.started(),
        shard_count: shared.config.shards,
        providers,
        notes,
    })
}

impl Connection {
    fn answer(&self, request: ClientRequest) -> Result<ClientReply, Refusal> {
        let cluster = &self.shared.cluster;
        Ok(match request {
            ClientRequest::Hello { .. } | ClientRequest::Join { .. } => {
                return Err(invalid("only the first message greets"));
            }
            ClientRequest::Map {} => ClientReply::Map { map: cluster.map()?.as_ref().clone() },
            ClientRequest::CreateTable { .. }
            | ClientRequest::DropTable { .. }
            | ClientRequest::AlterTable { .. }
            | ClientRequest::SetRule { .. }
            | ClientRequest::SetExpiry { .. }
            | ClientRequest::CoordinatorStatus {}
            | ClientRequest::Operate { .. }
            | ClientRequest::RegisterWorker { .. }
            | ClientRequest::LeaveWorker { .. } => {
                self.shared.member.coordinators().ask(&request)?
            }
            ClientRequest::Checksums {} => {
                ClientReply::Checksums { partitions: cluster.checksums()? }
            }
            ClientRequest::OpenTable { name } => ClientReply::Table { table: cluster.find(&name)? },
            ClientRequest::ListTables {} => ClientReply::Tables { tables: cluster.tables() },
            ClientRequest::OpenMailbox { shard, provider, endpoint } => {
                self.open_mailbox(shard, provider, Endpoint(endpoint.0))?
            }
            ClientRequest::AttachMailbox { shard, reply, completion_slots } => {
                let session = self.session;
                let attached = self
                    .shard(shard)?
                    .ask(|answer| ShardCommand::AttachMailbox {
                        session,
                        reply,
                        completion_slots,
                        answer,
                    })
                    .map_err(internal)?;
                ClientReply::Attached {
                    mailbox: attached.region,
                    ring_len: attached.ring_len,
                    spin_us: self.shared.config.spin_us,
                    by_reference_len: attached.by_reference_len,
                    kept_keys_max: attached.kept_keys_max,
                }
            }
            ClientRequest::Locate { table, shard } => {
                let session = self.session;
                let places = self.shard(shard)?.ask(|answer| ShardCommand::Locate {
                    session,
                    table,
                    answer,
                })?;
                ClientReply::Located { places }
            }
            ClientRequest::JoinClock { table, shard } => {
                let session = self.session;
                let place = self.shard(shard)?.ask(|answer| ShardCommand::JoinClock {
                    session,
                    table,
                    answer,
                })?;
                ClientReply::ClockJoined { place }
            }
            ClientRequest::LeaveClocks {} => {
                let session = self.session;
                for shard in &self.shared.shards {
                    shard
                        .ask(|answer| ShardCommand::LeaveClocks { session, answer })
                        .map_err(internal)?;
                }
                ClientReply::Done {}
            }
            ClientRequest::SetRows { table, partition, first, values } => {
                self.set_rows(table, partition, RowsToSet::Dense { first, values: values.0 })?
            }
            ClientRequest::SetKeys { table, partition, with_state, rows } => {
                self.set_rows(table, partition, RowsToSet::Sparse { rows: rows.0, with_state })?
            }
            ClientRequest::RemoveRows { table, partition, which } => {
                let Changed { rows, next } = self.change_rows(partition, |answer| {
                    ShardCommand::RemoveRows { table, partition, which, answer }
                })?;
                ClientReply::RowsRemoved { rows, next }
            }
            ClientRequest::Statistics {} => self.statistics()?,
            ClientRequest::Shutdown {} => ClientReply::Done {},
            ClientRequest::Checkpoint {} => {
                if self.shared.config.data_dir.is_none() {
                    let text = "the server has no data directory".to_owned();
                    return Err(Refusal::new(RefusalKind::Invalid {}, text));
                }
                for shard in &self.shared.shards {
                    shard.send(ShardCommand::Checkpoint {});
                }
                ClientReply::Done {}
            }
        })
    }

    fn set_rows(
        &self,
        table: TableId,
        partition: PartitionId,
        rows: RowsToSet,
    ) -> Result<ClientReply, Refusal> {
        let set = |answer| ShardCommand::SetRows { table, partition, rows, answer };
        self.change_rows(partition, set).map(|_| ClientReply::Done {})
    }

    /// Has the shard of a partition set or remove rows.
    fn change_rows(
        &self,
        partition: PartitionId,
        command: impl FnOnce(Answer<Changed, SetError>) -> ShardCommand,
    ) -> Result<Changed, Refusal> {
        let map = self.shared.cluster.map()?;
        let shard = self.shard(shard_of(partition, self.shared.config.shards))?;
        shard.ask(command).map_err(|error| {
            let kind = match &error {
                SetError::Refused(_) => RefusalKind::Invalid {},
                SetError::Full => RefusalKind::Full {},
                SetError::Moved | SetError::Summed => RefusalKind::StaleEpoch { epoch: map.epoch },
            };
            Refusal::new(kind, error.to_string())
        })
    }

    fn open_mailbox(
        &self,
        shard: ShardId,
        provider: Provider,
        endpoint: Endpoint,
    ) -> Result<ClientReply, Refusal> {
        if endpoint.0.len() > Endpoint::LEN_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid {},
                "the endpoint is too long".to_owned(),
            ));
        }
        let (session, incarnation, rank) = (self.session, self.incarnation, self.rank);
        let endpoint = self
            .shard(shard)?
            .ask(|answer| ShardCommand::OpenMailbox {
                session,
                incarnation,
                connection: self.number,
                rank,
                peer: self.peer,
                provider,
                endpoint,
                answer,
            })
            .map_err(internal)?;
        Ok(ClientReply::Mailbox { endpoint: Blob(endpoint.0) })
    }

    fn statistics(&self) -> Result<ClientReply, Refusal> {
        let mut total = ServerStatistics::default();
        for shard in &self.shared.shards {
            let one = shard.ask(|answer| ShardCommand::Statistics { answer }).map_err(internal)?;
            total.merge(&one);
        }
        Ok(ClientReply::Statistics { json: Blob(total.to_json().into_bytes()) })
    }

    fn shard(&self, shard: ShardId) -> Result<&ShardHandle, Refusal> {
        self.shared.shards.get(usize::from(shard.0)).ok_or_else(|| {
            let count = self.shared.shards.len();
            Refusal::new(
                RefusalKind::Invalid {},
                format!("there is no shard {shard}: the server has {count}"),
            )
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(rank) = self.rank {
            self.shared.member.presence().leave(rank, self.incarnation);
        }
        for shard in &self.shared.shards {
            shard.send(ShardCommand::CloseSession {
                session: self.session,
                connection: self.number,
            });
        }
    }
}
