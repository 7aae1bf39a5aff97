//! Records from a predecessor: several whole ones in a message, or one in pieces. No byte is trusted.

use windlass_replication::{Covered, Input, RecordHeader, SessionTable};
use windlass_wire::{Epoch, Lsn, PartitionId, TableId};

use super::{
    Chain, SYNC,
    answer::{Records, Taking},
    clocks::lane_of,
    copy_in,
    copy_in::CopyOrigin,
    disk, outputs,
    part::Held,
    receive::Taken,
    turn::leaves_records,
};
use crate::{
    limits::CHAIN_SESSIONS_MAX,
    persist::{
        frame::{Frame, Header, Salt},
        record::{Record, RecordError},
        sessions::expired_of,
    },
    shard::{disk::Disk, port::Port, tables::Tables},
};

/// A record being put together.
pub(super) struct Assembly {
    partition: PartitionId,
    lsn: Lsn,
    pub(super) words: Vec<u64>,
    filled: usize,
}

/// What a replica has to know of a record.
#[derive(Clone, Copy, Debug)]
struct RecordFacts {
    lsn: Lsn,
    made_in: Epoch,
    sync: bool,
    /// Whether it follows the last one that is here.
    is_next: bool,
}

/// Where records come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// From which peer.
    pub(super) at: usize,
    pub(super) partition: PartitionId,
    /// The sender's chain epoch.
    pub(super) epoch: Epoch,
    /// The record, or the first of them.
    pub(super) lsn: Lsn,
}

pub(super) fn take_records(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    origin: Origin,
    body: &[u8],
) -> Taken {
    let Origin { at, partition, epoch, lsn: first } = origin;
    chain.peers.taking = Some(Taking { at, partition, committed: None });
    if leaves_records(chain, disk.durable.as_deref()) {
        return Taken::Left;
    }
    let (mut rest, mut lsn, mut is_soon) = (body, first, true);
    while !rest.is_empty() {
        let Ok(frame) = Frame::decode(rest, Salt::NONE) else {
            return Taken::Bad("a record that is damaged");
        };
        // What was taken before is dropped when it is looked at again.
        if tables.awaits_table(TableId(frame.header.table)) {
            return Taken::Left;
        }
        let facts = facts_of(chain, Record::from_frame(frame), partition, epoch, lsn);
        let Some(facts) = facts else {
            return Taken::Bad("a record of something else");
        };
        let mut words = chain.kept.spare.take(frame.bytes.len());
        bytemuck::cast_slice_mut(&mut words).copy_from_slice(frame.bytes);
        is_soon &= take_record(port, tables, chain, origin, facts, words);
        (rest, lsn) = (&rest[frame.bytes.len()..], lsn.next());
    }
    let records = Records { partition, epoch, last: Lsn(lsn.0 - 1) };
    Taken::Records { records, is_soon }
}

/// A piece of a record or of a copy that one message has no room for: where it goes, and the whole's length.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) body: &'a [u8],
}

impl<'a> Piece<'a> {
    pub(super) fn new(offset: u32, len: u32, body: &'a [u8]) -> Self {
        Self { offset: offset as usize, len: len as usize, body }
    }
}

pub(super) fn take_piece(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    origin: Origin,
    Piece { offset, len, body }: Piece<'_>,
) -> Taken {
    let Origin { at, partition, epoch, lsn } = origin;
    if offset == 0 {
        if leaves_records(chain, disk.durable.as_deref()) {
            return Taken::Left;
        }
        if !len.is_multiple_of(8) {
            return Taken::Bad("a record of an impossible length");
        }
        let Ok((header, _)) = Header::decode(body, Salt::NONE) else {
            return Taken::Bad("a record whose header is damaged");
        };
        if header.table >= tables.below {
            return Taken::Left;
        }
        let words = chain.kept.spare.take(len);
        let fresh = Assembly { partition, lsn, words, filled: 0 };
        if let Some(old) = chain.peers.incoming[at].assembly.replace(fresh) {
            chain.kept.spare.put(old.words);
        }
    }
    let Some(assembly) = &mut chain.peers.incoming[at].assembly else {
        return Taken::Bad("a piece of no record");
    };
    let same = (assembly.partition, assembly.lsn, assembly.filled) == (partition, lsn, offset)
        && assembly.words.len() * 8 == len;
    if !same {
        return Taken::Bad("a piece of another record");
    }
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut assembly.words);
    bytes[offset..offset + body.len()].copy_from_slice(body);
    assembly.filled += body.len();
    if assembly.filled < len {
        return Taken::Yes;
    }
    let words = std::mem::take(&mut assembly.words);
    chain.peers.incoming[at].assembly = None;
    let record = Record::decode(bytemuck::cast_slice(&words), Salt::NONE);
    match facts_of(chain, record, partition, epoch, lsn) {
        Some(facts) => {
            chain.peers.taking = Some(Taking { at, partition, committed: None });
            let is_soon = take_record(port, tables, chain, origin, facts, words);
            Taken::Records { records: Records { partition, epoch, last: lsn }, is_soon }
        }
        None => {
            put_back(chain, words);
            Taken::Bad("a record that is damaged")
        }
    }
}

