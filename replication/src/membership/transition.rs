//! Legal changes of the map. Each applies to a draft one epoch ahead; several may go into one draft.
//! A member is never removed when no other one is in force: nobody has gone on without it. Those that
//! go down together all stay, and the first that comes back with what it held is enough.

use thiserror::Error;
use windlass_wire::{Incarnation, PartitionId, ServerId, coordination::Kept};

use super::{Joining, JoiningPhase, Membership, PartitionEntry, ServerEntry, ServerState};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A server comes, for the first time or in a new life. In a new life its old one is failed
    /// first; where no other member was in force any more it resumes with what it `kept`. If that is nothing, the
    /// other members are waited for; where there is none, the partition is lost.
    Join {
        /// The server.
        server: ServerId,
        /// Its life; must be newer than the one known.
        incarnation: Incarnation,
        /// Its address.
        address: String,
        /// Its shards.
        shards: u16,
        /// What it holds of what it had acknowledged. That a server with more may come back the
        /// coordinator has to consider: here each takes the place of those that are down.
        kept: Kept,
    },
    /// A server is dead or cut off: fence it and take it out of every chain that has another member.
    Fail {
        /// The server.
        server: ServerId,
    },
    /// A server is to hold nothing.
    Drain {
        /// The server.
        server: ServerId,
    },
    /// A draining server stays.
    Undrain {
        /// The server.
        server: ServerId,
    },
    /// A server that holds nothing is gone for good. Its number is never used again.
    Forget {
        /// The server.
        server: ServerId,
    },
    /// The first chain of a partition that has none.
    Create {
        /// The partition.
        partition: PartitionId,
        /// Its members, head first.
        members: Vec<ServerId>,
    },
    /// A server starts to copy; once it is a member, `leaving` goes.
    StartJoin {
        /// The partition.
        partition: PartitionId,
        /// The server that joins.
        server: ServerId,
        /// The member it replaces; `None` where the chain is short.
        leaving: Option<ServerId>,
    },
    /// The joining server has caught up: it becomes the tail, and commits wait for it.
    Promote {
        /// The partition.
        partition: PartitionId,
    },
    /// The new tail holds all that was committed: it is a member, and the leaving one goes where enough stay.
    Settle {
        /// The partition.
        partition: PartitionId,
    },
    /// The joining server is given up.
    Abandon {
        /// The partition.
        partition: PartitionId,
    },
    /// A member leaves one chain, in which another one is in force.
    Leave {
        /// The partition.
        partition: PartitionId,
        /// The member.
        server: ServerId,
    },
    /// Two servers cannot work together: one leaves the chains that it shares with the other, and both stay
    /// in force. Where one of them was only joining, it is given up.
    Separate {
        /// Who leaves.
        server: ServerId,
        /// The other one.
        from: ServerId,
    },
    /// An operator accepts that a partition's data is gone, or that its members, all of which are down,
    /// will not come back; it starts empty on these servers.
    AcceptLoss {
        /// The partition.
        partition: PartitionId,
        /// Its new members.
        members: Vec<ServerId>,
    },
}

/// Why a change is not legal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransitionError {
    /// The server is not in the map.
    #[error("server {server} is not in the map: let it join first")]
    UnknownServer {
        /// The server.
        server: ServerId,
    },
    /// The server is fenced.
    #[error("server {server} is down in the map: it joins again with a newer incarnation")]
    ServerDown {
        /// The server.
        server: ServerId,
    },
    /// The join does not bring a newer life.
    #[error(
        "server {server} joins with incarnation {its}, {own} is known: restart it with a newer one"
    )]
    StaleIncarnation {
        /// The server.
        server: ServerId,
        /// The incarnation it came with.
        its: Incarnation,
        /// The one in the map.
        own: Incarnation,
    },
    /// The server still has parts in chains.
    #[error("server {server} still holds partitions: drain it first")]
    StillHolds {
        /// The server.
        server: ServerId,
    },
    /// The partition does not exist.
    #[error("partition {partition} does not exist in this cluster")]
    UnknownPartition {
        /// The partition.
        partition: PartitionId,
    },
    /// The partition is not in the state the change starts from.
    #[error("partition {partition}: {what}")]
    WrongState {
        /// The partition.
        partition: PartitionId,
        /// What is in the way, as a sentence.
        what: &'static str,
    },
}

impl Membership {
    /// This map one epoch ahead, to apply changes to.
    #[must_use]
    pub fn draft(&self) -> Self {
        let mut draft = self.clone();
        draft.epoch = self.epoch.next();
        draft
    }

