//! Groups of records under power cuts: of each, all records are there after recovery or none. The group that
//! was being written when the power went is the one that counts, and that the next life writes behind it.

use std::{collections::BTreeMap, time::Duration};

use windlass_engine::persist::{
    checkpoint::CheckpointConfig,
    commit::{Durability, Position},
    frame::Kind,
    log::{Log, LogConfig, ReserveError},
    memory::Window,
    persistence::Persistence,
    record::{Covered, Facts, Record, Shape},
    recovery::{Recovered, RecoveryOptions, recover},
    storage::Storage,
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

/// What power cuts did to groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupReport {
    /// Power cuts.
    pub points: u64,
    /// Groups that were acknowledged.
    pub promised: u64,
    /// Checkpoints published.
    pub checkpoints: u64,
    /// Groups of which nothing was there after a crash.
    pub dropped: u64,
    /// Groups of which a part was there.
    pub partial: u64,
    /// Acknowledged groups that were not all there.
    pub lost: u64,
    /// Partitions whose rows were not those of the groups that were there, or that were refused.
    pub wrong: u64,
}

#[derive(Clone, Debug)]
struct Group {
    sequence: u64,
    /// By partition, its record and what it brings.
    records: BTreeMap<PartitionId, (Lsn, Vec<u64>)>,
    /// Where it ends, once it is whole.
    end: Option<Position>,
    promised: bool,
}

struct Groups {
    disk: SharedDisk,
    random: Random,
    groups: Vec<Group>,
    next: u64,
    now: Duration,
    report: GroupReport,
    /// Whether the log is told what belongs together.
    is_told: bool,
}

/// Cuts the power at so many points of lives that write groups, each followed by a shorter life, another cut,
/// and recovery. Where the log `is_told` nothing of groups, their parts are to be found.
#[must_use]
pub fn crash_groups(points: u64, seed: u64, is_told: bool) -> GroupReport {
    const TURNS: u32 = 150;
    let mut report = GroupReport::default();
    let mut whole = Groups::new(seed, report, is_told);
    whole.live(TURNS);
    let events = whole.disk.borrow().events();
    for point in 0..points {
        let mut groups = Groups::new(seed.wrapping_add(point / events), report, is_told);
        for (turns, cut) in [(TURNS, 1 + point * 7 % events), (TURNS / 2, 1 + point * 13 % events)]
        {
            groups.disk.borrow_mut().cut_after(Some(cut));
            groups.live(turns);
            groups.disk.borrow_mut().power_cycle();
        }
        groups.disk.borrow_mut().cut_after(None);
        groups.live(3);
        report = groups.report;
        report.points += 1;
    }
    report
}

/// Flips a bit of what a life has written in groups; whether recovery reports anything, and what it made of the
/// groups where it does not.
#[must_use]
pub fn flip_in_groups(seed: u64) -> (bool, GroupReport) {
    let mut groups = Groups::new(seed % 10, GroupReport::default(), true);
    groups.live(60);
    groups.disk.borrow_mut().power_cycle();
    let mut random = Random::new(seed);
    let mut disk = groups.disk.borrow_mut();
    let files: Vec<(String, u64)> =
        disk.list().map(|(name, length)| (name.to_owned(), length)).collect();
    let files: Vec<_> = files.into_iter().filter(|(_, length)| *length > 0).collect();
    let (name, length) = &files[usize::try_from(random.below(files.len() as u64)).unwrap_or(0)];
    let bit = random.below(*length * 8);
    disk.flip(name, usize::try_from(bit).unwrap_or(0));
    drop(disk);
    let mut storage: Box<dyn Storage> = Box::new(SimulatedStorage::new(groups.disk.clone()));
    let (storages, mut store) = (std::slice::from_mut(&mut storage), Store::default());
    let Ok(recovered) = recover(storages, RecoveryOptions::default(), &mut store) else {
        return (true, groups.report);
    };
    let torn = recovered.directories.iter().any(|directory| directory.torn.is_some());
    let damaged = recovered.directories.iter().any(|directory| !directory.damage.is_empty());
    let reported = torn || damaged || recovered.damage().next().is_some();
    if !reported {
        groups.check(&recovered, &store);
    }
    (reported, groups.report)
}

