//! How a client behaves.

use std::time::Duration;

use windlass_transport::{tcp::TcpOptions, verbs::VerbsConfig};
use windlass_wire::{FilterStack, WorkerRank, control::Provider};

use crate::watch::Watch;

/// Options of a connection; the defaults suit one machine and a trusted network.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Access token, for servers that require one.
    pub token: Option<String>,
    /// The worker's rank, if the client is a worker of a training job. It then takes part in the clocks of the
    /// tables that it opens: it may have to wait for other workers, and they for it.
    pub rank: Option<WorkerRank>,
    /// Providers that may be used, in order of preference.
    pub providers: Vec<Provider>,
    /// How long a wait spins before it sleeps.
    pub spin: Duration,
    /// Longest time of a request, and longest wait of a call for a silent server.
    pub timeout: Duration,
    /// How long the client retries requests when servers fail, restart or hand rows over. Then they fail with
    /// [`RequestError::PartitionUnavailable`](crate::RequestError::PartitionUnavailable). It retries a push for at
    /// most half of the cluster's session expiry; then the push fails with
    /// [`RequestError::SessionExpired`](crate::RequestError::SessionExpired). With zero it never retries: such requests
    /// fail at once, and the user must connect a new client.
    pub retry_for: Duration,
    /// Bytes of the client's staging area, which holds values in transit that are not in registered rows.
    pub staging_len: usize,
    /// Settings of the verbs transport. Without them the environment decides.
    pub verbs: VerbsConfig,
    /// Settings of the tcp transport. It binds to the address that the server is reached from.
    pub tcp: TcpOptions,
    /// A waiting call asks this now and then whether to go on.
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
    /// The clock that stamps the pushed rows; `None` stamps the client's own, the number of rounds it has ended.
    /// One more promises that nothing else comes to these rows in this round, so pulls of them need not wait for
    /// the round's end. Pushes to tables in rounds always belong to the client's current round.
    pub clock: Option<windlass_wire::WorkerClock>,
    /// Acknowledge the push only once it is on disk on every replica, whatever the table's durability.
    pub sync: bool,
    /// Start only after this earlier request is done. The call that starts this request waits for it.
    pub after: Option<windlass_wire::Timestamp>,
    /// Filters that make the push's messages smaller, parsed from text such as `key-cache,delta-keys,fixed:2,snappy`. A
    /// message skips a filter that would not make it smaller. Filters of values round them, each push by itself. A
    /// message that is sent again keeps its values.
    pub filters: FilterStack,
}

/// How a pull behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// Start only after this earlier request is done. The call that starts this request waits for it.
    pub after: Option<windlass_wire::Timestamp>,
    /// Whether a row of a dense range may mix values from before and after an update in progress. Each single value
    /// is whole in any case.
    pub relaxed: bool,
    /// Filters for pulls that servers answer, which are those by key. They shrink the keys sent, and the values returned
    /// if the filter has a fixed length per value (`bf16`, `f16`, `fixed:N`). Rows that are read without the server are
    /// not filtered.
    pub filters: FilterStack,
    /// Which replicas are read. With one copy of each row there is no choice.
    pub from: PullFrom,
}

/// Which replica of its rows a pull reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullFrom {
    /// The last of the chain, which holds every acknowledged push. While servers fail, the pull may still read one
    /// that does not know yet that it was replaced.
    #[default]
    Tail,
    /// Any replica, which spreads the load. Each client keeps to one as long as it is reachable. The replica may show
    /// pushes that are not acknowledged yet, and may lose those.
    Any,
    /// The last of the chain, whose processor answers only while no other server can have taken its place. Sees every
    /// push acknowledged before the pull, whatever fails.
    Strong,
}
