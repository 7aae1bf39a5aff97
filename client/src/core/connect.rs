//! Connecting: greet a server, learn the map, link to every shard of every server.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use windlass_transport::{
    Access, Completion, Endpoint, Pages, RemoteKey, RemoteRegion, Role, Transport,
    control::{ControlStream, host_identity},
    mailbox::{self, CompletionReader, MailboxWriter, Sender},
    memory::{HugePages, PagesOptions},
    shm::{Shm, ShmOptions},
    tcp::{Tcp, TcpOptions},
    verbs::VerbsTransport,
};
use windlass_wire::{
    Blob, ClusterMap, Incarnation, PartitionId, Sequence, ServerId, SessionId, ShardId,
    WorkerClock,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Provider, SharedRegion},
    map::{mix, shard_of},
};

pub(crate) use windlass_transport::error::chain;

use super::{
    COMPLETIONS_PER_POLL, Core, Counters, LinkScratch, Scratch, ServerLink,
    link::Link,
    memory::{Memory, SharedRegions},
    read::Reads,
    requests::Requests,
};
use crate::{config::ClientOptions, error::ConnectError};

/// Slots of a completion ring; the server has the same bound.
const COMPLETION_SLOTS: u32 = 1024;

/// Receives kept posted for the server's wake-ups: it sends one per sleep of this side.
const RECEIVES_POSTED: u32 = 64;

impl Core {
    /// Connects to the cluster that `address` belongs to.
    pub(crate) fn connect(address: &str, options: ClientOptions) -> Result<Self, ConnectError> {
        let address = address.strip_prefix("windlass://").unwrap_or(address);
        let address = address.trim_end_matches('/');
        if !address.contains(':') {
            return Err(ConnectError::Address { address: address.to_owned() });
        }
        let session = new_session();
        let mut core = Self {
            memory: Memory::new(options.staging_len),
            options,
            session,
            incarnation: Incarnation(session.0),
            map: ClusterMap::default(),
            servers: Vec::new(),
            transports: Vec::new(),
            links: Vec::new(),
            link_of: Vec::new(),
            tables: Vec::new(),
            requests: Requests::new(),
            reads: Reads::default(),
            sequence: Sequence(0),
            clock: WorkerClock(0),
            clock_poll: super::clock::Poll::default(),
            says_farewell: true,
            completions: vec![Completion::EMPTY; COMPLETIONS_PER_POLL].into_boxed_slice(),
            scratch: Scratch::default(),
            counters: Counters::default(),
            polls: 0,
        };
        let (mut control, welcome) = core.greet(address)?;
        core.map = match ask(&mut control, &ClientRequest::Map {})? {
            ClientReply::Map { map } => map,
            _ => return Err(ConnectError::Unexpected { address: address.to_owned() }),
        };
        let mut first = Some((control, welcome));
        for entry in core.map.servers.clone() {
            let (control, welcome) = match first.take() {
                Some(greeted) if greeted.1.server == entry.id => greeted,
                other => {
                    first = other;
                    core.greet(&entry.address)?
                }
            };
            core.add_server(&entry.address, control, welcome)?;
        }
        core.route_partitions()?;
        Ok(core)
    }

