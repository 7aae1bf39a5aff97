//! What a case runs in: two threads, one transport instance each, and a channel between them that
//! stands for the control connection. Whoever waits keeps polling, because a provider may carry out
//! its peer's requests only there.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, Endpoint, InlineBytes, LocalSlice, MemoryRegion,
    Opcode, Operation, Pages, QueuePairId, QueuePairState, RemoteAddress, RemoteRegion, Role,
    SendRequest, Transport, WorkId, error::PostError, memory::PagesOptions,
};

/// How long anything may take before a case fails: long, because emulated devices are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A provider under test.
pub trait Fixture {
    /// Its transport.
    type Transport: Transport + 'static;

    /// Opens one instance; instances opened in one process must reach each other. The error says
    /// why the provider cannot run here, and the case is skipped.
    fn open() -> Result<Self::Transport, String>;

    /// Whether the machine is so slow that loops should be a hundred times shorter.
    const SLOW: bool = false;

    /// Scales a number of iterations.
    fn rounds(count: u64) -> u64 {
        if Self::SLOW { (count / 100).max(8) } else { count }
    }
}

/// What two sides tell each other over the control connection.
#[derive(Debug)]
pub enum Note {
    /// An endpoint.
    Endpoint(Endpoint),
    /// A shared region.
    Region(RemoteRegion),
    /// Anything else.
    Word(u64),
}

/// One side of a case: its instance and its end of the channel.
pub struct Side<T> {
    pub transport: T,
    pub role: Role,
    to_peer: Sender<Note>,
    from_peer: Receiver<Note>,
    inbox: VecDeque<Completion>,
}

/// Runs a case, or says why it does not run here.
pub fn run<F: Fixture>(case: impl FnOnce()) {
    match F::open() {
        Ok(_) => case(),
        Err(reason) => eprintln!("NOT RUN: {reason}"),
    }
}

/// Runs the two sides of a case in two threads, each with an instance of its own.
pub fn pair<F: Fixture>(
    active: impl FnOnce(Side<F::Transport>) + Send + 'static,
    passive: impl FnOnce(Side<F::Transport>) + Send + 'static,
) {
    let (to_passive, from_active) = channel();
    let (to_active, from_passive) = channel();
    let active_side = Side::new(F::open().unwrap(), Role::Active, to_passive, from_passive);
    let passive_side = Side::new(F::open().unwrap(), Role::Passive, to_active, from_active);
    let active_thread = thread::spawn(move || active(active_side));
    let passive_thread = thread::spawn(move || passive(passive_side));
    let results = [active_thread.join(), passive_thread.join()];
    let mut failures = results.into_iter().filter_map(Result::err);
    if let Some(first) = failures.next() {
        std::panic::resume_unwind(first);
    }
}

impl<T: Transport> Side<T> {
    /// A side with its channel. Cases with more than two sides build theirs with this.
    pub fn new(transport: T, role: Role, to_peer: Sender<Note>, from_peer: Receiver<Note>) -> Self {
        Self { transport, role, to_peer, from_peer, inbox: VecDeque::new() }
    }

    /// Talks over another channel from now on; gives the old one back.
    pub fn rewire(
        &mut self,
        to_peer: Sender<Note>,
        from_peer: Receiver<Note>,
    ) -> (Sender<Note>, Receiver<Note>) {
        (
            std::mem::replace(&mut self.to_peer, to_peer),
            std::mem::replace(&mut self.from_peer, from_peer),
        )
    }

    /// Makes and connects a queue pair; both sides call it at the same point of a case.
    pub fn connect(&mut self) -> QueuePairId {
        let pending = self.transport.create_queue_pair().unwrap();
        self.tell(Note::Endpoint(pending.endpoint().clone()));
        let remote = self.hear_endpoint();
        let queue_pair = match self.role {
            Role::Passive => {
                let queue_pair = self.transport.connect(pending, Role::Passive, &remote).unwrap();
                self.tell(Note::Word(1));
                self.hear_word();
                queue_pair
            }
            Role::Active => {
                self.hear_word();
                let queue_pair = self.transport.connect(pending, Role::Active, &remote).unwrap();
                self.tell(Note::Word(2));
                queue_pair
            }
        };
        self.until("the queue pair is ready", |side| {
            side.transport.state(queue_pair) == QueuePairState::Ready
        });
        self.meet();
        queue_pair
    }