fn put_back(chain: &mut Chain, words: Vec<u64>) {
    chain.kept.spare.put(words);
}

/// What a replica has to know of a record, if it can be the partition's at that place; whom it
/// covers and whom it expires are left in the chain.
fn facts_of(
    chain: &mut Chain,
    record: Result<Record<'_>, RecordError>,
    partition: PartitionId,
    epoch: Epoch,
    lsn: Lsn,
) -> Option<RecordFacts> {
    let record = record.ok()?;
    let part = chain.part(partition);
    let is_next = part.is_some_and(|part| part.replica.log().last().next() == lsn);
    // A stale one is dropped later, whatever its epoch.
    let newest = part.map(|part| part.replica.log().position().epoch);
    let known = newest.filter(|_| is_next).unwrap_or_default();
    let is_its = record.partition() == partition
        && record.lsn() == lsn
        && !record.is_grouped()
        && (known..=epoch).contains(&record.epoch());
    if !is_its {
        return None;
    }
    chain.step.expired.clear();
    chain.step.expired.extend(expired_of(&record));
    chain.step.covered.clear();
    let lane = lane_of(&record);
    chain.step.covered.extend(record.covered().map(|one| Covered {
        session: one.session,
        incarnation: one.incarnation,
        lane,
        sequence: one.sequence,
    }));
    Some(RecordFacts { lsn, made_in: record.epoch(), sync: record.tag() & SYNC != 0, is_next })
}

/// Takes in one whole record, of which the chain holds whom it covers and expires. Returns whether the
/// replica took it and no disk is waited for.
fn take_record(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    origin: Origin,
    facts: RecordFacts,
    words: Vec<u64>,
) -> bool {
    let Origin { at, partition, epoch, .. } = origin;
    let RecordFacts { lsn, made_in, sync, is_next } = facts;
    let from = chain.peers.incoming[at].peer.server;
    let covered = std::mem::take(&mut chain.step.covered);
    let expired = std::mem::take(&mut chain.step.expired);
    // It joins the log if the replica takes it in, and the outputs of that very step name it.
    match chain.part_mut(partition) {
        Some(part) if is_next => part.records.push_back(Held { lsn, words }),
        _ => chain.kept.spare.put(words),
    }
    let record = RecordHeader { lsn, epoch: made_in, sync, covered: &covered, expired: &expired };
    let taken = outputs::step_from_peer(
        port,
        tables,
        chain,
        partition,
        Input::Record { from, epoch, record },
    );
    (chain.step.covered, chain.step.expired) = (covered, expired);
    chain.step.expired.clear();
    if is_next && !taken {
        let refused = chain.part_mut(partition).and_then(|part| part.records.pop_back());
        if let Some(refused) = refused {
            chain.kept.spare.put(refused.words);
        }
    } else if is_next {
        disk::keep_record(chain, partition);
        copy_in::copy_in_record(tables, chain, partition, lsn);
    }
    is_next && taken && !sync
}

/// Ends a copy: all rows are here, and the session table comes last.
pub(in crate::shard) fn take_copy_end(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    CopyOrigin { from, partition, epoch }: CopyOrigin,
    start: Lsn,
    through: Lsn,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let Some(part) = chain.part_mut(partition) else { return Ok(()) };
    let feeder = part.replica.chain().path.last().copied();
    let is_awaited =
        part.copy_in.as_ref().is_some_and(|copy| copy.start == start && !copy.is_given_up);
    if !is_awaited || feeder != Some(from) || part.replica.epoch() != epoch {
        return Ok(());
    }
    let Ok(sessions) = SessionTable::decode(bytes, CHAIN_SESSIONS_MAX) else {
        return Err("a session table that is none");
    };
    part.copy_in = None;
    let finished = Input::CopyFinished { start, through, sessions: &sessions };
    if let Err(error) = outputs::step(port, tables, chain, partition, finished) {
        tracing::debug!(%error, "a copy was started over meanwhile");
    }
    disk::keep_record(chain, partition);
    Ok(())
}
