//! What the conformance suite cannot ask of every provider. Two instances in one thread, polled in
//! turn, so that every run is the same.

mod dialling;
mod failure;
mod hostile;
mod promises;
mod scarce;
mod transfer;

use std::time::{Duration, Instant};

use super::{Tcp, TcpOptions};
use crate::{
    batch::Batch,
    error::PostError,
    fabric::{
        Access, Completion, CompletionStatus, InlineBytes, MemoryRegion, Operation, QueuePairId,
        QueuePairState, RemoteAddress, RemoteRegion, Role, SendRequest, Transport, WorkId,
    },
    memory::{Lock, Pages, PagesOptions},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len).map(|_| xorshift(&mut state).to_le_bytes()[2]).collect()
}

fn region(tcp: &mut Tcp, len: usize, access: Access) -> MemoryRegion {
    let options = PagesOptions { lock: Lock::Never, ..PagesOptions::default() };
    tcp.register(&Pages::allocate(len, options).unwrap(), access).unwrap()
}

fn contents(region: &MemoryRegion, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    region.pages.read(offset, &mut bytes);
    bytes
}

fn request(work_id: u64, signaled: bool, operation: Operation) -> SendRequest {
    SendRequest { work_id: WorkId(work_id), signaled, fenced: false, operation }
}

fn word(word: u64, remote: RemoteAddress) -> Operation {
    Operation::WriteInline { bytes: InlineBytes::word(word), remote }
}

/// Two connected instances and what they have reported.
struct Pair {
    sides: [Tcp; 2],
    ids: [QueuePairId; 2],
    seen: [Vec<Completion>; 2],
}

impl Pair {
    fn new(options: TcpOptions) -> Self {
        let mut sides = [Tcp::open(options).unwrap(), Tcp::open(options).unwrap()];
        let ids = connect(&mut sides);
        let mut pair = Self { sides, ids, seen: [Vec::new(), Vec::new()] };
        pair.until(|pair| {
            (0..2).all(|side| pair.sides[side].state(pair.ids[side]) == QueuePairState::Ready)
        });
        pair
    }

    fn poll(&mut self, side: usize) {
        let mut completions = [Completion::EMPTY; 8];
        let count = self.sides[side].poll(&mut completions);
        self.seen[side].extend(&completions[..count]);
    }

    fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.poll(0);
            self.poll(1);
            assert!(Instant::now() < deadline, "it never came: {:?}", self.seen);
        }
    }

    fn post(&mut self, side: usize, requests: &[SendRequest]) -> Result<(), PostError> {
        let mut batch = Batch::with_capacity(requests.len());
        for request in requests {
            batch.push(*request).unwrap();
        }
        self.sides[side].post_send(self.ids[side], &mut batch)
    }

    fn share(&mut self, side: usize, len: usize, access: Access) -> (MemoryRegion, RemoteRegion) {
        let region = region(&mut self.sides[side], len, access);
        let shared = self.sides[side].share(self.ids[side], &region).unwrap();
        (region, shared)
    }

    fn ends(&self, side: usize) -> Vec<(u64, CompletionStatus)> {
        self.seen[side].iter().map(|end| (end.work_id.0, end.status)).collect()
    }
}

fn connect(sides: &mut [Tcp; 2]) -> [QueuePairId; 2] {
    let [active, passive] = sides;
    let (one, two) = (active.create_queue_pair().unwrap(), passive.create_queue_pair().unwrap());
    let endpoints = [one.endpoint().clone(), two.endpoint().clone()];
    let passive_id = passive.connect(two, Role::Passive, &endpoints[0]).unwrap();
    let active_id = active.connect(one, Role::Active, &endpoints[1]).unwrap();
    [active_id, passive_id]
}
