//! Which pulls wait: a pure function of the puller's clock, the table's consistency and the minimum
//! clock the shard publishes. A waiting pull polls that minimum one-sidedly; nothing is queued.

use windlass_wire::WorkerClock;

use windlass_wire::codec::{DecodeError, Reader};

/// How far ahead of the slowest live worker a worker may run. Per table; may change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Bulk synchronous: a pull at clock t sees every push of clocks before t.
    Sequential,
    /// Stale synchronous: a pull at clock t sees every push of clocks before `t - tau`.
    Bounded {
        /// Rounds a worker may be ahead; 0 is `Sequential`.
        tau: u64,
    },
    /// A pull never waits.
    Eventual,
}

impl Consistency {
    /// Bytes of an encoded consistency.
    pub const BYTES: usize = 9;

    /// The least minimum clock with which a pull of a worker at `clock` may be answered; `None` when
    /// any will do. Clocks count from 1, and 0 is "nothing pushed yet".
    #[must_use]
    pub fn minimum_needed(self, clock: WorkerClock) -> Option<WorkerClock> {
        let tau = match self {
            Self::Sequential => 0,
            Self::Bounded { tau } => tau,
            Self::Eventual => return None,
        };
        let needed = clock.0.saturating_sub(tau).saturating_sub(1);
        (needed > 0).then_some(WorkerClock(needed))
    }

    /// Whether a pull of a worker at `clock` waits while the slowest live worker is at `minimum`
    /// (`None`: no worker is live, so there is nobody to wait for).
    #[must_use]
    pub fn must_wait(self, clock: WorkerClock, minimum: Option<WorkerClock>) -> bool {
        match (self.minimum_needed(clock), minimum) {
            (Some(needed), Some(minimum)) => minimum < needed,
            _ => false,
        }
    }

    /// Appends `kind u8 | tau u64`.
    pub fn encode(self, out: &mut Vec<u8>) {
        let (kind, tau) = match self {
            Self::Sequential => (0, 0),
            Self::Bounded { tau } => (1, tau),
            Self::Eventual => (2, 0_u64),
        };
        out.push(kind);
        out.extend_from_slice(&tau.to_le_bytes());
    }

    /// Reads a consistency from exactly [`Consistency::BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (kind, tau) = (reader.read::<u8>()?, reader.read::<u64>()?);
        reader.finish()?;
        match (kind, tau) {
            (0, 0) => Ok(Self::Sequential),
            (1, tau) => Ok(Self::Bounded { tau }),
            (2, 0) => Ok(Self::Eventual),
            _ => Err(DecodeError::Malformed { field: "a consistency", value: u64::from(kind) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_delay_as_in_the_paper() {
        let wait = |consistency: Consistency, clock, minimum| {
            consistency.must_wait(WorkerClock(clock), Some(WorkerClock(minimum)))
        };
        for clock in 0..30 {
            for minimum in 0..30 {
                for tau in 0..20 {
                    // t - tau - 1 <= minimum, without the wrap.
                    let may = clock <= minimum + tau + 1;
                    assert_eq!(wait(Consistency::Bounded { tau }, clock, minimum), !may);
                }
                assert_eq!(
                    wait(Consistency::Sequential, clock, minimum),
                    wait(Consistency::Bounded { tau: 0 }, clock, minimum)
                );
                assert!(!wait(Consistency::Eventual, clock, minimum));
            }
        }
        assert!(!Consistency::Sequential.must_wait(WorkerClock(9), None), "nobody to wait for");
        assert!(!wait(Consistency::Bounded { tau: u64::MAX }, u64::MAX, 0));
    }

    #[test]
    fn bytes_round_trip() {
        for consistency in
            [Consistency::Sequential, Consistency::Bounded { tau: 16 }, Consistency::Eventual]
        {
            let mut bytes = Vec::new();
            consistency.encode(&mut bytes);
            assert_eq!(Consistency::decode(&bytes), Ok(consistency));
        }
        Consistency::decode(&[7; 9]).unwrap_err();
        Consistency::decode(&[0; 8]).unwrap_err();
    }
}
