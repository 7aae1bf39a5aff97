//! Live peers that share no code with ours: a queue pair of the `ibverbs` crate that ours writes
//! to and reads from, and a program on `rdma-sys` that does the same to ours.

use std::{
    ffi::{CStr, c_int},
    ptr::{null_mut, read_volatile},
    time::{Duration, Instant},
};

use windlass_interop::{EndpointBytes, device};
use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, Endpoint, InlineBytes, Opcode, Operation, Pages,
    QueuePairId, QueuePairState, RemoteAddress, RemoteKey, Role, SendRequest, Transport, WorkId,
    memory::PagesOptions,
    verbs::{VerbsConfig, VerbsTransport},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn open(device: &str) -> VerbsTransport {
    let config = VerbsConfig { device: Some(device.to_owned()), ..VerbsConfig::default() };
    VerbsTransport::open(config).unwrap()
}

fn carry_out(transport: &mut VerbsTransport, queue_pair: QueuePairId, operation: Operation) {
    let mut batch = Batch::with_capacity(1);
    batch.push(SendRequest { work_id: WorkId(1), signaled: true, fenced: false, operation }).unwrap();
    transport.post_send(queue_pair, &mut batch).unwrap();
    let completion = next(transport);
    assert_eq!(completion.status, CompletionStatus::Success, "{operation:?}");
}

fn next(transport: &mut VerbsTransport) -> Completion {
    let deadline = Instant::now() + PATIENCE;
    let mut completions = [Completion::EMPTY; 1];
    while transport.poll(&mut completions) == 0 {
        assert!(Instant::now() < deadline, "no completion");
    }
    completions[0]
}

