//! Proves that the shm provider allocates nothing in a steady state: a counting allocator sees
//! writes, reads, atomics, immediates and polls go by.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a counting allocator, in a test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::mpsc::channel,
    thread,
};

use windlass_transport::{
    Access, Batch, Completion, InlineBytes, Operation, Pages, QueuePairState, Role, SendRequest,
    Transport, WorkId,
    memory::PagesOptions,
    shm::{Shm, ShmOptions},
};

struct Counting;

thread_local! {
    static ALLOCATION_COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; the count is a plain cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATION_COUNT.set(ALLOCATION_COUNT.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATION_COUNT.set(ALLOCATION_COUNT.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_steady_state_allocates_nothing() {
    let (to_there, from_here) = channel();
    let (to_here, from_there) = channel();
    let there = thread::spawn(move || {
        let mut shm = Shm::open(ShmOptions::default()).unwrap();
        let pages = Pages::allocate(65_536, PagesOptions::default()).unwrap();
        let region = shm.register(&pages, Access::ALL).unwrap();
        let pending = shm.create_queue_pair().unwrap();
        to_here
            .send((pending.endpoint().clone(), shm.share(pending.id(), &region).unwrap()))
            .unwrap();
        let remote = from_here.recv().unwrap();
        let queue_pair = shm.connect(pending, Role::Passive, &remote).unwrap();
        shm.post_receive(queue_pair, 64).unwrap();
        let mut completions = [Completion::EMPTY; 16];
        let mut allocated_before = 0;
        let mut received = 0;
        while received < 20_000 {
            let count = shm.poll(&mut completions);
            if count > 0 {
                shm.post_receive(queue_pair, u32::try_from(count).unwrap()).unwrap();
                received += count;
                pages.store_u64(256, received as u64);
            } else {
                shm.wait(std::time::Duration::from_micros(100));
            }
            if allocated_before == 0 && received > 0 {
                allocated_before = ALLOCATION_COUNT.get();
            }
        }
        assert_eq!(ALLOCATION_COUNT.get(), allocated_before, "the receiver allocated");
    });

    let mut shm = Shm::open(ShmOptions::default()).unwrap();
    let pages = Pages::allocate(65_536, PagesOptions::default()).unwrap();
    let local = shm.register(&pages, Access::LOCAL).unwrap();
    let pending = shm.create_queue_pair().unwrap();
    to_there.send(pending.endpoint().clone()).unwrap();
    let (endpoint, peer) = from_there.recv().unwrap();
    let queue_pair = shm.connect(pending, Role::Active, &endpoint).unwrap();
    assert_eq!(shm.state(queue_pair), QueuePairState::Ready);
    let mut batch = Batch::with_capacity(8);
    let mut completions = [Completion::EMPTY; 16];
    let mut allocated_before = 0;
    for round in 0..20_000_u32 {
        if round == 100 {
            allocated_before = ALLOCATION_COUNT.get();
        }
        let bytes = InlineBytes::word(u64::from(round));
        let operations = [
            Operation::WriteInline { bytes, remote: peer.at(0) },
            Operation::Write { local: local.slice(8192, 4096).into(), remote: peer.at(4096) },
            Operation::Read { local: local.slice(4096, 4096).into(), remote: peer.at(8192) },
            Operation::FetchAdd { local: local.slice(8, 8), remote: peer.at(64), add: 1 },
        ];
        for operation in operations {
            batch
                .push(SendRequest { work_id: WorkId(1), signaled: true, fenced: false, operation })
                .unwrap();
        }
        shm.post_send(queue_pair, &mut batch).unwrap();
        let mut done = 0;
        while done < operations.len() {
            done += shm.poll(&mut completions);
        }
        // Credits: the peer counts in its own region what it has received, and we read it.
        while pages.load_u64(16) + 32 < u64::from(round) {
            let operation =
                Operation::Read { local: local.slice(16, 8).into(), remote: peer.at(256) };
            batch
                .push(SendRequest { work_id: WorkId(3), signaled: false, fenced: false, operation })
                .unwrap();
            shm.post_send(queue_pair, &mut batch).unwrap();
            thread::yield_now();
        }
        let operation =
            Operation::WriteWithImmediate { bytes, remote: peer.at(128), immediate: round };
        batch
            .push(SendRequest { work_id: WorkId(2), signaled: false, fenced: false, operation })
            .unwrap();
        shm.post_send(queue_pair, &mut batch).unwrap();
    }
    assert_eq!(ALLOCATION_COUNT.get(), allocated_before, "the sender allocated");
    there.join().unwrap();
}
