//! Connecting: greet a server, learn the map, link to its shards as they are used (`lazy`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use windlass_transport::{
    Access, Completion, Endpoint, MemoryRegion, Pages, QueuePairId, RemoteKey, RemoteRegion, Role,
    Transport,
    control::host_identity,
    mailbox::{self, CompletionReader, MailboxWriter, Sender},
    random,
    shm::{Shm, ShmOptions},
    spin::Spin,
    tcp::Tcp,
    verbs::VerbsTransport,
};
use windlass_wire::{
    Blob, ClusterMap, Incarnation, Sequence, ServerId, SessionId, ShardId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Provider, SharedRegion},
    map::ServerState,
    request::order::Resumption,
};

pub(crate) use windlass_transport::error::chain;

use super::{
    COMPLETIONS_PER_POLL, Cluster, Core, Counters, Links, Pending, Scratch, Session,
    clock::Clocks,
    control::Control,
    kept::RetryQueue,
    key_lists::KeyLists,
    lazy::RING_PAGES,
    link::Link,
    memory::{Memory, SharedRegions},
    read::Reads,
    readers::Readers,
    recover::Recovery,
    refused::Refused,
    requests::Requests,
    rounds::Rounds,
    route::Routes,
    tables::Tables,
    vigil::Vigil,
};
use crate::{config::ClientOptions, error::ConnectError, fork::Process, watch::Watching};

/// Slots of a completion ring; the server has the same bound.
const COMPLETION_SLOTS: u32 = 1024;

/// Receives kept posted for the server's wake-ups: it sends one per sleep of this side.
const RECEIVES_POSTED: u32 = 64;

impl Core {
    /// A core that knows nobody yet.
    fn new(addresses: &str, options: ClientOptions) -> Result<Self, ConnectError> {
        let session = SessionId(random::number());
        let staging_len = options.staging_len;
        Ok(Self {
            session: Session {
                id: session,
                incarnation: Incarnation(session.0),
                addresses: parse(addresses)?,
                sequence: Sequence(0),
                sends_leave_notice: true,
                watching: Watching::new(options.watch.clone()),
                process: Process::current(),
                options,
            },
            links: Links {
                all: Vec::new(),
                lost: Vec::new(),
                transports: Vec::new(),
                blanks: Vec::new(),
                completions: vec![Completion::EMPTY; COMPLETIONS_PER_POLL].into_boxed_slice(),
                polls: 0,
                spin: Spin::over(&[]),
            },
            cluster: Cluster {
                map: ClusterMap::default(),
                servers: Vec::new(),
                heads: Routes::default(),
                tails: Routes::default(),
                strong: Routes::default(),
                any: Routes::default(),
                generation: 0,
            },
            retries: RetryQueue::new(),
            recovery: Recovery::new(session.0),
            tables: Tables::default(),
            pending: Pending {
                requests: Requests::new(),
                refused: Refused::default(),
                memory: Memory::new(staging_len),
                readers: Readers::default(),
                reads: Reads::default(),
                counters: Counters::default(),
            },
            rounds: Rounds::default(),
            clocks: Clocks::default(),
            scratch: Scratch::default(),
        })
    }

