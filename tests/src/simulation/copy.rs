//! A learner's one-sided copy of its feeder's blocks, one at a time while the feeder goes on.

use windlass_replication::Input;
use windlass_wire::Lsn;

use super::memory::{Copying, new_clock};
use super::options::Mutation;
use super::world::{Event, World};

impl World {
    pub(super) fn start_copy(&mut self, s: usize, p: usize, feeder: usize, start: Lsn) {
        let number = self.number();
        let mutated = self.options.mutation == Some(Mutation::PromoteEarly);
        let part = &mut self.servers[s].parts[p];
        part.log.clear();
        part.checked = start;
        part.disk = Lsn(0);
        part.snapshot.lsn = Lsn(0);
        part.clock = new_clock();
        part.members = super::rounds::Members::default();
        part.blocks.iter_mut().for_each(|block| *block = Default::default());
        part.copying = Some(Copying { feeder, start, next: 0, through: start, number });
        if mutated {
            let sessions = self.servers[feeder].parts[p].replica.sessions().clone();
            let early = Input::CopyFinished { start, through: start, sessions: &sessions };
            self.step(s, p, early).expect("a mutation");
            return;
        }
        self.copy_soon(s, p, number, feeder);
    }

    pub(super) fn copy_soon(&mut self, s: usize, p: usize, number: u64, feeder: usize) {
        let delay = self.random.between(20, 1_500);
        let generation = self.generation(s, feeder);
        let life = self.servers[s].life;
        self.schedule(
            delay,
            Event::CopyBlock { server: s, life, partition: p, number, generation },
        );
    }

    /// Reads one block, or at last the session table, of the feeder's memory.
    pub(super) fn copy_block(&mut self, s: usize, p: usize, number: u64, generation: u32) {
        let part = &self.servers[s].parts[p];
        let Some(mut copying) = part.copying.clone().filter(|copying| copying.number == number)
        else {
            return;
        };
        let feeder = copying.feeder;
        if !self.is_reachable(s, feeder) || self.generation(s, feeder) != generation {
            return;
        }
        let from = &self.servers[feeder].parts[p];
        if let Some(block) = from.blocks.get(copying.next) {
            copying.through = copying.through.max(block.lsn);
            let block = block.clone();
            self.servers[s].parts[p].blocks[copying.next] = block;
            copying.next += 1;
            self.servers[s].parts[p].copying = Some(copying);
            self.copy_soon(s, p, number, feeder);
            return;
        }
        let mutated = self.options.mutation == Some(Mutation::CopyWithoutSessions);
        let through = copying.through.max(from.replica.log().last());
        let sessions = if mutated {
            windlass_replication::SessionTable::new(64)
        } else {
            from.replica.sessions().clone()
        };
        let clock = from.clock.clone();
        let members = from.members.clone();
        let start = copying.start;
        self.servers[s].parts[p].copying = None;
        self.servers[s].parts[p].members = members;
        self.servers[s].parts[p].clock.merge(&clock).expect("few workers");
        let finished = Input::CopyFinished { start, through, sessions: &sessions };
        // Refused when the copy was started over meanwhile.
        let _ = self.step(s, p, finished);
    }
}
