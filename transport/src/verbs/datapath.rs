//! The hot path: requests to the device and completions from it. No set-up, no allocation, no
//! logging, and no call into the library but through the device context's own functions.

use std::ffi::c_int;

use super::{
    abi::{
        IBV_SEND_FENCE, IBV_SEND_INLINE, IBV_SEND_SIGNALED, IBV_WC_LOC_ACCESS_ERR,
        IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR,
        IBV_WC_REM_OP_ERR, IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_SUCCESS,
        IBV_WC_WR_FLUSH_ERR, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD,
        IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_SEND_WITH_IMM,
        ibv_context_ops, ibv_cq, ibv_mw_bind_info, ibv_qp, ibv_recv_wr, ibv_send_wr,
        ibv_send_wr_atomic, ibv_send_wr_bind_mw, ibv_send_wr_rdma, ibv_send_wr_wr, ibv_sge, ibv_wc,
    },
    memory_region::Registration,
    send_ring::{InFlight, Purpose},
    slot::Slot,
};
use crate::{
    error::PostError,
    fabric::{
        CompletionStatus, LocalSlice, Opcode, Operation, RemoteAddress, SCATTER_MAX, ScatterList,
        SendRequest,
    },
    slab::Slab,
};

/// Requests handed to the device with one doorbell.
pub(super) const CHAIN_MAX: usize = 32;
/// Completions taken from a queue at once.
pub(super) const POLL_MAX: usize = 32;

/// The context's functions of the hot path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verbs {
    poll_cq: unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int,
    req_notify_cq: unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int,
    pub(super) post_send:
        unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int,
    post_recv: unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int,
    /// Whether the device's work is done by kernel threads on the poster's processor.
    software: bool,
}

impl Verbs {
    /// `None` when the driver lacks one, which no driver of reliable connected queue pairs does.
    pub(super) fn of(ops: &ibv_context_ops, software: bool) -> Option<Self> {
        Some(Self {
            software,
            poll_cq: ops.poll_cq?,
            req_notify_cq: ops.req_notify_cq?,
            post_send: ops.post_send?,
            post_recv: ops.post_recv?,
        })
    }

    /// Takes up to [`POLL_MAX`] completions from a queue into the scratch array.
    pub(super) fn poll(&self, cq: *mut ibv_cq, room: usize, scratch: &mut Scratch) -> usize {
        let most = c_int::try_from(room.min(POLL_MAX)).unwrap_or(0);
        // SAFETY: the queue is alive, and the array has room for POLL_MAX completions.
        let count = unsafe { (self.poll_cq)(cq, most, scratch.completions.as_mut_ptr()) };
        // A negative count is a broken queue: nothing more will come of it.
        usize::try_from(count).unwrap_or(0)
    }

    /// Asks for an event at the next completion.
    pub(super) fn notify(&self, cq: *mut ibv_cq) -> bool {
        // SAFETY: the queue is alive.
        unsafe { (self.req_notify_cq)(cq, 0) == 0 }
    }

    /// Posts receives without memory, all with this work request id.
    pub(super) fn post_receives(
        &self,
        slot: &Slot,
        count: u32,
        scratch: &mut Scratch,
    ) -> Result<(), PostError> {
        let Some(qp) = slot.qp() else { return Err(PostError::QueuePairError) };
        let mut left = count as usize;
        while left > 0 {
            let chain = left.min(CHAIN_MAX);
            let requests = &mut scratch.receives[..chain];
            let first = requests.as_mut_ptr();
            for (index, request) in requests.iter_mut().enumerate() {
                request.wr_id = slot.receive_id();
                request.next = if index + 1 < chain {
                    first.wrapping_add(index + 1)
                } else {
                    std::ptr::null_mut()
                };
            }
            let mut refused = std::ptr::null_mut();
            // SAFETY: the queue pair is alive; the chain lies in the scratch array and the device
            // copies it before the call returns.
            let status = unsafe { (self.post_recv)(qp, first, &raw mut refused) };
            if status != 0 {
                return Err(post_error(status));
            }
            left -= chain;
        }
        Ok(())
    }