    /// Connects to the cluster that a server or coordinator at one of `addresses` knows.
    pub(crate) fn connect(addresses: &str, options: ClientOptions) -> Result<Self, ConnectError> {
        let mut core = Self::new(addresses, options)?;
        let until = Instant::now() + core.session.options.timeout;
        let mut first = Some(core.first_map(until)?);
        let mut failed = None;
        for entry in core.cluster.map.servers.clone() {
            if entry.state == ServerState::Down {
                continue;
            }
            let greeted = match first.take_if(|(_, welcome)| welcome.server == entry.id) {
                Some(greeted) => Ok(greeted),
                None => {
                    let left = until.saturating_duration_since(Instant::now());
                    // A silent one leaves time for those who have its rows, too.
                    let limit = if core.cluster.map.replicas > 1 { left / 2 } else { left };
                    core.session.greet(&entry.address, limit)
                }
            };
            let reached = greeted.and_then(|(mut control, welcome)| {
                control.set_deadline(until);
                core.reach(&entry, control, welcome)
            });
            match reached {
                Ok(()) => {}
                Err(ConnectError::Interrupted) => return Err(ConnectError::Interrupted),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // Where others have the rows too, the rest can wait.
            Some(error) if core.cluster.map.replicas <= 1 || core.cluster.servers.is_empty() => {
                return Err(error);
            }
            Some(_) => core.recovery.start_trouble(&core.session),
            None => {}
        }
        core.cluster.route_partitions(&core.session, &core.links, &mut core.scratch);
        Ok(core)
    }

    /// Learns the map from the first of the addresses that answers. Each has its share of the time.
    fn first_map(&mut self, until: Instant) -> Result<(Control, Welcome), ConnectError> {
        let mut failed = None;
        let addresses = self.session.addresses.clone();
        for (address, remaining) in addresses.iter().zip((1..=addresses.len()).rev()) {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(remaining).unwrap_or(u32::MAX);
            let asked = self.session.greet(address, share).and_then(|(mut control, welcome)| {
                match ask(&mut control, &ClientRequest::Map {})? {
                    ClientReply::Map { map } => Ok((map, control, welcome)),
                    _ => Err(ConnectError::Unexpected { address: address.clone() }),
                }
            });
            match asked {
                Ok((map, control, welcome)) => {
                    self.cluster.map = map;
                    return Ok((control, welcome));
                }
                Err(ConnectError::Interrupted) => return Err(ConnectError::Interrupted),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or(ConnectError::Address { address: String::new() }))
    }
}

impl Session {
    /// Greets whoever is at an address. `limit` bounds that, and all that is asked of it until the
    /// connection has another limit.
    pub(super) fn greet(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<(Control, Welcome), ConnectError> {
        let mut control = Control::connect(address, limit, self.options.watch.clone())?;
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: self.options.token.clone().unwrap_or_default(),
            session: self.id,
            incarnation: self.incarnation,
            rank: self.options.rank,
            host: host_identity(),
            peer: None,
        };
        match ask(&mut control, &hello)? {
            ClientReply::Welcome {
                server,
                started,
                shard_count,
                providers,
                notes,
                incarnation,
                ..
            } => {
                let life = (incarnation, started);
                Ok((control, Welcome { server, life, shard_count, providers, notes }))
            }
            _ => Err(ConnectError::Unexpected { address: address.to_owned() }),
        }
    }
}

impl Links {
    /// The best provider that both sides have, and the client's transport of it.
    pub(super) fn choose_provider(
        &mut self,
        session: &Session,
        offered: &[Provider],
        control: &Control,
        notes: &mut Vec<String>,
    ) -> Result<(Provider, usize), ConnectError> {
        for provider in session.options.providers.clone() {
            if !offered.contains(&provider) {
                notes.push(format!("{}: the server does not offer it", provider.name()));
                continue;
            }
            match self.transport_of(session, provider, control) {
                Ok(transport) => return Ok((provider, transport)),
                Err(error) => notes.push(chain(&error)),
            }
        }
        let (address, reasons) = (control.peer().to_owned(), notes.join("; "));
        Err(ConnectError::NoProvider { address, reasons })
    }

    /// The client's transport of a provider, opened at its first use.
    fn transport_of(
        &mut self,
        session: &Session,
        provider: Provider,
        control: &Control,
    ) -> Result<usize, ConnectError> {
        let found = self
            .transports
            .iter()
            .position(|transport| transport.capabilities().provider == provider.name());
        if let Some(found) = found {
            return Ok(found);
        }
        let transport: Box<dyn Transport> = match provider {
            Provider::Verbs {} => Box::new(VerbsTransport::open(session.options.verbs.clone())?),
            Provider::Shm {} => Box::new(Shm::open(ShmOptions::default())?),
            Provider::Tcp {} => {
                let mut options = session.options.tcp;
                if let Ok(local) = control.local_address() {
                    options.bind.set_ip(local.ip());
                }
                Box::new(Tcp::open(options)?)
            }
        };
        self.transports.push(transport);
        self.spin = Spin::over(&self.transports);
        Ok(self.transports.len() - 1)
    }

    /// Links to a shard of a server over its control connection.
    pub(super) fn link(
        &mut self,
        control: &mut Control,
        (server, server_at): (ServerId, usize),
        (provider, at): (Provider, usize),
        shard: ShardId,
    ) -> Result<Link, ConnectError> {
        let queue_pair = self.open_queue_pair(control, provider, at, shard)?;
        let mut registered = Vec::with_capacity(2);
        let attached = self.attach(control, at, queue_pair, shard, &mut registered);
        if attached.is_err() {
            let transport = self.transports[at].as_mut();
            transport.disconnect(queue_pair);
            for region in &registered {
                transport.deregister(region);
            }
        }
        let Attached { reply, writer, by_reference_len, kept_keys_max } = attached?;
        let capabilities = self.transports[at].capabilities();
        let lands_unpolled = capabilities.lands_unpolled;
        let outstanding_max = capabilities.outstanding_max;
        Ok(Link {
            server,
            server_at,
            shard,
            transport: at,
            queue_pair,
            writer,
            completions: CompletionReader::new(reply.pages.clone(), COMPLETION_SLOTS),
            reply,
            sender: Sender::new(queue_pair, outstanding_max),
            in_flight: VecDeque::with_capacity(COMPLETION_SLOTS as usize),
            shared: SharedRegions::default(),
            by_reference_len: u64::from(by_reference_len),
            key_lists: KeyLists::new(kept_keys_max),
            lands_unpolled,
            vigil: Vigil::default(),
            promises: self.transports[at].promises(queue_pair),
            woken_epoch: 0,
            sleep_epoch: 0,
            failed: false,
            made: true,
            order: Resumption::default(),
            doubted_since: None,
        })
    }

    fn open_queue_pair(
        &mut self,
        control: &mut Control,
        provider: Provider,
        at: usize,
        shard: ShardId,
    ) -> Result<QueuePairId, ConnectError> {
        let address = control.peer().to_owned();
        let link_error = |source| ConnectError::Link { address: address.clone(), source };
        let transport = self.transports[at].as_mut();
        let pending = transport.create_queue_pair().map_err(link_error)?;
        let (id, endpoint) = (pending.id(), Blob(pending.endpoint().0.clone()));
        let open = ClientRequest::OpenMailbox { shard, provider, endpoint };
        let connected = match ask(control, &open) {
            Ok(ClientReply::Mailbox { endpoint }) => transport
                .connect(pending, Role::Active, &Endpoint(endpoint.0))
                .map_err(link_error)
                .and_then(|queue_pair| {
                    let posted = transport.post_receive(queue_pair, RECEIVES_POSTED);
                    posted.map_err(|_| ConnectError::Unexpected { address: address.clone() })?;
                    Ok(queue_pair)
                }),
            Ok(_) => Err(ConnectError::Unexpected { address }),
            Err(error) => Err(error),
        };
        if connected.is_err() {
            transport.disconnect(id);
        }
        connected
    }

    /// Exchanges regions with the shard. What was registered for it is in `registered` even when
    /// that fails.
    fn attach(
        &mut self,
        control: &mut Control,
        at: usize,
        queue_pair: QueuePairId,
        shard: ShardId,
        registered: &mut Vec<MemoryRegion>,
    ) -> Result<Attached, ConnectError> {
        let address = control.peer().to_owned();
        let transport = self.transports[at].as_mut();
        let reply = Pages::allocate(mailbox::reply_len(COMPLETION_SLOTS), RING_PAGES)?;
        let reply = transport.register(&reply, Access::READ_WRITE)?;
        registered.push(reply.clone());
        let reply_shared = transport.share(queue_pair, &reply)?;
        reply.pages.close_file();
        let attach = ClientRequest::AttachMailbox {
            shard,
            reply: SharedRegion {
                key: reply_shared.key.0,
                address: reply_shared.address,
                len: reply_shared.len,
            },
            completion_slots: COMPLETION_SLOTS,
        };
        let ClientReply::Attached { mailbox, ring_len, by_reference_len, kept_keys_max, .. } =
            ask(control, &attach)?
        else {
            return Err(ConnectError::Unexpected { address });
        };
        if !(mailbox::RING_LEN_MIN..=mailbox::RING_LEN_MAX).contains(&ring_len)
            || !ring_len.is_multiple_of(64)
            || mailbox.len < mailbox::mailbox_len(ring_len) as u64
        {
            return Err(ConnectError::Unexpected { address });
        }
        let mirror = Pages::allocate(ring_len as usize, RING_PAGES)?;
        mirror.close_file();
        let mirror = transport.register(&mirror, Access::LOCAL)?;
        registered.push(mirror.clone());
        let remote = RemoteRegion {
            key: RemoteKey(mailbox.key),
            address: mailbox.address,
            len: mailbox.len,
        };
        let one_write = transport.capabilities().prefers_one_write;
        let any_order = !transport.promises(queue_pair).writes_in_order;
        let writer = MailboxWriter::new(mirror, remote, ring_len, COMPLETION_SLOTS)
            .in_one_write(one_write)
            .in_any_order(any_order);
        Ok(Attached { reply, writer, by_reference_len, kept_keys_max })
    }

    /// Ends what was registered for a link that is gone.
    pub(super) fn end_registrations(&mut self, link: &Link) {
        if !link.made {
            return;
        }
        let transport = self.transports[link.transport].as_mut();
        transport.deregister(&link.reply);
        transport.deregister(link.writer.mirror());
    }
}

/// The addresses in `windlass://HOST:PORT,HOST:PORT`.
fn parse(addresses: &str) -> Result<Vec<String>, ConnectError> {
    let listed = addresses.strip_prefix("windlass://").unwrap_or(addresses);
    let listed: Vec<String> = listed
        .trim_end_matches('/')
        .split(',')
        .map(|address| address.trim().trim_start_matches("windlass://").to_owned())
        .collect();
    match listed.iter().find(|address| !address.contains(':')) {
        Some(address) => Err(ConnectError::Address { address: address.clone() }),
        None => Ok(listed),
    }
}

/// The client's side of a mailbox.
struct Attached {
    reply: MemoryRegion,
    writer: MailboxWriter,
    by_reference_len: u32,
    kept_keys_max: u32,
}

/// What a server says of itself.
pub(super) struct Welcome {
    pub(super) server: ServerId,
    /// Its life, and the one its process began with.
    pub(super) life: (Incarnation, Incarnation),
    pub(super) shard_count: u16,
    pub(super) providers: Vec<Provider>,
    pub(super) notes: Vec<String>,
}

/// Asks; a refusal is an error.
pub(super) fn ask(
    control: &mut Control,
    request: &ClientRequest,
) -> Result<ClientReply, ConnectError> {
    match control.ask(request)? {
        ClientReply::Refused { status, text } => {
            Err(ConnectError::Refused { address: control.peer().to_owned(), kind: status, text })
        }
        reply => Ok(reply),
    }
}
