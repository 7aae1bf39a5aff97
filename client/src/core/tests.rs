//! Tests of single steps of a core without server, transport or link.

use std::time::Duration;

use windlass_wire::{
    Aggregation, DataType, RequestKind, RowRange, Rows, ServerId, TableEntry, TableId, TableSchema,
    WorkerClock,
};

use super::{
    Core, LinkScratch, TableIndex,
    connect::unconnected,
    link::Held,
    message::{Message, PartRows, Replica, Route, Values},
    requests::Reply,
    retry_queue::{Kept, KeptValues},
    route::Routes,
    send::put_off,
};
use crate::{
    config::{ClientOptions, PushOptions},
    error::RequestError,
};

const PARTITIONS: u32 = 4;

/// A core whose partitions have their heads and tails at links 0 and 1 in turn.
fn core(options: ClientOptions) -> Core {
    let mut core = unconnected("nowhere:1", options).unwrap();
    let routes = || Routes::new((0..PARTITIONS).map(|partition| partition % 2).collect());
    (core.cluster.heads, core.cluster.tails) = (routes(), routes());
    core.scratch.by_link.resize_with(3, LinkScratch::default);
    core
}

fn entry(id: u32, schema: TableSchema) -> TableEntry {
    TableEntry { id: TableId(id), name: format!("table {id}"), schema }
}

/// A dense table of 100 rows of two values.
fn dense(core: &mut Core) -> TableIndex {
    let schema = TableSchema::dense(DataType::F32, 100, 2);
    core.tables.learn(entry(1, schema), PARTITIONS)
}

fn push_of(core: &mut Core, table: TableIndex, keys: &[u64]) -> Kept {
    let options = PushOptions::default();
    let request = core.pending.requests.start(false);
    core.pending.requests.find_mut(request).unwrap().parts_left = 1;
    let rows = PartRows::Keys(keys);
    let header =
        core.session.push_header(&core.tables, &core.clocks, &core.cluster, table, rows, &options);
    let values = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
    let values = KeptValues::Inline(values);
    Kept { request, header, keys: keys.to_vec(), values, reply: None }
}

#[test]
fn a_table_that_is_opened_again_keeps_its_place_and_has_its_rows_again() {
    let mut core = core(ClientOptions::default());
    let (table, schema) = (dense(&mut core), TableSchema::sparse(DataType::F32, 2));
    let other = core.tables.learn(entry(2, schema), PARTITIONS);
    core.tables[table].rows_lost = true;
    assert!(matches!(core.tables.check_keys(table, &[1]), Err(RequestError::RowsLost)));
    assert_eq!(dense(&mut core), table);
    assert_ne!(other, table);
    assert!(core.tables.check_keys(table, &[1, 99]).unwrap());
    assert!(!core.tables.check_keys(table, &[2, 2]).unwrap(), "they have to be sorted");
    let outside = core.tables.check_keys(table, &[1, 100]);
    assert!(matches!(outside, Err(RequestError::OutOfRange { row: 100, rows: 100 })));
    assert!(core.tables.check_keys(other, &[1, u64::MAX]).unwrap(), "any key of a sparse one");
    let range = core.tables.check_range(other, RowRange::new(0, 1));
    assert!(matches!(range, Err(RequestError::RangeOfSparse)));
}

#[test]
fn keys_are_sorted_by_the_link_that_leads_to_them() {
    let mut core = core(ClientOptions::default());
    let table = dense(&mut core);
    let keys: Vec<u64> = (0..100).step_by(3).collect();
    for _ in 0..2 {
        core.scratch.sort_by_link(&core.cluster, &core.tables, table, &keys, Replica::Head);
    }
    let layout = core.tables[table].layout;
    let mut found = 0;
    for (link, sorted) in core.scratch.by_link.iter().enumerate() {
        assert!(sorted.positions.is_sorted(), "by link {link}");
        for (key, position) in sorted.keys.iter().zip(&sorted.positions) {
            assert_eq!(keys[*position as usize], *key);
            assert_eq!(layout.partition_of(*key).0 as usize % 2, link, "key {key}");
            found += 1;
        }
    }
    assert_eq!(found, keys.len(), "each key once, also the second time");
}

