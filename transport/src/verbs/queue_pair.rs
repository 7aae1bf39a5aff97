//! Reliable connected queue pairs, one type per state: each step consumes the state before it, so
//! that a request on a queue pair that cannot carry it does not compile.
//!
//! `ResetQueuePair` -> `InitQueuePair` (receives may be posted) -> `ReceivingQueuePair` (RTR) ->
//! `ConnectedQueuePair` (RTS). Dropping any of them destroys the queue pair.

use std::{ffi::c_int, sync::Arc};

use super::{
    VerbsConfig,
    abi::{
        IBV_ACCESS_REMOTE_ATOMIC, IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE,
        IBV_QP_ACCESS_FLAGS, IBV_QP_AV, IBV_QP_DEST_QPN, IBV_QP_MAX_DEST_RD_ATOMIC,
        IBV_QP_MAX_QP_RD_ATOMIC, IBV_QP_MIN_RNR_TIMER, IBV_QP_PATH_MTU, IBV_QP_PKEY_INDEX,
        IBV_QP_PORT, IBV_QP_RETRY_CNT, IBV_QP_RNR_RETRY, IBV_QP_RQ_PSN, IBV_QP_SQ_PSN,
        IBV_QP_STATE, IBV_QP_TIMEOUT, IBV_QPS_ERR, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS,
        IBV_QPT_RC, ibv_ah_attr, ibv_cq, ibv_global_route, ibv_qp, ibv_qp_attr, ibv_qp_cap,
        ibv_qp_init_attr, ibv_recv_wr,
    },
    connect::VerbsEndpoint,
    device::{Device, Link, mtu_code, positive, verb_error},
};
use crate::{
    error::ConnectError,
    fabric::{INLINE_LEN_MAX, SCATTER_MAX},
};

/// Reads and atomics that wait for their answer at once, at most: what common devices keep.
const READS_MAX: u32 = 16;
/// Hops a RoCE or routed InfiniBand packet may take.
const HOP_LIMIT: u8 = 64;

/// A queue pair of libibverbs, destroyed when dropped.
#[derive(Debug)]
pub(super) struct RawQueuePair {
    pub(super) qp: *mut ibv_qp,
    number: u32,
    cap: ibv_qp_cap,
    device: Arc<Device>,
}

// SAFETY: libibverbs' calls on a queue pair are thread-safe; only one thread uses it.
unsafe impl Send for RawQueuePair {}

impl RawQueuePair {
    fn modify(
        &self,
        verb: &'static str,
        mut attributes: ibv_qp_attr,
        mask: c_int,
    ) -> Result<(), ConnectError> {
        // SAFETY: the queue pair is alive, and the structure outlives the call.
        let status =
            unsafe { (self.device.library().ibv_modify_qp)(self.qp, &raw mut attributes, mask) };
        if status == 0 {
            Ok(())
        } else {
            Err(ConnectError::System { step: verb, source: verb_error(status) })
        }
    }
}

impl Drop for RawQueuePair {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; afterwards the device touches none of its memory.
        let status = unsafe { (self.device.library().ibv_destroy_qp)(self.qp) };
        if status != 0 {
            tracing::warn!(status, number = self.number, "ibv_destroy_qp failed");
        }
    }
}

/// State RESET: it exists.
#[derive(Debug)]
pub(super) struct ResetQueuePair(RawQueuePair);

