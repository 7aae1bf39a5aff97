//! How close the tcp provider comes to what plain sockets do on this machine: round trips of eight
//! bytes, and streams of large writes and reads, beside a raw socket's in the same run.
//!
//! `cargo run --release -p windlass-transport --example tcp_limits`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool to run by hand")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, Endpoint, InlineBytes, MemoryRegion, Operation,
    Pages, QueuePairId, QueuePairState, RemoteRegion, Role, SendRequest, Transport, WorkId,
    memory::PagesOptions,
    tcp::{Tcp, TcpOptions},
};

const ROUND_TRIPS: usize = 20_000;
const STREAM_LEN: u32 = 4 << 20;
const STREAM_TIME: Duration = Duration::from_millis(500);
const ROUNDS: usize = 3;

struct Side {
    tcp: Tcp,
    queue_pair: QueuePairId,
    region: MemoryRegion,
    remote: RemoteRegion,
}

impl Side {
    fn post(&mut self, requests: &[SendRequest]) {
        let mut batch = Batch::with_capacity(requests.len());
        for request in requests {
            batch.push(*request).unwrap();
        }
        self.tcp.post_send(self.queue_pair, &mut batch).unwrap();
    }

    fn poll(&mut self) -> usize {
        let mut completions = [Completion::EMPTY; 16];
        let count = self.tcp.poll(&mut completions);
        for completion in &completions[..count] {
            assert_eq!(completion.status, CompletionStatus::Success);
        }
        count
    }
}

type Ends = (Sender<(Endpoint, Option<RemoteRegion>)>, Receiver<(Endpoint, Option<RemoteRegion>)>);

fn open(role: Role, (to_peer, from_peer): Ends) -> Side {
    let mut tcp = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    let pages = Pages::allocate(2 * STREAM_LEN as usize, PagesOptions::default()).unwrap();
    pages.write(0, &vec![1; pages.len()]);
    let region = tcp.register(&pages, Access::ALL).unwrap();
    pages.zero(0, 4096);
    let pending = tcp.create_queue_pair().unwrap();
    let endpoint = pending.endpoint().clone();
    let shared = tcp.share(pending.id(), &region).unwrap();
    to_peer.send((endpoint, Some(shared))).unwrap();
    let (remote_endpoint, remote) = from_peer.recv().unwrap();
    let queue_pair = tcp.connect(pending, role, &remote_endpoint).unwrap();
    while tcp.state(queue_pair) != QueuePairState::Ready {
        tcp.poll(&mut [Completion::EMPTY]);
    }
    Side { tcp, queue_pair, region, remote: remote.unwrap() }
}

