//! The head's turn: admits pushes, makes their records, appends them to the chain.

use windlass_replication::{Admission, Covered, Lane, Push, Role};
use windlass_wire::{DataType, Epoch, Lsn, PartitionId, Rows, Status};

use super::{
    Chain,
    build::{Ingredients, Member, Scratch, Span, build, is_sync},
};
use crate::{
    limits::CHAIN_RECORD_VALUES_MAX,
    persist::{
        commit,
        frame::Kind,
        limits::{KEYS_MAX, RECORD_BYTES_MAX},
        record::{self, Stamp},
    },
    shard::{
        Shard,
        push::{Refusal, is_sent_again},
        tables::ShardTable,
        work::{Work, values_pointer},
    },
    update::Accumulator,
};

/// Bytes of a record that are not rows of its push, at most.
const RECORD_OVERHEAD: u64 = 1024;

impl Shard {
    /// Whether this replica may answer a request, by the chains of all partitions it touches.
    pub(in crate::shard) fn check_chains(
        &self,
        table: &ShardTable,
        work: &Work,
    ) -> Result<(), Refusal> {
        let chain = self.chain.as_ref().ok_or((Status::NotHere, 0))?;
        if let Some(epoch) = chain.settled_epoch().filter(|_| !table.goes_by_records()) {
            let is_old = work.header.epoch < epoch;
            return if is_old { Err((Status::StaleEpoch, 0)) } else { Ok(()) };
        }
        let pushes = work.header.kind.pushes();
        let record_len = work.header.values_len() + work.header.keys_len() + RECORD_OVERHEAD;
        let is_keyed_long = work.header.keys_len() > 0 && work.header.row_count as usize > KEYS_MAX;
        if pushes && (record_len > RECORD_BYTES_MAX as u64 || is_keyed_long) {
            return Err((Status::TooLarge, 0));
        }
        let is_unsafe = pushes && table.is_kept() && chain.disk.has_failed();
        let check = |partition: PartitionId| -> Result<(), Refusal> {
            let Some(part) = chain.part(partition) else { return Err((Status::NotHere, 0)) };
            if part.epoch() > work.header.epoch || part.broken {
                return Err((Status::StaleEpoch, 0));
            }
            if is_unsafe {
                // Others go on without this server, if there are any.
                let is_alone = part.replica.role() == Role::Single;
                return Err((if is_alone { Status::Poisoned } else { Status::StaleEpoch }, 0));
            }
            let serves = if pushes { part.replica.is_head() } else { part.replica.is_readable() };
            if !serves {
                return Err((Status::StaleEpoch, 0));
            }
            if work.header.strong && !pushes && !chain.is_strong(part) {
                return Err((Status::StaleEpoch, 0));
            }
            Ok(())
        };
        match work.header.rows {
            Rows::Partition { partition, .. } => check(partition)?,
            Rows::Range { first } => {
                let end = first + u64::from(work.header.row_count);
                let mut row = first;
                while row < end {
                    let partition = table.layout.partition_of(row);
                    check(partition)?;
                    row = table.layout.rows_of(partition).end.max(row + 1);
                }
            }
            Rows::Keys => {
                let mut last = None;
                for key in &self.turn.keys[work.keys.0..work.keys.1] {
                    let partition = table.layout.partition_of(*key);
                    if last.replace(partition) != Some(partition) {
                        check(partition)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Carries out every push of the turn as records of its chains.
    pub(in crate::shard) fn push_chained(&mut self) {
        if self.push_alone() {
            return;
        }
        for at in 0..self.turn.works.len() {
            let work = self.turn.works[at];
            if work.closed || work.pushed {
                continue;
            }
            if work.header.kind.pushes() {
                self.push_group(at);
            } else if self.is_behind_refused(at) {
                self.close(at, Status::StaleEpoch, 0);
            } else if !work.header.kind.pulls() {
                let (status, detail) = self.carry_out_other(at, &work);
                self.close(at, status, detail);
            }
        }
    }

    /// Carries out the push at `first` with later ones to the same table. A session's pushes stay in
    /// order, whatever their tables: duplicates are told by the highest sequence of a partition.
    pub(in crate::shard) fn push_group(&mut self, first: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.pick(first, &mut scratch);
        let id = self.turn.works[first].header.table;
        if let Some(table) = self.tables.get(&id) {
            scratch.cut(table, &self.turn.keys);
            let is_in_rounds = table.rounds.is_some();
            let mut at = 0;
            while at < scratch.spans.len() {
                let partition = scratch.spans[at].partition;
                let same = |span: &&Span| span.partition == partition;
                let count = scratch.spans[at..].iter().take_while(same).count();
                let spans = &scratch.spans[at..at + count];
                if is_in_rounds {
                    self.push_round(partition, &scratch.members, spans);
                } else {
                    self.push_partition(partition, &mut scratch.members, spans);
                }
                at += count;
            }
        }
        for member in scratch.members.drain(..) {
            self.finish_push(member.at, Ok(()));
        }
        self.scratch = scratch;
    }

    /// Picks the group's members, and makes the rows they need: whoever finds no memory is refused
    /// before anything of it is written down.
    fn pick(&mut self, first: usize, scratch: &mut Scratch) {
        scratch.members.clear();
        scratch.behind.clear();
        let id = self.turn.works[first].header.table;
        let (mut bytes, mut rows) = (0, 0);
        for at in first..self.turn.works.len() {
            let work = self.turn.works[at];
            if work.closed || work.pushed || !work.header.kind.pushes() {
                continue;
            }
            if scratch.behind.contains(&work.session) {
                continue;
            }
            let len = summed_len(&work);
            let more_rows = rows + work.header.row_count as usize;
            let fits = bytes + len <= CHAIN_RECORD_VALUES_MAX && more_rows <= KEYS_MAX;
            if work.header.table != id || !(fits || scratch.members.is_empty()) {
                scratch.behind.push(work.session);
                continue;
            }
            if self.is_behind_refused(at) {
                self.close(at, Status::StaleEpoch, 0);
                continue;
            }
            match self.member(at, &work) {
                Ok(Some(member)) => {
                    bytes += len;
                    rows = more_rows;
                    scratch.members.push(member);
                }
                Ok(None) => self.finish_push(at, Ok(())),
                Err(refusal) => self.finish_push(at, Err(refusal)),
            }
            self.turn.works[at].pushed = true;
        }
    }

    fn member(&mut self, at: usize, work: &Work) -> Result<Option<Member>, Refusal> {
        let Some(table) = self.tables.get_mut(&work.header.table) else {
            return Err((Status::UnknownTable, 0));
        };
        if work.header.sync && !table.is_kept() {
            return Err((Status::NotDurable, 0));
        }
        table.make_rows(&self.turn.keys[work.keys.0..work.keys.1], &mut self.memory_left)?;
        let Some(session) = &self.sessions[work.session] else { return Ok(None) };
        let covered = record::Covered {
            session: session.id,
            incarnation: session.incarnation,
            sequence: work.header.sequence,
        };
        let values = values_pointer(&self.turn, &self.staging, work);
        let Some(values) = values.filter(|_| work.header.row_count > 0) else { return Ok(None) };
        let rank = session.rank;
        Ok(Some(Member { at, work: *work, values, covered, rank, is_in: false }))
    }

    /// One partition's part of a group: one record, unless all of it is here already.
    fn push_partition(&mut self, partition: PartitionId, members: &mut [Member], spans: &[Span]) {
        let mut any = false;
        for (index, member) in (0_u32..).zip(members.iter_mut()) {
            member.is_in = false;
            if !spans.iter().any(|span| span.member == index && span.count > 0) {
                continue;
            }
            match self.admit_push(partition, member) {
                Ok(Admitted::New) => {
                    member.is_in = true;
                    any = true;
                }
                Ok(Admitted::Before(lsn)) => {
                    self.statistics.duplicates += 1;
                    self.wait_for_lsn(partition, member.at, lsn);
                }
                Err(status) => self.refuse_later(member.at, status),
            }
        }
        if any {
            self.append(partition, members, spans);
        }
    }

    fn admit_push(&mut self, partition: PartitionId, member: &Member) -> Result<Admitted, Status> {
        let Some(part) = self.chain.as_mut().and_then(|chain| chain.part_mut(partition)) else {
            return Err(Status::NotHere);
        };
        let record::Covered { session, incarnation, sequence } = member.covered;
        // A client sends no push before the earlier ones are settled whenever it changes its route,
        // so none can be missing between two.
        let push = Push { session, incarnation, lane: Lane(0), sequence, previous: None };
        match part.replica.admit(&push) {
            Ok(Admission::Apply) => Ok(Admitted::New),
            // One without a record is behind the last one, and nothing is to be waited for.
            Ok(Admission::Duplicate { lsn }) => {
                Ok(Admitted::Before(lsn.min(part.replica.log().last())))
            }
            // Of this very turn: it is in the record that comes next.
            Ok(Admission::Pending) => Ok(Admitted::Before(part.replica.log().last().next())),
            Ok(Admission::Full) => Err(Status::TooManySessions),
            Ok(Admission::Gap { .. }) => Err(Status::Full),
            Ok(Admission::StaleIncarnation) => Err(Status::Superseded),
            Err(error) => {
                tracing::debug!(%error, "a push was refused");
                Err(Status::StaleEpoch)
            }
        }
    }

    /// A message waits for a position of a partition, unless it is committed.
    pub(in crate::shard) fn wait_for_lsn(&mut self, partition: PartitionId, at: usize, lsn: Lsn) {
        let Some(id) = self.begin_wait(at) else { return };
        let Some(chain) = &mut self.chain else { return };
        let Some(part) = chain.part_mut(partition) else { return };
        if lsn <= part.replica.log().committed() {
            return;
        }
        let place = part.waiting.partition_point(|(position, _)| *position <= lsn);
        part.waiting.insert(place, (lsn, id));
        self.waits.add(id);
    }

    /// A message whose rows of one partition are refused: it ends so once the others are settled.
    pub(in crate::shard) fn refuse_later(&mut self, at: usize, status: Status) {
        let Some(id) = self.begin_wait(at) else { return };
        self.waits.add(id);
        let session = self.turn.works[at].session;
        if is_sent_again(status)
            && let Some(session) = &mut self.sessions[session]
        {
            session.refuses = true;
        }
        self.end_wait(id, status, 0);
    }

    /// Writes the record and gives it to the replica.
    fn append(&mut self, partition: PartitionId, members: &[Member], spans: &[Span]) {
        for member in members.iter().filter(|member| member.is_in) {
            self.begin_wait(member.at);
        }
        let Self { chain: Some(chain), tables, aggregator, turn, waits, .. } = self else { return };
        let id = members[0].work.header.table;
        let Some(table) = tables.get(&id) else { return };
        let Chain { parts, spare, covered, shard_count, .. } = &mut **chain;
        let index = partition.0 as usize / usize::from(*shard_count);
        let Some(part) = parts[index].as_deref_mut() else { return };
        let (lsn, epoch) = (part.replica.log().last().next(), part.epoch());
        let facts = facts_of(table, partition, epoch);
        let stamp = stamp_of(table, partition, members);
        let ingredients = Ingredients { table, members, spans, keys: &turn.keys, facts, stamp };
        let Some(held) = build(ingredients, lsn, aggregator, |len| spare.take(len)) else {
            // Whoever is admitted has to be in a record: one that changes nothing would say that its
            // rows are applied. Sizes were checked before.
            unreachable!("a record of at most {CHAIN_RECORD_VALUES_MAX} bytes passes no limit")
        };
        covered.clear();
        for member in members.iter().filter(|member| member.is_in) {
            let record::Covered { session, incarnation, sequence } = member.covered;
            covered.push(Covered { session, incarnation, lane: Lane(0), sequence });
            if let Some(wait) = turn.works[member.at].wait {
                part.waiting.push_back((lsn, wait));
                waits.add(wait);
            }
        }
        let mut taken = members.iter().filter(|member| member.is_in);
        let sync = taken.any(|member| is_sync(table, &member.work));
        self.append_held(partition, held, sync, &[]);
    }
}

/// What became of a push at one partition.
enum Admitted {
    New,
    /// By a record no later than this.
    Before(Lsn),
}

/// The clock that the rows of one worker's pushes have from now on, if that is news.
fn stamp_of(table: &ShardTable, partition: PartitionId, members: &[Member]) -> Option<Stamp> {
    let clocks = table.clocks.as_ref().filter(|clocks| clocks.chained)?;
    let slot = table.slot(partition)?;
    let mut ranks = members.iter().filter(|member| member.is_in).map(|member| member.rank);
    let worker = ranks.next().flatten()?;
    // Rows of several workers' pushes are not all of each.
    if !ranks.all(|rank| rank == Some(worker)) {
        return None;
    }
    let pushed = members.iter().filter(|member| member.is_in).map(|one| one.work.header.clock);
    // Of several pushes, what all of them say.
    let clock = pushed.min()?;
    let finished = clocks.live_clock(slot, worker)?;
    (clock > finished).then_some(Stamp { worker, clock })
}

/// Bytes of a push's values when they are summed with others.
fn summed_len(work: &Work) -> u64 {
    let header = &work.header;
    let size = Accumulator::sum_dtype(header.dtype).size() as u64;
    u64::from(header.row_count) * u64::from(header.width) * size
}

pub(super) fn facts_of(table: &ShardTable, partition: PartitionId, epoch: Epoch) -> record::Facts {
    let dtype: DataType = table.entry.schema.dtype;
    record::Facts {
        kind: Kind::Keys,
        partition,
        epoch,
        table: table.entry.id,
        dtype,
        rows: windlass_wire::RowRange::default(),
        tag: table.rule.tag(),
        durability: commit::Durability::Memory,
    }
}
