//! The hot path: requests are carried out here and now, by copies and atomics in the peer's memory.
//! No allocation, no lock, no log line; a system call only to wake a sleeper or to look for a
//! region that was shared a moment ago.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{
    Shm, doorbell,
    imports::Import,
    limits::{MESSAGE_LEN_MAX, RINGS_PER_POLL},
    queue_pair::QueuePair,
    quiesce::PostFence,
};
use crate::{
    batch::Batch,
    error::PostError,
    fabric::{
        Access, Completion, CompletionStatus, LocalSlice, MemoryRegion, Opcode, Operation,
        PeerBytes, QueuePairId, QueuePairState, RemoteAddress, ScatterList, SendRequest, WorkId,
    },
    slab::Slab,
};

/// Why a request was not carried out.
pub(super) enum Fault {
    /// It can never be posted.
    Invalid(&'static str),
    /// It completes as this.
    Status(CompletionStatus),
}

impl From<CompletionStatus> for Fault {
    fn from(status: CompletionStatus) -> Self {
        Self::Status(status)
    }
}

impl Shm {
    pub(super) fn post_requests(
        &mut self,
        id: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError> {
        let Self { queue_pairs, regions, completions, capabilities, post_fence, .. } = self;
        let queue_pair = queue_pairs.find_mut(id.0).ok_or(PostError::QueuePairError)?;
        match queue_pair.state {
            QueuePairState::Ready => {}
            QueuePairState::Connecting => return Err(PostError::NotConnected),
            QueuePairState::Error => return Err(PostError::QueuePairError),
        }
        let mut taken = 0;
        let mut outcome = Ok(());
        for request in requests.as_slice() {
            if queue_pair.unpolled == capabilities.outstanding_max {
                outcome = Err(PostError::QueueFull);
                break;
            }
            let status = match queue_pair.attempt(regions, &request.operation, *post_fence) {
                Ok(()) => CompletionStatus::Success,
                Err(Fault::Status(status)) => {
                    if queue_pair.state != QueuePairState::Error {
                        queue_pair.fail();
                    }
                    status
                }
                Err(Fault::Invalid(reason)) => {
                    outcome = Err(PostError::Invalid { reason });
                    break;
                }
            };
            taken += 1;
            if request.signaled || status != CompletionStatus::Success {
                queue_pair.unpolled += 1;
                completions.push_back(Completion {
                    queue_pair: id,
                    work_id: request.work_id,
                    opcode: opcode(&request.operation),
                    status,
                    immediate: 0,
                });
            }
        }
        requests.take_front(taken);
        outcome
    }

    pub(super) fn report(&mut self, completions: &mut [Completion]) -> usize {
        let mut count = 0;
        for place in &mut *completions {
            let Some(completion) = self.completions.pop_front() else { break };
            if let Some(queue_pair) = self.queue_pairs.find_mut(completion.queue_pair.0) {
                queue_pair.unpolled -= 1;
            }
            *place = completion;
            count += 1;
        }
        count + self.take_immediates(&mut completions[count..])
    }

    fn take_immediates(&mut self, completions: &mut [Completion]) -> usize {
        let mut count = 0;
        for _ in 0..self.receivers.len().min(RINGS_PER_POLL) {
            if self.ring_cursor >= self.receivers.len() {
                self.ring_cursor = 0;
            }
            let id = self.receivers[self.ring_cursor];
            if let Some(queue_pair) = self.queue_pairs.find_mut(id.0) {
                while count < completions.len() {
                    let ring = queue_pair.inbound.ring();
                    match queue_pair.consumer.take(ring) {
                        Ok(Some(immediate)) => {
                            completions[count] = Completion {
                                queue_pair: id,
                                work_id: WorkId(0),
                                opcode: Opcode::ReceiveImmediate,
                                status: CompletionStatus::Success,
                                immediate,
                            };
                            count += 1;
                        }
                        Ok(None) => break,
                        Err(_overrun) => {
                            if queue_pair.state != QueuePairState::Error {
                                queue_pair.fail();
                            }
                            break;
                        }
                    }
                }
                if count == completions.len() {
                    // This one may have more: it is the first of the next poll.
                    return count;
                }
            }
            self.ring_cursor += 1;
        }
        count
    }

    /// Whether `report` would find something.
    pub(super) fn has_reports(&self) -> bool {
        !self.completions.is_empty()
            || self.receivers.iter().any(|id| {
                self.queue_pairs.find(id.0).is_some_and(|queue_pair| {
                    queue_pair.consumer.is_ready(queue_pair.inbound.ring())
                })
            })
    }

    pub(super) fn view_bytes(
        &mut self,
        id: QueuePairId,
        remote: RemoteAddress,
        len: u64,
    ) -> Option<PeerBytes> {
        let queue_pair = self.queue_pairs.find_mut(id.0)?;
        if queue_pair.state != QueuePairState::Ready {
            return None;
        }
        let pointer = queue_pair.resolve(remote, len, |access| access.remote_read).ok()?;
        queue_pair.imports.keep_for_views(remote.key.0);
        fence(Ordering::Acquire);
        Some(PeerBytes { pointer, len: usize::try_from(len).ok()? })
    }
}

fn opcode(operation: &Operation) -> Opcode {
    match operation {
        Operation::Write { .. }
        | Operation::WriteInline { .. }
        | Operation::WriteWithImmediate { .. } => Opcode::Write,
        Operation::Read { .. } => Opcode::Read,
        Operation::FetchAdd { .. } | Operation::CompareSwap { .. } => Opcode::Atomic,
    }
}

impl QueuePair {
    /// Carries a request out unless the queue pair has ended, here or at the peer.
    #[inline]
    fn attempt(
        &mut self,
        regions: &Slab<MemoryRegion>,
        operation: &Operation,
        post_fence: PostFence,
    ) -> Result<(), Fault> {
        let link = self.link.as_mut().filter(|_| self.state == QueuePairState::Ready);
        let Some(link) = link else { return Err(CompletionStatus::Flushed.into()) };
        let is_open = link.begin_request(post_fence);
        let outcome = if is_open {
            self.carry_out(regions, operation)
        } else {
            Err(CompletionStatus::RetryExceeded.into())
        };
        // A hang-up found on the way has ended the link, and its marks with it.
        if let Some(link) = &mut self.link {
            link.end_request();
        }
        outcome
    }

