use std::{collections::BTreeMap, sync::Arc, time::Duration};

use windlass_replication::{LeaseTimings, Push, SessionTable};
use windlass_transport::{
    Transport,
    tcp::{Tcp, TcpOptions},
};
use windlass_wire::{
    ClusterMap, DataType, Durability, Incarnation, Sequence, ServerId, ShardId, TableEntry,
    TableSchema, map::Chain,
};

use super::*;
use crate::{
    persist::{
        checkpoint::{CheckpointConfig, CheckpointProgress},
        limits::STAGING_BYTES,
        log::LogConfig,
        memory::Window,
        persistence::Persistence,
        record::Record,
        recovery::{
            AppliedBlocks, Block, RecoveredDirectory, RecoveryOptions, Replay, ReplayError, recover,
        },
        storage,
    },
    shard::{ChainContext, Shard, ShardOptions, SharedLeases, chain, growth},
};

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
        chain::note_time(port, tables, chain, disk);
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

/// Takes rows of a sparse table in as recovery does.
struct Restored {
    parts: PieceParts,
    blocks: usize,
    rows: BTreeMap<u64, Vec<u8>>,
}

impl Replay for Restored {
    fn wants(&self, _: PartitionId) -> bool {
        true
    }

    fn restore(&mut self, block: &Block<'_>) -> Result<(), ReplayError> {
        if block.head.section != ROWS {
            return Ok(());
        }
        self.blocks += 1;
        if let Some(piece) = self.parts.take(&block.head, block.bytes)? {
            for row in piece.chunks_exact(8 + LONG_ROW) {
                let (key, values) = row.split_first_chunk().unwrap();
                self.rows.insert(u64::from_le_bytes(*key), values.to_vec());
            }
        }
        Ok(())
    }

    fn apply(&mut self, _: &Record<'_>, _: &AppliedBlocks) -> Result<(), ReplayError> {
        Ok(())
    }
}

const LONG_WIDTH: u32 = 48 << 10;
const LONG_ROW: usize = 8 * LONG_WIDTH as usize;

/// What a partition of many GiB has everywhere: pieces that fill no single block, nor what is staged at once.
#[test]
fn a_sparse_partition_whose_pieces_pass_all_staging_is_checkpointed() {
    let mut shard = shard();
    let Shard { port, tables, chain, .. } = &mut shard;
    tables.memory_left = 64 << 20;
    let schema = TableSchema::sparse(DataType::F64, LONG_WIDTH);
    let schema = TableSchema { durability: Durability::Sync {}, ..schema };
    let entry = TableEntry { id: TableId(3), name: "long".to_owned(), schema };
    let (answer, made) = crossbeam::channel::bounded(1);
    growth::create_table(port, tables, chain, entry, answer);
    made.try_recv().unwrap().unwrap();
    let table = tables.by_id.get_mut(&TableId(3)).unwrap();
    let slot = table.slots.find(PARTITION).unwrap();
    let TableRows::Sparse(partitions) = &mut table.rows else { panic!("a sparse table") };
    let mut expected = BTreeMap::new();
    for (key, byte) in (0..).filter(|key| piece_of(*key) == 77).zip(1..=7) {
        let mut row = vec![byte; 8 + LONG_ROW];
        row[..8].copy_from_slice(&key.to_le_bytes());
        assert!(partitions[slot].restore_row(&row, &mut tables.memory_left));
        expected.insert(key, row.split_off(8));
    }
    assert!(expected.len() * LONG_ROW > STAGING_BYTES + CHECKPOINT_BLOCK_BYTES_MAX / 2);

    let folder = tempfile::tempdir().unwrap();
    let storage = storage::open(folder.path(), storage::Provider::Buffered).unwrap();
    let (ring, config) = (Window::allocate(1 << 20).unwrap(), LogConfig::default());
    let found = RecoveredDirectory::default();
    let checkpoints = CheckpointConfig::default();
    let mut persistence = Persistence::open(storage, &config, checkpoints, ring, &found).unwrap();
    persistence.log.add_partition(PARTITION, Lsn(0));
    let mut copied = Copied { positions: vec![Lsn(0)], ..Copied::default() };
    let mut now = Duration::ZERO;
    assert!(persistence.start_checkpoint(&mut source(&mut shard, &mut copied), now));
    let number = loop {
        now += Duration::from_millis(10);
        persistence.poll();
        let mut source = source(&mut shard, &mut copied);
        match persistence.step_checkpoint(&mut source, now, 256 << 10) {
            CheckpointProgress::Published { number } => break number,
            CheckpointProgress::Running { .. } => persistence.wait(Duration::from_millis(1)),
            CheckpointProgress::Idle => {
                panic!("it failed: {:?}", persistence.checkpointer().take_failure())
            }
        }
    };
    assert_eq!(number, 1);
    drop(persistence);
    let mut storage = storage::open(folder.path(), storage::Provider::Buffered).unwrap();
    let mut found = Restored { parts: PieceParts::default(), blocks: 0, rows: BTreeMap::new() };
    let storages = std::slice::from_mut(&mut storage);
    let recovered = recover(storages, RecoveryOptions::default(), &mut found).unwrap();
    assert_eq!(recovered.damage().count(), 0);
    assert_eq!(found.blocks, 3, "of a MiB each");
    assert!(found.rows == expected, "all rows come back");
}