    /// Hands requests to the device, in chains of one doorbell each; returns how many it took, and
    /// why not all.
    pub(super) fn post(
        &self,
        slot: &mut Slot,
        regions: &Slab<Registration>,
        limits: &Limits,
        requests: &[SendRequest],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), PostError>) {
        let mut taken = 0;
        while taken < requests.len() {
            let room = slot.room();
            if room == 0 {
                return (taken, Err(PostError::QueueFull));
            }
            let rest = &requests[taken..];
            let rest = &rest[..rest.len().min(room).min(CHAIN_MAX)];
            let (built, invalid) = build(slot, regions, limits, rest, scratch);
            let (count, refused) = self.ring_doorbell(slot, &rest[..built], scratch);
            taken += count;
            if let Some(error) = refused {
                return (taken, Err(error));
            }
            if let Some(reason) = invalid {
                return (taken, Err(PostError::Invalid { reason }));
            }
        }
        (taken, Ok(()))
    }

    /// Posts one message of the provider's own: no bytes, a number that the peer's provider reads.
    pub(super) fn post_own(&self, slot: &mut Slot, word: u32) -> Result<(), PostError> {
        let Some(qp) = slot.qp() else { return Err(PostError::QueuePairError) };
        let mut request = ibv_send_wr {
            wr_id: slot.send_id(0),
            opcode: IBV_WR_SEND_WITH_IMM,
            send_flags: IBV_SEND_SIGNALED,
            imm_data: word.to_be(),
            ..EMPTY_SEND
        };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive; the request has no memory and is copied by the call.
        let status = unsafe { (self.post_send)(qp, &raw mut request, &raw mut refused) };
        if status != 0 {
            return Err(post_error(status));
        }
        slot.ring.push(InFlight {
            work_id: None,
            opcode: Opcode::Write,
            purpose: Purpose::Greeting,
        });
        Ok(())
    }

    /// Lets a software device's kernel threads run on this processor.
    pub(super) fn give_way(&self) {
        if self.software {
            std::thread::yield_now();
        }
    }

    /// Posts the chain that was built; returns how many requests of it were taken.
    fn ring_doorbell(
        &self,
        slot: &mut Slot,
        requests: &[SendRequest],
        scratch: &mut Scratch,
    ) -> (usize, Option<PostError>) {
        let Some(qp) = slot.qp() else { return (0, Some(PostError::QueuePairError)) };
        if requests.is_empty() {
            return (0, None);
        }
        let first = scratch.sends.as_mut_ptr();
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive. The chain of `requests.len()` work requests, their
        // scatter lists and inline bytes lie in the scratch arrays and in `requests`, and the device
        // copies all of them before the call returns. The scatter lists name registered memory,
        // checked by `build`, which stays registered until the requests have completed (rule of
        // `Transport::deregister`).
        let status = unsafe { (self.post_send)(qp, first, &raw mut refused) };
        let count = if status == 0 {
            requests.len()
        } else {
            // The first refused one is named by its address in the chain.
            (refused.addr().saturating_sub(first.addr()) / size_of::<ibv_send_wr>())
                .min(requests.len())
        };
        // A software device tells sleepers from a kernel thread of this processor, which a poster
        // that goes on spinning would keep waiting for a scheduler tick, milliseconds.
        if self.software && requests[..count].iter().any(wakes) {
            self.give_way();
        }
        for request in &requests[..count] {
            slot.ring.push(InFlight {
                work_id: Some(request.work_id),
                opcode: opcode(&request.operation),
                purpose: Purpose::Request,
            });
        }
        (count, (status != 0).then(|| post_error(status)))
    }
}

/// Limits of the device that requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) scatter_max: usize,
    pub(super) message_len_max: u32,
    pub(super) atomics: bool,
}

pub(super) const EMPTY_SEND: ibv_send_wr = ibv_send_wr {
    wr_id: 0,
    next: std::ptr::null_mut(),
    sg_list: std::ptr::null_mut(),
    num_sge: 0,
    opcode: 0,
    send_flags: 0,
    imm_data: 0,
    wr: ibv_send_wr_wr {
        atomic: ibv_send_wr_atomic { remote_addr: 0, compare_add: 0, swap: 0, rkey: 0 },
    },
    _qp_type: 0,
    bind_mw: ibv_send_wr_bind_mw {
        mw: std::ptr::null_mut(),
        rkey: 0,
        bind_info: ibv_mw_bind_info {
            mr: std::ptr::null_mut(),
            addr: 0,
            length: 0,
            mw_access_flags: 0,
        },
    },
};

/// Arrays the data path builds its calls in, allocated once.
#[derive(Debug)]
pub(super) struct Scratch {
    sends: Box<[ibv_send_wr; CHAIN_MAX]>,
    slices: Box<[[ibv_sge; SCATTER_MAX]; CHAIN_MAX]>,
    receives: Box<[ibv_recv_wr; CHAIN_MAX]>,
    pub(super) completions: Box<[ibv_wc; POLL_MAX]>,
}

