//! The workload: clients push with every level of durability and retry what was not acknowledged;
//! the shard logs, applies, takes checkpoints, and loses power. An oracle keeps every record.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use windlass_engine::persist::{
    checkpoint::{CheckpointConfig, CheckpointProgress},
    commit::{CommitQueue, Durability},
    frame::Kind,
    log::{LogConfig, ReserveError},
    memory::Window,
    persistence::Persistence,
    record::{Covered, Facts, Record, Shape},
    recovery::{Recovered, RecoveryOptions, recover},
};
use windlass_wire::{
    DataType, Epoch, Incarnation, Lsn, PartitionId, RowRange, Sequence, SessionId,
};

use super::{
    disk::SharedDisk,
    random::Random,
    simulated::SimulatedStorage,
    store::{PARTITIONS, Partition, ROWS, Store, TABLE, WIDTH},
};

const SESSIONS: u64 = 3;
const RING_BYTES: usize = 64 << 10;

/// A push, as a client keeps it until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Push {
    partition: PartitionId,
    session: u64,
    sequence: u64,
    row: u64,
    deltas: Vec<u64>,
    durability: Durability,
}

/// A logged push, as the oracle keeps it.
#[derive(Clone, Debug)]
struct Logged {
    push: Push,
    lsn: Lsn,
    /// Whether its client was told that it is on disk.
    promised: bool,
}

/// What went wrong after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Pushes whose clients were told they are on disk, and that are gone.
    pub lost: u64,
    /// Pushes applied more than once.
    pub doubled: u64,
    /// Wrong states that nothing reported.
    pub silent: u64,
    /// Partitions refused because of damage that was reported.
    pub reported: u64,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power goes: what is not durable may be gone.
    PowerCut,
    /// The process is killed: everything written is still seen, and not yet durable.
    Kill,
    /// The process ends in order.
    Close,
}

/// A simulated life after life of one shard on one disk.
#[derive(Debug)]
pub struct Workload {
    disk: SharedDisk,
    random: Random,
    history: BTreeMap<PartitionId, Vec<Logged>>,
    /// Pushes not acknowledged yet, by session, in order.
    waiting: BTreeMap<u64, VecDeque<Push>>,
    next_sequence: BTreeMap<u64, u64>,
    now: Duration,
    /// Published checkpoints, so that tests can ask for some.
    pub checkpoints: u64,
    /// Pushes acknowledged as durable.
    pub promised: u64,
    /// Why the log stopped, if it did.
    pub poisoned: Option<String>,
}

