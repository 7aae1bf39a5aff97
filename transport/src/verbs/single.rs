//! Posts one request at a time, laid out in place: short writes and reads, where latency matters. All other requests
//! go through [`Verbs::post`].

use super::{
    abi::{
        IBV_SEND_INLINE, IBV_SEND_SIGNALED, IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE, ibv_send_wr,
        ibv_sge,
    },
    datapath::{EMPTY_SEND, Verbs, local_slice, post_error, rdma},
    memory_region::Registration,
    send_ring::{InFlight, Purpose},
    slot::Slot,
};
use crate::{
    error::PostError,
    fabric::{INLINE_LEN_MAX, LocalSlice, Opcode, QueuePairState, RemoteAddress, WorkId},
    slab::Slab,
};

/// Single writes of which one asks for a completion, so that the send queue empties; fewer where it
/// is short.
const SIGNAL_EVERY: u32 = 64;

impl Verbs {
    /// Posts an inline write, without a completion unless it fails. False when it has to be posted
    /// in another way.
    #[inline]
    pub(super) fn write_single(
        &self,
        slot: &mut Slot,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        // A device without inline writes gets a copy that `post` makes.
        if bytes.is_empty() || bytes.len() > INLINE_LEN_MAX || slot.bounce.is_some() {
            return Ok(false);
        }
        let is_last = slot.unsignaled + 1 >= SIGNAL_EVERY.min(slot.outstanding_max / 4);
        let signaled = if is_last { IBV_SEND_SIGNALED } else { 0 };
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        let slice = ibv_sge { addr: bytes.as_ptr() as u64, length, lkey: 0 };
        let request = ibv_send_wr {
            opcode: IBV_WR_RDMA_WRITE,
            send_flags: IBV_SEND_INLINE | signaled,
            wr: rdma(remote),
            ..EMPTY_SEND
        };
        let in_flight =
            InFlight { work_id: Some(WorkId(0)), opcode: Opcode::Write, purpose: Purpose::Quiet };
        let posted = self.post_single(slot, request, slice, in_flight)?;
        if posted {
            slot.unsignaled = if is_last { 0 } else { slot.unsignaled + 1 };
        }
        Ok(posted)
    }

    /// Posts a read into one slice. False when it has to be posted in another way.
    #[inline]
    pub(super) fn read_single(
        &self,
        slot: &mut Slot,
        regions: &Slab<Registration>,
        work_id: WorkId,
        local: LocalSlice,
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let slice = local_slice(regions, local).map_err(|reason| PostError::Invalid { reason })?;
        let request = ibv_send_wr {
            opcode: IBV_WR_RDMA_READ,
            send_flags: IBV_SEND_SIGNALED,
            wr: rdma(remote),
            ..EMPTY_SEND
        };
        let in_flight =
            InFlight { work_id: Some(work_id), opcode: Opcode::Read, purpose: Purpose::Request };
        self.post_single(slot, request, slice, in_flight)
    }

    #[inline]
    fn post_single(
        &self,
        slot: &mut Slot,
        mut request: ibv_send_wr,
        mut slice: ibv_sge,
        in_flight: InFlight,
    ) -> Result<bool, PostError> {
        match slot.state {
            QueuePairState::Ready if slot.room() > 0 => {}
            QueuePairState::Ready | QueuePairState::Connecting => return Ok(false),
            QueuePairState::Error => return Err(PostError::QueuePairError),
        }
        let Some(qp) = slot.qp() else { return Err(PostError::QueuePairError) };
        request.wr_id = slot.send_id(0);
        request.sg_list = &raw mut slice;
        request.num_sge = 1;
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive. The one request and its slice live on this stack, and the
        // device copies them, and inline bytes, before the call returns. The slice is of inline bytes
        // that the caller borrows, or of registered memory, checked by `local_slice`, which stays
        // registered until the request has completed (rule of `Transport::deregister`).
        let status = unsafe { (self.post_send)(qp, &raw mut request, &raw mut refused) };
        match status {
            0 => {
                slot.ring.push(in_flight);
                Ok(true)
            }
            _ => match post_error(status) {
                PostError::QueueFull => Ok(false),
                error => Err(error),
            },
        }
    }
}