#[test]
fn a_range_is_cut_where_another_link_leads_on() {
    let mut core = core(ClientOptions::default());
    let table = dense(&mut core);
    let layout = core.tables[table].layout;
    let (mut first, mut pieces) = (10, Vec::new());
    while first < 90 {
        let (link, rows) = core.cluster.rows_at_one_link(Replica::Tail, &layout, first, 90);
        assert_eq!(rows.start, first);
        for row in rows.start..rows.end {
            assert_eq!(layout.partition_of(row).0 as usize % 2, link, "row {row}");
        }
        pieces.push(link);
        first = rows.end;
    }
    assert_eq!(first, 90);
    assert!(pieces.windows(2).all(|pair| pair[0] != pair[1]), "as few as there can be: {pieces:?}");
    core.cluster.tails = Routes::new(vec![1; PARTITIONS as usize]);
    assert_eq!(core.cluster.tails.sole, Some(1));
    let whole = core.cluster.rows_at_one_link(Replica::Tail, &layout, 10, 90);
    assert_eq!(whole, (1, RowRange::new(10, 90)));
}

#[test]
fn a_push_that_is_sent_again_is_cut_by_where_its_rows_lie_now() {
    let mut core = core(ClientOptions::default());
    let table = dense(&mut core);
    let keys: Vec<u64> = (0..100).step_by(7).collect();
    let kept = push_of(&mut core, table, &keys);
    let (request, sequence) = (kept.request, kept.sequence());
    core.retries.len = kept.len();
    let pieces =
        core.retries.split(&core.cluster, &core.tables, &mut core.pending, &mut core.links, kept);
    assert_eq!(pieces.len(), 2);
    assert_eq!(core.pending.requests.find(request).unwrap().parts_left, 2, "one more part");
    assert_eq!(core.retries.len, pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>());
    let layout = core.tables[table].layout;
    let mut found = Vec::new();
    for (link, piece) in &pieces {
        assert_eq!((piece.request, piece.sequence()), (request, sequence));
        assert_eq!(piece.header.row_count as usize, piece.keys.len());
        let KeptValues::Inline(values) = &piece.values else { panic!("{:?}", piece.values) };
        assert_eq!(values.len(), piece.keys.len() * 8);
        for (key, values) in piece.keys.iter().zip(values.chunks_exact(8)) {
            assert_eq!(layout.partition_of(*key).0 as usize % 2, *link, "key {key}");
            assert_eq!(values, key.to_le_bytes(), "the values of key {key}");
        }
        found.extend_from_slice(&piece.keys);
    }
    found.sort_unstable();
    assert_eq!(found, keys);
}

#[test]
fn a_pull_that_is_asked_again_in_pieces_says_where_each_row_belongs() {
    let mut core = core(ClientOptions::default());
    let table = dense(&mut core);
    let staging = core.pending.memory.staging_region().unwrap();
    let keys: Vec<u64> = (0..100).step_by(9).collect();
    let len = keys.len() as u64 * 8;
    let chunk = core.pending.memory.allocate(len).unwrap();
    let mut kept = push_of(&mut core, table, &keys);
    (kept.header.kind, kept.values) = (RequestKind::Pull, KeptValues::None);
    kept.reply = Some((staging, chunk.offset));
    let request = kept.request;
    let row_count = kept.header.row_count;
    core.pending.requests.find_mut(request).unwrap().reply =
        Reply::Staged { chunk, row_count, positions: Vec::new() };
    let pieces =
        core.retries.split(&core.cluster, &core.tables, &mut core.pending, &mut core.links, kept);
    let mut order = Vec::new();
    for (_, piece) in &pieces {
        assert_eq!(piece.reply, Some((staging, chunk.offset + order.len() as u64 * 8)));
        order.extend_from_slice(&piece.keys);
    }
    let Reply::Staged { positions, .. } = &core.pending.requests.find(request).unwrap().reply
    else {
        panic!("the rows are still awaited")
    };
    let staged: Vec<u64> = positions.iter().map(|at| keys[*at as usize]).collect();
    assert_eq!(staged, order, "row by row as they will be staged");
}

