//! How the coordinator is doing.

use windlass_wire::{ServerId, coordination::CoordinatorStatus};

use super::machine::Machine;

impl Machine {
    pub(super) fn status(&self) -> CoordinatorStatus {
        let joined = self.members.iter().filter(|(_, member)| member.is_joined);
        let mut connected: Vec<ServerId> = joined.map(|(_, member)| member.server).collect();
        connected.sort_unstable();
        let copies = self.coordinator.map().partitions.iter();
        let copies = copies.filter(|entry| entry.joining.is_some()).count();
        CoordinatorStatus {
            leads: self.coordinator.leads(),
            store: self.store_name.to_owned(),
            store_error: self.store_error.clone(),
            connected,
            workers: self.worker_entries(),
            copies_under_way: u32::try_from(copies).unwrap_or(u32::MAX),
            map: self.map.as_ref().clone(),
        }
    }
}