    /// Applies one change to a draft; on an error the draft is as before.
    pub fn apply(&mut self, change: Change) -> Result<(), TransitionError> {
        match change {
            Change::Join { server, incarnation, address, shards, kept } => self.join(
                server,
                ServerEntry { incarnation, address, shards, state: ServerState::Up },
                kept != (Kept::Nothing {}),
            ),
            Change::Fail { server } => self.fail(server),
            Change::Drain { server } => {
                self.require_in_force(server)?;
                self.server_mut(server)?.state = ServerState::Draining;
                Ok(())
            }
            Change::Undrain { server } => {
                self.require_in_force(server)?;
                self.server_mut(server)?.state = ServerState::Up;
                Ok(())
            }
            Change::Forget { server } => {
                if self.held_by(server).next().is_some() {
                    return Err(TransitionError::StillHolds { server });
                }
                self.servers
                    .remove(&server)
                    .map(|_| ())
                    .ok_or(TransitionError::UnknownServer { server })
            }
            Change::Create { partition, members } => self.create(partition, members, false),
            Change::AcceptLoss { partition, members } => self.create(partition, members, true),
            Change::StartJoin { partition, server, leaving } => {
                self.start_join(partition, server, leaving)
            }
            Change::Promote { partition } => self.promote(partition),
            Change::Settle { partition } => self.settle(partition),
            Change::Abandon { partition } => self.abandon(partition),
            Change::Leave { partition, server } => self.leave(partition, server),
            Change::Separate { server, from } => self.separate(server, from),
        }
    }

    fn join(
        &mut self,
        server: ServerId,
        entry: ServerEntry,
        kept: bool,
    ) -> Result<(), TransitionError> {
        if let Some(known) = self.servers.get(&server) {
            if entry.incarnation <= known.incarnation {
                return Err(TransitionError::StaleIncarnation {
                    server,
                    its: entry.incarnation,
                    own: known.incarnation,
                });
            }
            self.fail(server)?;
        }
        self.servers.insert(server, entry);
        let epoch = self.epoch;
        for partition in self.partitions.iter_mut().filter(|entry| entry.members.contains(&server))
        {
            // Whoever held links to its old life must see that this is another one.
            partition.epoch = epoch;
            if kept {
                // What the others hold beyond it was never committed.
                partition.members = vec![server];
            } else if partition.members.len() > 1 {
                partition.members.retain(|&member| member != server);
            } else {
                partition.lost = true;
            }
            let members = &partition.members;
            partition.leaving = partition.leaving.filter(|leaving| members.contains(leaving));
        }
        Ok(())
    }

    fn fail(&mut self, server: ServerId) -> Result<(), TransitionError> {
        self.mark_down(&[server])?;
        let Self { servers, partitions, epoch, .. } = self;
        let is_up = |id: &ServerId| servers[id].state != ServerState::Down;
        for entry in partitions.iter_mut().filter(|entry| entry.involves(server)) {
            entry.stop_joining(server, *epoch);
            if entry.members.iter().any(is_up) {
                entry.remove(server, *epoch);
            }
        }
        Ok(())
    }

    /// Servers die together: none of them counts as one that goes on without the others.
    pub(crate) fn mark_down(&mut self, servers: &[ServerId]) -> Result<(), TransitionError> {
        for server in servers {
            self.server_mut(*server)?.state = ServerState::Down;
        }
        Ok(())
    }

    fn create(
        &mut self,
        partition: PartitionId,
        members: Vec<ServerId>,
        lost: bool,
    ) -> Result<(), TransitionError> {
        for &member in &members {
            self.require_in_force(member)?;
        }
        let epoch = self.epoch;
        let is_waiting = self.partition(partition).is_some_and(|entry| self.is_waiting(entry));
        let entry = self.entry_mut(partition)?;
        if !lost && !entry.members.is_empty() {
            return Err(wrong(partition, "it has a chain already"));
        }
        if lost && !entry.lost && !is_waiting {
            return Err(wrong(partition, "its data is not lost"));
        }
        if members.is_empty() {
            return Err(wrong(partition, "a chain needs a member"));
        }
        *entry = PartitionEntry { epoch, members, ..PartitionEntry::default() };
        Ok(())
    }

    fn start_join(
        &mut self,
        partition: PartitionId,
        server: ServerId,
        leaving: Option<ServerId>,
    ) -> Result<(), TransitionError> {
        self.require_in_force(server)?;
        let entry = self.entry_mut(partition)?;
        if entry.members.is_empty() || entry.lost {
            return Err(wrong(partition, "it has no chain to join"));
        }
        if entry.joining.is_some() {
            return Err(wrong(partition, "another server is joining: wait for it"));
        }
        if entry.members.contains(&server) {
            return Err(wrong(partition, "the server is a member already"));
        }
        if leaving.is_some_and(|leaving| !entry.members.contains(&leaving)) {
            return Err(wrong(partition, "the leaving server is no member"));
        }
        entry.joining = Some(Joining { server, phase: JoiningPhase::Copying });
        entry.leaving = leaving;
        Ok(())
    }

