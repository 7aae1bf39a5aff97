//! A client as the protocol wants it: keeps every push until it is acknowledged, and under a new map
//! settles what is in flight before it sends it again in order.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use windlass_engine::{limits::COMPLETION_SLOTS, shard::ShardCommand};
use windlass_transport::{
    Access, Completion, MemoryRegion, Pages, QueuePairId, QueuePairState, RemoteKey, RemoteRegion,
    Role, Transport,
    mailbox::{self, CompletionReader, MailboxWriter, Sender},
    memory::{HugePages, Lock, PagesOptions},
};
use windlass_wire::{
    ClusterMap, Incarnation, Layout, Place, RequestHeader, RequestKind, Rows, Sequence, ServerId,
    SessionId, Status, TableEntry, WorkerClock,
    control::{Provider, SharedRegion},
    map::shard_of,
};

use super::cluster::{Node, PARTITIONS, SHARDS, transport};

/// A push that is not acknowledged.
#[derive(Clone, Debug)]
struct Kept {
    table: usize,
    keys: Vec<u64>,
    values: Vec<f32>,
    /// Parts not acknowledged, by server and shard.
    parts: Vec<(ServerId, u16)>,
    sent: bool,
}

struct Link {
    server: ServerId,
    shard: u16,
    transport: Box<dyn Transport>,
    queue_pair: QueuePairId,
    writer: MailboxWriter,
    /// Whether writes show in any order.
    any_order: bool,
    completions: CompletionReader,
    sender: Sender,
    own: MemoryRegion,
    own_remote: RemoteRegion,
    in_flight: VecDeque<(u32, Sequence)>,
    woken: u64,
    resumes: bool,
}

pub(crate) struct Client {
    session: SessionId,
    map: ClusterMap,
    tables: Vec<(TableEntry, Layout)>,
    links: Vec<Link>,
    kept: BTreeMap<Sequence, Kept>,
    next: Sequence,
    pub(crate) acknowledged: u64,
    /// A push was refused for an old map.
    pub(crate) is_stale: bool,
}

impl Client {
    pub(crate) fn new(session: u64, map: &ClusterMap, tables: &[TableEntry]) -> Self {
        let layout = |entry: &TableEntry| Layout::new(entry.id, entry.schema.kind, PARTITIONS);
        Self {
            session: SessionId(session),
            map: map.clone(),
            tables: tables.iter().map(|entry| (entry.clone(), layout(entry))).collect(),
            links: Vec::new(),
            kept: BTreeMap::new(),
            next: Sequence(1),
            acknowledged: 0,
            is_stale: false,
        }
    }

    pub(crate) fn connect(&mut self, node: &Node, provider: Provider) {
        self.connect_over(node, provider, || transport(provider));
    }

    /// As `connect`, over transports that are opened so.
    pub(crate) fn connect_over(
        &mut self,
        node: &Node,
        provider: Provider,
        open: impl Fn() -> Box<dyn Transport>,
    ) {
        let options =
            PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
        for (shard, handle) in (0..SHARDS).zip(&node.handles) {
            let mut transport = open();
            let pending = transport.create_queue_pair().unwrap();
            let (session, endpoint) = (self.session, pending.endpoint().clone());
            let endpoint = handle
                .ask(|answer| ShardCommand::OpenMailbox {
                    session,
                    incarnation: Incarnation(1),
                    connection: 7,
                    rank: None,
                    peer: None,
                    provider,
                    endpoint,
                    answer,
                })
                .unwrap();
            let queue_pair = transport.connect(pending, Role::Active, &endpoint).unwrap();
            transport.post_receive(queue_pair, 64).unwrap();
            let reply = Pages::allocate(mailbox::reply_len(COMPLETION_SLOTS), options).unwrap();
            let region = transport.register(&reply, Access::READ_WRITE).unwrap();
            let shared = transport.share(queue_pair, &region).unwrap();
            let own = Pages::allocate(1 << 20, options).unwrap();
            let own = transport.register(&own, Access::READ_WRITE).unwrap();
            let own_remote = transport.share(queue_pair, &own).unwrap();
            let reply_shared =
                SharedRegion { key: shared.key.0, address: shared.address, len: shared.len };
            let mailbox = handle
                .ask(|answer| ShardCommand::AttachMailbox {
                    session,
                    reply: reply_shared,
                    completion_slots: COMPLETION_SLOTS,
                    answer,
                })
                .unwrap();
            let mirror = Pages::allocate(mailbox.ring_len as usize, options).unwrap();
            let mirror = transport.register(&mirror, Access::LOCAL).unwrap();
            let remote = RemoteRegion {
                key: RemoteKey(mailbox.region.key),
                address: mailbox.region.address,
                len: mailbox.region.len,
            };
            let outstanding = transport.capabilities().outstanding_max;
            let any_order = !transport.promises(queue_pair).writes_in_order;
            let writer = MailboxWriter::new(mirror, remote, mailbox.ring_len, COMPLETION_SLOTS)
                .in_any_order(any_order);
            self.links.push(Link {
                server: node.peer.server,
                shard,
                transport,
                queue_pair,
                writer,
                any_order,
                completions: CompletionReader::new(reply, COMPLETION_SLOTS),
                sender: Sender::new(queue_pair, outstanding),
                own,
                own_remote,
                in_flight: VecDeque::new(),
                woken: 0,
                resumes: true,
            });
        }
    }

