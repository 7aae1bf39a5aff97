//! What the machine itself can do, measured in slices between the slices of a bench: a figure taken
//! minutes apart from what it is compared with says little on a shared machine.

mod cross_core;
mod fio;
mod memory;
mod perftest;
mod pin;
mod positions;
mod tcp;

use std::{io, path::Path, time::Duration};

pub use perftest::PerftestProgram;
pub use pin::{Pinned, allowed_cores};
pub use positions::AtPositions;

/// A limit that a bench is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Copying the same bytes from memory to memory, one thread.
    Memcpy,
    /// Adding the same bytes, as f32, onto as many others in memory, one thread.
    Add,
    /// Both of the above one after the other.
    AddThenMemcpy,
    /// One cache line there and back between two spinning cores.
    CrossCore,
    /// Eight bytes there and back over loopback TCP, both ends blocking in read.
    TcpBlocking,
    /// The same with both ends spinning on non-blocking sockets.
    TcpSpinning,
    /// The same bytes in one direction of one loopback TCP connection.
    TcpStream,
    /// What perftest measures between two processes on the RDMA device.
    Perftest(PerftestProgram),
    /// Sequential writes of fio, each synced, to the directory of a log.
    Fio,
    /// Where the limit would be [`LimitKind::Fio`], but fio is not installed.
    NoFio,
    /// The same rows at known positions of this process's memory, one thread.
    BarePositions(AtPositions),
}

/// What a limit is a limit of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Bytes per second.
    BytesPerSecond,
    /// Microseconds.
    Micros,
}

/// Why a limit could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure the limit {name}: check that two cores and the loopback network are there")]
pub struct LimitError {
    name: &'static str,
    source: io::Error,
}

/// Repeated measurements of one limit.
#[derive(Debug)]
pub struct Limit {
    kind: LimitKind,
    probe: Probe,
    samples: Vec<f64>,
}

#[derive(Debug)]
enum Probe {
    Memcpy(memory::Copy),
    Add(memory::Add),
    AddThenMemcpy(memory::Add, memory::Copy),
    /// The two cores to measure on. The measuring thread may be pinned to one of them meanwhile.
    CrossCore(Vec<usize>),
    Blocking(tcp::PingPong),
    /// With the peer on this core. Nothing else is kept: a spinning peer between two samples would
    /// take a core from the bench.
    Spinning(Option<usize>),
    Stream(tcp::Stream),
    Perftest(perftest::Perftest),
    Fio(fio::Fio),
    Positions(positions::Positions),
    None,
}

impl LimitKind {
    /// Whether perftest is installed on this host.
    #[must_use]
    pub fn has_perftest() -> bool {
        perftest::Perftest::is_installed()
    }

    /// The name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memcpy => "memcpy",
            Self::Add => "p += g",
            Self::AddThenMemcpy => "p += g, then memcpy",
            Self::CrossCore => "cross-core round trip",
            Self::TcpBlocking => "TCP ping-pong, blocking",
            Self::TcpSpinning => "TCP ping-pong, spinning",
            Self::TcpStream => "TCP stream",
            Self::Perftest(PerftestProgram::WriteLatency) => "2 x ib_write_lat",
            Self::Perftest(program) => program.name(),
            Self::Fio => "fio, O_DIRECT and fdatasync",
            Self::NoFio => "none: fio is not installed",
            Self::BarePositions(_) => "bare positions",
        }
    }

    /// What it limits.
    #[must_use]
    pub fn quantity(self) -> Quantity {
        match self {
            Self::Memcpy | Self::Add | Self::AddThenMemcpy | Self::TcpStream => {
                Quantity::BytesPerSecond
            }
            Self::CrossCore | Self::TcpBlocking | Self::TcpSpinning => Quantity::Micros,
            Self::Perftest(program) if program.is_latency() => Quantity::Micros,
            Self::Perftest(_) | Self::Fio | Self::NoFio | Self::BarePositions(_) => {
                Quantity::BytesPerSecond
            }
        }
    }
}