#[test]
fn a_push_to_a_table_in_rounds_has_the_clock_of_its_round() {
    let mut core = core(ClientOptions::default());
    let table = dense(&mut core);
    let mut schema = TableSchema::dense(DataType::F32, 100, 2);
    schema.aggregation = Aggregation::Rounds { quorum: 1, fold_late: false };
    let in_rounds = core.tables.learn(entry(2, schema), PARTITIONS);
    core.clocks.own = WorkerClock(6);
    let mut clock_of = |kind, table, clock| {
        let options = PushOptions { clock, ..PushOptions::default() };
        let header =
            core.session.header(&core.tables, &core.clocks, &core.cluster, kind, table, &options);
        (header.clock.0, header.sequence.0)
    };
    assert_eq!(clock_of(RequestKind::Push, table, None), (6, 1));
    assert_eq!(clock_of(RequestKind::Push, in_rounds, None), (7, 2), "the round it is in");
    assert_eq!(clock_of(RequestKind::Pull, in_rounds, Some(WorkerClock(3))), (3, 3));
    assert_eq!(clock_of(RequestKind::AdvanceClock, in_rounds, None), (6, 4));
}

#[test]
fn a_message_without_a_server_is_kept_or_fails_as_the_client_was_asked() {
    let route = Route { link: 0, generation: 0 };
    for retry_for in [Duration::ZERO, Duration::from_secs(1)] {
        let mut core = core(ClientOptions { retry_for, ..ClientOptions::default() });
        let table = dense(&mut core);
        let Kept { request, header, keys, .. } = push_of(&mut core, table, &[5, 8]);
        let chunk = core.pending.memory.staging_region().map(|region| {
            let chunk = core.pending.memory.allocate(4096).unwrap();
            (region, chunk)
        });
        let (region, chunk) = chunk.unwrap();
        let free = core.pending.memory.allocate(64).unwrap();
        core.pending.memory.release(free);
        let values = Values::At { region, offset: chunk.offset, held: Held::Chunk(chunk) };
        let bytes = bytemuck::cast_slice(&keys);
        let message = Message { request, header, list: &keys, keys: bytes, values, reply: None };
        let kept = put_off(&mut core, route, &message);
        let parts_left = core.pending.requests.find(request).unwrap().parts_left;
        if retry_for.is_zero() {
            let server = ServerId(0);
            assert!(matches!(kept, Err(RequestError::ServerGone { server: of }) if of == server));
            assert_eq!((parts_left, core.retries.queue.len()), (1, 0));
            assert!(!core.recovery.in_trouble(), "nothing is tried again");
            assert_eq!(core.pending.memory.allocate(4096), Some(chunk), "its memory is free");
            continue;
        }
        kept.unwrap();
        assert_eq!(parts_left, 2, "a part more that has to end");
        assert!(core.recovery.in_trouble() && core.retries.holds_back(&core.tables, table));
        let kept = core.retries.queue.pop_front().unwrap();
        assert_eq!((kept.header.rows, kept.keys.as_slice()), (Rows::Keys, [5, 8].as_slice()));
        assert_eq!(core.retries.len, kept.len());
        let is_held =
            matches!(kept.values, KeptValues::At { held: Held::Chunk(of), .. } if of == chunk);
        assert!(is_held, "{:?}", kept.values);
        assert_ne!(core.pending.memory.allocate(4096), Some(chunk), "and is kept until then");
    }
}