    fn promote(&mut self, partition: PartitionId) -> Result<(), TransitionError> {
        let epoch = self.epoch;
        let feeder = self.partition(partition).and_then(PartitionEntry::tail);
        if !feeder.is_some_and(|feeder| self.is_in_force(feeder)) {
            return Err(wrong(partition, "its tail is down: wait for it to come back"));
        }
        let entry = self.entry_mut(partition)?;
        match &mut entry.joining {
            Some(joining) if joining.phase == JoiningPhase::Copying => {
                joining.phase = JoiningPhase::Tail;
                entry.epoch = epoch;
                Ok(())
            }
            _ => Err(wrong(partition, "no server is copying")),
        }
    }

    fn settle(&mut self, partition: PartitionId) -> Result<(), TransitionError> {
        let epoch = self.epoch;
        let down: Vec<ServerId> =
            self.servers.keys().copied().filter(|&id| !self.is_in_force(id)).collect();
        let copies = usize::from(self.replicas).min(self.placeable().count());
        let entry = self.entry_mut(partition)?;
        match entry.joining {
            Some(Joining { server, phase: JoiningPhase::Tail }) => {
                entry.members.push(server);
                entry.joining = None;
                // A last member that went down in the meantime is the last no longer.
                for gone in down {
                    entry.remove(gone, epoch);
                }
                // Where another member has gone meanwhile, none leaves.
                let leaving = entry.leaving.take();
                if let Some(leaving) = leaving.filter(|_| entry.members.len() > copies) {
                    entry.remove(leaving, epoch);
                }
                Ok(())
            }
            _ => Err(wrong(partition, "no server is its unsettled tail")),
        }
    }

    fn abandon(&mut self, partition: PartitionId) -> Result<(), TransitionError> {
        let epoch = self.epoch;
        let entry = self.entry_mut(partition)?;
        match entry.joining {
            Some(joining) => {
                entry.stop_joining(joining.server, epoch);
                Ok(())
            }
            None => Err(wrong(partition, "no server is joining")),
        }
    }

    fn leave(&mut self, partition: PartitionId, server: ServerId) -> Result<(), TransitionError> {
        let goes_on = |id: &ServerId| *id != server && self.is_in_force(*id);
        if !self.partition(partition).is_some_and(|entry| entry.members.iter().any(goes_on)) {
            return Err(wrong(partition, "no other member is in force: wait for one"));
        }
        let epoch = self.epoch;
        let entry = self.entry_mut(partition)?;
        entry.stop_joining(server, epoch);
        entry.remove(server, epoch);
        Ok(())
    }

    fn separate(&mut self, server: ServerId, from: ServerId) -> Result<(), TransitionError> {
        self.require_in_force(server)?;
        self.require_in_force(from)?;
        let Self { partitions, epoch, .. } = self;
        let is_shared =
            |entry: &&mut PartitionEntry| entry.involves(server) && entry.involves(from);
        for entry in partitions.iter_mut().filter(is_shared) {
            match entry.joining.filter(|joining| [server, from].contains(&joining.server)) {
                Some(joining) => entry.stop_joining(joining.server, *epoch),
                None => {
                    entry.stop_joining(server, *epoch);
                    entry.remove(server, *epoch);
                }
            }
        }
        Ok(())
    }

    fn server_mut(&mut self, server: ServerId) -> Result<&mut ServerEntry, TransitionError> {
        self.servers.get_mut(&server).ok_or(TransitionError::UnknownServer { server })
    }

    fn require_in_force(&self, server: ServerId) -> Result<(), TransitionError> {
        let entry = self.servers.get(&server).ok_or(TransitionError::UnknownServer { server })?;
        if entry.state == ServerState::Down {
            return Err(TransitionError::ServerDown { server });
        }
        Ok(())
    }

    fn entry_mut(
        &mut self,
        partition: PartitionId,
    ) -> Result<&mut PartitionEntry, TransitionError> {
        let entry = self.partitions.get_mut(partition.0 as usize);
        entry.ok_or(TransitionError::UnknownPartition { partition })
    }
}

impl PartitionEntry {
    /// Gives a server up that joins, or that leaves once another has joined. The epoch moves only with
    /// the path.
    fn stop_joining(&mut self, server: ServerId, epoch: windlass_wire::Epoch) {
        if let Some(joining) = self.joining.filter(|joining| joining.server == server) {
            self.joining = None;
            self.leaving = None;
            if joining.phase == JoiningPhase::Tail {
                self.epoch = epoch;
            }
        }
        if self.leaving == Some(server) {
            self.leaving = None;
        }
    }

    /// Takes a member out, except the last one.
    fn remove(&mut self, server: ServerId, epoch: windlass_wire::Epoch) {
        if self.members.len() > 1 && self.members.contains(&server) {
            self.members.retain(|&member| member != server);
            self.epoch = epoch;
        }
    }
}

fn wrong(partition: PartitionId, what: &'static str) -> TransitionError {
    TransitionError::WrongState { partition, what }
}
