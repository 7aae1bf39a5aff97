//! What is simulated, and the deliberate faults that prove the checks can see.

/// A deliberate fault in the code around the state machines; each must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The head acknowledges what it has only appended.
    AcknowledgeBeforeTail,
    /// A retry is applied again.
    SkipDuplicates,
    /// A new chain does not wait for the removed tail's lease.
    SkipHold,
    /// A learner reports itself caught up before it has copied.
    PromoteEarly,
    /// The head does not notice that a push before this one is missing.
    SkipGaps,
    /// The session table is left out of a block copy.
    CopyWithoutSessions,
    /// Records kept during a copy are applied to blocks that already include them.
    CopyAppliesTwice,
    /// A stopped or removed tail is trusted for ever.
    TrustStoppedTail,
    /// A restarted server goes on in its old life.
    ReuseIncarnation,
    /// One replica rounds differently.
    DivergentApply,
    /// Clients send pushes again however old they are.
    RetryForEver,
    /// Heads forget sessions that are connected.
    ExpireConnected,
    /// Replicas below the head forget nobody.
    ExpireAtHeadOnly,
    /// Heads never retire workers that are gone.
    WaitForTheDead,
    /// The record that closes a round does not say whose pushes it sums.
    RoundForgetsWho,
    /// Heads do not hear that workers wait.
    NeverIdle,
    /// The coordinator fails whoever one server accuses for long enough.
    BelieveAccusers,
    /// The store takes any map, whichever it holds.
    OverwriteStore,
    /// A server that has read its disk again says that it holds all.
    DiskIsWhole,
    /// A server does not notice that its clock stood still.
    TrustFrozenClock,
    /// A server takes pushes behind one that it has refused.
    ForgetRefusal,
    /// A coordinator leads on though it cannot renew its lead.
    LeadWithoutStore,
    /// A server stops installing a map at the first partition that it has no memory for.
    InstallHalfWay,
    /// Silence retires workers though servers are not heard, or the coordinator stood still.
    RetireThroughStalls,
    /// A head gives up a worker that is connected to it, since the coordinator says that it is gone.
    GiveUpConnected,
    /// A worker that was retired stays so, though it is heard again.
    ForgetForEver,
    /// Pushes to synchronous tables are acknowledged before they are on disk.
    ForgetSync,
    /// A server that starts again goes on from its disk where others went on without it.
    ResumeAnyway,
    /// What a disk brings back is at the position of those that lost nothing.
    TrustRecovered,
    /// A server that comes back with nothing, in the map that fails the other member, leaves the partition lost.
    LoseWithJoiner,
    /// All three of it at once, seen by what workers read alone.
    GiveUpSilent,
    /// A client sends by a new map before what it sent by the old one is answered.
    SettleNothing,
}

/// What clients do with the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They push, one thing after the other, and read.
    #[default]
    Pushes,
    /// They push now and then, go away for long, stand still between looking at the time and sending,
    /// and have clocks of very different speed; sessions expire.
    Sessions,
    /// They are workers of tables in rounds, of all or of two workers; they die and join again, and wait
    /// for what they have pushed two clocks before.
    Rounds,
    /// They are workers as in `Rounds`, given up by the coordinator's registry, while coordinators hear nobody
    /// for a while, stand still, or are replaced.
    Workers,
    /// They push and read as in `Pushes`, while networks fail by half: of a host or of a link.
    Gray,
    /// They push and read as in `Pushes`, while all members of a chain are gone at once.
    Overlap,
    /// They push and read as clients of the library do, to tables of every durability, while servers fail however few
    /// are left.
    Mixed,
    /// They push and read as in `Pushes`, while machines stand still, and their clocks with them.
    Frozen,
    /// They push and read as in `Pushes`, while coordinators are cut off from their store, and servers have
    /// memory for some partitions only.
    Store,
}