    /// Forgets links to a server that comes back as another life.
    pub(crate) fn disconnect(&mut self, server: ServerId) {
        self.links.retain(|link| link.server != server);
    }

    /// Pushes rows of ones, `scale` times.
    pub(crate) fn push(&mut self, table: usize, keys: Vec<u64>, scale: f32) {
        let width = self.tables[table].0.schema.width as usize;
        let values = vec![scale; keys.len() * width];
        let sequence = self.next;
        self.next = sequence.next();
        let kept = Kept { table, keys, values, parts: Vec::new(), sent: false };
        self.kept.insert(sequence, kept);
        if !self.is_stale {
            self.send(sequence);
        }
    }

    /// Tables that were made since.
    pub(crate) fn add_tables(&mut self, tables: &[TableEntry]) {
        for entry in tables {
            let layout = Layout::new(entry.id, entry.schema.kind, PARTITIONS);
            self.tables.push((entry.clone(), layout));
        }
    }

    pub(crate) fn partition_of(&self, table: usize, key: u64) -> usize {
        self.tables[table].1.partition_of(key).0 as usize
    }

    pub(crate) fn unacknowledged(&self) -> usize {
        self.kept.len()
    }

    fn send(&mut self, sequence: Sequence) {
        let mut kept = self.kept[&sequence].clone();
        let layout = self.tables[kept.table].1;
        let width = self.tables[kept.table].0.schema.width as usize;
        // Rows by the shard that their partition's head has for it.
        let mut parts: BTreeMap<(ServerId, u16), (Vec<u64>, Vec<f32>)> = BTreeMap::new();
        for (row, key) in kept.keys.iter().enumerate() {
            let partition = layout.partition_of(*key);
            let head = self.map.head(partition).unwrap();
            let part = parts.entry((head, shard_of(partition, SHARDS).0)).or_default();
            part.0.push(*key);
            part.1.extend_from_slice(&kept.values[row * width..(row + 1) * width]);
        }
        kept.sent = true;
        kept.parts = parts.keys().copied().collect();
        let table = kept.table;
        self.kept.insert(sequence, kept);
        for ((server, shard), (keys, values)) in parts {
            let header = self.header(RequestKind::Push, table, sequence, &keys);
            let body: &[u8] = bytemuck::cast_slice(&values);
            self.write(server, shard, header, &keys, body, sequence);
        }
    }

    fn header(
        &self,
        kind: RequestKind,
        table: usize,
        sequence: Sequence,
        keys: &[u64],
    ) -> RequestHeader {
        let (entry, _) = &self.tables[table];
        RequestHeader {
            kind,
            sync: false,
            resumes: false,
            strong: false,
            dtype: entry.schema.dtype,
            table: entry.id,
            sequence,
            epoch: self.map.epoch,
            clock: WorkerClock(0),
            rows: Rows::Keys,
            row_count: u32::try_from(keys.len()).unwrap(),
            width: entry.schema.width,
            coding: None,
            values: None,
            reply: None,
        }
    }

    fn write(
        &mut self,
        server: ServerId,
        shard: u16,
        mut header: RequestHeader,
        keys: &[u64],
        values: &[u8],
        sequence: Sequence,
    ) {
        let patience = Instant::now() + Duration::from_millis(500);
        loop {
            let at =
                self.links.iter().position(|link| (link.server, link.shard) == (server, shard));
            // A link that is gone: the push waits for the next map.
            let Some(at) = at else {
                self.is_stale = true;
                return;
            };
            let link = &mut self.links[at];
            header.resumes = header.kind.pushes() && link.resumes;
            let mut bytes = header.encode();
            let keys: &[u8] = bytemuck::cast_slice(keys);
            RequestHeader::seal(&mut bytes, keys, values);
            let epoch = link.completions.sleep_epoch();
            let wake = epoch != link.woken;
            if let Ok(number) = link.writer.write(&[&bytes, keys, values], wake, &mut link.sender) {
                link.woken = epoch;
                link.resumes &= !header.kind.pushes();
                link.in_flight.push_back((number, sequence));
                let _ = link.sender.flush(link.transport.as_mut());
                return;
            }
            self.poll();
            // A chain that stands still answers nothing before the next map.
            if Instant::now() > patience {
                self.is_stale = true;
                return;
            }
        }
    }

