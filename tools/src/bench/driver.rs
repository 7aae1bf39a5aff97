//! Runs operations in slices, each followed by a sample of the limit, and keeps their times.

use std::{
    collections::VecDeque,
    sync::mpsc,
    time::{Duration, Instant},
};

use super::limit::{Limit, LimitError, Quantity};
use crate::report::Latency;

/// An operation that can be started again before the one before has ended.
pub trait Subject {
    /// An operation under way.
    type Pending;
    /// Why it did not work.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Starts one.
    fn start(&mut self) -> Result<Self::Pending, Self::Error>;

    /// Waits until it is acknowledged, or its rows are here.
    fn finish(&mut self, pending: Self::Pending) -> Result<(), Self::Error>;
}

/// How long and how deep to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Operations in flight, from 1.
    pub window: u32,
    /// Slices, from 1.
    pub rounds: u32,
    /// Time of one slice of operations.
    pub slice: Duration,
    /// Time of one sample of the limit.
    pub limit_slice: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From starting an operation to its end, less what reading the clock takes.
    pub latency: Latency,
    /// Operations per second in the median slice.
    pub operations_per_s: f64,
    /// The limits' medians.
    pub limits: Vec<f64>,
}

/// Why a bench stopped.
#[derive(Debug, thiserror::Error)]
pub enum BenchError<E: std::error::Error + 'static> {
    /// An operation failed.
    #[error(transparent)]
    Operation(E),
    /// The limit could not be measured.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// Measures a subject and its limits in turns. `on_round` is called after each.
pub fn measure<S: Subject>(
    subject: &mut S,
    limits: &mut [Limit],
    schedule: Schedule,
    on_round: impl FnMut(),
) -> Result<Measured, BenchError<S::Error>> {
    let clock = clock_cost();
    in_turns(limits, schedule, on_round, |time, latency| {
        slice(subject, schedule.window, time, clock, latency)
    })
}

/// Measures several subjects at once, each made and driven by a thread of its own, and their limits in
/// turns with them: the rates of all together, every operation's time.
pub fn measure_together<S: Subject>(
    count: u32,
    make: impl Fn() -> Result<S, S::Error> + Sync,
    limits: &mut [Limit],
    schedule: Schedule,
    on_round: impl FnMut(),
) -> Result<Measured, BenchError<S::Error>> {
    let clock = clock_cost();
    let (done, results) = mpsc::channel();
    let drive = |slices: mpsc::Receiver<Duration>, done: mpsc::Sender<_>| {
        let mut made = make().map_err(BenchError::Operation);
        for time in slices {
            let mut latency = Latency::new();
            let rate = match &mut made {
                Ok(subject) => slice(subject, schedule.window, time, clock, &mut latency),
                Err(_) => break,
            };
            let failed = rate.is_err();
            if done.send(rate.map(|rate| (rate, latency))).is_err() || failed {
                return;
            }
        }
        if let Err(error) = made {
            let _ = done.send(Err(error));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<mpsc::Sender<Duration>> = (0..count)
            .map(|_| {
                let (begin, slices) = mpsc::channel();
                let (drive, done) = (&drive, done.clone());
                scope.spawn(move || drive(slices, done));
                begin
            })
            .collect();
        drop(done);
        in_turns(limits, schedule, on_round, |time, latency| {
            for thread in &threads {
                // One that has ended has said why.
                let _ = thread.send(time);
            }
            let mut sum = 0.0;
            for result in results.iter().take(threads.len()) {
                let (rate, own) = result?;
                latency.merge(&own);
                sum += rate;
            }
            Ok(sum)
        })
    })
}

/// Warms up, then takes rounds of a slice, which gives operations per second, and a sample of each limit.
fn in_turns<E: std::error::Error>(
    limits: &mut [Limit],
    schedule: Schedule,
    mut on_round: impl FnMut(),
    mut slice: impl FnMut(Duration, &mut Latency) -> Result<f64, BenchError<E>>,
) -> Result<Measured, BenchError<E>> {
    slice(schedule.slice / 4, &mut Latency::new())?;
    let (mut latency, mut rates) = (Latency::new(), Vec::new());
    for _ in 0..schedule.rounds {
        rates.push(slice(schedule.slice, &mut latency)?);
        for limit in &mut *limits {
            limit.sample(schedule.limit_slice)?;
        }
        on_round();
    }
    let limits = limits.iter().map(Limit::median).collect();
    Ok(Measured { latency, operations_per_s: super::limit::median(&rates), limits })
}

/// Warms caches, connections and the credit window up: operations whose times are not kept.
pub fn warm_up<S: Subject>(
    subject: &mut S,
    window: u32,
    time: Duration,
) -> Result<(), BenchError<S::Error>> {
    slice(subject, window, time, Duration::ZERO, &mut Latency::new()).map(drop)
}