    /// Waits until both sides are here.
    pub fn meet(&mut self) {
        self.tell(Note::Word(u64::MAX));
        assert_eq!(self.hear_word(), u64::MAX, "the sides meet at different points");
    }

    pub fn tell(&self, note: Note) {
        // The peer may have ended after its last check; what it had to say it has said.
        let _ = self.to_peer.send(note);
    }

    pub fn hear(&mut self) -> Note {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.from_peer.try_recv() {
                Ok(note) => return note,
                Err(TryRecvError::Empty) => self.progress(),
                Err(TryRecvError::Disconnected) => panic!("the other side has failed"),
            }
            assert!(Instant::now() < deadline, "the other side is silent");
        }
    }

    pub fn hear_endpoint(&mut self) -> Endpoint {
        match self.hear() {
            Note::Endpoint(endpoint) => endpoint,
            other => panic!("an endpoint was due, not {other:?}"),
        }
    }

    pub fn hear_region(&mut self) -> RemoteRegion {
        match self.hear() {
            Note::Region(region) => region,
            other => panic!("a region was due, not {other:?}"),
        }
    }

    pub fn hear_word(&mut self) -> u64 {
        match self.hear() {
            Note::Word(word) => word,
            other => panic!("a word was due, not {other:?}"),
        }
    }

    /// Allocates and registers memory.
    pub fn region(&mut self, len: usize, access: Access) -> MemoryRegion {
        let pages = Pages::allocate(len, PagesOptions::default()).unwrap();
        self.transport.register(&pages, access).unwrap()
    }

    /// Shares a region and tells the other side of it.
    pub fn share(&mut self, queue_pair: QueuePairId, region: &MemoryRegion) -> RemoteRegion {
        let shared = self.transport.share(queue_pair, region).unwrap();
        self.tell(Note::Region(shared));
        shared
    }

    /// Polls once and keeps what came.
    pub fn progress(&mut self) {
        let mut completions = [Completion::EMPTY; 16];
        let count = self.transport.poll(&mut completions);
        self.inbox.extend(&completions[..count]);
        if count == 0 {
            thread::yield_now();
        }
    }

    /// Polls until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.progress();
            assert!(Instant::now() < deadline, "it never came that {what}");
        }
    }

    /// The next completion.
    pub fn completion(&mut self) -> Completion {
        self.until("a request completes", |side| !side.inbox.is_empty());
        self.inbox.pop_front().unwrap()
    }

    /// The next completion, which must be a success of this request.
    pub fn succeeds(&mut self, work_id: u64) -> Completion {
        let completion = self.completion();
        assert_eq!(completion.work_id, WorkId(work_id));
        assert_eq!(completion.status, CompletionStatus::Success);
        completion
    }

    /// The next completion, which must be an immediate.
    pub fn immediate(&mut self) -> u32 {
        let completion = self.completion();
        assert_eq!(completion.opcode, Opcode::ReceiveImmediate);
        assert_eq!(completion.status, CompletionStatus::Success);
        completion.immediate
    }

    /// Waits for the success of one's own request, leaving received immediates for later.
    pub fn until_own(&mut self, work_id: u64) {
        let is_own = |completion: &Completion| completion.opcode != Opcode::ReceiveImmediate;
        self.until("one's own request completes", |side| side.inbox.iter().any(is_own));
        let position = self.inbox.iter().position(is_own).unwrap();
        let completion = self.inbox.remove(position).unwrap();
        assert_eq!(completion.work_id, WorkId(work_id));
        assert_eq!(completion.status, CompletionStatus::Success);
    }

    /// Completions that have come and nobody asked for.
    pub fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Posts requests in order, polling while the queue is full.
    pub fn post_all(&mut self, queue_pair: QueuePairId, requests: &[SendRequest]) {
        let mut batch = Batch::with_capacity(requests.len());
        for request in requests {
            batch.push(*request).unwrap();
        }
        self.until("the queue takes requests", |side| {
            match side.transport.post_send(queue_pair, &mut batch) {
                Ok(()) => {
                    assert!(batch.is_empty(), "a post that succeeds takes everything");
                    true
                }
                Err(PostError::QueueFull) => false,
                Err(error) => panic!("post_send: {error}"),
            }
        });
    }

    /// Posts one signaled request.
    pub fn post(&mut self, queue_pair: QueuePairId, work_id: u64, operation: Operation) {
        let work_id = WorkId(work_id);
        self.post_all(
            queue_pair,
            &[SendRequest { work_id, signaled: true, fenced: false, operation }],
        );
    }

    /// Posts one request and expects it to succeed.
    pub fn carry_out(&mut self, queue_pair: QueuePairId, operation: Operation) {
        self.post(queue_pair, 7_777, operation);
        self.succeeds(7_777);
    }

    /// Posts a request that has to fail, at the post or at its completion; returns how it
    /// completed. The queue pair must be in error afterwards if it completed at all.
    pub fn fails(
        &mut self,
        queue_pair: QueuePairId,
        operation: Operation,
    ) -> Option<CompletionStatus> {
        let mut batch = Batch::with_capacity(1);
        batch
            .push(SendRequest { work_id: WorkId(13), signaled: false, fenced: false, operation })
            .unwrap();
        match self.transport.post_send(queue_pair, &mut batch) {
            Ok(()) => {
                let completion = self.completion();
                assert_eq!(completion.work_id, WorkId(13), "a failure completes unasked");
                assert_ne!(completion.status, CompletionStatus::Success);
                assert_eq!(self.transport.state(queue_pair), QueuePairState::Error);
                Some(completion.status)
            }
            Err(error) => {
                assert!(matches!(error, PostError::Invalid { .. } | PostError::QueuePairError));
                None
            }
        }
    }
}