#[test]
fn ours_writes_to_and_reads_from_a_queue_pair_of_the_ibverbs_crate() {
    let Some(name) = device() else { return };
    let devices = ibverbs::devices().unwrap();
    let device = devices
        .iter()
        .find(|device| device.name().is_some_and(|found| found.to_string_lossy() == name))
        .unwrap();
    let context = device.open().unwrap();
    let gid_entry = context
        .gid_table()
        .iter()
        .find(|entry| {
            let bytes: [u8; 16] = gid_bytes(entry.gid);
            bytes[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        })
        .unwrap()
        .clone();
    let queue = context.create_cq(64, 0).unwrap();
    let domain = context.alloc_pd().unwrap();
    let mut memory = domain.allocate::<u64>(512).unwrap();

    let mut transport = open(&name);
    let pending = transport.create_queue_pair().unwrap();
    let ours = EndpointBytes::decode(&pending.endpoint().0);
    let prepared = domain
        .create_qp(&queue, &queue, ibverbs::ibv_qp_type::IBV_QPT_RC)
        .set_gid_index(gid_entry.gid_index)
        .set_access(
            ibverbs_sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE
                | ibverbs_sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
                | ibverbs_sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ
                | ibverbs_sys::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC,
        )
        .set_rq_psn(ours.sequence_number)
        .set_max_recv_wr(8)
        .build()
        .unwrap();
    let theirs = prepared.endpoint();
    let mut our_end = theirs;
    our_end.num = ours.number;
    our_end.lid = ours.lid;
    our_end.gid = Some(ibverbs_sys_gid(ours.gid));
    let mut queue_pair = prepared.handshake(our_end).unwrap();
    // Our greeting and farewell each take a receive.
    for _ in 0..4 {
        // SAFETY: the memory lives to the end of the test, and zero-length messages touch none.
        unsafe { queue_pair.post_receive(&mut memory, 0..1, 7) }.unwrap();
    }
    let remote = EndpointBytes {
        number: theirs.num,
        sequence_number: 0,
        reads_max: 1,
        lid: theirs.lid,
        mtu: 1024,
        gid: gid_bytes(theirs.gid.unwrap()),
    };
    let ours = transport.connect(pending, Role::Active, &Endpoint(remote.encode())).unwrap();
    assert_eq!(transport.state(ours), QueuePairState::Ready);

    let address =
        RemoteAddress { key: RemoteKey(memory.rkey().key), address: memory.as_ptr() as u64 };
    let at = |index: u64| RemoteAddress { address: address.address + 8 * index, ..address };
    let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
    let local = transport.register(&pages, Access::LOCAL).unwrap();

    let bytes = InlineBytes::word(0xfeed);
    carry_out(&mut transport, ours, Operation::WriteInline { bytes, remote: at(3) });
    assert_eq!(memory[3], 0xfeed);

    pages.store_u64(8, 11);
    pages.store_u64(64, 22);
    let mut pieces = windlass_transport::ScatterList::EMPTY;
    pieces.push(local.slice(8, 8));
    pieces.push(local.slice(64, 8));
    carry_out(&mut transport, ours, Operation::Write { local: pieces, remote: at(10) });
    assert_eq!(memory[10..12], [11, 22]);

    memory[20] = 500;
    carry_out(
        &mut transport,
        ours,
        Operation::FetchAdd { local: local.slice(0, 8), remote: at(20), add: 42 },
    );
    assert_eq!((pages.load_u64(0), memory[20]), (500, 542));
    carry_out(
        &mut transport,
        ours,
        Operation::CompareSwap {
            local: local.slice(0, 8),
            remote: at(20),
            expected: 542,
            desired: 9,
        },
    );
    assert_eq!((pages.load_u64(0), memory[20]), (542, 9));

    for (index, word) in memory.iter_mut().enumerate() {
        *word = index as u64 * 3;
    }
    carry_out(
        &mut transport,
        ours,
        Operation::Read { local: local.slice(0, 4096).into(), remote: at(0) },
    );
    assert!((0..512).all(|index| pages.load_u64(8 * index) == 3 * index));

    carry_out(
        &mut transport,
        ours,
        Operation::WriteWithImmediate {
            bytes: InlineBytes::word(1),
            remote: at(0),
            immediate: 0xabcd_ef01,
        },
    );
    let deadline = Instant::now() + PATIENCE;
    let mut immediates = Vec::new();
    while immediates.len() < 2 {
        let mut works = [ibverbs::ibv_wc::default(); 4];
        let works = queue.poll(&mut works).unwrap();
        immediates.extend(works.iter().map(|work| (work.error(), work.imm_data())));
        assert!(Instant::now() < deadline, "{immediates:?}");
    }
    assert_eq!(immediates[1].1.map(u32::from_be), Some(0xabcd_ef01), "{immediates:?}");
    // A message of a program that is not ours is ignored.
    // SAFETY: as above, and the memory is only read.
    unsafe { queue_pair.post_send(&mut memory, 0..0, 8) }.unwrap();
    carry_out(&mut transport, ours, Operation::WriteInline { bytes, remote: at(3) });
    assert_eq!(transport.state(ours), QueuePairState::Ready);
    transport.disconnect(ours);
}

fn gid_bytes(gid: ibverbs::Gid) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&gid.subnet_prefix().to_be_bytes());
    bytes[8..].copy_from_slice(&gid.interface_id().to_be_bytes());
    bytes
}

fn ibverbs_sys_gid(raw: [u8; 16]) -> ibverbs::Gid {
    ibverbs_sys::ibv_gid { raw }.into()
}