impl ResetQueuePair {
    /// A queue pair whose completions go to `cq`. `sends` and `receives` are numbers of requests.
    pub(super) fn new(
        device: &Arc<Device>,
        cq: *mut ibv_cq,
        sends: u32,
        receives: u32,
    ) -> Result<Self, ConnectError> {
        let scatter = u32::try_from(scatter_max(device)).unwrap_or(1);
        let mut attributes = ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: cq,
            recv_cq: cq,
            srq: std::ptr::null_mut(),
            cap: ibv_qp_cap {
                max_send_wr: sends,
                max_recv_wr: receives,
                max_send_sge: scatter,
                max_recv_sge: 1,
                max_inline_data: u32::try_from(INLINE_LEN_MAX).unwrap_or(0),
            },
            qp_type: IBV_QPT_RC,
            sq_sig_all: 0,
        };
        let library = device.library();
        // SAFETY: protection domain and queue are alive; the structure is writable, and the library
        // puts what it granted into it.
        let qp = unsafe { (library.ibv_create_qp)(device.pd, &raw mut attributes) };
        if qp.is_null() {
            let source = std::io::Error::last_os_error();
            let step = "ibv_create_qp with 64 bytes inline";
            return Err(match source.raw_os_error() {
                Some(libc::ENOMEM | libc::ENOSPC) => {
                    ConnectError::TooMany { count_max: positive(device.attributes.max_qp) }
                }
                _ => ConnectError::System { step, source },
            });
        }
        // SAFETY: not null, so alive until ibv_destroy_qp.
        let number = unsafe { (*qp).qp_num };
        Ok(Self(RawQueuePair { qp, number, cap: attributes.cap, device: Arc::clone(device) }))
    }

    /// RESET -> INIT at the device's port. What peers may do is decided region by region.
    pub(super) fn initialize(self) -> Result<InitQueuePair, ConnectError> {
        let access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_INIT,
            pkey_index: 0,
            port_num: self.0.device.port.number,
            qp_access_flags: access.cast_unsigned(),
            ..ibv_qp_attr::default()
        };
        let mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
        self.0.modify("ibv_modify_qp(INIT)", attributes, mask)?;
        Ok(InitQueuePair(self.0))
    }
}

/// State INIT: receives may be posted, nothing else.
#[derive(Debug)]
pub(super) struct InitQueuePair(RawQueuePair);

impl InitQueuePair {
    /// What the peer must know.
    pub(super) fn endpoint(&self, config: &VerbsConfig, sequence_number: u32) -> VerbsEndpoint {
        let device = &self.0.device;
        let port = &device.port;
        VerbsEndpoint {
            link: port.link,
            number: self.0.number,
            sequence_number,
            lid: port.lid,
            mtu: config.mtu.map_or(port.active_mtu, |mtu| mtu.min(port.active_mtu)),
            reads_max: u8::try_from(positive(device.attributes.max_qp_rd_atom).clamp(1, READS_MAX))
                .unwrap_or(1),
            promises: config.promises(device.promises()),
            gid: device.gid,
        }
    }

    /// Bytes the device carries inside a request.
    pub(super) fn inline_len_max(&self) -> u32 {
        self.0.cap.max_inline_data
    }

    pub(super) fn raw(&self) -> *mut ibv_qp {
        self.0.qp
    }

    /// Posts one receive without memory.
    pub(super) fn post_receive(&self, work_id: u64) -> Result<(), ConnectError> {
        let mut request = ibv_recv_wr {
            wr_id: work_id,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
        };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair is alive, so its context is.
        let post = unsafe { (*(*self.0.qp).context).ops.post_recv };
        let Some(post) = post else {
            return Err(ConnectError::System {
                step: "ibv_post_recv",
                source: std::io::ErrorKind::Unsupported.into(),
            });
        };
        // SAFETY: the queue pair is in INIT, where receives may be posted; the request is copied.
        let status = unsafe { post(self.0.qp, &raw mut request, &raw mut refused) };
        if status == 0 {
            Ok(())
        } else {
            Err(ConnectError::System { step: "ibv_post_recv", source: verb_error(status) })
        }
    }

    /// INIT -> RTR: requests of the peer are carried out from here on.
    pub(super) fn ready_to_receive(
        self,
        config: &VerbsConfig,
        own: &VerbsEndpoint,
        remote: &VerbsEndpoint,
    ) -> Result<ReceivingQueuePair, ConnectError> {
        let device = &self.0.device;
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTR,
            path_mtu: mtu_code(own.mtu.min(remote.mtu)),
            dest_qp_num: remote.number,
            rq_psn: remote.sequence_number,
            max_dest_rd_atomic: own.reads_max,
            min_rnr_timer: config.rnr_timer,
            ah_attr: address(device, config, remote),
            ..ibv_qp_attr::default()
        };
        let mask = IBV_QP_STATE
            | IBV_QP_AV
            | IBV_QP_PATH_MTU
            | IBV_QP_DEST_QPN
            | IBV_QP_RQ_PSN
            | IBV_QP_MAX_DEST_RD_ATOMIC
            | IBV_QP_MIN_RNR_TIMER;
        self.0.modify("ibv_modify_qp(RTR)", attributes, mask)?;
        Ok(ReceivingQueuePair(self.0))
    }
}

