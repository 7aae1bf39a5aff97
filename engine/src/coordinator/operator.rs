//! An operator's changes of the map.

use windlass_replication::{Change, CoordinatorInput, Ring, membership::TransitionError};
use windlass_wire::{Epoch, PartitionId, ServerId, control::ClientReply, coordination::Operation};

use super::{
    desk::Answer,
    machine::{Machine, not_leading},
};
use crate::{
    refusal::{Refusal, invalid},
    shard::chain,
};

/// Changes that wait for the map that has them.
#[derive(Debug, Default)]
pub(super) struct Operations {
    waiting: Vec<(Epoch, Vec<Change>, Answer)>,
}

impl Operations {
    /// A map is published: what waited for it is done.
    pub(super) fn published(&mut self, epoch: Epoch) {
        self.waiting.retain(|(wanted, _, answer)| {
            let is_done = *wanted <= epoch;
            if is_done {
                // An operator who is gone needs no answer.
                let _ = answer.send(Ok(ClientReply::Done {}));
            }
            !is_done
        });
    }

    /// A change is not legal.
    pub(super) fn refuse(&mut self, change: &Change, error: &TransitionError) {
        self.waiting.retain(|(_, changes, answer)| {
            let is_refused = changes.contains(change);
            if is_refused {
                let _ = answer.send(Err(invalid(chain(error))));
            }
            !is_refused
        });
    }

    /// This coordinator no longer leads.
    pub(super) fn abandon(&mut self) {
        for (_, _, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(not_leading()));
        }
    }
}

impl Machine {
    pub(super) fn operate(&mut self, operation: Operation, answer: Answer) {
        let changes = match self.changes(operation) {
            Ok(changes) => changes,
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
                return;
            }
        };
        if operation == (Operation::Rebalance {}) || changes.is_empty() {
            self.step(CoordinatorInput::Rebalance);
            let _ = answer.send(Ok(ClientReply::Done {}));
            return;
        }
        // A draft that is being stored has none of them; the next one has the first, and the one
        // after it all.
        let base = self.coordinator.draft().unwrap_or(self.coordinator.map()).epoch;
        let wanted = if changes.len() == 1 { base.next() } else { base.next().next() };
        self.operations.waiting.push((wanted, changes.clone(), answer));
        for change in changes {
            self.step(CoordinatorInput::Operator(change));
        }
    }

    /// What an operation changes, checked against the map in force.
    fn changes(&self, operation: Operation) -> Result<Vec<Change>, Refusal> {
        let map = self.coordinator.map();
        let changes = match operation {
            Operation::Drain { server } => {
                self.check_remaining(server)?;
                vec![Change::Drain { server }]
            }
            Operation::Undrain { server } => vec![Change::Undrain { server }],
            Operation::Forget { server } => vec![Change::Forget { server }],
            Operation::Fail { server } => vec![Change::Fail { server }],
            Operation::Rebalance {} => Vec::new(),
            Operation::AcceptLoss {} => {
                let changes = self.accept_loss()?;
                if changes.is_empty() {
                    return Err(invalid(
                        "every partition has a copy on a server that is up: there is no loss to accept",
                    ));
                }
                changes
            }
        };
        let mut draft = map.draft();
        for change in &changes {
            draft.apply(change.clone()).map_err(|error| invalid(chain(&error)))?;
        }
        Ok(changes)
    }

    /// Refuses to drain a server whose copies no other one could take.
    fn check_remaining(&self, server: ServerId) -> Result<(), Refusal> {
        let map = self.coordinator.map();
        let others = map.placeable().filter(|&other| other != server).count();
        let copies = usize::from(map.replicas);
        if others < copies {
            return Err(invalid(format!(
                "without server {server} there are {others} servers for {copies} copies of each \
                 partition: add a server first"
            )));
        }
        Ok(())
    }

    /// New chains for partitions whose last copy is gone.
    fn accept_loss(&self) -> Result<Vec<Change>, Refusal> {
        let map = self.coordinator.map();
        let is_lost = |entry: &windlass_replication::membership::PartitionEntry| {
            entry.lost || map.is_waiting(entry)
        };
        let current: Vec<Vec<ServerId>> = map
            .partitions
            .iter()
            .map(|entry| if is_lost(entry) { Vec::new() } else { entry.members.clone() })
            .collect();
        let placed = Ring::new(map.placeable())
            .place(&current, usize::from(map.replicas))
            .map_err(|error| invalid(chain(&error)))?;
        Ok((0..)
            .map(PartitionId)
            .zip(map.partitions.iter().zip(placed))
            .filter(|(_, (entry, _))| is_lost(entry))
            .map(|(partition, (_, members))| Change::AcceptLoss { partition, members })
            .collect())
    }
}
