//! Time as an argument. The caller reads its clock; nothing in this crate does.

use std::fmt;

/// A moment on one machine's monotonic clock, in microseconds since an origin of its own. Moments of
/// two machines are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Time(pub u64);

impl Time {
    /// Later than every moment.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `micros` microseconds later.
    #[must_use]
    pub fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this moment; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}us", self.0)
    }
}
