//! How a client behaves.

use std::time::Duration;

use windlass_transport::{tcp::TcpOptions, verbs::VerbsConfig};
use windlass_wire::{FilterStack, WorkerRank, control::Provider};

use crate::watch::Watch;

/// Options of a connection; the defaults suit one machine and a trusted network.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What the servers ask for, when they do.
    pub token: Option<String>,
    /// The worker's rank, when the client is a worker of a training job: it then takes part in the
    /// clocks of the tables it opens, and may have to wait, and be waited for.
    pub rank: Option<WorkerRank>,
    /// Providers that may be used, in order of preference.
    pub providers: Vec<Provider>,
    /// How long a wait spins before it sleeps.
    pub spin: Duration,
    /// How long a request may take, and how long a call waits for servers that say nothing.
    pub timeout: Duration,
    /// How long requests are tried again when servers fail, restart or hand rows over, before they
    /// fail with [`RequestError::PartitionUnavailable`](crate::RequestError::PartitionUnavailable).
    /// A push is not tried for longer than half of the cluster's session expiry, and fails with
    /// [`RequestError::SessionExpired`](crate::RequestError::SessionExpired) then.
    /// Zero never tries again: such requests fail at once, and the client has to be made anew.
    pub retry_for: Duration,
    /// Bytes of the client's staging area: values on their way that are not in registered rows.
    pub staging_len: usize,
    /// Settings of the verbs transport: from the environment, unless they are given here.
    pub verbs: VerbsConfig,
    /// Settings of the tcp transport. It binds to the address that the server is reached from.
    pub tcp: TcpOptions,
    /// Asked now and then while a call waits whether to go on.
    pub watch: Option<Watch>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            token: None,
            rank: None,
            providers: Provider::ALL.to_vec(),
            spin: Duration::from_micros(50),
            timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(30),
            staging_len: 64 << 20,
            verbs: VerbsConfig::from_environment(),
            tcp: TcpOptions::LOOPBACK,
            watch: None,
        }
    }
}

/// How a push behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// The clock that the pushed rows are stamped with; the client's own, the rounds it has ended,
    /// when `None`. One more says that nothing else comes to these rows in this round, so that pulls
    /// of them need not wait for the round's end. Pushes to tables in rounds are always of the round
    /// that the client is in.
    pub clock: Option<windlass_wire::WorkerClock>,
    /// Acknowledge only what is on disk on every replica, whatever the table says.
    pub sync: bool,
    /// Start only when this earlier request is done: the call that starts this one waits for that.
    pub after: Option<windlass_wire::Timestamp>,
    /// Filters that make the push's messages smaller, as many of them as do: parsed from text such as
    /// `key-cache,delta-keys,fixed:2,snappy`. Those of values round them, each push by itself; a message that is sent
    /// again has the values it had before.
    pub filters: FilterStack,
}

/// How a pull behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Start only when this earlier request is done: the call that starts this one waits for that.
    pub after: Option<windlass_wire::Timestamp>,
    /// Whether rows of a dense range may mix values from before and after an update that is under
    /// way; each value is whole in any case.
    pub relaxed: bool,
    /// Filters for pulls that servers answer, those by key: they make the keys that are sent smaller, and the
    /// values that come back where each has a length of its own (`bf16`, `f16`, `fixed:N`). Rows that are read
    /// without the server come as they are.
    pub filters: FilterStack,
    /// Which replicas are read. With one copy of each row there is no choice.
    pub from: PullFrom,
}

/// Which replica of its rows a pull reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullFrom {
    /// The last of the chain, where every acknowledged push is. While servers fail, one that does
    /// not know yet that it was replaced may still be read.
    #[default]
    Tail,
    /// Any: spreads the load, and each client keeps to one as long as it is there. It may already
    /// have pushes that are not acknowledged yet, and may lose those.
    Any,
    /// The last of the chain, through its processor, and only while no other can have taken its
    /// place: sees every push acknowledged before it, whatever fails.
    Strong,
}
