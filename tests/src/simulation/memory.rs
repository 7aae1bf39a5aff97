//! One partition's memory on one server: blocks that remember, in order, every push applied to them.
//! The order makes replicas comparable bit for bit, and losses and doubles countable.

use std::rc::Rc;

use windlass_replication::mix::mix2;
use windlass_replication::{RangeClock, RangeClockLimits, Replica, SessionTable};
use windlass_wire::{Incarnation, Lsn, RowRange, Sequence, WorkerClock, WorkerRank};

use super::message::Record;
use super::rounds::{Members, OpenRounds};
use super::strong_reads::LeaseWord;

/// Blocks per partition.
pub(super) const BLOCKS: usize = 3;
/// Rows per block.
const BLOCK_ROWS: u64 = 8;

/// A push as the oracle knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pushed {
    pub(super) client: usize,
    pub(super) partition: usize,
    pub(super) block: usize,
    /// The worker's clock: its pushes so far to this block.
    pub(super) clock: WorkerClock,
    pub(super) acknowledged_at: Option<u64>,
    /// Its client will never know.
    pub(super) given_up: bool,
    /// It was lost as it may be, and may be missing.
    pub(super) excused: bool,
    /// It came too late for its round, and counts nowhere.
    pub(super) dropped: bool,
}

/// One block.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    /// The last record applied to it.
    pub(super) lsn: Lsn,
    /// Pushes applied, in order.
    pub(super) list: Vec<u32>,
    /// A hash of the list: the block's bytes.
    pub(super) hash: u64,
}

impl Block {
    pub(super) fn apply(&mut self, push: u32) {
        self.list.push(push);
        self.hash = mix2(self.hash, u64::from(push));
    }
}

/// The rows of one block.
pub(super) fn rows(block: usize) -> RowRange {
    let start = block as u64 * BLOCK_ROWS;
    RowRange { start, end: start + BLOCK_ROWS }
}

/// A block copy under way.
#[derive(Clone, Debug)]
pub(super) struct Copying {
    pub(super) feeder: usize,
    pub(super) start: Lsn,
    pub(super) next: usize,
    pub(super) through: Lsn,
    /// Told apart from copies started over.
    pub(super) number: u64,
}

/// An accepted push whose acknowledgement waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) lsn: Lsn,
    pub(super) client: usize,
    pub(super) sequence: Sequence,
}

/// One partition on one server.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) replica: Replica,
    /// Records held, oldest first, without gaps.
    pub(super) log: Vec<Rc<Record>>,
    pub(super) blocks: Vec<Block>,
    pub(super) clock: RangeClock,
    pub(super) members: Members,
    /// As head of a table in rounds.
    pub(super) rounds: Option<OpenRounds>,
    /// Memory of all blocks as of `snapshot_lsn`: the checkpoint on disk.
    pub(super) snapshot: Snapshot,
    pub(super) copying: Option<Copying>,
    /// Admitted pushes of this turn.
    pub(super) turn: Vec<(u32, windlass_replication::Push)>,
    pub(super) turn_due: bool,
    pub(super) waiting: Vec<Waiting>,
    pub(super) word: LeaseWord,
    pub(super) word_until: u64,
    /// How far the disk holds the log.
    pub(super) disk: Lsn,
    /// How far agreement with the other replicas has been checked.
    pub(super) checked: Lsn,
}

/// What a disk holds besides the log.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) lsn: Lsn,
    pub(super) blocks: Vec<Block>,
    pub(super) clock: RangeClock,
    pub(super) members: Members,
    pub(super) sessions: SessionTable,
}

pub(super) fn new_clock() -> RangeClock {
    RangeClock::new(RangeClockLimits { workers_max: 8, steps_max: 16 })
}

impl Part {
    pub(super) fn new(replica: Replica) -> Self {
        let blocks = vec![Block::default(); BLOCKS];
        let sessions = SessionTable::new(64);
        Self {
            replica,
            log: Vec::new(),
            snapshot: Snapshot {
                lsn: Lsn(0),
                blocks: blocks.clone(),
                clock: new_clock(),
                members: Members::default(),
                sessions,
            },
            blocks,
            clock: new_clock(),
            members: Members::default(),
            rounds: None,
            copying: None,
            turn: Vec::new(),
            turn_due: false,
            waiting: Vec::new(),
            word: LeaseWord::default(),
            word_until: 0,
            disk: Lsn(0),
            checked: Lsn(0),
        }
    }

    /// Applies a record, block by block, skipping blocks that include it already.
    pub(super) fn apply(&mut self, record: &Record, pushes: &[Pushed], twice: bool) {
        for &index in &record.pushes {
            let push = &pushes[index as usize];
            let block = &mut self.blocks[push.block];
            if block.lsn < record.lsn || twice {
                block.apply(index);
            }
            let worker = WorkerRank(u32::try_from(push.client).expect("few clients"));
            let ticked = self.clock.tick(worker, rows(push.block), push.clock);
            ticked.expect("few clients");
        }
        self.members.apply(record.lsn, &record.turned);
        for block in &mut self.blocks {
            block.lsn = block.lsn.max(record.lsn);
        }
    }

    /// Writes all memory to the disk.
    pub(super) fn checkpoint(&mut self) {
        self.snapshot = Snapshot {
            lsn: self.replica.log().last(),
            blocks: self.blocks.clone(),
            clock: self.clock.clone(),
            members: self.members.clone(),
            sessions: self.replica.sessions().clone(),
        };
    }

    /// The state as one number.
    pub(super) fn hash(&self) -> u64 {
        let Members { closed, workers, .. } = &self.members;
        let of_workers = workers.iter().fold(closed.0, |hash, (rank, (clock, is_live))| {
            mix2(hash, mix2(clock.0, u64::from(rank.0) << 1 | u64::from(*is_live)))
        });
        self.blocks.iter().fold(of_workers, |hash, block| mix2(hash, block.hash))
    }

    pub(super) fn record(&self, lsn: Lsn) -> Option<&Rc<Record>> {
        let first = self.log.first()?.lsn;
        let at = usize::try_from(lsn.0.checked_sub(first.0)?).ok()?;
        self.log.get(at)
    }

    /// Adds a record where the replica says the log ends.
    pub(super) fn store(&mut self, record: Rc<Record>) {
        while self.log.last().is_some_and(|last| last.lsn >= record.lsn) {
            self.log.pop();
        }
        self.log.push(record);
    }
}

/// The session of a client: a number and a life.
pub(super) fn session(client: usize) -> (windlass_wire::SessionId, Incarnation) {
    (windlass_wire::SessionId(client as u64 + 1), Incarnation(1))
}

/// What a client saw of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) partition: usize,
    pub(super) block: usize,
    pub(super) began_at: u64,
    pub(super) ended_at: u64,
    pub(super) count: usize,
    pub(super) hash: u64,
}

pub(super) const fn clock_of(count: u64) -> WorkerClock {
    WorkerClock(count)
}