    fn greet(&self, address: &str) -> Result<(ControlStream, Welcome), ConnectError> {
        let mut control = ControlStream::connect(address)?;
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: self.options.token.clone().unwrap_or_default(),
            session: self.session,
            incarnation: self.incarnation,
            rank: self.options.rank,
            host: host_identity(),
            peer: None,
        };
        match ask(&mut control, &hello)? {
            ClientReply::Welcome { server, shard_count, providers, notes, .. } => {
                Ok((control, Welcome { server, shard_count, providers, notes }))
            }
            _ => Err(ConnectError::Unexpected { address: address.to_owned() }),
        }
    }

    /// Chooses a provider and links to every shard of a server.
    fn add_server(
        &mut self,
        address: &str,
        control: ControlStream,
        welcome: Welcome,
    ) -> Result<(), ConnectError> {
        let mut notes = welcome.notes;
        let wanted: Vec<Provider> = self.options.providers.clone();
        let mut chosen = None;
        for provider in wanted {
            if !welcome.providers.contains(&provider) {
                notes.push(format!("{}: the server does not offer it", provider.name()));
                continue;
            }
            match self.transport_of(provider, &control) {
                Ok(transport) => {
                    chosen = Some((provider, transport));
                    break;
                }
                Err(error) => notes.push(chain(&error)),
            }
        }
        let Some((provider, transport)) = chosen else {
            return Err(ConnectError::NoProvider {
                address: address.to_owned(),
                reasons: notes.join("; "),
            });
        };
        let server_at = self.servers.len();
        self.servers.push(ServerLink {
            id: welcome.server,
            control,
            provider,
            transport,
            shard_count: welcome.shard_count,
            first_link: self.links.len(),
            notes,
        });
        for shard in (0..welcome.shard_count).map(ShardId) {
            let link = self.link(server_at, shard)?;
            self.links.push(link);
            self.scratch.by_link.push(LinkScratch::default());
        }
        Ok(())
    }

    /// The client's transport of a provider, opened at its first use.
    fn transport_of(
        &mut self,
        provider: Provider,
        control: &ControlStream,
    ) -> Result<usize, ConnectError> {
        let found = self
            .transports
            .iter()
            .position(|transport| transport.capabilities().provider == provider.name());
        if let Some(found) = found {
            return Ok(found);
        }
        let transport: Box<dyn Transport> = match provider {
            Provider::Verbs {} => Box::new(VerbsTransport::open(self.options.verbs.clone())?),
            Provider::Shm {} => Box::new(Shm::open(ShmOptions::default())?),
            Provider::Tcp {} => {
                let mut options = TcpOptions::LOOPBACK;
                if let Ok(local) = control.local_address() {
                    options.bind.set_ip(local.ip());
                }
                Box::new(Tcp::open(options)?)
            }
        };
        self.transports.push(transport);
        Ok(self.transports.len() - 1)
    }

    fn link(&mut self, server_at: usize, shard: ShardId) -> Result<Link, ConnectError> {
        let server = &mut self.servers[server_at];
        let address = server.control.peer().to_owned();
        let link_error = |source| ConnectError::Link { address: address.clone(), source };
        let at = server.transport;
        let transport = self.transports[at].as_mut();

        let pending = transport.create_queue_pair().map_err(link_error)?;
        let open = ClientRequest::OpenMailbox {
            shard,
            provider: server.provider,
            endpoint: Blob(pending.endpoint().0.clone()),
        };
        let ClientReply::Mailbox { endpoint } = ask(&mut server.control, &open)? else {
            return Err(ConnectError::Unexpected { address });
        };
        let queue_pair =
            transport.connect(pending, Role::Active, &Endpoint(endpoint.0)).map_err(link_error)?;
        if transport.post_receive(queue_pair, RECEIVES_POSTED).is_err() {
            return Err(ConnectError::Unexpected { address });
        }

        let options = PagesOptions { huge: HugePages::Never, ..PagesOptions::default() };
        let reply = Pages::allocate(mailbox::reply_len(COMPLETION_SLOTS), options)?;
        let reply_region = transport.register(&reply, Access::READ_WRITE)?;
        let reply_shared = transport.share(queue_pair, &reply_region)?;
        let attach = ClientRequest::AttachMailbox {
            shard,
            reply: SharedRegion {
                key: reply_shared.key.0,
                address: reply_shared.address,
                len: reply_shared.len,
            },
            completion_slots: COMPLETION_SLOTS,
        };
        let ClientReply::Attached { mailbox, ring_len, by_reference_len, .. } =
            ask(&mut server.control, &attach)?
        else {
            return Err(ConnectError::Unexpected { address });
        };
        if !(mailbox::RING_LEN_MIN..=mailbox::RING_LEN_MAX).contains(&ring_len)
            || !ring_len.is_multiple_of(64)
            || mailbox.len < mailbox::mailbox_len(ring_len) as u64
        {
            return Err(ConnectError::Unexpected { address });
        }
        let mirror = Pages::allocate(ring_len as usize, options)?;
        let mirror = transport.register(&mirror, Access::LOCAL)?;
        let remote = RemoteRegion {
            key: RemoteKey(mailbox.key),
            address: mailbox.address,
            len: mailbox.len,
        };
        let outstanding_max = transport.capabilities().outstanding_max;
        let one_write = transport.capabilities().prefers_one_write;
        let writer = MailboxWriter::new(mirror, remote, ring_len, COMPLETION_SLOTS);
        Ok(Link {
            server: server.id,
            server_at,
            shard,
            transport: at,
            queue_pair,
            writer: writer.in_one_write(one_write),
            completions: CompletionReader::new(reply, COMPLETION_SLOTS),
            sender: Sender::new(queue_pair, outstanding_max),
            in_flight: VecDeque::with_capacity(COMPLETION_SLOTS as usize),
            shared: SharedRegions::default(),
            by_reference_len: u64::from(by_reference_len),
            woken_epoch: 0,
            sleep_epoch: 0,
            failed: false,
        })
    }

    /// Computes which link leads to the head of each partition.
    fn route_partitions(&mut self) -> Result<(), ConnectError> {
        self.link_of.clear();
        for partition in (0..self.map.partition_count()).map(PartitionId) {
            let head = self.map.head(partition);
            let server = self.servers.iter().find(|server| Some(server.id) == head);
            let Some(server) = server else {
                return Err(ConnectError::Unexpected { address: "the cluster map".to_owned() });
            };
            let shard = shard_of(partition, server.shard_count);
            let link = server.first_link + usize::from(shard.0);
            self.link_of.push(u32::try_from(link).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}

/// What a server says of itself.
struct Welcome {
    server: ServerId,
    shard_count: u16,
    providers: Vec<Provider>,
    notes: Vec<String>,
}

/// Asks; a refusal is an error.
fn ask(control: &mut ControlStream, request: &ClientRequest) -> Result<ClientReply, ConnectError> {
    match control.ask(request)? {
        ClientReply::Refused { status, text } => {
            Err(ConnectError::Refused { address: control.peer().to_owned(), kind: status, text })
        }
        reply => Ok(reply),
    }
}

/// A number that no other session has: time, process and address space mixed.
fn new_session() -> SessionId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let here = std::ptr::from_ref(&now).addr() as u64;
    SessionId(mix(nanoseconds ^ mix(u64::from(std::process::id()) << 32 ^ here)) | 1)
}