fn pair<T: Send + 'static>(
    active: impl FnOnce(Side) -> T,
    passive: impl FnOnce(Side) + Send + 'static,
) -> T {
    let (to_passive, from_active) = channel();
    let (to_active, from_passive) = channel();
    let peer = thread::spawn(move || passive(open(Role::Passive, (to_active, from_active))));
    let result = active(open(Role::Active, (to_passive, from_passive)));
    peer.join().unwrap();
    result
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn word(side: &Side, word: u64, offset: u64, signaled: bool) -> SendRequest {
    let operation =
        Operation::WriteInline { bytes: InlineBytes::word(word), remote: side.remote.at(offset) };
    SendRequest { work_id: WorkId(word), signaled, fenced: false, operation }
}

/// Round trips of a word each way; every 64th is signaled. With a payload, the push is two writes.
fn write_round_trip(payload_len: u32, signal_every: u64) -> Duration {
    pair(
        move |mut side| {
            let mut samples = Vec::with_capacity(ROUND_TRIPS);
            for round in 1..=ROUND_TRIPS as u64 {
                let started = Instant::now();
                let commit = word(&side, round, 0, round.is_multiple_of(signal_every));
                if payload_len > 0 {
                    let local = side.region.slice(4096, payload_len).into();
                    let operation = Operation::Write { local, remote: side.remote.at(4096) };
                    let payload = SendRequest {
                        work_id: WorkId(0),
                        signaled: false,
                        fenced: false,
                        operation,
                    };
                    side.post(&[payload, commit]);
                } else {
                    side.post(&[commit]);
                }
                while side.region.pages.load_u64(0) != round {
                    side.poll();
                }
                samples.push(started.elapsed());
            }
            median(samples)
        },
        move |mut side| {
            for round in 1..=ROUND_TRIPS as u64 {
                while side.region.pages.load_u64(0) != round {
                    side.poll();
                }
                side.post(&[word(&side, round, 0, round.is_multiple_of(signal_every))]);
            }
            let until = Instant::now() + Duration::from_millis(5);
            while Instant::now() < until {
                // The other side may have gone: how the last requests end is of no interest.
                side.tcp.poll(&mut [Completion::EMPTY; 16]);
            }
        },
    )
}

/// Latency of one signaled write to its completion.
fn completion_round_trip() -> Duration {
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    pair(
        move |mut side| {
            let mut samples = Vec::with_capacity(ROUND_TRIPS);
            for round in 1..=ROUND_TRIPS as u64 {
                let started = Instant::now();
                side.post(&[word(&side, round, 0, true)]);
                while side.poll() == 0 {}
                samples.push(started.elapsed());
            }
            done.store(true, Ordering::Release);
            median(samples)
        },
        move |mut side| {
            while !over.load(Ordering::Acquire) {
                side.poll();
            }
        },
    )
}

/// Bytes per second of requests with a window of `window` in flight, refilled half by half.
fn stream(write: bool, len: u32, window: usize) -> f64 {
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    pair(
        move |mut side| {
            let (mut in_flight, mut bytes) = (0, 0_u64);
            let started = Instant::now();
            while started.elapsed() < STREAM_TIME || in_flight > 0 {
                if in_flight <= window / 2 && started.elapsed() < STREAM_TIME {
                    let local = side.region.slice(0, len).into();
                    let remote = side.remote.at(0);
                    let operation = if write {
                        Operation::Write { local, remote }
                    } else {
                        Operation::Read { local, remote }
                    };
                    let request = SendRequest {
                        work_id: WorkId(1),
                        signaled: true,
                        fenced: false,
                        operation,
                    };
                    side.post(&vec![request; window - in_flight]);
                    in_flight = window;
                }
                let count = side.poll();
                in_flight -= count;
                bytes += count as u64 * u64::from(len);
            }
            let rate = bytes as f64 / started.elapsed().as_secs_f64();
            done.store(true, Ordering::Release);
            rate
        },
        move |mut side| {
            while !over.load(Ordering::Acquire) {
                side.poll();
            }
        },
    )
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (two, _) = listener.accept().unwrap();
    for socket in [&one, &two] {
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
    }
    (one, two)
}

fn spin<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn raw_round_trip() -> Duration {
    let (mut one, mut two) = sockets();
    let peer = thread::spawn(move || {
        let mut bytes = [0; 8];
        for _ in 0..ROUND_TRIPS {
            assert_eq!(spin(|| two.read(&mut bytes)), 8);
            assert_eq!(spin(|| two.write(&bytes)), 8);
        }
    });
    let mut samples = Vec::with_capacity(ROUND_TRIPS);
    let mut bytes = [0; 8];
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        assert_eq!(spin(|| one.write(&bytes)), 8);
        assert_eq!(spin(|| one.read(&mut bytes)), 8);
        samples.push(started.elapsed());
    }
    peer.join().unwrap();
    median(samples)
}

/// One buffer of 128 KiB on each side, as iperf3 has.
fn raw_stream() -> f64 {
    let (mut one, mut two) = sockets();
    one.set_nonblocking(false).unwrap();
    two.set_nonblocking(false).unwrap();
    let peer = thread::spawn(move || {
        let (mut bytes, mut count) = (vec![0; 128 << 10], 0_u64);
        while let Ok(received) = two.read(&mut bytes) {
            if received == 0 {
                break;
            }
            count += received as u64;
        }
        count
    });
    let bytes = vec![1; 128 << 10];
    let started = Instant::now();
    while started.elapsed() < STREAM_TIME {
        one.write_all(&bytes).unwrap();
    }
    drop(one);
    peer.join().unwrap() as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    for round in 0..ROUNDS {
        println!("round {round}");
        if only != "stream" {
            let raw = micros(raw_round_trip());
            for (name, time) in [
                ("8 B write ping-pong", write_round_trip(0, 64)),
                ("8 B, all signaled", write_round_trip(0, 1)),
                ("256 B + word push", write_round_trip(256, 64)),
                ("256 B + word, signaled", write_round_trip(256, 1)),
                ("4 KiB + word push", write_round_trip(4096, 64)),
                ("signaled write to completion", completion_round_trip()),
            ] {
                let time = micros(time);
                println!("  {name}: p50 {time:.2} us, raw {raw:.2} us, ratio {:.2}", time / raw);
            }
        }
        if only != "latency" {
            let raw = raw_stream() / 1e9;
            println!("  raw stream: {raw:.2} GB/s");
            for (len, window) in [
                (STREAM_LEN, 4),
                (STREAM_LEN, 1),
                (256 << 10, 16),
                (16 << 10, 64),
                (2 << 10, 128),
                (512, 200),
            ] {
                let write = stream(true, len, window) / 1e9;
                let read = stream(false, len, window) / 1e9;
                println!(
                    "  {len} B, window {window}: write {write:.2} GB/s ({:.2}), read {read:.2} GB/s ({:.2})",
                    write / raw,
                    read / raw
                );
            }
        }
    }
}
