//! Which replica a pull reads, as flags name it.

use windlass_client::PullFrom;

/// Which replica is read, where rows have several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Replica {
    /// The last of the chain: has every acknowledged push.
    #[default]
    Tail,
    /// Any: clients spread over them.
    Any,
    /// The last, asked whether it still is: sees every acknowledged push even while servers fail.
    Strong,
}

impl Replica {
    pub(super) fn pull_from(self) -> PullFrom {
        match self {
            Self::Tail => PullFrom::Tail,
            Self::Any => PullFrom::Any,
            Self::Strong => PullFrom::Strong,
        }
    }
}
