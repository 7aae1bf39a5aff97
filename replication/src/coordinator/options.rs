//! Timings of the coordinator and its bounds.

use crate::lateness::LatenessTimings;

/// Timings of the coordinator, in microseconds, and its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorOptions {
    /// A server silent for this long is failed.
    pub heartbeat_timeout_us: u64,
    /// A suspected server that does not answer a probe for this long is failed.
    pub probe_timeout_us: u64,
    /// A server whose control connection broke and that has not come back for this long is failed.
    pub disconnect_timeout_us: u64,
    /// How much later than the timeouts a new leader first fails servers: they have to find it.
    pub election_grace_us: u64,
    /// Servers that hear each other so late, within the window of `answers`, cannot stay in one cluster:
    /// one of them is failed.
    pub late_max_us: u64,
    /// When an answer to a probe is late.
    pub answers: LatenessTimings,
    /// Time between probes of a suspected server.
    pub probe_interval_us: u64,
    /// How long a server that was failed for what was not heard gets no copies, at least, at most, and how
    /// long it has to behave for the next time to be the first again. It is back, and heard well, for the least of
    /// it before it ends.
    pub absence_min_us: u64,
    /// See `absence_min_us`.
    pub absence_max_us: u64,
    /// See `absence_min_us`.
    pub absence_forgotten_us: u64,
    /// Two ticks further apart than this: the coordinator itself stood still, and silence says
    /// nothing.
    pub tick_gap_max_us: u64,
    /// A server that comes back with what its disk holds waits so long for others of its chains that may
    /// hold more; then it goes on with what it has. Less than a server's start waits for its join.
    pub disk_wait_us: u64,
    /// Number of servers that must be up before chains are created.
    pub servers_at_creation: usize,
    /// Copies that one server takes in at a time.
    pub copies_per_server_max: usize,
    /// Whether chains are mended and moved; without, they are only created.
    pub rebalance: bool,
}

/// Lateness below this is no evidence against anybody: the time of a scheduler, not of a network.
pub(super) fn late_min_us(late_max_us: u64) -> u64 {
    late_max_us / 8
}

impl CoordinatorOptions {
    /// See the function of this name.
    pub(super) fn late_min_us(&self) -> u64 {
        late_min_us(self.late_max_us)
    }

    /// A server that waits for others asks again more often than this, or is not heard.
    pub(super) fn rejoin_silence_us(&self) -> u64 {
        self.disk_wait_us / 8 * 3
    }

    /// When heartbeats are late.
    pub(super) fn beats(&self) -> LatenessTimings {
        LatenessTimings { after_us: self.heartbeat_timeout_us / 2, ..self.answers }
    }
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self {
            heartbeat_timeout_us: 500_000,
            probe_timeout_us: 20_000,
            disconnect_timeout_us: 20_000,
            election_grace_us: 0,
            late_max_us: 800_000,
            answers: LatenessTimings { after_us: 200_000, window_us: 3_000_000 },
            probe_interval_us: 100_000,
            absence_min_us: 2_000_000,
            absence_max_us: 60_000_000,
            absence_forgotten_us: 120_000_000,
            tick_gap_max_us: 200_000,
            disk_wait_us: 8_000_000,
            servers_at_creation: 3,
            copies_per_server_max: 4,
            rebalance: true,
        }
    }
}
