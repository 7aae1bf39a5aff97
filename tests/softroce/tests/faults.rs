//! What happens to verbs connections when things break: killed, silent and rogue peers, links that
//! go down, lose or delay packets, and many connections one after the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use windlass_softroce::{
    LinkedDevices, device, linked_devices, open,
    peer::Peer,
    report,
    side::{self, carry_out, next_completion, read_word, region, write_word},
};
use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, InlineBytes, Operation, QueuePairState,
    SendRequest, Transport, WorkId,
    verbs::{VerbsConfig, VerbsTransport},
};

const PEER: &str = env!("CARGO_BIN_EXE_softroce-peer");

/// Faults concern the whole machine, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    text
}

#[test]
fn a_killed_peer_is_reported_and_others_are_unaffected() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut transport = open(&device).unwrap();
    let local = region(&mut transport, 4096, Access::LOCAL);
    let (mut doomed, mut other) = (Peer::start(PEER, &device), Peer::start(PEER, &device));
    let to_doomed = doomed.connect(&mut transport).unwrap();
    let to_other = other.connect(&mut transport).unwrap();
    let word = to_doomed.mailbox.at(0);
    assert_eq!(
        write_word(&mut transport, to_doomed.queue_pair, 1, word),
        CompletionStatus::Success
    );
    doomed.kill();
    let began = Instant::now();
    let status = write_word(&mut transport, to_doomed.queue_pair, 2, word);
    report(&format!("killed peer: {status:?} after {:?}", began.elapsed()));
    assert_eq!(status, CompletionStatus::RetryExceeded);
    assert_eq!(transport.state(to_doomed.queue_pair), QueuePairState::Error);
    transport.disconnect(to_doomed.queue_pair);
    let parameter = to_other.parameters.at(0);
    assert_eq!(read_word(&mut transport, to_other.queue_pair, &local, parameter), Ok(0));
}

#[test]
fn nobody_waits_for_a_device_that_does_not_answer() {
    let _alone = alone();
    let Some(device) = device() else { return };
    // With the usual timer, by which a device gives up after half a second.
    let config = VerbsConfig { device: Some(device), ..VerbsConfig::default() };
    let mut transport = VerbsTransport::open(config).unwrap();
    let gone = transport.create_queue_pair().unwrap();
    let endpoint = gone.endpoint().clone();
    transport.disconnect(gone.id());
    let pending = transport.create_queue_pair().unwrap();
    let begun = transport.begin_connect(pending, &endpoint).unwrap();
    assert_eq!(transport.state(begun), QueuePairState::Connecting);
    let began = Instant::now();
    while transport.state(begun) == QueuePairState::Connecting {
        assert!(began.elapsed() < Duration::from_secs(20), "the device never gives up");
        transport.poll(&mut [Completion::EMPTY; 4]);
    }
    report(&format!("nobody answered: given up after {:?}", began.elapsed()));
    assert_eq!(transport.state(begun), QueuePairState::Error);
    transport.disconnect(begun);
}

#[test]
fn a_stopped_peer_still_serves_reads_and_takes_writes() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut transport = open(&device).unwrap();
    let local = region(&mut transport, 4096, Access::LOCAL);
    let mut peer = Peer::start(PEER, &device);
    let to = peer.connect(&mut transport).unwrap();
    peer.ask("parameter 64 4711");
    peer.stop();
    let (parameter, word) = (to.parameters.at(64), to.mailbox.at(8));
    for _ in 0..100 {
        assert_eq!(read_word(&mut transport, to.queue_pair, &local, parameter), Ok(4711));
    }
    assert_eq!(write_word(&mut transport, to.queue_pair, 5, word), CompletionStatus::Success);
    peer.resume();
    assert_eq!(peer.ask("word 8"), ["5"]);
}

#[test]
fn a_rogue_request_is_refused_and_kills_only_its_queue_pair() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut peer = Peer::start(PEER, &device);
    peer.ask("parameter 0 77");
    let mut honest = open(&device).unwrap();
    let local = region(&mut honest, 4096, Access::LOCAL);
    let to_honest = peer.connect(&mut honest).unwrap();
    let mut rogue = open(&device).unwrap();
    let to = peer.connect(&mut rogue).unwrap();

    // Parameter memory is readable and nothing else.
    let status = write_word(&mut rogue, to.queue_pair, 666, to.parameters.at(0));
    assert_eq!(status, CompletionStatus::RemoteAccess);
    assert_eq!(rogue.state(to.queue_pair), QueuePairState::Error);
    rogue.disconnect(to.queue_pair);

    // Past the end, and with a key nobody gave out.
    for case in ["bounds", "key"] {
        let to = peer.connect(&mut rogue).unwrap();
        let mut target = to.mailbox.at(to.mailbox.len - 4);
        if case == "key" {
            target = to.mailbox.at(0);
            target.key.0 ^= 0x00ff_ff00;
        }
        let status = write_word(&mut rogue, to.queue_pair, 666, target);
        assert_eq!(status, CompletionStatus::RemoteAccess, "{case}");
        rogue.disconnect(to.queue_pair);
    }

    // An atomic on parameters.
    let to = peer.connect(&mut rogue).unwrap();
    let scratch = region(&mut rogue, 4096, Access::LOCAL);
    let operation =
        Operation::FetchAdd { local: scratch.slice(0, 8), remote: to.parameters.at(0), add: 1 };
    let status = carry_out(&mut rogue, to.queue_pair, operation);
    assert_eq!(status, CompletionStatus::RemoteAccess, "atomic");
    rogue.disconnect(to.queue_pair);

    let parameter = to_honest.parameters.at(0);
    assert_eq!(read_word(&mut honest, to_honest.queue_pair, &local, parameter), Ok(77));
    peer.await_state(to_honest.peer_queue_pair, "Ready");
}