impl Groups {
    fn new(seed: u64, report: GroupReport, is_told: bool) -> Self {
        Self {
            disk: SharedDisk::new(seed ^ 0x6709),
            random: Random::new(seed),
            groups: Vec::new(),
            next: 1,
            now: Duration::ZERO,
            report,
            is_told,
        }
    }

    fn live(&mut self, turns: u32) {
        let mut storage: Box<dyn Storage> = Box::new(SimulatedStorage::new(self.disk.clone()));
        let mut store = Store::default();
        let storages = std::slice::from_mut(&mut storage);
        let Ok(recovered) = recover(storages, RecoveryOptions::default(), &mut store) else {
            return;
        };
        if self.disk.borrow().is_off() {
            return;
        }
        self.check(&recovered, &store);
        let config = LogConfig {
            log_id: 7,
            segment_bytes: 64 << 10,
            segment_bytes_first: 64 << 10,
            bytes_max: 12 * (64 << 10),
            segments_spare: 1,
            writes_max: 3,
        };
        let checkpoint = CheckpointConfig {
            bytes_per_second: 0,
            idle_bytes_per_second: 0,
            increments_percent: 150,
            release_bytes: 4096,
        };
        let ring = Window::allocate(64 << 10).expect("memory");
        let tail = &recovered.directories[0];
        let Ok(mut persistence) = Persistence::open(storage, &config, checkpoint, ring, tail)
        else {
            return;
        };
        for id in (0..PARTITIONS).map(PartitionId) {
            let last = recovered.partitions.get(&id).map_or(Lsn(0), |state| state.lsn);
            persistence.log.add_partition(id, last);
            store.partitions.entry(id).or_default().lsn = last;
        }
        for _ in 0..turns {
            self.now += Duration::from_millis(1);
            if !persistence.log.is_nearly_full() && !self.write_group(&mut persistence, &mut store)
            {
                return;
            }
            persistence.flush(self.now);
            self.acknowledge(persistence.poll());
            if self.random.one_in(20) || persistence.log.wants_checkpoint() {
                persistence.start_checkpoint(&mut store, self.now);
            }
            let budget = usize::try_from(self.random.below(3000)).unwrap_or(0);
            let before = persistence.checkpointer().last().map(|manifest| manifest.number);
            persistence.step_checkpoint(&mut store, self.now, budget);
            let after = persistence.checkpointer().last().map(|manifest| manifest.number);
            self.report.checkpoints += u64::from(after > before);
        }
    }

    /// Writes one group; false when the disk has gone.
    fn write_group(&mut self, persistence: &mut Persistence, store: &mut Store) -> bool {
        let (sequence, count) = (self.next, 2 + self.random.below(u64::from(PARTITIONS) - 1));
        self.next += 1;
        let first = self.random.below(u64::from(PARTITIONS));
        self.groups.push(Group { sequence, records: BTreeMap::new(), end: None, promised: false });
        if self.is_told {
            persistence.log.begin_group();
        }
        for at in 0..count {
            let number = (first + at) % u64::from(PARTITIONS);
            let partition = PartitionId(u32::try_from(number).expect("few"));
            if !self.write_record(persistence, store, partition) {
                return false;
            }
            // As where the first half of a sum is written while the second is made.
            if self.random.one_in(3) {
                persistence.flush_all();
            }
        }
        if !self.is_told {
            self.groups.last_mut().expect("pushed above").end = Some(persistence.log.end());
            return true;
        }
        loop {
            match persistence.log.end_group(self.now) {
                Ok(end) => {
                    self.groups.last_mut().expect("pushed above").end = Some(end);
                    return true;
                }
                Err(error) if !self.wait(persistence, &error) => return false,
                Err(_) => {}
            }
        }
    }

