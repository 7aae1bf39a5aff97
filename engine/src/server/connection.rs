//! One control connection: who is it, and what does it ask for.

use std::sync::{Arc, atomic::Ordering};

use windlass_transport::{
    Endpoint,
    control::{ControlError, ControlStream, host_identity},
};
use windlass_wire::{
    Blob, Incarnation, ServerId, SessionId, ShardId, WorkerRank,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Peer, Provider, RefusalKind},
    map::{ServerEntry, ServerState},
};

use super::{Shared, cluster::Refusal};
use crate::{
    limits::MAILBOX_RING_LEN,
    shard::{ShardCommand, ShardHandle, ShardStatistics},
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
pub(super) fn serve(shared: &Arc<Shared>, mut stream: ControlStream) -> Result<(), ControlError> {
    let Some(greeting) = stream.receive::<ClientRequest>()? else { return Ok(()) };
    let (rank, peer) = match &greeting {
        ClientRequest::Hello { rank, peer, .. } => (*rank, *peer),
        _ => (None, None),
    };
    let (session, incarnation) = match greet(shared, greeting) {
        Ok((welcome, session, incarnation)) => {
            stream.send(&welcome)?;
            (session, incarnation)
        }
        Err(refusal) => return stream.send(&refused(refusal)),
    };
    let number = shared.connections_ever.fetch_add(1, Ordering::Relaxed);
    let connection =
        Connection { shared: shared.clone(), session, incarnation, peer, number, rank };
    // From here on the client may be silent for as long as it trains.
    let patient = stream.set_read_timeout(None);
    debug_assert!(patient.is_ok(), "the socket is open");
    while let Some(request) = stream.receive::<ClientRequest>()? {
        if shared.is_stopping() {
            let text = "the server is shutting down".to_owned();
            return stream.send(&refused((RefusalKind::ShuttingDown {}, text)));
        }
        if let ClientRequest::Join { address, shard_count, incarnation } = request {
            let entry = ServerEntry {
                id: ServerId(0),
                incarnation,
                address,
                shard_count,
                state: ServerState::Up,
            };
            let Ok(peer) = stream.try_clone() else { return Ok(()) };
            match shared.cluster.join(entry, Some(peer)) {
                // The coordinator talks on this connection from now on.
                Ok(_) => return Ok(()),
                Err(refusal) => stream.send(&refused(refusal))?,
            }
            continue;
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

fn refused((status, text): Refusal) -> ClientReply {
    ClientReply::Refused { status, text }
}

/// Checks a greeting; the answer to it, and the session.
fn greet(
    shared: &Shared,
    greeting: ClientRequest,
) -> Result<(ClientReply, SessionId, Incarnation), Refusal> {
    let ClientRequest::Hello { version, token, session, incarnation, rank: _, host, peer: _ } =
        greeting
    else {
        return Err((RefusalKind::Invalid {}, "a connection begins with hello".to_owned()));
    };
    if version != PROTOCOL_VERSION {
        let text = format!(
            "the server speaks protocol {PROTOCOL_VERSION}, the client {version}: use one release for both"
        );
        return Err((RefusalKind::Version {}, text));
    }
    if let Some(expected) = &shared.config.token
        && !equal_in_constant_time(expected.as_bytes(), token.as_bytes())
    {
        let text = "the token is missing or wrong: pass the server's token file".to_owned();
        return Err((RefusalKind::Token {}, text));
    }
    if session == SessionId(0) {
        return Err((RefusalKind::Invalid {}, "a session number cannot be zero".to_owned()));
    }
    if shared.is_stopping() {
        return Err((RefusalKind::ShuttingDown {}, "the server is shutting down".to_owned()));
    }
    let same_host = host == host_identity();
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
    let welcome = ClientReply::Welcome {
        session,
        server: shared.server_id(),
        incarnation: shared.incarnation,
        shard_count: shared.config.shards,
        providers,
        notes,
    };
    Ok((welcome, session, incarnation))
}

/// Takes as long for any pair of one length, so that a token cannot be guessed byte by byte.
fn equal_in_constant_time(expected: &[u8], presented: &[u8]) -> bool {
    expected.len() == presented.len()
        && expected.iter().zip(presented).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

impl Connection {
    fn answer(&self, request: ClientRequest) -> Result<ClientReply, Refusal> {
        let cluster = &self.shared.cluster;
        Ok(match request {
            ClientRequest::Hello { .. } | ClientRequest::Join { .. } => {
                return Err((RefusalKind::Invalid {}, "only the first message greets".to_owned()));
            }
            ClientRequest::Map {} => ClientReply::Map { map: cluster.map()?.as_ref().clone() },
            ClientRequest::CreateTable { .. }
            | ClientRequest::DropTable { .. }
            | ClientRequest::AlterTable { .. }
                if self.shared.config.join.is_some() =>
            {
                self.shared.ask_coordinator(&request)?
            }
            ClientRequest::CreateTable { name, schema } => {
                ClientReply::Table { table: cluster.create(&name, &schema)? }
            }
            ClientRequest::DropTable { name } => {
                cluster.drop_table(&name)?;
                ClientReply::Done {}
            }
            ClientRequest::OpenTable { name } => ClientReply::Table { table: cluster.find(&name)? },
            ClientRequest::ListTables {} => ClientReply::Tables { tables: cluster.tables() },
            ClientRequest::OpenMailbox { shard, provider, endpoint } => {
                self.open_mailbox(shard, provider, Endpoint(endpoint.0))?
            }
            ClientRequest::AttachMailbox { shard, reply, completion_slots } => {
                let session = self.session;
                let mailbox = self
                    .shard(shard)?
                    .ask(|answer| ShardCommand::AttachMailbox {
                        session,
                        reply,
                        completion_slots,
                        answer,
                    })
                    .map_err(internal)?;
                ClientReply::Attached {
                    mailbox,
                    ring_len: MAILBOX_RING_LEN,
                    spin_us: self.shared.config.spin_us,
                    by_reference_len: self.shared.config.by_reference_len,
                }
            }
            ClientRequest::Locate { table, shard } => {
                let session = self.session;
                let places = self
                    .shard(shard)?
                    .ask(|answer| ShardCommand::Locate { session, table, answer })
                    .map_err(|text| {
                        let is_known = cluster.tables().iter().any(|known| known.id == table);
                        let kind = if is_known { RefusalKind::Internal {} } else { UNKNOWN_TABLE };
                        (kind, text)
                    })?;
                ClientReply::Located { places }
            }
            ClientRequest::JoinClock { table, shard } => {
                let session = self.session;
                let place = self
                    .shard(shard)?
                    .ask(|answer| ShardCommand::JoinClock { session, table, answer })
                    .map_err(|text| (RefusalKind::Invalid {}, text))?;
                ClientReply::ClockJoined { place }
            }
            ClientRequest::AlterTable { name, consistency } => {
                ClientReply::Table { table: cluster.alter(&name, consistency)? }
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
            ClientRequest::Statistics {} => self.statistics()?,
            ClientRequest::Shutdown {} => ClientReply::Done {},
            ClientRequest::Checkpoint {} => {
                if self.shared.config.data_dir.is_none() {
                    let text = "the server has no data directory".to_owned();
                    return Err((RefusalKind::Invalid {}, text));
                }
                for shard in &self.shared.shards {
                    shard.send(ShardCommand::Checkpoint {});
                }
                ClientReply::Done {}
            }
        })
    }

    fn open_mailbox(
        &self,
        shard: ShardId,
        provider: Provider,
        endpoint: Endpoint,
    ) -> Result<ClientReply, Refusal> {
        if endpoint.0.len() > Endpoint::LEN_MAX {
            return Err((RefusalKind::Invalid {}, "the endpoint is too long".to_owned()));
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
        let mut total = ShardStatistics::default();
        for shard in &self.shared.shards {
            let one = shard.ask(|answer| ShardCommand::Statistics { answer }).map_err(internal)?;
            total.merge(&one);
        }
        Ok(ClientReply::Statistics { json: Blob(total.to_json().into_bytes()) })
    }

    fn shard(&self, shard: ShardId) -> Result<&ShardHandle, Refusal> {
        self.shared.shards.get(usize::from(shard.0)).ok_or_else(|| {
            let count = self.shared.shards.len();
            (RefusalKind::Invalid {}, format!("there is no shard {shard}: the server has {count}"))
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for shard in &self.shared.shards {
            shard.send(ShardCommand::CloseSession {
                session: self.session,
                connection: self.number,
            });
        }
    }
}

/// What a table that nobody has is refused as.
const UNKNOWN_TABLE: RefusalKind = RefusalKind::UnknownTable {};

fn internal(text: String) -> Refusal {
    (RefusalKind::Internal {}, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_compare_whole() {
        assert!(equal_in_constant_time(b"token", b"token"));
        assert!(!equal_in_constant_time(b"token", b"tokem"));
        assert!(!equal_in_constant_time(b"token", b"toke"));
        assert!(!equal_in_constant_time(b"token", b""));
    }
}