#[test]
fn a_disconnect_is_seen_by_the_peer_at_once() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut transport = open(&device).unwrap();
    let mut peer = Peer::start(PEER, &device);
    let to = peer.connect(&mut transport).unwrap();
    peer.await_state(to.peer_queue_pair, "Ready");
    transport.disconnect(to.queue_pair);
    peer.await_state(to.peer_queue_pair, "Error");

    let to = peer.connect(&mut transport).unwrap();
    peer.ask(&format!("disconnect {}", to.peer_queue_pair));
    let deadline = Instant::now() + side::PATIENCE;
    while transport.state(to.queue_pair) != QueuePairState::Error {
        transport.wait(Duration::from_millis(100));
        transport.poll(&mut [Completion::EMPTY; 4]);
        assert!(Instant::now() < deadline, "the farewell did not come");
    }
}

#[test]
fn an_immediate_wakes_a_sleeping_peer() {
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut transport = open(&device).unwrap();
    let mut peer = Peer::start(PEER, &device);
    let to = peer.connect(&mut transport).unwrap();
    peer.ask(&format!("receive {} 32", to.peer_queue_pair));
    for round in 1..=20_u32 {
        let operation = Operation::WriteWithImmediate {
            bytes: InlineBytes::word(u64::from(round)),
            remote: to.mailbox.at(0),
            immediate: round,
        };
        assert_eq!(carry_out(&mut transport, to.queue_pair, operation), CompletionStatus::Success);
        std::thread::sleep(Duration::from_millis(2));
    }
    // It may be asked before it has polled what woke it last.
    let deadline = Instant::now() + side::PATIENCE;
    while peer.ask("immediates") != ["20", "20"] {
        assert!(Instant::now() < deadline, "immediates: {:?}", peer.ask("immediates"));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(peer.ask("word 0"), ["20"]);
}

#[test]
fn a_link_that_goes_down_fails_by_name_and_comes_back() {
    let _alone = alone();
    let Some(LinkedDevices { here, there, interface }) = linked_devices() else { return };
    let mut transport = open(&here).unwrap();
    let mut peer = Peer::start(PEER, &there);
    let to = peer.connect(&mut transport).unwrap();
    let word = to.mailbox.at(0);
    assert_eq!(write_word(&mut transport, to.queue_pair, 1, word), CompletionStatus::Success);
    let down = LinkDown::new(&interface);
    let began = Instant::now();
    let status = write_word(&mut transport, to.queue_pair, 2, word);
    report(&format!("link down: {status:?} after {:?}", began.elapsed()));
    assert_eq!(status, CompletionStatus::RetryExceeded);
    assert_eq!(transport.state(to.queue_pair), QueuePairState::Error);
    transport.disconnect(to.queue_pair);
    drop(down);

    let deadline = Instant::now() + side::PATIENCE;
    let to = loop {
        match peer.connect(&mut transport) {
            Ok(to) => break to,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let word = to.mailbox.at(0);
    assert_eq!(write_word(&mut transport, to.queue_pair, 3, word), CompletionStatus::Success);
    assert_eq!(peer.ask("word 0"), ["3"]);
}

struct LinkDown(String);

impl LinkDown {
    fn new(interface: &str) -> Self {
        run("ip", &["link", "set", interface, "down"]);
        Self(interface.to_owned())
    }
}

impl Drop for LinkDown {
    fn drop(&mut self) {
        run("ip", &["link", "set", &self.0, "up"]);
        restore_path();
    }
}

/// Taking an interface down removes its routes; the neighbour and the table come back as the
/// guest's set-up made them.
fn restore_path() {
    let address = std::fs::read_to_string("/sys/class/net/vb/address").unwrap();
    run(
        "ip",
        &[
            "neigh",
            "replace",
            "10.99.0.2",
            "lladdr",
            address.trim(),
            "dev",
            "va",
            "nud",
            "permanent",
        ],
    );
    run(
        "ip",
        &["route", "replace", "10.99.0.2/32", "dev", "va", "src", "10.99.0.1", "table", "101"],
    );
}

struct Netem(String);

impl Netem {
    fn new(interface: &str, fault: &[&str]) -> Self {
        let mut arguments = vec!["qdisc", "add", "dev", interface, "root", "netem"];
        arguments.extend(fault);
        run("tc", &arguments);
        Self(interface.to_owned())
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        run("tc", &["qdisc", "del", "dev", &self.0, "root"]);
    }
}

#[test]
fn lost_packets_are_repeated() {
    survives("2% loss", &["loss", "2%"]);
}

#[test]
fn delayed_packets_are_waited_for() {
    survives("1 ms delay", &["delay", "1ms"]);
}

/// Writes blocks and reads them back while the link misbehaves: everything completes, nothing is
/// altered, and nothing is carried out twice.
fn survives(name: &str, fault: &[&str]) {
    const ROUNDS: u64 = 60;
    const LEN: u32 = 64 << 10;
    let _alone = alone();
    let Some(LinkedDevices { here, there, interface }) = linked_devices() else { return };
    let mut peer = Peer::start(PEER, &there);
    // The default timeout: the short one of other tests would give up on a slow emulated link.
    let mut config = windlass_softroce::config(&here);
    config.timeout = 14;
    let mut transport = windlass_transport::verbs::VerbsTransport::open(config).unwrap();
    let source = region(&mut transport, LEN as usize, Access::LOCAL);
    let sink = region(&mut transport, LEN as usize, Access::LOCAL);
    let to = peer.connect(&mut transport).unwrap();
    let netem = Netem::new(&interface, fault);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        let began = Instant::now();
        let bytes: Vec<u8> = (0..LEN).map(|at| (u64::from(at) * round).to_le_bytes()[0]).collect();
        source.pages.write(0, &bytes);
        let operations = [
            Operation::Write { local: source.slice(0, LEN).into(), remote: to.mailbox.at(64) },
            Operation::FetchAdd { local: sink.slice(0, 8), remote: to.mailbox.at(0), add: 1 },
            Operation::Read { local: sink.slice(0, LEN).into(), remote: to.mailbox.at(64) },
        ];
        let mut batch = Batch::with_capacity(3);
        for operation in operations {
            batch
                .push(SendRequest {
                    work_id: WorkId(round),
                    signaled: true,
                    fenced: false,
                    operation,
                })
                .unwrap();
        }
        transport.post_send(to.queue_pair, &mut batch).unwrap();
        for _ in 0..3 {
            let completion = next_completion(&mut transport, to.queue_pair);
            assert_eq!(completion.status, CompletionStatus::Success, "round {round}");
        }
        let mut read = vec![0; LEN as usize];
        sink.pages.read(0, &mut read);
        assert_eq!(read, bytes, "round {round}");
        slowest = slowest.max(began.elapsed());
    }
    drop(netem);
    let adds = peer.ask("word 0");
    assert_eq!(adds, [ROUNDS.to_string()], "an atomic was repeated or lost");
    report(&format!("{name}: {ROUNDS} rounds in {:?}, slowest {slowest:?}", began.elapsed()));
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    const CYCLES: u32 = 1000;
    let _alone = alone();
    let Some(device) = device() else { return };
    let mut peer = Peer::start(PEER, &device);
    let mut transport = open(&device).unwrap();
    let local = region(&mut transport, 4096, Access::LOCAL);
    let cycle = |transport: &mut VerbsTransport, peer: &mut Peer| {
        let to = peer.connect(transport).unwrap();
        let pages_of_session = region(transport, 1 << 20, Access::READ_WRITE);
        transport.share(to.queue_pair, &pages_of_session).unwrap();
        let parameter = to.parameters.at(0);
        assert_eq!(read_word(transport, to.queue_pair, &local, parameter), Ok(0));
        transport.disconnect(to.queue_pair);
        transport.deregister(&pages_of_session);
        peer.ask(&format!("disconnect {}", to.peer_queue_pair));
    };
    for _ in 0..10 {
        cycle(&mut transport, &mut peer);
    }
    settle(&mut transport, &mut peer);
    let before = Resources::now(&device);
    let began = Instant::now();
    for _ in 0..CYCLES {
        cycle(&mut transport, &mut peer);
    }
    settle(&mut transport, &mut peer);
    let after = Resources::now(&device);
    report(&format!("{CYCLES} connections in {:?}: {before:?} -> {after:?}", began.elapsed()));
    assert_eq!(before, after);
}

/// Waits until both sides have destroyed the queue pairs that were disconnected.
fn settle(transport: &mut VerbsTransport, peer: &mut Peer) {
    side::until_quiet(transport);
    let deadline = Instant::now() + side::PATIENCE;
    while peer.ask("quiet") != ["true"] {
        assert!(Instant::now() < deadline, "the peer's queue pairs are not destroyed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the kernel counts for a device and this process.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    device: String,
    pinned: String,
    descriptors: usize,
}

impl Resources {
    fn now(device: &str) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let pinned = status.lines().find(|line| line.starts_with("VmPin:"));
        Self {
            device: run("rdma", &["resource", "show", device]).trim().to_owned(),
            pinned: pinned.unwrap_or_default().to_owned(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        }
    }
}