// SAFETY: the pointers in the arrays are rebuilt before every use and point into the same arrays,
// which are boxed and so do not move with the structure.
unsafe impl Send for Scratch {}

impl Scratch {
    pub(super) fn new() -> Self {
        let receive = ibv_recv_wr {
            wr_id: 0,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
        };
        Self {
            sends: Box::new([EMPTY_SEND; CHAIN_MAX]),
            slices: Box::new([[ibv_sge::default(); SCATTER_MAX]; CHAIN_MAX]),
            receives: Box::new([receive; CHAIN_MAX]),
            completions: Box::new([ibv_wc::default(); POLL_MAX]),
        }
    }
}

/// Lays requests into the scratch arrays as a chain; returns how many are valid, and what is wrong
/// with the first that is not.
fn build(
    slot: &Slot,
    regions: &Slab<Registration>,
    limits: &Limits,
    requests: &[SendRequest],
    scratch: &mut Scratch,
) -> (usize, Option<&'static str>) {
    let mut invalid = None;
    let mut built = 0_usize;
    let first_send = scratch.sends.as_mut_ptr();
    for (index, request) in requests.iter().enumerate() {
        let send = &mut scratch.sends[index];
        let slices = &mut scratch.slices[index];
        send.wr_id = slot.send_id(index);
        send.next = first_send.wrapping_add(index + 1);
        send.sg_list = slices.as_mut_ptr();
        send.send_flags = if request.signaled { IBV_SEND_SIGNALED } else { 0 };
        if request.fenced {
            // Reliable connections hold such a request, and what is behind it, until every read and
            // atomic before it has completed: https://www.rdmamojo.com/2013/01/26/ibv_post_send/,
            // and "fence" in ibv_post_send(3). The peer is not even asked before.
            send.send_flags |= IBV_SEND_FENCE;
        }
        if let Err(reason) =
            describe(slot, index, regions, limits, &request.operation, send, slices)
        {
            invalid = Some(reason);
            break;
        }
        built += 1;
    }
    if let Some(last) = built.checked_sub(1) {
        scratch.sends[last].next = std::ptr::null_mut();
    }
    (built, invalid)
}

/// Fills one work request's operation, or says what is wrong with it.
fn describe(
    slot: &Slot,
    index: usize,
    regions: &Slab<Registration>,
    limits: &Limits,
    operation: &Operation,
    send: &mut ibv_send_wr,
    slices: &mut [ibv_sge; SCATTER_MAX],
) -> Result<(), &'static str> {
    match operation {
        Operation::Write { local, remote } => {
            send.opcode = IBV_WR_RDMA_WRITE;
            send.num_sge = scatter(regions, limits, local, slices)?;
            send.wr = rdma(*remote);
        }
        Operation::Read { local, remote } => {
            send.opcode = IBV_WR_RDMA_READ;
            send.num_sge = scatter(regions, limits, local, slices)?;
            send.wr = rdma(*remote);
        }
        Operation::WriteInline { bytes, remote } => {
            send.opcode = IBV_WR_RDMA_WRITE;
            inline(slot, index, bytes.as_slice(), send, slices);
            send.wr = rdma(*remote);
        }
        Operation::WriteWithImmediate { bytes, remote, immediate } => {
            send.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
            inline(slot, index, bytes.as_slice(), send, slices);
            send.wr = rdma(*remote);
            // In network byte order, as the wire has it.
            send.imm_data = immediate.to_be();
        }
        Operation::FetchAdd { local, remote, add } => {
            send.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD;
            slices[0] = atomic_result(regions, limits, *local, *remote)?;
            send.num_sge = 1;
            send.wr = atomic(*remote, *add, 0);
        }
        Operation::CompareSwap { local, remote, expected, desired } => {
            send.opcode = IBV_WR_ATOMIC_CMP_AND_SWP;
            slices[0] = atomic_result(regions, limits, *local, *remote)?;
            send.num_sge = 1;
            send.wr = atomic(*remote, *expected, *desired);
        }
    }
    Ok(())
}

pub(super) fn rdma(remote: RemoteAddress) -> ibv_send_wr_wr {
    ibv_send_wr_wr { rdma: ibv_send_wr_rdma { remote_addr: remote.address, rkey: remote.key.0 } }
}

fn atomic(remote: RemoteAddress, compare_add: u64, swap: u64) -> ibv_send_wr_wr {
    ibv_send_wr_wr {
        atomic: ibv_send_wr_atomic {
            remote_addr: remote.address,
            compare_add,
            swap,
            rkey: remote.key.0,
        },
    }
}

