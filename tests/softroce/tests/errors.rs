//! Peers that fall silent and queue pairs that fail by themselves: reported by name, what was pending
//! ends, memory is given back, and other peers do not notice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use windlass_softroce::{
    LinkedDevices, device, linked_devices, open,
    peer::{Connection, Peer},
    report,
    side::{self, next_completion, read_word, region, until_quiet, write_word},
};
use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, MemoryRegion, Operation, QueuePairState,
    SendRequest, Transport, WorkId, verbs::VerbsTransport,
};

const PEER: &str = env!("CARGO_BIN_EXE_softroce-peer");

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Every packet sent through an interface is lost, as if who is behind it had been switched off.
struct Silence(String);

impl Silence {
    fn behind(interface: &str) -> Self {
        run("tc", &["qdisc", "add", "dev", interface, "root", "netem", "loss", "100%"]);
        Self(interface.to_owned())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        run("tc", &["qdisc", "del", "dev", &self.0, "root"]);
    }
}

/// One process that talks to a peer on its own host, who must never notice, and to one behind a link.
struct NearAndFar {
    near: Peer,
    near_at: Connection,
    to_near: VerbsTransport,
    local: MemoryRegion,
    far: Peer,
    far_at: Connection,
    to_far: VerbsTransport,
    /// Of the session with the far peer.
    memory: MemoryRegion,
    here: String,
    interface: String,
    /// What the device held before that session.
    before: String,
}

impl NearAndFar {
    fn connect() -> Option<Self> {
        let LinkedDevices { here, there, interface } = linked_devices()?;
        let (mut near, mut far) = (Peer::start(PEER, "rxe0"), Peer::start(PEER, &there));
        let mut to_near = open("rxe0").unwrap();
        let local = region(&mut to_near, 4096, Access::LOCAL);
        let near_at = near.connect(&mut to_near).unwrap();
        let mut to_far = open(&here).unwrap();
        // The first connection makes what later ones share.
        let first = far.connect(&mut to_far).unwrap();
        to_far.disconnect(first.queue_pair);
        until_quiet(&mut to_far);
        let before = resources(&here);
        let memory = region(&mut to_far, 1 << 20, Access::READ_WRITE);
        let far_at = far.connect(&mut to_far).unwrap();
        let word = far_at.mailbox.at(0);
        assert_eq!(write_word(&mut to_far, far_at.queue_pair, 1, word), CompletionStatus::Success);
        Some(Self {
            near,
            near_at,
            to_near,
            local,
            far,
            far_at,
            to_far,
            memory,
            here,
            interface,
            before,
        })
    }

    fn near_answers(&mut self) {
        let parameter = self.near_at.parameters.at(0);
        let queue_pair = self.near_at.queue_pair;
        assert_eq!(read_word(&mut self.to_near, queue_pair, &self.local, parameter), Ok(0));
    }

    fn far_is_forgotten(&mut self) {
        self.to_far.disconnect(self.far_at.queue_pair);
        self.to_far.deregister(&self.memory);
        until_quiet(&mut self.to_far);
        assert_eq!(resources(&self.here), self.before, "queue pairs and regions are gone");
    }

    fn far_answers_again(&mut self) {
        let again = self.far.connect(&mut self.to_far).unwrap();
        let word = again.mailbox.at(0);
        let status = write_word(&mut self.to_far, again.queue_pair, 3, word);
        assert_eq!(status, CompletionStatus::Success);
    }
}

fn resources(device: &str) -> String {
    run("rdma", &["resource", "show", device])
}

#[test]
fn a_silent_peer_is_reported_and_its_memory_given_back() {
    let Some(mut peers) = NearAndFar::connect() else { return };
    peers.to_far.share(peers.far_at.queue_pair, &peers.memory).unwrap();

    let silence = Silence::behind(&peers.interface);
    let began = Instant::now();
    let word = peers.far_at.mailbox.at(0);
    let status = write_word(&mut peers.to_far, peers.far_at.queue_pair, 2, word);
    report(&format!("silent peer: {status:?} after {:?}", began.elapsed()));
    assert_eq!(status, CompletionStatus::RetryExceeded);
    assert_eq!(peers.to_far.state(peers.far_at.queue_pair), QueuePairState::Error);
    peers.near_answers();
    peers.far_is_forgotten();
    drop(silence);
    peers.far_answers_again();
}

#[test]
fn a_queue_pair_forced_into_error_ends_what_was_pending_and_nothing_else() {
    let Some(mut peers) = NearAndFar::connect() else { return };
    // Nothing arrives any more, so that all of these are under way when the queue pair fails.
    let silence = Silence::behind(&peers.interface);
    let mut batch = Batch::with_capacity(16);
    for number in 1..=16 {
        let local = peers.memory.slice(0, 8).into();
        let operation = Operation::Read { local, remote: peers.far_at.parameters.at(0) };
        batch
            .push(SendRequest { work_id: WorkId(number), signaled: true, fenced: false, operation })
            .unwrap();
    }
    let queue_pair = peers.far_at.queue_pair;
    peers.to_far.post_send(queue_pair, &mut batch).unwrap();
    peers.to_far.force_error(queue_pair);
    assert_eq!(peers.to_far.state(queue_pair), QueuePairState::Error);
    let mut flushed = 0;
    for number in 1..=16 {
        let completion = next_completion(&mut peers.to_far, queue_pair);
        assert_eq!(completion.work_id, WorkId(number), "completions come in order");
        assert_ne!(completion.status, CompletionStatus::Success);
        flushed += u32::from(completion.status == CompletionStatus::Flushed);
    }
    report(&format!("forced into error: {flushed} of 16 requests flushed"));
    assert!(flushed > 0, "what was under way is flushed");
    drop(silence);

    peers.near_answers();
    peers.near.await_state(peers.near_at.peer_queue_pair, "Ready");
    peers.far_is_forgotten();
    peers.far_answers_again();
}

#[test]
fn a_peer_whose_queue_pair_fails_is_noticed() {
    let Some(device) = device() else { return };
    let mut peer = Peer::start(PEER, &device);
    let mut transport = open(&device).unwrap();
    let to = peer.connect(&mut transport).unwrap();
    let word = to.mailbox.at(0);
    assert_eq!(write_word(&mut transport, to.queue_pair, 1, word), CompletionStatus::Success);
    peer.ask(&format!("fail {}", to.peer_queue_pair));
    let status = write_word(&mut transport, to.queue_pair, 2, word);
    report(&format!("peer's queue pair in error: {status:?}"));
    assert_ne!(status, CompletionStatus::Success);
    assert_eq!(transport.state(to.queue_pair), QueuePairState::Error);
    let deadline = Instant::now() + side::PATIENCE;
    while peer.state_of(to.peer_queue_pair) != "Error" {
        transport.poll(&mut [Completion::EMPTY; 4]);
        assert!(Instant::now() < deadline, "the peer's side is still ready");
        std::thread::sleep(Duration::from_millis(10));
    }
}
