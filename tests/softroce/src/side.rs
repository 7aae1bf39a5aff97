//! Requests carried out one after the other, for tests that care about outcomes and not speed.

use std::time::{Duration, Instant};

use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, InlineBytes, MemoryRegion, Operation, Pages,
    QueuePairId, RemoteAddress, SendRequest, Transport, WorkId, memory::PagesOptions,
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Registers fresh memory.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn region(transport: &mut impl Transport, len: usize, access: Access) -> MemoryRegion {
    let pages = Pages::allocate(len, PagesOptions::default()).expect("memory");
    transport.register(&pages, access).expect("a registration")
}

/// Posts one request and waits for its completion.
///
/// # Panics
/// When it cannot be posted, or does not complete in [`PATIENCE`].
pub fn carry_out(
    transport: &mut impl Transport,
    queue_pair: QueuePairId,
    operation: Operation,
) -> CompletionStatus {
    let mut batch = Batch::with_capacity(1);
    let request = SendRequest { work_id: WorkId(42), signaled: true, fenced: false, operation };
    batch.push(request).expect("room in a fresh batch");
    transport.post_send(queue_pair, &mut batch).expect("a post");
    next_completion(transport, queue_pair).status
}

/// Waits for the next completion of a queue pair; completions of others are an error.
///
/// # Panics
/// When none comes in [`PATIENCE`].
pub fn next_completion(transport: &mut impl Transport, queue_pair: QueuePairId) -> Completion {
    let deadline = Instant::now() + PATIENCE;
    let mut completions = [Completion::EMPTY; 1];
    while transport.poll(&mut completions) == 0 {
        assert!(Instant::now() < deadline, "no completion came");
        transport.wait(Duration::from_millis(10));
    }
    assert_eq!(completions[0].queue_pair, queue_pair, "another queue pair's completion");
    completions[0]
}

/// Waits until all queue pairs that were disconnected have been destroyed.
///
/// # Panics
/// When they are not in [`PATIENCE`].
pub fn until_quiet(transport: &mut impl Transport) {
    let deadline = Instant::now() + PATIENCE;
    while !transport.is_quiet() {
        assert!(Instant::now() < deadline, "queue pairs are not destroyed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Writes a word.
pub fn write_word(
    transport: &mut impl Transport,
    queue_pair: QueuePairId,
    word: u64,
    remote: RemoteAddress,
) -> CompletionStatus {
    let operation = Operation::WriteInline { bytes: InlineBytes::word(word), remote };
    carry_out(transport, queue_pair, operation)
}

/// Reads a word by way of the first bytes of `local`.
///
/// # Errors
/// How the read ended if not well.
pub fn read_word(
    transport: &mut impl Transport,
    queue_pair: QueuePairId,
    local: &MemoryRegion,
    remote: RemoteAddress,
) -> Result<u64, CompletionStatus> {
    let operation = Operation::Read { local: local.slice(0, 8).into(), remote };
    match carry_out(transport, queue_pair, operation) {
        CompletionStatus::Success => Ok(local.pages.load_u64(0)),
        status => Err(status),
    }
}
