//! One hostile session with one shard.

use std::time::{Duration, Instant};

use windlass_transport::{
    Access, Batch, Completion, Endpoint, MemoryRegion, Operation, Pages, QueuePairId,
    QueuePairState, RemoteKey, RemoteRegion, Role, SendRequest, Transport, WorkId,
    control::{ControlStream, host_identity},
    error::PostError,
    late_run::open_shm,
    mailbox::{self, CompletionReader, RING_AT},
    memory::{HugePages, Lock, PagesOptions},
    shm::ShmOptions,
    tcp::{Tcp, TcpOptions},
};
use windlass_wire::{
    Blob, CompletionWord, DataType, Epoch, Incarnation, Place, RequestHeader, RequestKind, Rows,
    Sequence, SessionId, ShardId, TableId, WorkerClock, WorkerRank,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Provider, SharedRegion},
};

/// What is attacked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's control port.
    pub address: String,
    /// The way there.
    pub provider: Provider,
    /// A dense table of f32 rows that the attacker may write to: no bystander looks at it.
    pub table: TableId,
    /// Values per row of it.
    pub width: u32,
    /// Its rows.
    pub rows: u64,
}

/// Slots of the completion ring.
const SLOTS: u32 = 1024;

/// Bytes of the attacker's own memory that the server may read and write.
pub const OWN_LEN: usize = 1 << 20;

/// A session that writes what it likes.
pub struct Hostile {
    // Ends first, so that the server learns of the end by the control connection too.
    control: ControlStream,
    transport: Box<dyn Transport>,
    queue_pair: QueuePairId,
    mailbox: RemoteRegion,
    /// What the server calls the attacker's own memory.
    pub(super) own: RemoteRegion,
    own_region: MemoryRegion,
    completions: CompletionReader,
    batch: Batch<SendRequest>,
    /// Offset in the ring and number of the next message that would be right.
    pub(super) tail: u64,
    pub(super) number: u32,
    /// Bytes of the ring.
    pub(super) ring_len: u64,
    /// The cluster's epoch.
    pub(super) epoch: Epoch,
}

impl std::fmt::Debug for Hostile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hostile").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Asks over a control connection; anything but an answer is a text.
fn ask(control: &mut ControlStream, request: &ClientRequest) -> Result<ClientReply, String> {
    match control.ask(request) {
        Ok(ClientReply::Refused { text, .. }) => Err(text),
        Ok(reply) => Ok(reply),
        Err(error) => Err(error.to_string()),
    }
}

impl Hostile {
    /// Greets the server and gets a mailbox at its first shard. `session` is new in each call.
    ///
    /// # Errors
    /// What the server or the system says.
    pub fn connect(target: &Target, session: u64) -> Result<Self, String> {
        Self::connect_as(target, session, None)
    }