impl Mutation {
    /// All that show in [`Mode::Pushes`].
    pub const ALL: [Self; 10] = [
        Self::AcknowledgeBeforeTail,
        Self::SkipDuplicates,
        Self::SkipHold,
        Self::PromoteEarly,
        Self::SkipGaps,
        Self::CopyWithoutSessions,
        Self::CopyAppliesTwice,
        Self::TrustStoppedTail,
        Self::ReuseIncarnation,
        Self::DivergentApply,
    ];

    /// Those of [`Mode::Rounds`].
    pub const OF_ROUNDS: [Self; 3] = [Self::WaitForTheDead, Self::RoundForgetsWho, Self::NeverIdle];

    /// Those of [`Mode::Workers`].
    pub const OF_WORKERS: [Self; 4] =
        [Self::RetireThroughStalls, Self::GiveUpConnected, Self::ForgetForEver, Self::GiveUpSilent];

    /// Those of [`Mode::Gray`].
    pub const OF_GRAY: [Self; 2] = [Self::BelieveAccusers, Self::OverwriteStore];

    /// Those of [`Mode::Overlap`].
    pub const OF_OVERLAP: [Self; 1] = [Self::DiskIsWhole];

    /// Those of [`Mode::Mixed`].
    pub const OF_MIXED: [Self; 5] = [
        Self::ForgetSync,
        Self::ResumeAnyway,
        Self::TrustRecovered,
        Self::LoseWithJoiner,
        Self::DiskIsWhole,
    ];

    /// Those of [`Mode::Frozen`].
    pub const OF_FROZEN: [Self; 1] = [Self::TrustFrozenClock];

    /// Those of [`Mode::Store`].
    pub const OF_STORE: [Self; 3] =
        [Self::LeadWithoutStore, Self::InstallHalfWay, Self::OverwriteStore];

    /// Those that show where [`Options::settles`].
    pub const OF_SETTLING: [Self; 2] = [Self::ForgetRefusal, Self::SettleNothing];

    /// Those of [`Mode::Sessions`].
    pub const OF_SESSIONS: [Self; 3] =
        [Self::RetryForEver, Self::ExpireConnected, Self::ExpireAtHeadOnly];
}

/// What every seed of a run shares.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pushes per client.
    pub pushes: u32,
    /// What clients do.
    pub mode: Mode,
    /// Clients of a seed, at most.
    pub clients_max: usize,
    /// One copy of each partition: servers are drained and taken back instead of failing.
    pub one_copy: bool,
    /// Clients name no push before another and go by the order of connections, as the library does;
    /// always in [`Mode::Mixed`], not in [`Mode::Sessions`], [`Mode::Rounds`] and [`Mode::Workers`].
    pub settles: bool,
    /// Clients are workers as in [`Mode::Workers`], under the faults of [`Mode::Gray`], [`Mode::Overlap`],
    /// [`Mode::Frozen`] or [`Mode::Store`].
    pub workers: bool,
    /// Faults per seed, at most.
    pub faults_max: u32,
    /// A deliberate fault.
    pub mutation: Option<Mutation>,
    /// Whether failed seeds are shrunk (slow) or only named.
    pub shrink: bool,
    /// Whether every step is written to standard error: for one seed.
    pub trace: bool,
    /// Threads.
    pub threads: usize,
}

impl Options {
    /// Whether the coordinator's registry knows the clients, as workers.
    pub(super) fn has_registry(&self) -> bool {
        self.workers || self.mode == Mode::Workers
    }

    /// Whether clients are workers of tables in rounds.
    pub(super) fn is_in_rounds(&self) -> bool {
        self.has_registry() || self.mode == Mode::Rounds
    }

    /// Whether clients go away for long, and stand still.
    pub(super) fn clients_go_away(&self) -> bool {
        self.is_in_rounds() || self.mode == Mode::Sessions
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pushes: 40,
            mode: Mode::Pushes,
            clients_max: 3,
            one_copy: false,
            settles: false,
            workers: false,
            faults_max: 8,
            mutation: None,
            shrink: true,
            trace: false,
            threads: 2,
        }
    }
}
