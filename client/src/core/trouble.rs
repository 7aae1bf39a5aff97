//! Why messages cannot be sent now, and how far recovery has come.

use std::time::{Duration, Instant};

use windlass_wire::ClusterMap;

use super::backoff::Backoff;

/// Trouble that comes back so soon is the same one.
const CALM: Duration = Duration::from_millis(100);

/// What keeps messages from being sent.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) phase: Phase,
    pub(super) backoff: Backoff,
    pub(super) attempts: usize,
    /// When it was over, as far as could be told.
    pub(super) over: Option<Instant>,
}

/// What keeps messages from being sent, and how the client gets over it.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) trouble: Option<Trouble>,
    /// While messages sent under the last map are being settled, nothing new is sent.
    pub(super) settling: bool,
    /// How long requests are retried.
    retry_for: Duration,
    /// Spreads retries.
    pub(super) random: u64,
}

/// What is done about trouble, step by step.
#[derive(Debug)]
pub(super) enum Phase {
    /// The map is to be learned, when it is time.
    Learn,
    /// This map is to be installed once everything in flight is settled. Who does not answer may be
    /// dead, so others are asked meanwhile, so often, whether there is a newer one.
    Settle { map: ClusterMap, since: Instant, asked: u32 },
    /// What was kept is being sent.
    Resend,
}

impl Trouble {
    fn new(now: Instant) -> Self {
        Self { phase: Phase::Learn, backoff: Backoff::new(now), attempts: 0, over: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }
}

impl Recovery {
    pub(super) fn new(retry_for: Duration, random: u64) -> Self {
        Self { trouble: None, settling: false, retry_for, random }
    }

    /// Whether something keeps messages from being sent.
    #[inline]
    pub(super) fn in_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| !trouble.is_over())
    }

    /// Whether what fails is tried again.
    pub(super) fn retries(&self) -> bool {
        !self.retry_for.is_zero()
    }

    /// Something has to be sent again, or a server is gone.
    pub(super) fn start_trouble(&mut self) {
        if self.retry_for.is_zero() || self.in_trouble() {
            return;
        }
        let now = Instant::now();
        let recent = self
            .trouble
            .take()
            .filter(|trouble| trouble.over.is_some_and(|over| now.duration_since(over) < CALM));
        self.trouble = Some(match recent {
            Some(trouble) => Trouble { over: None, phase: Phase::Learn, ..trouble },
            None => Trouble::new(now),
        });
    }

    /// A number to spread retries by.
    pub(super) fn random(&mut self) -> u64 {
        self.random = windlass_wire::map::mix(self.random);
        self.random
    }
}
