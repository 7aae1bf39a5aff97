//! The tcp provider's steady state does not allocate: writes, reads, atomics and immediates, short
//! and long, posted, carried out and completed, with a sleep now and then.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};

use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, InlineBytes, MemoryRegion, Operation, Pages,
    QueuePairId, QueuePairState, RemoteRegion, Role, SendRequest, Transport, WorkId,
    memory::PagesOptions,
    tcp::{Tcp, TcpOptions},
};

thread_local! {
    static ALLOCATION_COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system allocator unchanged; counting touches only a
// thread-local that needs neither construction nor destruction.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATION_COUNT.set(ALLOCATION_COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const LONG_LEN: u32 = 300_000;

struct Side {
    tcp: Tcp,
    queue_pair: QueuePairId,
    local: MemoryRegion,
    remote: RemoteRegion,
    batch: Batch<SendRequest>,
    ends: usize,
}

impl Side {
    fn poll(&mut self) {
        let mut completions = [Completion::EMPTY; 8];
        let count = self.tcp.poll(&mut completions);
        for completion in &completions[..count] {
            assert_eq!(completion.status, CompletionStatus::Success);
        }
        self.ends += count;
    }
}

fn connected() -> [Side; 2] {
    let mut one = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    let mut two = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    let (pending_one, pending_two) =
        (one.create_queue_pair().unwrap(), two.create_queue_pair().unwrap());
    let endpoint_one = pending_one.endpoint().clone();
    let endpoint_two = pending_two.endpoint().clone();
    let (local_one, shared_one) = region(&mut one, pending_one.id());
    let (local_two, shared_two) = region(&mut two, pending_two.id());
    let id_two = two.connect(pending_two, Role::Passive, &endpoint_one).unwrap();
    let id_one = one.connect(pending_one, Role::Active, &endpoint_two).unwrap();
    while two.state(id_two) != QueuePairState::Ready {
        two.wait(Duration::from_millis(10));
    }
    [(one, id_one, local_one, shared_two), (two, id_two, local_two, shared_one)].map(
        |(tcp, queue_pair, local, remote)| Side {
            tcp,
            queue_pair,
            local,
            remote,
            batch: Batch::with_capacity(8),
            ends: 0,
        },
    )
}

fn region(tcp: &mut Tcp, queue_pair: QueuePairId) -> (MemoryRegion, RemoteRegion) {
    let pages = Pages::allocate(1 << 20, PagesOptions::default()).unwrap();
    let region = tcp.register(&pages, Access::ALL).unwrap();
    let shared = tcp.share(queue_pair, &region).unwrap();
    (region, shared)
}

/// Six requests one way, all of them completed at both ends.
fn exchange(sides: &mut [Side; 2]) {
    let [active, passive] = sides;
    passive.tcp.post_receive(passive.queue_pair, 1).unwrap();
    let (local, remote) = (&active.local, active.remote);
    let operations = [
        Operation::Write { local: local.slice(0, LONG_LEN).into(), remote: remote.at(0) },
        Operation::WriteInline { bytes: InlineBytes::word(5), remote: remote.at(8) },
        Operation::Read { local: local.slice(0, LONG_LEN).into(), remote: remote.at(0) },
        Operation::Read { local: local.slice(16, 100).into(), remote: remote.at(0) },
        Operation::FetchAdd { local: local.slice(0, 8), remote: remote.at(8), add: 1 },
        Operation::WriteWithImmediate {
            bytes: InlineBytes::word(7),
            remote: remote.at(16),
            immediate: 3,
        },
    ];
    for operation in operations {
        let request = SendRequest { work_id: WorkId(1), signaled: true, fenced: false, operation };
        active.batch.push(request).unwrap();
    }
    active.tcp.post_send(active.queue_pair, &mut active.batch).unwrap();
    let (active_ends, passive_ends) = (active.ends + operations.len(), passive.ends + 1);
    while active.ends < active_ends || passive.ends < passive_ends {
        active.poll();
        passive.poll();
    }
    active.tcp.wait(Duration::ZERO);
    passive.tcp.wait(Duration::ZERO);
}

#[test]
fn a_steady_state_allocates_nothing() {
    let mut sides = connected();
    for _ in 0..10 {
        exchange(&mut sides);
    }
    let before = ALLOCATION_COUNT.get();
    for _ in 0..500 {
        exchange(&mut sides);
    }
    assert_eq!(ALLOCATION_COUNT.get() - before, 0);
}