impl Limit {
    /// Prepares to measure `kind`, on the cores of this thread, for operations that move `bytes`
    /// bytes out of `working_set_bytes`.
    pub fn new(
        kind: LimitKind,
        bytes: usize,
        working_set_bytes: usize,
    ) -> Result<Self, LimitError> {
        let failed = |source| LimitError { name: kind.name(), source };
        let cores = allowed_cores().map_err(failed)?;
        let far = cores.last().copied();
        let probe = match kind {
            LimitKind::Memcpy => Probe::Memcpy(memory::Copy::new(bytes, working_set_bytes)),
            LimitKind::Add => Probe::Add(memory::Add::new(bytes, working_set_bytes)),
            LimitKind::AddThenMemcpy => Probe::AddThenMemcpy(
                memory::Add::new(bytes, working_set_bytes),
                memory::Copy::new(bytes, working_set_bytes),
            ),
            LimitKind::CrossCore => Probe::CrossCore(cores),
            LimitKind::TcpBlocking => {
                Probe::Blocking(tcp::PingPong::start(tcp::Waiting::Blocking, far).map_err(failed)?)
            }
            LimitKind::TcpSpinning => Probe::Spinning(far),
            LimitKind::Perftest(program) => {
                Probe::Perftest(perftest::Perftest::new(program, bytes))
            }
            LimitKind::TcpStream => Probe::Stream(tcp::Stream::start(bytes, far).map_err(failed)?),
            // Of a directory: see `of_disk`; of given rows: see `of_rows`.
            LimitKind::Fio | LimitKind::NoFio | LimitKind::BarePositions(_) => Probe::None,
        };
        Ok(Self { kind, probe, samples: Vec::new() })
    }

    /// Prepares to measure synced writes of blocks of `bytes` bytes to a directory, from the last of this
    /// thread's cores, which is the server's; measures nothing, and says so by its kind, where fio is not
    /// installed.
    #[must_use]
    pub fn of_disk(directory: &Path, bytes: usize) -> Self {
        let (kind, probe) = if fio::Fio::is_installed() {
            let core = allowed_cores().ok().and_then(|cores| cores.last().copied());
            (LimitKind::Fio, Probe::Fio(fio::Fio::new(directory, bytes, core)))
        } else {
            (LimitKind::NoFio, Probe::None)
        };
        Self { kind, probe, samples: Vec::new() }
    }

    /// Prepares to touch rows of `width` values of 4 bytes, of `rows` of them, at the positions that each of
    /// `lists` names, list after list.
    #[must_use]
    pub fn of_rows(what: AtPositions, rows: usize, width: usize, lists: Vec<Vec<u64>>) -> Self {
        let probe = Probe::Positions(positions::Positions::new(what, rows, width, lists));
        Self { kind: LimitKind::BarePositions(what), probe, samples: Vec::new() }
    }

    /// Measures once, for about `time`.
    pub fn sample(&mut self, time: Duration) -> Result<(), LimitError> {
        let name = self.kind.name();
        let failed = |source| LimitError { name, source };
        let sample = match &mut self.probe {
            Probe::Memcpy(copy) => copy.rate(time),
            Probe::Add(add) => add.rate(time),
            Probe::AddThenMemcpy(add, copy) => {
                let (add, copy) = (add.rate(time / 2), copy.rate(time / 2));
                // Twice the bytes in the sum of both times.
                2.0 / (1.0 / add + 1.0 / copy)
            }
            Probe::CrossCore(cores) => cross_core::round_trip_us(cores, time).map_err(failed)?,
            Probe::Blocking(ping_pong) => ping_pong.round_trip_us(time).map_err(failed)?,
            Probe::Spinning(core) => tcp::PingPong::start(tcp::Waiting::Spinning, *core)
                .and_then(|mut ping_pong| ping_pong.round_trip_us(time))
                .map_err(failed)?,
            Probe::Perftest(perftest) => perftest.run().map_err(failed)?,
            Probe::Stream(stream) => stream.rate(time).map_err(failed)?,
            Probe::Fio(fio) => fio.rate(time).map_err(failed)?,
            Probe::Positions(positions) => positions.rate(time),
            Probe::None => 0.0,
        };
        self.samples.push(sample);
        Ok(())
    }

    /// Which limit it is.
    #[must_use]
    pub fn kind(&self) -> LimitKind {
        self.kind
    }

    /// The median of the samples: bytes per second or microseconds; 0 before the first sample.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }
}

/// The middle value, or the mean of the middle two; 0 of nothing.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_measures_something() {
        for kind in [
            LimitKind::Memcpy,
            LimitKind::Add,
            LimitKind::AddThenMemcpy,
            LimitKind::CrossCore,
            LimitKind::TcpBlocking,
            LimitKind::TcpSpinning,
            LimitKind::TcpStream,
        ] {
            let mut limit = Limit::new(kind, 100_000, 1 << 20).unwrap();
            assert_eq!(limit.median(), 0.0);
            for _ in 0..2 {
                limit.sample(Duration::from_millis(1)).unwrap();
            }
            assert!(limit.median() > 0.0 && limit.median().is_finite(), "{kind:?}");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }
}