    #[inline]
    fn carry_out(
        &mut self,
        regions: &Slab<MemoryRegion>,
        operation: &Operation,
    ) -> Result<(), Fault> {
        match operation {
            Operation::WriteInline { bytes, remote } => self.write_bytes(bytes.as_slice(), *remote),
            Operation::Write { local, remote } => self.write_slices(regions, local, *remote),
            Operation::Read { local, remote } => self.read_slices(regions, local, *remote),
            Operation::WriteWithImmediate { bytes, remote, immediate } => {
                self.write_with_immediate(bytes.as_slice(), *remote, *immediate)
            }
            Operation::FetchAdd { local, remote, add } => {
                self.atomic(regions, *local, *remote, |word| word.fetch_add(*add, Ordering::SeqCst))
            }
            Operation::CompareSwap { local, remote, expected, desired } => {
                self.atomic(regions, *local, *remote, |word| {
                    let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
                    match word.compare_exchange(*expected, *desired, success, failure) {
                        Ok(old) | Err(old) => old,
                    }
                })
            }
        }
    }

    #[inline]
    pub(super) fn write_bytes(&mut self, bytes: &[u8], remote: RemoteAddress) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let to = self.resolve(remote, bytes.len() as u64, |access| access.remote_write)?;
        self.wrote = true;
        // SAFETY: `resolve` gives a pointer to this many bytes of a live mapping that is writable;
        // the source is a slice of the request, which lies in no shared mapping.
        unsafe { place(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn write_slices(
        &mut self,
        regions: &Slab<MemoryRegion>,
        local: &ScatterList,
        remote: RemoteAddress,
    ) -> Result<(), Fault> {
        let len = message_len(local)?;
        check_slices(regions, local)?;
        if len == 0 {
            return Ok(());
        }
        let to = self.resolve(remote, len, |access| access.remote_write)?;
        self.wrote = true;
        if let [slice] = local.as_slice() {
            let (from, len) = local_bytes(regions, slice)?;
            // SAFETY: both ranges were checked to lie in live mappings, this one in a region of
            // ours, that one in a writable region of the peer.
            unsafe { place(from.cast_const(), to, len) };
            return Ok(());
        }
        if len == 8 {
            // Gathered first, so that a word of several pieces is placed as one too.
            let mut word = [0_u8; 8];
            let mut filled = 0;
            for slice in local.as_slice() {
                let (from, len) = local_bytes(regions, slice)?;
                // SAFETY: the pieces add up to the eight bytes of `word`; the source was checked.
                unsafe { std::ptr::copy_nonoverlapping(from, word.as_mut_ptr().add(filled), len) };
                filled += len;
            }
            // SAFETY: as for a single piece.
            unsafe { place(word.as_ptr(), to, 8) };
            return Ok(());
        }
        fence(Ordering::Release);
        let mut done = 0;
        for slice in local.as_slice() {
            let (from, len) = local_bytes(regions, slice)?;
            // SAFETY: the pieces add up to the length that `resolve` checked, so `to + done` and
            // `len` bytes after it are inside; the source was checked.
            unsafe { std::ptr::copy(from, to.add(done), len) };
            done += len;
        }
        Ok(())
    }

    fn read_slices(
        &mut self,
        regions: &Slab<MemoryRegion>,
        local: &ScatterList,
        remote: RemoteAddress,
    ) -> Result<(), Fault> {
        let len = message_len(local)?;
        check_slices(regions, local)?;
        if len == 0 {
            return Ok(());
        }
        let from = self.resolve(remote, len, |access| access.remote_read)?;
        self.order_after_writes();
        let mut done = 0;
        for slice in local.as_slice() {
            let (to, len) = local_bytes(regions, slice)?;
            // SAFETY: the pieces add up to the length that `resolve` checked; the destination was
            // checked and is memory of ours that nobody else touches while the request is pending.
            unsafe {
                let from = from.add(done);
                if len == 8 && from.cast::<u64>().is_aligned() {
                    let word = AtomicU64::from_ptr(from.cast()).load(Ordering::Acquire);
                    to.cast::<u64>().write_unaligned(word);
                } else {
                    std::ptr::copy(from.cast_const(), to, len);
                }
            }
            done += len;
        }
        // What is read next, by a request or by the caller, is not older than this.
        fence(Ordering::Acquire);
        Ok(())
    }

    fn write_with_immediate(
        &mut self,
        bytes: &[u8],
        remote: RemoteAddress,
        immediate: u32,
    ) -> Result<(), Fault> {
        let has_receive =
            self.link.as_ref().is_some_and(|link| link.producer.has_receive(link.outbound.ring()));
        if !has_receive {
            return Err(CompletionStatus::ReceiverNotReady.into());
        }
        self.write_bytes(bytes, remote)?;
        let Some(link) = &mut self.link else { return Err(CompletionStatus::Flushed.into()) };
        link.producer.push(link.outbound.ring(), immediate);
        if doorbell::must_ring(link.instance.sleeping()) {
            // A full counter means that it is ringing already.
            let _ = rustix::io::write(&link.bell, &1_u64.to_le_bytes());
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        regions: &Slab<MemoryRegion>,
        local: LocalSlice,
        remote: RemoteAddress,
        operation: impl FnOnce(&AtomicU64) -> u64,
    ) -> Result<(), Fault> {
        if local.len != 8 {
            return Err(Fault::Invalid("an atomic returns eight bytes"));
        }
        let (to, _) = local_bytes(regions, &local)?;
        if !to.cast::<u64>().is_aligned() {
            return Err(Fault::Invalid("an atomic returns to eight aligned bytes"));
        }
        let word = self.resolve(remote, 8, |access| access.remote_atomic)?;
        if !word.cast::<u64>().is_aligned() {
            return Err(CompletionStatus::RemoteOperation.into());
        }
        self.wrote = true;
        // SAFETY: eight aligned bytes of a live writable mapping, as `resolve` and the line above
        // checked; the result's place was checked and is aligned.
        unsafe {
            let old = operation(AtomicU64::from_ptr(word.cast()));
            AtomicU64::from_ptr(to.cast()).store(old, Ordering::Release);
        }
        Ok(())
    }

    /// A processor may let a load overtake an earlier store; a read request must not.
    fn order_after_writes(&mut self) {
        if self.wrote {
            fence(Ordering::SeqCst);
            self.wrote = false;
        }
    }

    /// Pointer to `len` bytes of the peer's memory, if it granted them and still does.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        remote: RemoteAddress,
        len: u64,
        allows: impl Fn(Access) -> bool,
    ) -> Result<*mut u8, CompletionStatus> {
        if self.import(remote.key.0).is_none() {
            self.drain();
        }
        let Some(link) = &self.link else { return Err(CompletionStatus::RetryExceeded) };
        let import = self.import(remote.key.0).ok_or(CompletionStatus::RemoteAccess)?;
        let granted = allows(import.access)
            && contains(import, remote.address, len)
            && link.instance.is_live(import.key);
        if !granted {
            return Err(CompletionStatus::RemoteAccess);
        }
        let offset = usize::try_from(remote.address).map_err(|_| CompletionStatus::RemoteAccess)?;
        // SAFETY: offset <= import.len <= the mapping's length, just checked.
        Ok(unsafe { import.pages.as_ptr().add(offset) })
    }
}

fn contains(import: &Import, offset: u64, len: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= import.len)
}

fn message_len(local: &ScatterList) -> Result<u64, Fault> {
    let len = local.len();
    if len <= u64::from(MESSAGE_LEN_MAX) {
        Ok(len)
    } else {
        Err(Fault::Invalid("more bytes than one request can carry"))
    }
}

/// All pieces are checked before the first byte moves.
fn check_slices(regions: &Slab<MemoryRegion>, local: &ScatterList) -> Result<(), CompletionStatus> {
    local.as_slice().iter().try_for_each(|slice| local_bytes(regions, slice).map(|_| ()))
}

fn local_bytes(
    regions: &Slab<MemoryRegion>,
    slice: &LocalSlice,
) -> Result<(*mut u8, usize), CompletionStatus> {
    let region = regions.find(slice.region.0).ok_or(CompletionStatus::LocalProtection)?;
    if !region.pages.contains(slice.offset, u64::from(slice.len)) {
        return Err(CompletionStatus::LocalProtection);
    }
    let len = slice.len as usize;
    Ok((region.pages.pointer(slice.offset, len), len))
}

/// Copies bytes into the peer's memory after everything written before; eight aligned bytes as one.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes.
unsafe fn place(from: *const u8, to: *mut u8, len: usize) {
    if len == 8 && to.cast::<u64>().is_aligned() {
        // SAFETY: as the caller promises; `to` is aligned and shared as an atomic only.
        unsafe {
            let word = from.cast::<u64>().read_unaligned();
            AtomicU64::from_ptr(to.cast()).store(word, Ordering::Release);
        }
    } else {
        fence(Ordering::Release);
        // SAFETY: as the caller promises; `copy` allows both to be the same memory.
        unsafe { std::ptr::copy(from, to, len) };
    }
}