#[test]
fn a_program_on_rdma_sys_writes_to_and_reads_from_ours() {
    let Some(name) = device() else { return };
    let mut transport = open(&name);
    let pages = Pages::allocate(1 << 20, PagesOptions::default()).unwrap();
    let region = transport.register(&pages, Access::ALL).unwrap();
    let pending = transport.create_queue_pair().unwrap();
    let ours = EndpointBytes::decode(&pending.endpoint().0);
    let mut foreign = Foreign::create(&name);
    let theirs = EndpointBytes {
        number: foreign.number(),
        sequence_number: 0x123,
        reads_max: 4,
        lid: 0,
        mtu: ours.mtu,
        // Both are on one device, at one address.
        gid: ours.gid,
    };
    let queue_pair = transport.connect(pending, Role::Passive, &Endpoint(theirs.encode())).unwrap();
    transport.post_receive(queue_pair, 4).unwrap();
    foreign.connect(&ours, 0x123);
    let shared = transport.share(queue_pair, &region).unwrap();

    foreign.memory[0] = 0xc0ffee;
    let write = rdma_sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE;
    assert_eq!(foreign.carry_out(write, 0, 8, shared.address + 128, shared.key.0, 0), 0);
    assert_eq!(pages.load_u64(128), 0xc0ffee);

    pages.store_u64(4096, 77);
    let read = rdma_sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
    assert_eq!(foreign.carry_out(read, 8, 8, shared.address + 4096, shared.key.0, 0), 0);
    assert_eq!(foreign.word(1), 77);

    let immediate = rdma_sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
    assert_eq!(foreign.carry_out(immediate, 0, 8, shared.address, shared.key.0, 4711), 0);
    let completion = next(&mut transport);
    assert_eq!(completion.opcode, Opcode::ReceiveImmediate);
    assert_eq!(completion.immediate, 4711);
    assert_eq!(transport.state(queue_pair), QueuePairState::Ready, "it has been heard of");

    // And back, into the program's memory.
    let remote = RemoteAddress {
        key: RemoteKey(foreign.rkey()),
        address: foreign.memory.as_ptr() as u64 + 24,
    };
    let bytes = InlineBytes::word(99);
    carry_out(&mut transport, queue_pair, Operation::WriteInline { bytes, remote });
    assert_eq!(foreign.word(3), 99);

    // A refusal has the status of the specification at the other end too.
    let refused = foreign.carry_out(write, 0, 8, shared.address, shared.key.0 ^ 0xff00, 0);
    assert_eq!(refused, rdma_sys::ibv_wc_status::IBV_WC_REM_ACCESS_ERR);
}

/// A reliable connected queue pair by nothing but the `rdma-sys` crate.
struct Foreign {
    context: *mut rdma_sys::ibv_context,
    pd: *mut rdma_sys::ibv_pd,
    cq: *mut rdma_sys::ibv_cq,
    qp: *mut rdma_sys::ibv_qp,
    mr: *mut rdma_sys::ibv_mr,
    memory: Vec<u64>,
}

impl Foreign {
    fn create(name: &str) -> Self {
        let mut memory = vec![0_u64; 512];
        // SAFETY: plain use of the library: every pointer is checked before its use, and everything
        // made here is destroyed in drop, in reverse order.
        unsafe {
            let mut count: c_int = 0;
            let list = rdma_sys::ibv_get_device_list(&mut count);
            assert!(!list.is_null());
            let device = (0..count as usize)
                .map(|index| *list.add(index))
                .find(|device| {
                    CStr::from_ptr(rdma_sys::ibv_get_device_name(*device)).to_string_lossy() == name
                })
                .unwrap();
            let context = rdma_sys::ibv_open_device(device);
            assert!(!context.is_null());
            rdma_sys::ibv_free_device_list(list);
            let pd = rdma_sys::ibv_alloc_pd(context);
            let cq = rdma_sys::ibv_create_cq(context, 32, null_mut(), null_mut(), 0);
            assert!(!pd.is_null() && !cq.is_null());
            let access = 1 | 2 | 4 | 8;
            let mr = rdma_sys::ibv_reg_mr(pd, memory.as_mut_ptr().cast(), 4096, access);
            assert!(!mr.is_null());
            let mut attributes: rdma_sys::ibv_qp_init_attr = std::mem::zeroed();
            attributes.send_cq = cq;
            attributes.recv_cq = cq;
            attributes.qp_type = rdma_sys::ibv_qp_type::IBV_QPT_RC;
            attributes.cap.max_send_wr = 8;
            attributes.cap.max_recv_wr = 8;
            attributes.cap.max_send_sge = 1;
            attributes.cap.max_recv_sge = 1;
            let qp = rdma_sys::ibv_create_qp(pd, &mut attributes);
            assert!(!qp.is_null());
            Self { context, pd, cq, qp, mr, memory }
        }
    }

    fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { (*self.qp).qp_num }
    }

    fn rkey(&self) -> u32 {
        // SAFETY: the region is alive.
        unsafe { (*self.mr).rkey }
    }

    /// A word that a device may have written.
    fn word(&self, index: usize) -> u64 {
        // SAFETY: in bounds, by the slice.
        unsafe { read_volatile(&self.memory[index]) }
    }

    fn connect(&mut self, remote: &EndpointBytes, sequence_number: u32) {
        // SAFETY: the queue pair is alive and the structures outlive the calls; all-zero is valid
        // for them.
        unsafe {
            let mut attributes: rdma_sys::ibv_qp_attr = std::mem::zeroed();
            attributes.qp_state = rdma_sys::ibv_qp_state::IBV_QPS_INIT;
            attributes.port_num = 1;
            attributes.qp_access_flags = 2 | 4 | 8;
            let mask = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 3;
            assert_eq!(rdma_sys::ibv_modify_qp(self.qp, &mut attributes, mask), 0);

            let mut attributes: rdma_sys::ibv_qp_attr = std::mem::zeroed();
            attributes.qp_state = rdma_sys::ibv_qp_state::IBV_QPS_RTR;
            attributes.path_mtu = (remote.mtu.ilog2() - 7) as _;
            attributes.dest_qp_num = remote.number;
            attributes.rq_psn = remote.sequence_number;
            attributes.max_dest_rd_atomic = 4;
            attributes.min_rnr_timer = 12;
            attributes.ah_attr.is_global = 1;
            attributes.ah_attr.port_num = 1;
            attributes.ah_attr.grh.dgid.raw = remote.gid;
            attributes.ah_attr.grh.sgid_index = 1;
            attributes.ah_attr.grh.hop_limit = 64;
            let mask = 1 << 0 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12 | 1 << 17 | 1 << 15;
            assert_eq!(rdma_sys::ibv_modify_qp(self.qp, &mut attributes, mask), 0);

            let mut attributes: rdma_sys::ibv_qp_attr = std::mem::zeroed();
            attributes.qp_state = rdma_sys::ibv_qp_state::IBV_QPS_RTS;
            attributes.sq_psn = sequence_number;
            attributes.timeout = 14;
            attributes.retry_cnt = 6;
            attributes.rnr_retry = 6;
            attributes.max_rd_atomic = 4;
            let mask = 1 << 0 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 13;
            assert_eq!(rdma_sys::ibv_modify_qp(self.qp, &mut attributes, mask), 0);
        }
    }

    /// Posts one request on the memory's bytes and returns how it completed.
    fn carry_out(
        &mut self,
        opcode: rdma_sys::ibv_wr_opcode::Type,
        offset: u64,
        length: u32,
        remote_addr: u64,
        rkey: u32,
        immediate: u32,
    ) -> rdma_sys::ibv_wc_status::Type {
        // SAFETY: the queue pair is alive; the memory is registered and lives as long as this
        // structure; the request is copied by the call.
        unsafe {
            let mut slice = rdma_sys::ibv_sge {
                addr: self.memory.as_mut_ptr() as u64 + offset,
                length,
                lkey: (*self.mr).lkey,
            };
            let mut request: rdma_sys::ibv_send_wr = std::mem::zeroed();
            request.sg_list = &mut slice;
            request.num_sge = 1;
            request.opcode = opcode;
            request.send_flags = 2;
            // The crate names the anonymous union of imm_data itself; its place is pinned by the
            // layout tests.
            let at = std::mem::offset_of!(windlass_transport::verbs::abi::ibv_send_wr, imm_data);
            (&raw mut request).cast::<u8>().add(at).cast::<u32>().write(immediate.to_be());
            request.wr.rdma.remote_addr = remote_addr;
            request.wr.rdma.rkey = rkey;
            let mut refused = null_mut();
            assert_eq!(rdma_sys::ibv_post_send(self.qp, &mut request, &mut refused), 0);
            let deadline = Instant::now() + PATIENCE;
            let mut work: rdma_sys::ibv_wc = std::mem::zeroed();
            while rdma_sys::ibv_poll_cq(self.cq, 1, &mut work) == 0 {
                assert!(Instant::now() < deadline, "no completion");
            }
            work.status
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: each was made once and is destroyed once, users before what they use.
        unsafe {
            rdma_sys::ibv_destroy_qp(self.qp);
            rdma_sys::ibv_dereg_mr(self.mr);
            rdma_sys::ibv_destroy_cq(self.cq);
            rdma_sys::ibv_dealloc_pd(self.pd);
            rdma_sys::ibv_close_device(self.context);
        }
    }
}