fn scatter(
    regions: &Slab<Registration>,
    limits: &Limits,
    local: &ScatterList,
    slices: &mut [ibv_sge; SCATTER_MAX],
) -> Result<c_int, &'static str> {
    let pieces = local.as_slice();
    if pieces.len() > limits.scatter_max {
        return Err("more slices than the device takes, see Capabilities::scatter_max");
    }
    if local.len() > u64::from(limits.message_len_max) {
        return Err("more bytes than one message has, see Capabilities::message_len_max");
    }
    let mut count = 0;
    for (piece, slice) in pieces.iter().zip(slices) {
        *slice = local_slice(regions, *piece)?;
        count += 1;
    }
    Ok(count)
}

pub(super) fn local_slice(
    regions: &Slab<Registration>,
    piece: LocalSlice,
) -> Result<ibv_sge, &'static str> {
    let Some(region) = regions.find(piece.region.0) else {
        return Err("a local slice of a region that is not registered");
    };
    let end = piece.offset.checked_add(u64::from(piece.len));
    if end.is_none_or(|end| end > region.len) {
        return Err("a local slice that leaves its region");
    }
    Ok(ibv_sge { addr: region.address + piece.offset, length: piece.len, lkey: region.lkey })
}

/// Inline bytes travel in the request itself; a device that cannot do that gets a copy of them in
/// memory that nobody else uses until the request has completed.
fn inline(
    slot: &Slot,
    index: usize,
    bytes: &[u8],
    send: &mut ibv_send_wr,
    slices: &mut [ibv_sge; SCATTER_MAX],
) {
    if bytes.is_empty() {
        send.num_sge = 0;
        return;
    }
    send.num_sge = 1;
    // At most INLINE_LEN_MAX, which the type keeps.
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    match &slot.bounce {
        None => {
            send.send_flags |= IBV_SEND_INLINE;
            slices[0] = ibv_sge { addr: bytes.as_ptr() as u64, length, lkey: 0 };
        }
        Some(bounce) => {
            let (addr, lkey) = bounce.place(slot.ring.next_number(), index, bytes);
            slices[0] = ibv_sge { addr, length, lkey };
        }
    }
}

fn atomic_result(
    regions: &Slab<Registration>,
    limits: &Limits,
    local: LocalSlice,
    remote: RemoteAddress,
) -> Result<ibv_sge, &'static str> {
    if !limits.atomics {
        return Err("the device has no atomics");
    }
    if !remote.address.is_multiple_of(8) {
        return Err("an atomic on a word that is not eight-byte aligned");
    }
    if local.len != 8 || !local.offset.is_multiple_of(8) {
        return Err("an atomic's result goes to eight aligned bytes");
    }
    local_slice(regions, local)
}

const fn opcode(operation: &Operation) -> Opcode {
    match operation {
        Operation::Write { .. }
        | Operation::WriteInline { .. }
        | Operation::WriteWithImmediate { .. } => Opcode::Write,
        Operation::Read { .. } => Opcode::Read,
        Operation::FetchAdd { .. } | Operation::CompareSwap { .. } => Opcode::Atomic,
    }
}

const fn wakes(request: &SendRequest) -> bool {
    matches!(request.operation, Operation::WriteWithImmediate { .. })
}

pub(super) const fn post_error(status: c_int) -> PostError {
    match status {
        libc::ENOMEM | libc::EAGAIN => PostError::QueueFull,
        libc::EINVAL => PostError::Invalid { reason: "the device refused the request (EINVAL)" },
        _ => PostError::QueuePairError,
    }
}

/// What a work completion's status means in the terms of the trait.
pub(super) const fn completion_status(status: u32) -> CompletionStatus {
    match status {
        IBV_WC_SUCCESS => CompletionStatus::Success,
        IBV_WC_REM_ACCESS_ERR => CompletionStatus::RemoteAccess,
        IBV_WC_REM_OP_ERR | IBV_WC_REM_INV_REQ_ERR => CompletionStatus::RemoteOperation,
        // A queue pair whose own link went down reports an operation error instead of a time-out.
        IBV_WC_RETRY_EXC_ERR | IBV_WC_LOC_QP_OP_ERR => CompletionStatus::RetryExceeded,
        IBV_WC_RNR_RETRY_EXC_ERR => CompletionStatus::ReceiverNotReady,
        IBV_WC_LOC_PROT_ERR | IBV_WC_LOC_ACCESS_ERR => CompletionStatus::LocalProtection,
        IBV_WC_WR_FLUSH_ERR => CompletionStatus::Flushed,
        other => CompletionStatus::Provider(other),
    }
}