impl Workload {
    /// A workload of a seed, on an empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            disk: SharedDisk::new(seed ^ 0xD15C),
            random: Random::new(seed),
            history: BTreeMap::new(),
            waiting: (0..SESSIONS).map(|session| (session, VecDeque::new())).collect(),
            next_sequence: (0..SESSIONS).map(|session| (session, 1)).collect(),
            now: Duration::ZERO,
            checkpoints: 0,
            promised: 0,
            poisoned: None,
        }
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> SharedDisk {
        self.disk.clone()
    }

    /// Recovers, compares with the oracle, then runs so many turns or until the end comes.
    pub fn live(&mut self, turns: u32, end: End) -> Verdict {
        let mut storage: Box<dyn windlass_engine::persist::storage::Storage> =
            Box::new(SimulatedStorage::new(self.disk.clone()));
        let mut store = Store::default();
        let recovered =
            recover(std::slice::from_mut(&mut storage), RecoveryOptions::default(), &mut store);
        let mut verdict = Verdict::default();
        if let Ok(recovered) = recovered
            && !self.disk.borrow().is_off()
        {
            verdict = self.check(&recovered, &store);
            // What is refused is left as it is.
            if verdict == Verdict::default() {
                self.forget_beyond(&recovered);
                self.run(storage, &recovered, store, turns, end);
            }
        }
        match end {
            End::PowerCut => self.disk.borrow_mut().power_cycle(),
            End::Kill | End::Close => self.disk.borrow_mut().kill(),
        }
        verdict
    }

    /// Recovers and compares, without running on.
    pub fn check_now(&mut self) -> Verdict {
        let mut storage: Box<dyn windlass_engine::persist::storage::Storage> =
            Box::new(SimulatedStorage::new(self.disk.clone()));
        let mut store = Store::default();
        match recover(std::slice::from_mut(&mut storage), RecoveryOptions::default(), &mut store) {
            Ok(recovered) => self.check(&recovered, &store),
            Err(_) => Verdict { reported: 1, ..Verdict::default() },
        }
    }

    /// Recovers with what damage there is accepted, and compares what is served then: `reported` counts
    /// damage, and nothing is passed over for it.
    pub fn check_accepting(&mut self) -> Verdict {
        let mut storage: Box<dyn windlass_engine::persist::storage::Storage> =
            Box::new(SimulatedStorage::new(self.disk.clone()));
        let (mut store, options) = (Store::default(), RecoveryOptions { accept_damage: true });
        let recovered = recover(std::slice::from_mut(&mut storage), options, &mut store);
        let Ok(recovered) = recovered else { return Verdict { reported: 1, ..Verdict::default() } };
        let mut verdict = Verdict::default();
        let bad =
            recovered.directories.iter().map(|directory| directory.damage.len()).sum::<usize>();
        verdict.reported = bad as u64;
        for (id, history) in &self.history {
            let lsn = recovered.partitions.get(id).map_or(Lsn(0), |state| state.lsn);
            verdict.compare(history, lsn, store.partitions.get(id).unwrap_or(&Partition::new()));
        }
        verdict
    }

    /// Compares with a serial execution of the records up to each partition's LSN.
    fn check(&self, recovered: &Recovered, store: &Store) -> Verdict {
        let mut verdict = Verdict::default();
        let empty = Partition::new();
        let torn = recovered.directories.iter().any(|directory| directory.torn.is_some());
        let unattributed = recovered
            .directories
            .iter()
            .any(|directory| directory.damage.iter().any(|bad| bad.partition.is_none()));
        for (id, history) in &self.history {
            let state = recovered.partitions.get(id);
            let lsn = state.map_or(Lsn(0), |state| state.lsn);
            let gone = history.iter().filter(|logged| logged.promised && logged.lsn > lsn).count();
            if state.is_some_and(|state| !state.damage.is_empty()) {
                verdict.reported += 1;
                continue;
            }
            if state.is_none() && unattributed {
                // A shard that misses partitions is not started over damage that names none.
                verdict.reported += 1;
                continue;
            }
            if gone > 0 && (torn && self.was_damaged()) {
                // A flipped bit in the last write looks like a torn one, and is reported as such.
                verdict.reported += 1;
                continue;
            }
            verdict.compare(history, lsn, store.partitions.get(id).unwrap_or(&empty));
        }
        verdict
    }

    fn was_damaged(&self) -> bool {
        self.disk.borrow().faults.damaged
    }

    /// What did not survive never happened; clients still hold it if it was not acknowledged.
    fn forget_beyond(&mut self, recovered: &Recovered) {
        for (id, history) in &mut self.history {
            let lsn = recovered.partitions.get(id).map_or(Lsn(0), |state| state.lsn);
            history.retain(|logged| logged.lsn <= lsn);
        }
    }

    fn run(
        &mut self,
        storage: Box<dyn windlass_engine::persist::storage::Storage>,
        recovered: &Recovered,
        mut store: Store,
        turns: u32,
        end: End,
    ) {
        let config = LogConfig {
            log_id: 7,
            segment_bytes: 64 << 10,
            segment_bytes_first: 64 << 10,
            bytes_max: 6 * (64 << 10),
            segments_spare: 1,
            writes_max: 3,
        };
        let checkpoint = CheckpointConfig {
            bytes_per_second: 0,
            idle_bytes_per_second: 0,
            increments_percent: 150,
            release_bytes: 4096,
        };
        let ring = Window::allocate(RING_BYTES).expect("memory");
        let opened =
            Persistence::open(storage, &config, checkpoint, ring, &recovered.directories[0]);
        let mut persistence = match opened {
            Ok(persistence) => persistence,
            Err(error) => {
                self.poisoned = Some(format!("{error}: {}", error.source));
                return;
            }
        };
        for number in 0..PARTITIONS {
            let id = PartitionId(number);
            let last = recovered.partitions.get(&id).map_or(Lsn(0), |state| state.lsn);
            persistence.log.add_partition(id, last);
            store.partitions.entry(id).or_default().lsn = last;
        }
        let mut acknowledgements = CommitQueue::new(100_000);
        let mut retries: VecDeque<Push> =
            self.waiting.values().flatten().cloned().collect::<Vec<_>>().into();
        for _ in 0..turns {
            if self.disk.borrow().is_off() {
                return;
            }
            self.now += Duration::from_millis(self.random.below(4));
            for _ in 0..self.random.below(6) {
                let push = retries.pop_front().unwrap_or_else(|| self.new_push());
                if !self.take(&push, &mut persistence, &mut store, &mut acknowledgements) {
                    retries.push_front(push);
                    break;
                }
            }
            persistence.flush(self.now);
            let durable = persistence.poll();
            while let Some((id, lsn)) = acknowledgements.release(durable) {
                self.acknowledge(id, lsn, true);
            }
            if let Some(poison) = persistence.log.poison() {
                self.poisoned = Some(format!("{poison}: {}", poison.source));
            }
            let wanted = self.random.one_in(60) || persistence.log.wants_checkpoint();
            if wanted && self.poisoned.is_none() {
                persistence.start_checkpoint(&mut store, self.now);
            }
            let budget = usize::try_from(self.random.below(600)).unwrap_or(0);
            let progress = persistence.step_checkpoint(&mut store, self.now, budget);
            if matches!(progress, CheckpointProgress::Published { .. }) {
                self.checkpoints += 1;
            }
        }
        if end == End::Close {
            assert!(persistence.close(Duration::from_secs(60)), "{:?}", persistence.log.poison());
        }
    }

    fn new_push(&mut self) -> Push {
        let session = self.random.below(SESSIONS);
        let sequence = self.next_sequence.get_mut(&session).expect("all sessions");
        let count = if self.random.one_in(10) { 30 } else { 1 + self.random.below(4) };
        let push = Push {
            partition: PartitionId(
                u32::try_from(self.random.below(u64::from(PARTITIONS))).expect("few"),
            ),
            session,
            sequence: *sequence,
            row: self.random.below(ROWS as u64 - count),
            deltas: (0..count * WIDTH as u64).map(|_| self.random.word()).collect(),
            durability: match self.random.below(4) {
                0 => Durability::Memory,
                1 => Durability::Interval(5),
                _ => Durability::Sync,
            },
        };
        *sequence += 1;
        self.waiting.entry(session).or_default().push_back(push.clone());
        push
    }

    /// The shard's part: suppress a duplicate, or log and apply. False when there is no room.
    fn take(
        &mut self,
        push: &Push,
        persistence: &mut Persistence,
        store: &mut Store,
        acknowledgements: &mut CommitQueue<(PartitionId, Lsn)>,
    ) -> bool {
        let log = &mut persistence.log;
        let partition = &store.partitions[&push.partition];
        let highest = partition.sessions.get(&push.session).copied().unwrap_or(0);
        if push.sequence <= highest {
            // A retry of what is in the log: acknowledged when the log is, not applied again.
            let known = self.history[&push.partition]
                .iter()
                .rev()
                .find(|logged| {
                    (logged.push.session, logged.push.sequence) == (push.session, push.sequence)
                })
                .map(|logged| logged.lsn);
            if let Some(lsn) = known {
                let _ = acknowledgements.push(log.end(), (push.partition, lsn));
            }
            return true;
        }
        let facts = Facts {
            kind: Kind::Rows,
            partition: push.partition,
            epoch: Epoch(1),
            table: TABLE,
            dtype: DataType::U64,
            rows: RowRange::new(push.row, push.row + (push.deltas.len() / WIDTH) as u64),
            tag: 0,
            durability: push.durability,
        };
        let shape =
            Shape { covered_max: 2, stamps_max: 1, keys: 0, delta_bytes: push.deltas.len() * 8 };
        let mut reservation = match log.reserve(&facts, shape, self.now) {
            Ok(reservation) => reservation,
            Err(ReserveError::Full(_) | ReserveError::Poisoned(_)) => return false,
            Err(error) => panic!("{error}"),
        };
        let mut record = log.fill(&mut reservation);
        for (into, delta) in record.delta().chunks_exact_mut(8).zip(&push.deltas) {
            into.copy_from_slice(&delta.to_le_bytes());
        }
        record.cover(Covered {
            session: SessionId(push.session),
            incarnation: Incarnation(1),
            sequence: Sequence(push.sequence),
        });
        let sealed = log.seal(reservation);
        let held = log.sealed_bytes(&sealed);
        let record = Record::decode(held, sealed.salt).expect("our own record");
        store.apply_live(&record);
        self.history.entry(push.partition).or_default().push(Logged {
            push: push.clone(),
            lsn: sealed.lsn,
            promised: false,
        });
        if push.durability.waits() {
            let id = (push.partition, sealed.lsn);
            acknowledgements.push(sealed.position, id).expect("a large queue");
        } else {
            self.acknowledge(push.partition, sealed.lsn, false);
        }
        true
    }

    fn acknowledge(&mut self, partition: PartitionId, lsn: Lsn, durable: bool) {
        let history = self.history.get_mut(&partition).expect("a logged push");
        let Ok(at) = history.binary_search_by_key(&lsn, |logged| logged.lsn) else { return };
        let logged = &mut history[at];
        if durable && !logged.promised {
            logged.promised = true;
            self.promised += 1;
        }
        let (session, sequence) = (logged.push.session, logged.push.sequence);
        let waiting = self.waiting.get_mut(&session).expect("all sessions");
        waiting.retain(|push| push.sequence != sequence);
    }
}

impl Verdict {
    /// Compares a partition that recovery found up to an LSN with all that was written.
    fn compare(&mut self, history: &[Logged], lsn: Lsn, actual: &Partition) {
        self.lost +=
            history.iter().filter(|logged| logged.promised && logged.lsn > lsn).count() as u64;
        let expected = replay_serially(history, lsn);
        let counts = |partition: &Partition| partition.applied_counts.values().sum::<u64>();
        if counts(actual) > counts(&expected) {
            self.doubled += counts(actual) - counts(&expected);
        } else if actual.values != expected.values || actual.sessions != expected.sessions {
            self.silent += 1;
        }
    }
}

fn replay_serially(history: &[Logged], until: Lsn) -> Partition {
    let mut partition = Partition::new();
    for logged in history.iter().filter(|logged| logged.lsn <= until) {
        let push = &logged.push;
        for (row, delta) in (push.row..).zip(push.deltas.chunks_exact(WIDTH)) {
            partition.update(usize::try_from(row).expect("few rows"), delta);
        }
        partition.cover(push.session, push.sequence);
        *partition.applied_counts.entry(push.session).or_default() += 1;
        partition.lsn = logged.lsn;
    }
    partition
}
