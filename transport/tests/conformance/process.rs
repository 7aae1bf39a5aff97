//! Two processes, one of which is killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use windlass_transport::{
    Access, Batch, CompletionStatus, Endpoint, QueuePairState, RemoteKey, RemoteRegion, Role,
    Transport,
};

use super::harness::{Fixture, Note, Side, signaled, write_word};

/// Says to the test binary that it is the child.
const CHILD_VARIABLE: &str = "WINDLASS_CONFORMANCE_CHILD";

fn to_line(note: &Note) -> String {
    match note {
        Note::Endpoint(endpoint) => {
            let hex: String = endpoint.0.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("@E {hex}")
        }
        Note::Region(region) => format!("@R {} {} {}", region.key.0, region.address, region.len),
        Note::Word(word) => format!("@W {word}"),
    }
}

fn from_line(line: &str) -> Option<Note> {
    // The test runner prints before us in the same line.
    let (_, line) = line.split_once('@')?;
    let mut words = line.split_whitespace();
    match words.next()? {
        "E" => {
            let hex = words.next()?;
            let bytes = (0..hex.len() / 2)
                .map(|position| u8::from_str_radix(&hex[position * 2..position * 2 + 2], 16))
                .collect::<Result<_, _>>();
            Some(Note::Endpoint(Endpoint(bytes.ok()?)))
        }
        "R" => {
            let mut number = || words.next()?.parse::<u64>().ok();
            let key = RemoteKey(u32::try_from(number()?).ok()?);
            Some(Note::Region(RemoteRegion { key, address: number()?, len: number()? }))
        }
        "W" => Some(Note::Word(words.next()?.parse().ok()?)),
        _ => None,
    }
}

/// A channel whose other end is another process.
fn over_pipes(
    mut to: impl Write + Send + 'static,
    from: impl std::io::Read + Send + 'static,
) -> (Sender<Note>, Receiver<Note>) {
    let (sender, outgoing) = channel::<Note>();
    let (incoming, receiver) = channel();
    thread::spawn(move || {
        for note in outgoing {
            if writeln!(to, "{}", to_line(&note)).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if from_line(&line).is_some_and(|note| incoming.send(note).is_err()) {
                return;
            }
        }
    });
    (sender, receiver)
}

/// A child that connects so many queue pairs, and the ways to it and from it.
fn child(provider: &str, queue_pairs: usize) -> (Child, Sender<Note>, Receiver<Note>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{provider}::the_child_of_a_death"), "--nocapture"])
        .env(CHILD_VARIABLE, queue_pairs.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (to, from) = over_pipes(child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, to, from)
}

/// Does nothing unless it is the child: then it connects, shares memory and waits to be killed.
pub fn the_child_of_a_death<F: Fixture>() {
    let Ok(queue_pairs) = std::env::var(CHILD_VARIABLE) else { return };
    let (to_peer, from_peer) = over_pipes(std::io::stdout(), std::io::stdin());
    let mut side = Side::new(F::open().unwrap(), Role::Active, to_peer, from_peer);
    for _ in 0..queue_pairs.parse().unwrap() {
        let queue_pair = side.connect();
        let target = side.region(4096, Access::READ_WRITE);
        side.share(queue_pair, &target);
    }
    // Ends by the parent's kill, or by its patience when the parent has gone.
    let _ = side.hear();
}

/// A killed process ends its queue pairs at the peer, which goes on working with others.
pub fn a_killed_process_ends_its_queue_pairs<F: Fixture>() {
    let transport = F::open().unwrap();
    let provider = transport.capabilities().provider;
    let (mut first, to_first, from_first) = child(provider, 1);
    let (mut second, to_second, from_second) = child(provider, 1);
    let mut side = Side::new(transport, Role::Passive, to_first, from_first);
    let doomed = side.connect();
    let doomed_region = side.hear_region();
    let first_channel = side.rewire(to_second, from_second);
    let survivor = side.connect();
    let survivor_region = side.hear_region();
    side.carry_out(doomed, write_word(1, doomed_region.at(0)));
    first.kill().unwrap();
    first.wait().unwrap();
    side.until_dead(doomed, doomed_region.at(0));
    side.carry_out(survivor, write_word(2, survivor_region.at(0)));
    side.transport.disconnect(doomed);
    side.carry_out(survivor, write_word(3, survivor_region.at(0)));
    second.kill().unwrap();
    second.wait().unwrap();
    drop(first_channel);
    side.until_dead(survivor, survivor_region.at(0));
}

/// What a thread has done so far, whatever others do on its core meanwhile.
struct Effort {
    /// How often it gave up its core to wait for something.
    slept: u64,
    /// Time on a core.
    worked: Duration,
}

impl Effort {
    fn of_this_thread() -> Self {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let slept = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let worked = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self {
            slept: slept.unwrap().trim().parse().unwrap(),
            worked: Duration::try_from(worked).unwrap(),
        }
    }
}

/// Nobody waits for a peer that does not answer: not to disconnect from it, and not to work with others
/// meanwhile. What was on its way to it completes as flushed.
pub fn disconnecting_waits_for_nobody<F: Fixture>() {
    const DOOMED: usize = 20;
    let transport = F::open().unwrap();
    let provider = transport.capabilities().provider;
    let (mut first, to_first, from_first) = child(provider, DOOMED);
    let (mut second, to_second, from_second) = child(provider, 1);
    let mut side = Side::new(transport, Role::Passive, to_first, from_first);
    let doomed: Vec<_> = (0..DOOMED).map(|_| (side.connect(), side.hear_region())).collect();
    let first_channel = side.rewire(to_second, from_second);
    let survivor = side.connect();
    let survivor_region = side.hear_region();
    first.kill().unwrap();
    first.wait().unwrap();
    let mut pending = 0;
    let before = Effort::of_this_thread();
    for (queue_pair, region) in doomed {
        let mut batch = Batch::with_capacity(1);
        batch.push(signaled(1, write_word(1, region.at(0)))).unwrap();
        pending += usize::from(side.transport.post_send(queue_pair, &mut batch).is_ok());
        side.transport.disconnect(queue_pair);
        assert_eq!(side.transport.state(queue_pair), QueuePairState::Error);
    }
    let after = Effort::of_this_thread();
    let slept = after.slept - before.slept;
    assert!(
        slept < DOOMED as u64,
        "{DOOMED} were disconnected from, and the thread slept {slept} times"
    );
    let worked = (after.worked - before.worked) / u32::try_from(DOOMED).unwrap();
    assert!(worked < Duration::from_millis(20), "to disconnect took {worked:?} of a core each");
    side.post(survivor, 2, write_word(2, survivor_region.at(0)));
    side.until("the survivor's and all that was pending completes", |side| {
        side.unread() == pending + 1
    });
    for _ in 0..=pending {
        let completion = side.completion();
        let succeeded = completion.status == CompletionStatus::Success;
        assert!(succeeded || completion.queue_pair != survivor, "{completion:?}");
    }
    side.until("peers are quiet", |side| side.transport.is_quiet());
    side.carry_out(survivor, write_word(3, survivor_region.at(0)));
    second.kill().unwrap();
    second.wait().unwrap();
    drop(first_channel);
}
