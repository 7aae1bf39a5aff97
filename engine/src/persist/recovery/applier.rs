//! Applying the frames of one directory's log, and noticing what is missing.

use windlass_wire::{Lsn, PartitionId};

use super::{Recovery, Replay, Suspect, groups::Groups};
use crate::persist::{
    frame::{Frame, Kind},
    log_walk::{BadFrame, Position, Visitor},
    record::Record,
    segment::Superblock,
    storage::StorageError,
};

/// Applies frames of one directory's log.
pub(super) struct Applier<'a> {
    pub(super) recovery: &'a mut Recovery,
    pub(super) replay: &'a mut dyn Replay,
    /// Position from which the checkpoint needs the log.
    pub(super) from: u64,
    /// Suspects in logs that were read before: all of this one is later.
    pub(super) suspects_before: usize,
    pub(super) groups: Groups,
}

impl Applier<'_> {
    /// Takes in what counts.
    fn take(&mut self, place: &Position<'_>, frame: Frame<'_>) {
        if frame.header.kind == Kind::Skip {
            let partition = PartitionId(frame.header.partition);
            if self.replay.wants(partition) {
                let state = self.recovery.recovered.partitions.entry(partition).or_default();
                state.lsn = state.lsn.max(Lsn(frame.header.lsn));
            }
        } else {
            self.record(place, frame);
        }
    }

    fn record(&mut self, place: &Position<'_>, frame: Frame<'_>) {
        let partition = PartitionId(frame.header.partition);
        if !self.replay.wants(partition) {
            return;
        }
        let record = match Record::from_frame(frame) {
            Ok(record) => record,
            Err(error) => {
                let (lsn, reason) = (frame.header.lsn, error.to_string());
                self.recovery.damage(partition, lsn, place.file, place.offset, reason);
                return;
            }
        };
        let accept = self.recovery.options.accept_damage;
        let state = self.recovery.recovered.partitions.entry(partition).or_default();
        let lsn = record.lsn();
        // One that begins the partition anew may go back behind what an earlier life had; where its
        // epoch is no newer, what was restored is what it begins with.
        let begins =
            record.kind() == Kind::Begin && (lsn > state.lsn || record.epoch() > state.epoch);
        if lsn <= state.lsn && !begins {
            return;
        }
        let damaged = !state.damage.is_empty();
        if damaged && !accept && !begins {
            return;
        }
        if lsn != state.lsn.next() && !begins && !damaged {
            let lost = state.lsn.next().0;
            let reason = format!("records {lost}..{lsn} are missing");
            self.recovery.damage(partition, lost, place.file, place.offset, reason);
            if !accept {
                return;
            }
        }
        if begins {
            self.recovery.applied.blocks.retain(|key, _| key.0 != partition);
        }
        let result = self.replay.apply(&record, &self.recovery.applied);
        let state = self.recovery.recovered.partitions.entry(partition).or_default();
        if begins {
            state.damage.clear();
        }
        state.lsn = lsn;
        state.epoch = state.epoch.max(record.epoch());
        state.records += 1;
        self.recovery.recovered.progress.records += 1;
        if let Err(error) = result {
            let reason = format!("the engine refuses the record: {error}");
            self.recovery.damage(partition, lsn.0, place.file, place.offset, reason);
        }
        self.prove(partition, place.position);
    }

    /// Everything of the partition up to this position of the log is there. A record that was held back says
    /// nothing of what lies behind it.
    fn prove(&mut self, partition: PartitionId, position: u64) {
        for (at, suspect) in self.recovery.suspects.iter_mut().enumerate() {
            let is_later = at < self.suspects_before || suspect.place.position <= position;
            if is_later && !suspect.proved.contains(&partition) {
                suspect.proved.push(partition);
            }
        }
    }
}

impl Visitor for Applier<'_> {
    fn frame(&mut self, place: &Position<'_>, frame: Frame<'_>) -> Result<(), StorageError> {
        match frame.header.kind {
            _ if frame.header.grouped => self.groups.hold(place, frame),
            Kind::Whole => {
                let mut groups = std::mem::take(&mut self.groups);
                for (held, frame) in groups.of(frame.header.lsn) {
                    self.take(&held.place(), frame);
                }
                groups.clear();
                self.groups = groups;
            }
            kind if kind.is_record() || kind == Kind::Skip => {
                // Whoever wrote this had recovered without the group that was being written before.
                self.groups.clear();
                self.take(place, frame);
            }
            _ => {}
        }
        let progress = &mut self.recovery.recovered.progress;
        // Now and then: a callback per record would cost more than the record.
        if progress.records.is_multiple_of(4096) && frame.header.kind.is_record() {
            self.replay.progress(*progress);
        }
        Ok(())
    }

    fn superblock(&mut self, position: u64, superblock: &Superblock) {
        for (partition, lsn) in &superblock.partitions {
            if !self.replay.wants(*partition) {
                continue;
            }
            let state = self.recovery.recovered.partitions.entry(*partition).or_default();
            if state.lsn >= *lsn {
                self.prove(*partition, position);
            } else if self.groups.last_of(*partition).is_some_and(|held| held >= *lsn) {
                // The end of the group tells: it goes on in this segment.
            } else if state.damage.is_empty() && position >= self.from {
                // What an older one says may be of a life that the checkpoint has put an end to.
                let lost = state.lsn.next().0;
                let reason = format!("records {lost}..={lsn} before this segment are missing");
                self.recovery.damage(*partition, lost, "the log", position, reason);
            }
        }
    }

    fn damage(&mut self, bad: &BadFrame) {
        match (bad.partition, bad.lsn) {
            (Some(partition), Some(lsn)) if self.replay.wants(PartitionId(partition)) => {
                let partition = PartitionId(partition);
                let state = self.recovery.recovered.partitions.entry(partition).or_default();
                if Lsn(lsn) > state.lsn {
                    let (file, offset) = (&bad.place.file, bad.place.offset);
                    self.recovery.damage(partition, lsn, file, offset, bad.reason.clone());
                }
            }
            (Some(_), Some(_)) => {}
            _ => self.recovery.suspects.push(Suspect {
                place: bad.place.clone(),
                reason: bad.reason.clone(),
                proved: Vec::new(),
            }),
        }
    }
}
