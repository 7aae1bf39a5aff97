//! The map that is being stored: what is wanted is applied to it, and it comes in force once it is safe.

use windlass_wire::{Epoch, PartitionId, ServerId, coordination::Kept};

use super::{Coordinator, CoordinatorOutput};
use crate::{membership::Change, time::Time};

impl Coordinator {
    pub(super) fn write_draft(&mut self, outputs: &mut Vec<CoordinatorOutput>) {
        let (held, mut wanted): (Vec<Change>, Vec<Change>) =
            self.wanted.drain(..).partition(|change| match change {
                Change::Fail { server } => {
                    self.returning.holds_up(*server, &self.map, &self.health)
                }
                _ => false,
            });
        self.wanted = held;
        if wanted.is_empty() && !self.planner.has_work() {
            return;
        }
        let mut draft = self.map.draft();
        let mut changed = false;
        let failing = wanted.iter().filter_map(|change| match change {
            Change::Fail { server } if self.map.servers.contains_key(server) => Some(*server),
            _ => None,
        });
        let failing: Vec<ServerId> = failing.collect();
        let urgent = !failing.is_empty();
        // The old lives of those that join are over, too: none of them is a member that goes on while
        // another is taken out.
        let rejoining = wanted.iter().filter_map(|change| match change {
            Change::Join { server, incarnation, .. } => {
                let known = self.map.servers.get(server);
                known.filter(|known| known.incarnation < *incarnation).map(|_| *server)
            }
            _ => None,
        });
        let over: Vec<ServerId> = failing.into_iter().chain(rejoining).collect();
        let marked = draft.mark_down(&over);
        debug_assert!(marked.is_ok(), "they are in the map");
        wanted.sort_by_key(rank);
        for change in wanted {
            match draft.apply(change.clone()) {
                Ok(()) => changed = true,
                Err(error) => outputs.push(CoordinatorOutput::Refuse { change, error }),
            }
        }
        if changed {
            self.planner.note_changes(&self.map, &draft);
        }
        // A death is stored at once; who copies what, which may take long to work out, comes after.
        if !urgent {
            for change in self.planner.plan(&draft, &self.options, &self.out) {
                changed |= draft.apply(change).is_ok();
            }
        }
        if changed {
            draft.assert_legal();
            outputs.push(CoordinatorOutput::Store { expected: self.map.epoch });
            self.draft = Some(draft);
        }
    }

    /// A server gives up a partition, and is not asked again; the last member stays.
    pub(super) fn cannot_hold(&mut self, server: ServerId, partition: PartitionId, epoch: Epoch) {
        let entry = self.map.partition(partition).filter(|entry| entry.epoch == epoch);
        let Some(entry) = entry else { return };
        let goes_on = |id: &ServerId| *id != server && self.map.is_in_force(*id);
        if entry.joining.is_some_and(|joining| joining.server == server) {
            self.want(Change::Abandon { partition });
        } else if entry.members.contains(&server) && entry.members.iter().any(goes_on) {
            self.want(Change::Leave { partition, server });
        } else {
            return;
        }
        self.planner.refuse(server, partition);
    }

    pub(super) fn stored(&mut self, now: Time, epoch: Epoch, outputs: &mut Vec<CoordinatorOutput>) {
        let Some(draft) = self.draft.take_if(|draft| draft.epoch == epoch) else { return };
        let old = std::mem::replace(&mut self.map, draft);
        // One that was forgotten is told to leave by the map: fenced, it would come back in another life.
        let is_known = |server: &ServerId| self.map.servers.contains_key(server);
        for (&server, entry) in old.servers.iter().filter(|(server, _)| is_known(server)) {
            if old.is_in_force(server) && !self.map.admits(server, entry.incarnation) {
                let incarnation = entry.incarnation;
                outputs.push(CoordinatorOutput::Fence { server, incarnation });
            }
        }
        for (&server, entry) in &self.map.servers {
            if !old.admits(server, entry.incarnation) {
                self.health.joined(now, server);
            }
        }
        self.out.keep_known(&self.map);
        outputs.push(CoordinatorOutput::Publish { epoch });
        self.planner.note_stored();
    }
}

/// The order of changes in a draft. Deaths first: whoever comes back may be a member that is left. Of those
/// that come back the ones that hold most take the chains.
fn rank(change: &Change) -> (u8, Option<Kept>) {
    match change {
        Change::Fail { .. } => (0, None),
        Change::Join { kept, .. } => (2, Some(*kept)),
        _ => (1, None),
    }
}