impl<T: Transport> Side<T> {
    /// Writes to the peer until the queue pair is seen to be dead, which must come.
    pub fn until_dead(&mut self, queue_pair: QueuePairId, remote: RemoteAddress) {
        self.until("the queue pair dies", |side| {
            let mut batch = Batch::with_capacity(1);
            batch.push(signaled(1, write_word(1, remote))).unwrap();
            match side.transport.post_send(queue_pair, &mut batch) {
                Ok(()) => side.completion().status != CompletionStatus::Success,
                Err(PostError::QueueFull) => false,
                Err(error) => {
                    assert_eq!(error, PostError::QueuePairError);
                    true
                }
            }
        });
        assert_eq!(self.transport.state(queue_pair), QueuePairState::Error);
    }

    /// The bytes of a region.
    pub fn bytes(&self, region: &MemoryRegion, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        region.pages.read(offset, &mut bytes);
        bytes
    }
}

/// An unsignaled request.
pub fn unsignaled(operation: Operation) -> SendRequest {
    SendRequest { work_id: WorkId(0), signaled: false, fenced: false, operation }
}

/// A signaled request.
pub fn signaled(work_id: u64, operation: Operation) -> SendRequest {
    SendRequest { work_id: WorkId(work_id), signaled: true, fenced: false, operation }
}

/// A write of one slice.
pub fn write(local: LocalSlice, remote: RemoteAddress) -> Operation {
    Operation::Write { local: local.into(), remote }
}

/// A read into one slice.
pub fn read(local: LocalSlice, remote: RemoteAddress) -> Operation {
    Operation::Read { local: local.into(), remote }
}

/// A write of a word carried inline.
pub fn write_word(word: u64, remote: RemoteAddress) -> Operation {
    Operation::WriteInline { bytes: InlineBytes::word(word), remote }
}

/// A byte pattern that differs between seeds and positions.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
