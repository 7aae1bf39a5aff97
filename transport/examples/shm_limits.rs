//! Measures the shm provider beside the limits of the machine, in one run: an 8-byte ping-pong
//! beside a raw cross-core round trip, and large writes and reads beside memcpy.
//! `cargo run --release -p windlass-transport --example shm_limits`
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::{
    hint::spin_loop,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use windlass_transport::{
    Access, Batch, Completion, InlineBytes, MemoryRegion, Operation, Pages, QueuePairId,
    QueuePairState, RemoteRegion, Role, SendRequest, Transport, WorkId,
    memory::PagesOptions,
    shm::{Shm, ShmOptions},
};

const ROUND_TRIPS: u64 = 200_000;
const BATCHES: usize = 9;
const LARGE_LEN: u32 = 64 << 20;

/// One side: an instance, its queue pair, its own memory and the peer's.
struct Side {
    shm: Shm,
    queue_pair: QueuePairId,
    own: MemoryRegion,
    peer: RemoteRegion,
    batch: Batch<SendRequest>,
}

/// What the first thread tells the second, and back.
struct Greeting {
    endpoint: windlass_transport::Endpoint,
    region: RemoteRegion,
}

fn pin(core: u32) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core as usize);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn side(
    role: Role,
    to: &std::sync::mpsc::Sender<Greeting>,
    from: &std::sync::mpsc::Receiver<Greeting>,
) -> Side {
    let mut shm = Shm::open(ShmOptions::default()).unwrap();
    let pages = Pages::allocate(LARGE_LEN as usize, PagesOptions::default()).unwrap();
    pages.zero(0, pages.len());
    let own = shm.register(&pages, Access::ALL).unwrap();
    let pending = shm.create_queue_pair().unwrap();
    let region = shm.share(pending.id(), &own).unwrap();
    to.send(Greeting { endpoint: pending.endpoint().clone(), region }).unwrap();
    let greeting = from.recv().unwrap();
    let queue_pair = shm.connect(pending, role, &greeting.endpoint).unwrap();
    while shm.state(queue_pair) != QueuePairState::Ready {
        shm.poll(&mut []);
    }
    Side { shm, queue_pair, own, peer: greeting.region, batch: Batch::with_capacity(4) }
}

impl Side {
    fn post(&mut self, signaled: bool, operation: Operation) {
        self.batch
            .push(SendRequest { work_id: WorkId(1), signaled, fenced: false, operation })
            .unwrap();
        self.shm.post_send(self.queue_pair, &mut self.batch).unwrap();
    }

    fn send_word(&mut self, word: u64) {
        let remote = self.peer.at(0);
        self.post(false, Operation::WriteInline { bytes: InlineBytes::word(word), remote });
    }

    fn await_word(&mut self, word: u64) {
        let mut completions = [Completion::EMPTY; 4];
        while self.own.pages.load_u64(0) != word {
            self.shm.poll(&mut completions);
            spin_loop();
        }
    }
}

fn raw_ping_pong(pages: &Pages, mine: u64, theirs: u64, begins: bool, base: u64) -> Duration {
    let begin = Instant::now();
    for round in base + 1..=base + ROUND_TRIPS {
        if begins {
            pages.store_u64(mine, round);
        }
        while pages.load_u64(theirs) != round {
            spin_loop();
        }
        if !begins {
            pages.store_u64(mine, round);
        }
    }
    begin.elapsed()
}

fn ping_pong(side: &mut Side, begins: bool, base: u64) -> Duration {
    let begin = Instant::now();
    for round in base + 1..=base + ROUND_TRIPS {
        if begins {
            side.send_word(round);
            side.await_word(round);
        } else {
            side.await_word(round);
            side.send_word(round);
        }
    }
    begin.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bandwidth(side: &mut Side) {
    let source = Pages::allocate(LARGE_LEN as usize, PagesOptions::default()).unwrap();
    let copy = Pages::allocate(LARGE_LEN as usize, PagesOptions::default()).unwrap();
    source.zero(0, source.len());
    copy.zero(0, copy.len());
    let local = side.shm.register(&source, Access::LOCAL).unwrap();
    for len in [4096_u32, 65_536, 1 << 20, LARGE_LEN] {
        let repeats = (256 << 20) / len;
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..5 {
            for (kind, rates) in rates.iter_mut().enumerate() {
                let begin = Instant::now();
                for _ in 0..repeats {
                    let slice = local.slice(0, len).into();
                    let remote = side.peer.at(4096 * u64::from(len < LARGE_LEN));
                    match kind {
                        // SAFETY: two mappings of LARGE_LEN bytes of our own.
                        0 => unsafe {
                            std::ptr::copy_nonoverlapping(
                                source.as_ptr(),
                                copy.as_ptr(),
                                len as usize,
                            );
                        },
                        1 => side.post(false, Operation::Write { local: slice, remote }),
                        _ => side.post(false, Operation::Read { local: slice, remote }),
                    }
                }
                let bytes = f64::from(len) * f64::from(repeats);
                rates.push(bytes / begin.elapsed().as_secs_f64() / 1e9);
            }
        }
        let [memcpy, write, read] = rates.map(median);
        println!(
            "{len:>9} bytes: memcpy {memcpy:6.2} GB/s, write {write:6.2} ({:.2}), read {read:6.2} ({:.2})",
            write / memcpy,
            read / memcpy
        );
    }
}

fn main() {
    let raw = Pages::allocate(4096, PagesOptions::default()).unwrap();
    let raw_there = raw.clone();
    let (to_there, from_here) = channel();
    let (to_here, from_there) = channel();
    let there = thread::spawn(move || {
        pin(1);
        let mut side = side(Role::Passive, &to_here, &from_here);
        for batch in 0..BATCHES as u64 {
            raw_there.store_u64(256, batch + 1);
            raw_ping_pong(&raw_there, 128, 64, false, batch * ROUND_TRIPS);
            ping_pong(&mut side, false, batch * ROUND_TRIPS);
        }
        // Keeps its memory until the bandwidth was measured.
        let _ = from_here.recv();
    });
    pin(0);
    let mut here = side(Role::Active, &to_there, &from_there);
    let (mut raws, mut ours) = (Vec::new(), Vec::new());
    for batch in 0..BATCHES as u64 {
        while raw.load_u64(256) != batch + 1 {
            spin_loop();
        }
        let elapsed = raw_ping_pong(&raw, 64, 128, true, batch * ROUND_TRIPS);
        raws.push(elapsed.as_secs_f64() * 1e9 / ROUND_TRIPS as f64);
        let elapsed = ping_pong(&mut here, true, batch * ROUND_TRIPS);
        ours.push(elapsed.as_secs_f64() * 1e9 / ROUND_TRIPS as f64);
    }
    let (raw, ours) = (median(raws), median(ours));
    println!("round trip: raw {raw:.0} ns, shm {ours:.0} ns, ratio {:.2}", ours / raw);
    bandwidth(&mut here);
    drop(to_there);
    there.join().unwrap();
}