    /// Takes in what has come about.
    pub(crate) fn poll(&mut self) {
        let mut completions = [Completion::EMPTY; 16];
        let mut gone = Vec::new();
        for (at, link) in self.links.iter_mut().enumerate() {
            link.transport.poll(&mut completions);
            let epoch = link.completions.sleep_epoch();
            if epoch != link.woken && !link.in_flight.is_empty() && link.sender.room() > 2 {
                link.woken = epoch;
                link.writer.write_wake(&mut link.sender);
            }
            let flushed = link.sender.flush(link.transport.as_mut());
            let mut index = 0;
            while index < link.in_flight.len() {
                let (number, sequence) = link.in_flight[index];
                let Some(word) = link.completions.completion_of(number) else {
                    index += 1;
                    continue;
                };
                link.writer.release(number);
                link.in_flight.remove(index);
                let Some(kept) = self.kept.get_mut(&sequence) else { continue };
                match word.status {
                    Status::Done => {
                        let own = (link.server, link.shard);
                        kept.parts.retain(|part| *part != own);
                        if kept.parts.is_empty() && kept.sent {
                            self.kept.remove(&sequence);
                            self.acknowledged += 1;
                        }
                    }
                    Status::StaleEpoch | Status::NotHere => self.is_stale = true,
                    other => panic!("a push ended with {other:?}"),
                }
            }
            if flushed.is_err() || link.transport.state(link.queue_pair) == QueuePairState::Error {
                gone.push(at);
            }
        }
        for at in gone.into_iter().rev() {
            self.links.remove(at);
            self.is_stale = true;
        }
    }

    /// Acts by a new map: first settles what is in flight, then sends again what has to be.
    pub(crate) fn reroute(&mut self, map: &ClusterMap) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.links.iter().any(|link| !link.in_flight.is_empty()) {
            self.poll();
            assert!(Instant::now() < deadline, "pushes are not settled");
        }
        self.map = map.clone();
        self.is_stale = false;
        for link in &mut self.links {
            link.resumes = true;
        }
        let unsettled: Vec<Sequence> = self.kept.keys().copied().collect();
        for sequence in unsettled {
            if self.is_stale {
                return;
            }
            self.send(sequence);
        }
    }

    /// Waits until every push is acknowledged, or some were refused.
    pub(crate) fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.kept.is_empty() && !self.is_stale {
            self.poll();
            assert!(Instant::now() < deadline, "{} pushes stay unanswered", self.kept.len());
        }
    }

    /// Sends again, with waits between, until every push is acknowledged.
    pub(crate) fn settle_by(&mut self, map: &ClusterMap) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.settle();
            if self.kept.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} pushes are never taken", self.kept.len());
            std::thread::sleep(Duration::from_millis(2));
            self.reroute(map);
        }
    }

    /// Reads rows from one replica of their partitions.
    pub(crate) fn pull(
        &mut self,
        table: usize,
        keys: &[u64],
        at: impl Fn(&[ServerId]) -> ServerId,
        strong: bool,
    ) -> Result<Vec<f32>, Status> {
        let width = self.tables[table].0.schema.width as usize;
        let mut rows = Vec::new();
        for key in keys {
            let partition = self.partition_of(table, *key);
            let server = at(&self.map.chains[partition].servers);
            let own = self.pull_into(table, &[*key], server, strong, 0)?;
            let mut row = vec![0.0_f32; width];
            own.read(0, bytemuck::cast_slice_mut(&mut row));
            rows.extend(row);
        }
        Ok(rows)
    }

    /// Has a server write rows of one partition to an offset of the memory that this side shares with it;
    /// returns that memory once the client may use them.
    pub(crate) fn pull_into(
        &mut self,
        table: usize,
        keys: &[u64],
        server: ServerId,
        strong: bool,
        offset: u64,
    ) -> Result<Pages, Status> {
        let shard = shard_of(self.tables[table].1.partition_of(keys[0]), SHARDS).0;
        let header = self.header(RequestKind::Pull, table, self.next, keys);
        let link = self
            .links
            .iter_mut()
            .find(|link| (link.server, link.shard) == (server, shard))
            .ok_or(Status::Unreachable)?;
        let address = link.own_remote.address + offset;
        let reply = Some(Place { key: link.own_remote.key.0, address });
        let header = RequestHeader { strong, reply, ..header };
        let mut bytes = header.encode();
        let body: &[u8] = bytemuck::cast_slice(keys);
        RequestHeader::seal(&mut bytes, body, &[]);
        let number = link.writer.write(&[&bytes, body], true, &mut link.sender).unwrap();
        link.sender.flush(link.transport.as_mut()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let word = loop {
            let mut completions = [Completion::EMPTY; 16];
            link.transport.poll(&mut completions);
            let _ = link.sender.flush(link.transport.as_mut());
            if let Some(word) = link.completions.completion_of(number)
                && (word.status != Status::Done || link.has_landed(number, offset, &header))
            {
                break word;
            }
            assert!(Instant::now() < deadline, "a pull stays unanswered");
        };
        link.writer.release(number);
        if word.status == Status::Done { Ok(link.own.pages.clone()) } else { Err(word.status) }
    }
}

impl Link {
    /// Whether the rows of a completed pull are here, as far as their digest says.
    fn has_landed(&self, number: u32, offset: u64, header: &RequestHeader) -> bool {
        let read = |at, section: &mut [u8]| self.own.pages.read(offset + at, section);
        let digest = || mailbox::digest_of(number, header.values_len(), read);
        !self.any_order || self.completions.rows_digest(number) == Some(digest())
    }
}