    /// As [`Hostile::connect`], as a worker of the target.
    ///
    /// # Errors
    /// What the server or the system says.
    pub fn connect_as(target: &Target, session: u64, rank: Option<u32>) -> Result<Self, String> {
        let mut control = ControlStream::connect(&target.address).map_err(|e| e.to_string())?;
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: String::new(),
            session: SessionId(session | 1 << 63),
            incarnation: Incarnation(session | 1),
            rank: rank.map(WorkerRank),
            host: host_identity(),
            peer: None,
        };
        ask(&mut control, &hello)?;
        let ClientReply::Map { map } = ask(&mut control, &ClientRequest::Map {})? else {
            return Err("no map".to_owned());
        };
        let text = |error: &dyn std::error::Error| error.to_string();
        let mut transport: Box<dyn Transport> = match target.provider {
            Provider::Shm {} => open_shm(ShmOptions::default()).map_err(|e| text(&e))?,
            _ => Box::new(Tcp::open(TcpOptions::LOOPBACK).map_err(|e| text(&e))?),
        };
        let pending = transport.create_queue_pair().map_err(|e| text(&e))?;
        let open = ClientRequest::OpenMailbox {
            shard: ShardId(0),
            provider: target.provider,
            endpoint: Blob(pending.endpoint().0.clone()),
        };
        let ClientReply::Mailbox { endpoint } = ask(&mut control, &open)? else {
            return Err("no mailbox".to_owned());
        };
        let queue_pair = transport
            .connect(pending, Role::Active, &Endpoint(endpoint.0))
            .map_err(|e| text(&e))?;
        transport.post_receive(queue_pair, 64).map_err(|e| text(&e))?;
        let options =
            PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
        let reply = Pages::allocate(mailbox::reply_len(SLOTS), options).map_err(|e| text(&e))?;
        let reply_region = transport.register(&reply, Access::READ_WRITE).map_err(|e| text(&e))?;
        let shared = transport.share(queue_pair, &reply_region).map_err(|e| text(&e))?;
        let own = Pages::allocate(OWN_LEN, options).map_err(|e| text(&e))?;
        let own_region = transport.register(&own, Access::READ_WRITE).map_err(|e| text(&e))?;
        let own = transport.share(queue_pair, &own_region).map_err(|e| text(&e))?;
        let attach = ClientRequest::AttachMailbox {
            shard: ShardId(0),
            reply: SharedRegion { key: shared.key.0, address: shared.address, len: shared.len },
            completion_slots: SLOTS,
        };
        let ClientReply::Attached { mailbox, ring_len, .. } = ask(&mut control, &attach)? else {
            return Err("not attached".to_owned());
        };
        if rank.is_some() {
            // Whoever has the rank already keeps it.
            let _ = ask(
                &mut control,
                &ClientRequest::JoinClock { table: target.table, shard: ShardId(0) },
            );
        }
        Ok(Self {
            control,
            transport,
            queue_pair,
            mailbox: RemoteRegion {
                key: RemoteKey(mailbox.key),
                address: mailbox.address,
                len: mailbox.len,
            },
            own,
            own_region,
            completions: CompletionReader::new(reply, SLOTS),
            batch: Batch::with_capacity(8),
            tail: 0,
            number: 1,
            ring_len: u64::from(ring_len),
            epoch: map.epoch,
        })
    }

    /// A region of the server's parameter memory, as it tells every client.
    ///
    /// # Errors
    /// What the server says.
    pub fn locate(&mut self, table: TableId) -> Result<RemoteRegion, String> {
        match ask(&mut self.control, &ClientRequest::Locate { table, shard: ShardId(0) })? {
            ClientReply::Located { places } => {
                let place = places.first().ok_or("no place")?;
                let region = place.region;
                Ok(RemoteRegion {
                    key: RemoteKey(region.key),
                    address: region.address,
                    len: region.len,
                })
            }
            other => Err(format!("{other:?}")),
        }
    }

    /// Whether the session is over, as this side sees it.
    pub fn is_over(&mut self) -> bool {
        let mut completions = [Completion::EMPTY; 16];
        self.transport.poll(&mut completions);
        self.transport.state(self.queue_pair) == QueuePairState::Error
    }

    /// How a message ended, once it has.
    #[must_use]
    pub fn completion_of(&self, number: u32) -> Option<CompletionWord> {
        self.completions.completion_of(number)
    }

    /// Writes bytes to an offset of the mailbox's region.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let remote = self.mailbox;
        self.write_to(remote, offset, bytes);
    }

    /// Writes bytes anywhere at the server; it may refuse.
    pub fn write_to(&mut self, region: RemoteRegion, offset: u64, bytes: &[u8]) {
        for (at, piece) in (0_u64..).step_by(OWN_LEN / 2).zip(bytes.chunks(OWN_LEN / 2)) {
            // The lower half of the attacker's memory is the source, the upper half values.
            self.own_region.pages.write(0, piece);
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let local = self.own_region.slice(0, len).into();
            let operation = Operation::Write { local, remote: region.at(offset + at) };
            let request =
                SendRequest { work_id: WorkId(7), signaled: true, fenced: false, operation };
            if self.batch.push(request).is_err() || !self.carry_out() {
                self.batch.clear();
                return;
            }
        }
    }

    /// Writes one message where it belongs, payload first, with this length and number in its
    /// commit word. The next message goes behind `payload`, whatever the word says.
    pub fn message(&mut self, payload: &[u8], len: u32, number: u32) {
        let footprint = 8 + (payload.len() as u64).next_multiple_of(8);
        let mut padded = payload.to_vec();
        padded.resize(payload.len().next_multiple_of(8), 0);
        if self.tail + footprint + 8 <= self.ring_len {
            padded.extend([0; 8]);
        } else {
            let word = u64::from(u32::MAX) | u64::from(number) << 32;
            if self.tail < self.ring_len {
                self.write(RING_AT + self.tail, &word.to_le_bytes());
            }
            self.tail = 0;
            padded.extend([0; 8]);
        }
        self.write(RING_AT + self.tail + 8, &padded);
        let word = u64::from(len) | u64::from(number) << 32;
        self.write(RING_AT + self.tail, &word.to_le_bytes());
        self.tail += footprint;
        self.number = self.number.wrapping_add(1);
    }

    /// Writes one message as the protocol has it; returns its number.
    pub fn honest_message(&mut self, payload: &[u8]) -> u32 {
        let number = self.number;
        self.message(payload, u32::try_from(payload.len()).unwrap_or(u32::MAX), number);
        number
    }

    /// Asks for all rows of the target again and again, all in one write, and takes nothing in.
    /// Returns the messages' numbers.
    pub fn pull_without_taking(&mut self, target: &Target, count: u64) -> Vec<u32> {
        let mut ring = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..count {
            let header = RequestHeader {
                kind: RequestKind::Pull,
                sync: false,
                resumes: false,
                strong: false,
                dtype: DataType::F32,
                table: target.table,
                sequence: Sequence(u64::from(self.number)),
                epoch: self.epoch,
                clock: WorkerClock(0),
                rows: Rows::Range { first: 0 },
                row_count: u32::try_from(target.rows).unwrap_or(u32::MAX),
                width: target.width,
                coding: None,
                values: None,
                reply: Some(Place { key: self.own.key.0, address: self.own.address }),
            };
            let mut bytes = header.encode();
            RequestHeader::seal(&mut bytes, &[], &[]);
            let word = bytes.len() as u64 | u64::from(self.number) << 32;
            ring.extend(word.to_le_bytes());
            ring.extend(&bytes[..]);
            numbers.push(self.number);
            self.number = self.number.wrapping_add(1);
        }
        let tail = self.tail;
        self.tail += ring.len() as u64;
        ring.extend([0; 8]);
        self.write(RING_AT + tail, &ring);
        numbers
    }

    /// Pushes the first rows of the target from the upper half of the attacker's own memory, which it may
    /// write to at any time. Returns the message's number.
    pub fn push_own(&mut self, target: &Target, row_count: u32) -> u32 {
        let address = self.own.address + OWN_LEN as u64 / 2;
        let header = RequestHeader {
            kind: RequestKind::Push,
            sync: false,
            resumes: true,
            strong: false,
            dtype: DataType::F32,
            table: target.table,
            sequence: Sequence(u64::from(self.number)),
            epoch: self.epoch,
            clock: WorkerClock(0),
            rows: Rows::Range { first: 0 },
            row_count,
            width: target.width,
            coding: None,
            values: Some(Place { key: self.own.key.0, address }),
            reply: None,
        };
        let mut bytes = header.encode();
        RequestHeader::seal(&mut bytes, &[], &[]);
        self.honest_message(&bytes)
    }

    /// The attacker's own memory.
    #[must_use]
    pub fn own_pages(&self) -> Pages {
        self.own_region.pages.clone()
    }

    /// Waits until a message is completed or the session is over.
    pub fn outcome(&mut self, number: u32, patience: Duration) -> Option<CompletionWord> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(word) = self.completion_of(number) {
                return Some(word);
            }
            if self.is_over() || Instant::now() > deadline {
                return self.completion_of(number);
            }
            std::thread::yield_now();
        }
    }

    /// Posts what is in the batch and waits for its completion; false when it failed.
    fn carry_out(&mut self) -> bool {
        let mut completions = [Completion::EMPTY; 16];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.transport.post_send(self.queue_pair, &mut self.batch) {
                Ok(()) => break,
                Err(PostError::QueueFull) => {
                    self.transport.poll(&mut completions);
                }
                Err(_) => return false,
            }
        }
        while Instant::now() < deadline {
            let count = self.transport.poll(&mut completions);
            if completions[..count].iter().any(|completion| completion.work_id == WorkId(7)) {
                return self.transport.state(self.queue_pair) == QueuePairState::Ready;
            }
            if self.transport.state(self.queue_pair) == QueuePairState::Error {
                return false;
            }
        }
        false
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.control.shutdown();
        self.transport.disconnect(self.queue_pair);
    }
}