/// State RTR: the peer's requests are carried out; one's own cannot be posted yet.
#[derive(Debug)]
pub(super) struct ReceivingQueuePair(RawQueuePair);

impl ReceivingQueuePair {
    /// RTR -> RTS. The times fixed here decide how soon a dead peer is noticed.
    pub(super) fn ready_to_send(
        self,
        config: &VerbsConfig,
        own: &VerbsEndpoint,
        remote: &VerbsEndpoint,
    ) -> Result<ConnectedQueuePair, ConnectError> {
        let initiated = positive(self.0.device.attributes.max_qp_init_rd_atom).clamp(1, READS_MAX);
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTS,
            sq_psn: own.sequence_number,
            timeout: config.timeout,
            retry_cnt: config.retry_count,
            rnr_retry: config.rnr_retry,
            max_rd_atomic: u8::try_from(initiated).unwrap_or(1).min(remote.reads_max),
            ..ibv_qp_attr::default()
        };
        let mask = IBV_QP_STATE
            | IBV_QP_SQ_PSN
            | IBV_QP_TIMEOUT
            | IBV_QP_RETRY_CNT
            | IBV_QP_RNR_RETRY
            | IBV_QP_MAX_QP_RD_ATOMIC;
        self.0.modify("ibv_modify_qp(RTS)", attributes, mask)?;
        Ok(ConnectedQueuePair(self.0))
    }
}

/// State RTS: everything may be posted.
#[derive(Debug)]
pub(super) struct ConnectedQueuePair(RawQueuePair);

impl ConnectedQueuePair {
    pub(super) fn raw(&self) -> *mut ibv_qp {
        self.0.qp
    }

    /// Carries out no request of the peer any more; false when the device will not have it.
    pub(super) fn refuse_requests(&self) -> bool {
        let attributes = ibv_qp_attr { qp_access_flags: 0, ..ibv_qp_attr::default() };
        self.0.modify("ibv_modify_qp(access)", attributes, IBV_QP_ACCESS_FLAGS).is_ok()
    }

    /// Moves it to the error state: everything pending completes as flushed, and the peer's
    /// requests are refused.
    pub(super) fn fail(&self) {
        let attributes = ibv_qp_attr { qp_state: IBV_QPS_ERR, ..ibv_qp_attr::default() };
        if let Err(error) = self.0.modify("ibv_modify_qp(ERR)", attributes, IBV_QP_STATE) {
            tracing::warn!(%error, number = self.0.number, "a queue pair cannot be failed");
        }
    }
}

/// Most slices of a request on this device.
pub(super) fn scatter_max(device: &Device) -> usize {
    let attributes = &device.attributes;
    // Some devices leave the limit for reads unset.
    let reads = match positive(attributes.max_sge_rd) {
        0 => u32::MAX,
        limit => limit,
    };
    let limit = positive(attributes.max_sge).min(reads).max(1);
    usize::try_from(limit).unwrap_or(1).min(SCATTER_MAX)
}

/// The way to the peer.
fn address(device: &Device, config: &VerbsConfig, remote: &VerbsEndpoint) -> ibv_ah_attr {
    let subnet = |gid: [u8; 16]| <[u8; 8]>::try_from(&gid[..8]).unwrap_or_default();
    // On InfiniBand the global header is needed only to leave the subnet; on Ethernet, always.
    let global = device.port.link != Link::InfiniBand
        || remote.lid == 0
        || subnet(device.gid.raw) != subnet(remote.gid.raw);
    ibv_ah_attr {
        grh: ibv_global_route {
            dgid: remote.gid,
            flow_label: 0,
            sgid_index: device.gid_index,
            hop_limit: HOP_LIMIT,
            traffic_class: config.traffic_class,
        },
        dlid: remote.lid,
        sl: config.service_level,
        is_global: u8::from(global),
        port_num: device.port.number,
        ..ibv_ah_attr::default()
    }
}
