//! Which vector instructions a kernel is compiled for.

use std::{fmt, sync::OnceLock};

/// A family of vector instructions. All give the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// What every processor of the architecture has.
    Baseline,
    /// 256-bit vectors and hardware conversions of binary16.
    Avx2,
    /// 512-bit vectors: F, BW, DQ and VL.
    Avx512,
}

impl Path {
    /// Every path, slowest first.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// The fastest path of this processor.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| {
            Self::ALL.into_iter().rfind(|path| path.detect()).unwrap_or(Self::Baseline)
        })
    }

    /// Whether this processor can run the path.
    #[must_use]
    pub fn is_available(self) -> bool {
        self <= Self::best()
    }

    #[cfg(target_arch = "x86_64")]
    fn detect(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
        match self {
            Self::Baseline => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect(self) -> bool {
        self == Self::Baseline
    }

    /// Its name in benchmarks and status pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
