//! Regions: registered by number, shared by handing over their memfd.

use std::{io, os::fd::AsFd};

use super::{Shm, limits::REGIONS_MAX, message::Message, quiesce::fence_peers, socket};
use crate::{
    error::{RegisterError, ShareError},
    fabric::{
        Access, MemoryRegion, QueuePairId, QueuePairState, RegionId, RemoteKey, RemoteRegion,
    },
    memory::Pages,
};

impl Shm {
    pub(super) fn register_region(
        &mut self,
        pages: &Pages,
        access: Access,
    ) -> Result<MemoryRegion, RegisterError> {
        let make = |number| MemoryRegion { id: RegionId(number), pages: pages.clone(), access };
        let number = self
            .regions
            .insert_with(make)
            .ok_or(RegisterError::TooMany { count_max: REGIONS_MAX })?;
        self.page.publish(number);
        Ok(make(number))
    }

    pub(super) fn end_region(&mut self, id: RegionId) {
        let Some(region) = self.regions.remove(id.0) else { return };
        self.page.retract(id.0);
        for queue_pair in self.queue_pairs.values_mut() {
            queue_pair.unshare(self.epoll.as_fd(), id.0);
        }
        // Who only reads what is taken back harms itself alone.
        if region.access.remote_write || region.access.remote_atomic {
            fence_peers();
            for queue_pair in self.queue_pairs.values_mut() {
                queue_pair.await_peer();
            }
        }
    }

    pub(super) fn share_region(
        &mut self,
        id: QueuePairId,
        region: &MemoryRegion,
    ) -> Result<RemoteRegion, ShareError> {
        let system = |step| move |source: io::Error| ShareError::System { step, source };
        let key = region.id.0;
        let Some(region) = self.regions.find(key) else { return Err(ShareError::NoAccess) };
        if region.access == Access::LOCAL {
            return Err(ShareError::NoAccess);
        }
        let fd = region.pages.fd().ok_or(ShareError::ForeignMemory { provider: "shm" })?;
        let queue_pair = self
            .queue_pairs
            .find_mut(id.0)
            .filter(|queue_pair| queue_pair.state != QueuePairState::Error)
            .ok_or(ShareError::NotConnected { queue_pair: id })?;
        let writable = region.access.remote_write || region.access.remote_atomic;
        let fd = if writable {
            fd.try_clone().map_err(system("dup"))?
        } else {
            socket::reopen_read_only(fd.as_fd())
                .map_err(system("opening /proc/self/fd read-only"))?
        };
        let len = region.pages.len() as u64;
        let message = Message::Share { key, access: region.access, len };
        if !queue_pair.share(self.epoll.as_fd(), message, key, fd) {
            let source = io::ErrorKind::WouldBlock.into();
            return Err(ShareError::System { step: "queueing one more region", source });
        }
        Ok(RemoteRegion { key: RemoteKey(key), address: 0, len })
    }
}