    fn write_record(
        &mut self,
        persistence: &mut Persistence,
        store: &mut Store,
        partition: PartitionId,
    ) -> bool {
        let group = self.groups.last_mut().expect("a group has begun");
        let deltas: Vec<u64> = (0..ROWS * WIDTH).map(|_| self.random.word()).collect();
        let facts = Facts {
            kind: Kind::Rows,
            partition,
            epoch: Epoch(1),
            table: TABLE,
            dtype: DataType::U64,
            rows: RowRange::new(0, ROWS as u64),
            tag: 0,
            durability: Durability::Sync,
        };
        let shape = Shape { covered_max: 1, stamps_max: 0, keys: 0, delta_bytes: deltas.len() * 8 };
        let covered = Covered {
            session: SessionId(1),
            incarnation: Incarnation(1),
            sequence: Sequence(group.sequence),
        };
        let mut reservation = loop {
            match persistence.log.reserve(&facts, shape, self.now) {
                Ok(reservation) => break reservation,
                Err(error) if !self.wait(persistence, &error) => return false,
                Err(_) => {}
            }
        };
        let log: &mut Log = &mut persistence.log;
        let mut record = log.fill(&mut reservation);
        for (into, delta) in record.delta().chunks_exact_mut(8).zip(&deltas) {
            into.copy_from_slice(&delta.to_le_bytes());
        }
        record.cover(covered);
        let sealed = log.seal(reservation);
        let record = Record::decode(log.sealed_bytes(&sealed), sealed.salt).expect("our own");
        store.apply_live(&record);
        let group = self.groups.last_mut().expect("a group has begun");
        group.records.insert(partition, (sealed.lsn, deltas));
        true
    }

    /// Lets the disk make room; false when it has gone.
    fn wait(&mut self, persistence: &mut Persistence, error: &ReserveError) -> bool {
        if !matches!(error, ReserveError::Full(_)) || self.disk.borrow().is_off() {
            return false;
        }
        persistence.flush_all();
        let position = persistence.poll();
        self.acknowledge(position);
        true
    }

    fn acknowledge(&mut self, durable: Position) {
        let whole = self.groups.iter_mut().filter(|group| !group.promised);
        for group in whole.filter(|group| group.end.is_some_and(|end| end <= durable)) {
            group.promised = true;
            self.report.promised += 1;
        }
    }

    /// Compares with what was written; what did not survive never happened.
    fn check(&mut self, recovered: &Recovered, store: &Store) {
        let lsn_of =
            |id: &PartitionId| recovered.partitions.get(id).map_or(Lsn(0), |state| state.lsn);
        let report = &mut self.report;
        report.wrong += recovered.damage().count() as u64;
        for group in &self.groups {
            let there = group.records.iter().filter(|(id, (lsn, _))| *lsn <= lsn_of(id)).count();
            let is_whole = group.end.is_some() && there == group.records.len();
            if there > 0 && !is_whole {
                report.partial += 1;
            }
            if group.promised && !is_whole {
                report.lost += 1;
            }
            report.dropped += u64::from(there == 0);
        }
        self.groups.retain(|group| {
            group.records.iter().all(|(id, (lsn, _))| *lsn <= lsn_of(id)) && group.end.is_some()
        });
        for id in (0..PARTITIONS).map(PartitionId) {
            let mut expected = Partition::new();
            for group in &self.groups {
                let Some((_, deltas)) = group.records.get(&id) else { continue };
                for (row, delta) in deltas.chunks_exact(WIDTH).enumerate() {
                    expected.update(row, delta);
                }
            }
            let empty = Partition::new();
            let found = store.partitions.get(&id).unwrap_or(&empty);
            report.wrong += u64::from(found.values != expected.values);
        }
    }
}