impl Measured {
    /// The first limit's median; 0 without one.
    #[must_use]
    pub fn limit(&self) -> f64 {
        self.limits.first().copied().unwrap_or(0.0)
    }

    /// This over the first limit: rate over rate, or median time over the limit's.
    #[must_use]
    pub fn ratio(&self, quantity: Quantity, bytes_per_operation: f64) -> f64 {
        let own = match quantity {
            Quantity::BytesPerSecond => self.operations_per_s * bytes_per_operation,
            Quantity::Micros => self.latency.quantile_us(0.5),
        };
        if self.limit() > 0.0 { own / self.limit() } else { 0.0 }
    }
}

/// Keeps `window` operations in flight for about `time`, and returns operations per second.
#[expect(clippy::cast_precision_loss, reason = "operations of a few seconds")]
fn slice<S: Subject>(
    subject: &mut S,
    window: u32,
    time: Duration,
    clock: Duration,
    latency: &mut Latency,
) -> Result<f64, BenchError<S::Error>> {
    let window = window.max(1) as usize;
    let mut in_flight: VecDeque<(S::Pending, Instant)> = VecDeque::with_capacity(window);
    let begin = Instant::now();
    let mut count = 0_u64;
    loop {
        let now = Instant::now();
        if now - begin >= time && count > 0 {
            break;
        }
        in_flight.push_back((subject.start().map_err(BenchError::Operation)?, now));
        if in_flight.len() == window {
            finish_oldest(subject, &mut in_flight, clock, latency)?;
            count += 1;
        }
    }
    while !in_flight.is_empty() {
        finish_oldest(subject, &mut in_flight, clock, latency)?;
        count += 1;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn finish_oldest<S: Subject>(
    subject: &mut S,
    in_flight: &mut VecDeque<(S::Pending, Instant)>,
    clock: Duration,
    latency: &mut Latency,
) -> Result<(), BenchError<S::Error>> {
    if let Some((pending, started)) = in_flight.pop_front() {
        subject.finish(pending).map_err(BenchError::Operation)?;
        latency.record(started.elapsed().saturating_sub(clock));
    }
    Ok(())
}

/// What reading the clock twice adds to a time: a good part of an operation of some hundred
/// nanoseconds, and nothing that the operation has to answer for.
fn clock_cost() -> Duration {
    let mut costs: Vec<Duration> = (0..CLOCK_READINGS).map(|_| Instant::now().elapsed()).collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// Readings whose median the clock's cost is.
const CLOCK_READINGS: usize = 1001;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::limit::LimitKind;

    /// Counts operations, and how many are in flight at most.
    #[derive(Default)]
    struct Counting {
        started: u64,
        finished: u64,
        in_flight_max: u64,
    }

    impl Subject for Counting {
        type Pending = u64;
        type Error = std::io::Error;

        fn start(&mut self) -> Result<u64, Self::Error> {
            self.started += 1;
            self.in_flight_max = self.in_flight_max.max(self.started - self.finished);
            Ok(self.started)
        }

        fn finish(&mut self, pending: u64) -> Result<(), Self::Error> {
            self.finished += 1;
            assert_eq!(pending, self.finished, "finished in order");
            Ok(())
        }
    }

    #[test]
    fn the_window_is_kept_full_and_never_over() {
        for window in [1, 7] {
            let schedule = Schedule {
                window,
                rounds: 2,
                slice: Duration::from_millis(2),
                limit_slice: Duration::from_millis(1),
            };
            let mut subject = Counting::default();
            let mut limits = [Limit::new(LimitKind::Memcpy, 4096, 4096).unwrap()];
            let mut rounds = 0;
            let measured = measure(&mut subject, &mut limits, schedule, || rounds += 1).unwrap();
            assert_eq!(subject.started, subject.finished);
            assert_eq!(subject.in_flight_max, u64::from(window));
            assert_eq!(rounds, 2);
            assert!(measured.latency.count() > 0 && measured.operations_per_s > 0.0);
            assert!(measured.ratio(Quantity::BytesPerSecond, 8.0) > 0.0);
        }
    }

    #[test]
    fn several_are_driven_at_once_and_one_that_fails_ends_all() {
        let schedule = Schedule {
            window: 2,
            rounds: 3,
            slice: Duration::from_millis(2),
            limit_slice: Duration::from_millis(1),
        };
        let mut rounds = 0;
        let make = || Ok(Counting::default());
        let measured = measure_together(3, make, &mut [], schedule, || rounds += 1).unwrap();
        assert!(measured.latency.count() >= 9 && measured.operations_per_s > 0.0);
        assert_eq!(rounds, 3);
        let made = std::sync::atomic::AtomicU32::new(0);
        let make = || match made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Err(std::io::Error::other("no server")),
            _ => Ok(Counting::default()),
        };
        let failed = measure_together(3, make, &mut [], schedule, || {});
        assert!(matches!(failed, Err(BenchError::Operation(_))));
    }
}
