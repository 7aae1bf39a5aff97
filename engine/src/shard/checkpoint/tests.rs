use std::{collections::BTreeMap, sync::Arc};

use windlass_replication::{LeaseTimings, Push, SessionTable};
use windlass_transport::{
    Transport,
    tcp::{Tcp, TcpOptions},
};
use windlass_wire::{ClusterMap, Incarnation, Sequence, ServerId, ShardId, map::Chain};

use super::*;
use crate::shard::{ChainContext, Shard, ShardOptions, SharedLeases, chain};

const PARTITION: PartitionId = PartitionId(0);

/// A settled shard of one partition.
pub(in crate::shard) fn shard() -> Shard {
    let options = ShardOptions {
        spin_us: 20,
        by_reference_len: None,
        memory_len_max: 1 << 20,
        log_len_max: None,
        worker_timeout_ms: 1000,
    };
    let transport = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    let context = ChainContext {
        leases: Arc::new(SharedLeases::new(LeaseTimings::default())),
        events: crossbeam::channel::unbounded().0,
        ended: crossbeam::channel::unbounded().0,
    };
    let transports: Vec<Box<dyn Transport>> = vec![Box::new(transport)];
    let (mut shard, _handle) =
        Shard::new(ShardId(0), ServerId(0), 1, options, transports, context).unwrap();
    let chain = Chain { epoch: Epoch(1), servers: vec![ServerId(0)], ..Chain::default() };
    let map = ClusterMap { epoch: Epoch(1), chains: vec![chain], ..ClusterMap::default() };
    shard.chain.map = Arc::new(map);
    let Shard { port, tables, chain, disk, .. } = &mut shard;
    chain::configure_chains(port, tables, chain, disk);
    while !chain::is_settled(chain) {
        // Promises of a life before may still hold.
        chain::note_time(port, tables, chain);
    }
    chain::recover_chains(port, tables, chain, &BTreeMap::new(), BTreeMap::new(), true);
    shard
}

fn source<'a>(shard: &'a mut Shard, copied: &'a mut Copied) -> Source<'a> {
    let Shard { port, tables, chain, .. } = shard;
    Source { port, tables, chain, copied }
}

/// A push of a session's first life.
pub(in crate::shard) fn push(session: u64, sequence: u64) -> Push {
    Push {
        session: SessionId(session),
        incarnation: Incarnation(1),
        lane: Lane(0),
        sequence: Sequence(sequence),
        previous: None,
    }
}

/// A client pushes without a record.
pub(in crate::shard) fn leave(shard: &mut Shard, session: u64, sequence: u64) {
    let push = push(session, sequence);
    shard.chain.note_applied(PARTITION, (0, &push));
}

#[test]
fn many_sessions_go_into_short_blocks_while_others_come() {
    const COUNT: u64 = 3 * SESSIONS_PER_BLOCK as u64 + 5;
    let mut shard = shard();
    let mut expected = BTreeMap::new();
    for session in (1..=COUNT).map(|number| number * 10) {
        leave(&mut shard, session, session + 1);
        expected.insert(session, session + 1);
    }
    let mut copied = Copied { positions: vec![Lsn(7)], ..Copied::default() };
    let mut found = SessionTable::new(usize::MAX);
    let mut blocks = Vec::new();
    source(&mut shard, &mut copied).begin(PARTITION, Extent::Full);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let mut source = source(&mut shard, &mut copied);
        match source.next(PARTITION, &mut buffer) {
            Next::Block(head) => {
                assert_eq!((head.section, head.lsn), (SESSIONS, Lsn(7)));
                let piece = SessionTable::decode(&buffer[..head.length], SESSIONS_PER_BLOCK);
                found.merge(&piece.unwrap());
                blocks.push(head.index);
                // One in front of what is copied, and one behind it.
                let number = blocks.len() as u64;
                leave(&mut shard, number, 1);
                leave(&mut shard, COUNT * 10 + number, 1);
            }
            Next::Later { .. } => {}
            Next::NoRoom => panic!("a block longer than its buffer"),
            Next::Done => break,
        }
    }
    assert_eq!(blocks, [0, 1, 2, 3]);
    for (session, sequence) in expected {
        let applied = found.applied(SessionId(session), Lane(0));
        assert_eq!(applied, Some((Incarnation(1), Sequence(sequence))), "session {session}");
    }
}

#[test]
fn a_long_piece_goes_into_several_blocks_of_one_position() {
    const LENGTH: usize = 2 * CHECKPOINT_BLOCK_BYTES_MAX + 100;
    let mut shard = shard();
    let piece: Vec<u8> = (0..LENGTH).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let saved = Saved {
        bytes: piece.clone(),
        partition: PARTITION,
        table: TableId(1),
        section: ROWS,
        index: 9,
        lsn: Lsn(7),
        epoch: Epoch(2),
        is_pending: true,
        ..Saved::default()
    };
    let mut copied = Copied { saved, ..Copied::default() };
    let (mut parts, mut lengths) = (PieceParts::default(), Vec::new());
    let mut found = None;
    let mut buffer = vec![0; CHECKPOINT_BLOCK_BYTES_MAX + 5];
    loop {
        // Records come in meanwhile.
        copied.positions = vec![Lsn(8 + lengths.len() as u64)];
        let mut source = source(&mut shard, &mut copied);
        if lengths.len() == 1 {
            assert_eq!(source.next(PARTITION, &mut buffer[..1000]), Next::NoRoom);
        }
        match source.next(PARTITION, &mut buffer) {
            Next::Block(head) => {
                assert_eq!((head.index, head.lsn, head.epoch), (9, Lsn(7), Epoch(2)));
                lengths.push(head.length);
                found = parts.take(&head, &buffer[..head.length]).unwrap().map(<[u8]>::to_vec);
            }
            Next::Done => break,
            other => panic!("{other:?}"),
        }
    }
    let most = CHECKPOINT_BLOCK_BYTES_MAX;
    assert_eq!(lengths, [most, most, 100]);
    assert!(found == Some(piece), "it comes back whole");
}
