//! The time a cache line takes to another core and back, both sides spinning.

use std::{
    hint::spin_loop,
    io,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{median, pin::Pinned};

/// Round trips timed as one: the clock costs a good part of one.
const ROUNDS_PER_BATCH: u64 = 100;
/// A peer that shares our core answers only when it is scheduled: give way after this many turns.
const SPINS_BEFORE_YIELD: u32 = 10_000;
const END: u64 = u64::MAX;

/// On a line of its own, away from the prefetcher's pair.
#[repr(align(128))]
struct Line(AtomicU64);

/// Microseconds of one round trip between the first and the last of some cores: the median batch
/// over about `time`, so that neither side being descheduled now and then moves it.
#[expect(clippy::cast_precision_loss, reason = "a small constant")]
pub(super) fn round_trip_us(cores: &[usize], time: Duration) -> io::Result<f64> {
    let (Some(&here), Some(&there)) = (cores.first(), cores.last()) else {
        return Err(io::Error::other("there is no core to run on"));
    };
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let _pinned = Pinned::to(there)?;
            let mut expected = 1;
            loop {
                let value = wait_for(&ping.0, expected);
                if value == END {
                    return Ok::<(), io::Error>(());
                }
                pong.0.store(value, Ordering::Release);
                expected = value + 1;
            }
        });
        let measured = Pinned::to(here).map(|_pinned| {
            // The first round trip, unless the peer could not be pinned and has ended.
            let mut round = 1;
            ping.0.store(round, Ordering::Release);
            while pong.0.load(Ordering::Acquire) < round {
                if peer.is_finished() {
                    return 0.0;
                }
                thread::yield_now();
            }
            let mut run = || {
                for _ in 0..ROUNDS_PER_BATCH {
                    round += 1;
                    ping.0.store(round, Ordering::Release);
                    wait_for(&pong.0, round);
                }
            };
            run();
            let start = Instant::now();
            let mut batches = Vec::new();
            while batches.is_empty() || start.elapsed() < time {
                let batch = Instant::now();
                run();
                batches.push(batch.elapsed().as_secs_f64() * 1e6 / ROUNDS_PER_BATCH as f64);
            }
            median(&batches)
        });
        ping.0.store(END, Ordering::Release);
        peer.join().unwrap_or_else(|_| Err(io::Error::other("the peer thread ended early")))?;
        measured
    })
}

/// Spins until the value is `expected` or above.
fn wait_for(value: &AtomicU64, expected: u64) -> u64 {
    let mut spins = 0;
    loop {
        let seen = value.load(Ordering::Acquire);
        if seen >= expected {
            return seen;
        }
        spins += 1;
        if spins % SPINS_BEFORE_YIELD == 0 {
            thread::yield_now();
        } else {
            spin_loop();
        }
    }
}
