//! Control ports for servers without one. The test says who knows which map, and when.

use std::{
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use windlass_engine::{
    Refusal,
    shard::{ShardCommand, ShardHandle},
};
use windlass_transport::{Endpoint, control::ControlStream};
use windlass_wire::{
    Blob, ClusterMap, TableEntry,
    control::{ClientReply, ClientRequest, Peer, Provider, RefusalKind},
};

use crate::cluster::{Node, SHARDS};

/// Numbers of connections, over all ports.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// The port of one server.
pub(crate) struct Port {
    address: String,
    state: Arc<State>,
}

struct State {
    peer: Peer,
    handles: Vec<ShardHandle>,
    provider: Provider,
    tables: Vec<TableEntry>,
    map: Mutex<ClusterMap>,
    is_closed: AtomicBool,
    /// Mailboxes that clients have opened.
    mailboxes: AtomicU64,
    streams: Mutex<Vec<ControlStream>>,
}

impl Port {
    pub(crate) fn open(
        listener: TcpListener,
        node: &Node,
        provider: Provider,
        tables: &[TableEntry],
        map: &ClusterMap,
    ) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            peer: node.peer,
            handles: node.handles.clone(),
            provider,
            tables: tables.to_vec(),
            map: Mutex::new(map.clone()),
            is_closed: AtomicBool::new(false),
            mailboxes: AtomicU64::new(0),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let state = accepting.clone();
                let stream = ControlStream::new(stream.unwrap()).unwrap();
                state.streams.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    /// Clients that ask from now on learn this map.
    pub(crate) fn tell(&self, map: &ClusterMap) {
        *self.state.map.lock().unwrap() = map.clone();
    }

    /// Mailboxes that clients have opened here so far.
    pub(crate) fn mailboxes(&self) -> u64 {
        self.state.mailboxes.load(Ordering::SeqCst)
    }

    /// As the process that had it is killed: connections end, new ones are refused.
    pub(crate) fn close(self) {
        self.state.is_closed.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
        for stream in self.state.streams.lock().unwrap().drain(..) {
            stream.shutdown();
        }
    }
}

impl State {
    fn serve(&self, mut stream: ControlStream) {
        let Ok(Some(ClientRequest::Hello { session, incarnation, rank, .. })) = stream.receive()
        else {
            return;
        };
        let connection = CONNECTIONS.fetch_add(1, Ordering::SeqCst);
        let welcome = ClientReply::Welcome {
            session,
            server: self.peer.server,
            incarnation: self.peer.incarnation,
            started: self.peer.incarnation,
            shard_count: SHARDS,
            providers: vec![self.provider],
            notes: Vec::new(),
        };
        if stream.send(&welcome).is_err() {
            return;
        }
        while let Ok(Some(request)) = stream.receive::<ClientRequest>() {
            let reply = match request {
                ClientRequest::Map {} => {
                    Ok(ClientReply::Map { map: self.map.lock().unwrap().clone() })
                }
                ClientRequest::OpenTable { name } => {
                    let table = self.tables.iter().find(|table| table.name == name).unwrap();
                    Ok(ClientReply::Table { table: table.clone() })
                }
                ClientRequest::OpenMailbox { shard, provider, endpoint } => {
                    self.mailboxes.fetch_add(1, Ordering::SeqCst);
                    self.handles[usize::from(shard.0)]
                        .ask(|answer| ShardCommand::OpenMailbox {
                            session,
                            incarnation,
                            connection,
                            rank,
                            peer: None,
                            provider,
                            endpoint: Endpoint(endpoint.0),
                            answer,
                        })
                        .map_err(internal)
                        .map(|endpoint| ClientReply::Mailbox { endpoint: Blob(endpoint.0) })
                }
                ClientRequest::AttachMailbox { shard, reply, completion_slots } => self.handles
                    [usize::from(shard.0)]
                .ask(|answer| ShardCommand::AttachMailbox {
                    session,
                    reply,
                    completion_slots,
                    answer,
                })
                .map_err(internal)
                .map(|attached| ClientReply::Attached {
                    mailbox: attached.region,
                    ring_len: attached.ring_len,
                    spin_us: 20,
                    by_reference_len: attached.by_reference_len,
                    kept_keys_max: attached.kept_keys_max,
                }),
                ClientRequest::Locate { table, shard } => self.handles[usize::from(shard.0)]
                    .ask(|answer| ShardCommand::Locate { session, table, answer })
                    .map(|places| ClientReply::Located { places }),
                ClientRequest::JoinClock { table, shard } => self.handles[usize::from(shard.0)]
                    .ask(|answer| ShardCommand::JoinClock { session, table, answer })
                    .map(|place| ClientReply::ClockJoined { place }),
                ClientRequest::LeaveClocks {} => self
                    .handles
                    .iter()
                    .try_for_each(|shard| {
                        shard.ask(|answer| ShardCommand::LeaveClocks { session, answer }).map(drop)
                    })
                    .map_err(internal)
                    .map(|()| ClientReply::Done {}),
                other => panic!("not in the script: {other:?}"),
            };
            let reply = reply.unwrap_or_else(|Refusal { kind, text }| ClientReply::Refused {
                status: kind,
                text,
            });
            if stream.send(&reply).is_err() {
                break;
            }
        }
        for handle in &self.handles {
            handle.send(ShardCommand::CloseSession { session, connection });
        }
    }
}

/// What a shard that fails otherwise answers.
fn internal(text: String) -> Refusal {
    Refusal::new(RefusalKind::Internal {}, text)
}
