//! Messages that are whole and sealed, with numbers at the ends of what they can be.

use std::time::Duration;

use windlass_wire::{
    DataType, Epoch, FilterStack, PartitionId, Place, RequestHeader, RequestKind, Rows,
    ScanColumns, Sequence, TableId, WorkerClock,
    control::Provider,
    request::{CodedKeys, Coding},
};

use super::session::{Hostile, Target};
use crate::crash::random::Random;

const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    63,
    1 << 20,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 2,
    u64::MAX - 1,
    u64::MAX,
];

/// Most patience with an answer: a busy machine, not a slow server.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes messages to tables in one session after the other. Panics when one is neither answered nor ends
/// its session.
pub fn attack_with_extremes(
    address: &str,
    provider: Provider,
    tables: &[TableId],
    seed: u64,
    count: u64,
) {
    let mut random = Random::new(seed);
    let mut open: Option<Hostile> = None;
    for case in 0..count {
        let table = tables[usize::try_from(random.below(tables.len() as u64)).unwrap_or(0)];
        let target = Target { address: address.to_owned(), provider, table, width: 4, rows: 1000 };
        let session = random.word();
        // Every other one is a worker of the tables it pushes to.
        let rank = random.one_in(2).then_some(u32::try_from(seed % 8).unwrap_or(0));
        let mut hostile = open.take().unwrap_or_else(|| {
            Hostile::connect_as(&target, session, rank)
                .unwrap_or_else(|error| panic!("seed {seed}, case {case}: {error}"))
        });
        let header = header(&hostile, table, &mut random);
        let body = body(&header, &mut random);
        let mut bytes = header.encode();
        let keys_len = usize::try_from(header.sent_keys_len()).unwrap_or(0).min(body.len());
        RequestHeader::seal(&mut bytes, &body[..keys_len], &body[keys_len..]);
        let number = hostile.honest_message(&[&bytes[..], &body].concat());
        // A pull may wait for a worker until its session ends.
        let waits = header.kind.pulls() || header.kind == RequestKind::AdvanceClock;
        let patience = if waits { Duration::from_millis(5) } else { PATIENCE };
        let answered = hostile.outcome(number, patience).is_some();
        assert!(
            answered || waits || hostile.is_over(),
            "seed {seed}, case {case}: no answer to {header:?}"
        );
        if answered && !hostile.is_over() && !random.one_in(10) {
            open = Some(hostile);
        }
    }
}

fn header(hostile: &Hostile, table: TableId, random: &mut Random) -> RequestHeader {
    let mut number = |usual: u64| match random.one_in(3) {
        true => NUMBERS[usize::try_from(random.below(NUMBERS.len() as u64)).unwrap_or(0)],
        false => usual,
    };
    let sequence = Sequence(number(u64::from(hostile.number)));
    let epoch = Epoch(number(hostile.epoch.0));
    let clock = WorkerClock(number(1));
    let first = number(3);
    let (count, width) = (number(2), number(4));
    // What the header cannot say is cut off.
    let row_count = u32::try_from(count & ((1 << 21) - 1)).unwrap_or(0);
    let width = u32::try_from(width & ((1 << 23) - 1)).unwrap_or(0);
    let kinds = [
        RequestKind::Push,
        RequestKind::Push,
        RequestKind::Push,
        RequestKind::Pull,
        RequestKind::PushPull,
        RequestKind::AdvanceClock,
        RequestKind::Idle,
        RequestKind::Scan,
    ];
    let from = number(0);
    let partition = PartitionId(u32::try_from(number(1) & 0xffff_ffff).unwrap_or(0));
    let columns = [ScanColumns::Keys, ScanColumns::Values, ScanColumns::State]
        [usize::try_from(random.below(3)).unwrap_or(0)];
    let kind = kinds[usize::try_from(random.below(kinds.len() as u64)).unwrap_or(0)];
    let scans = kind == RequestKind::Scan;
    // Of rows of four values, mostly as it has to be.
    let width = match columns {
        ScanColumns::Keys if scans && random.one_in(2) => 1,
        ScanColumns::Values if scans && random.one_in(2) => 3,
        _ => width,
    };
    let own = Place { key: hostile.own.key.0, address: hostile.own.address };
    RequestHeader {
        kind,
        sync: !scans && random.one_in(4),
        resumes: !scans,
        strong: random.one_in(8),
        dtype: DataType::F32,
        table,
        sequence,
        epoch,
        clock,
        rows: if scans {
            Rows::Partition { partition, from, columns }
        } else if random.one_in(2) {
            Rows::Keys
        } else {
            Rows::Range { first }
        },
        row_count,
        width,
        coding: coding(kind, row_count, random),
        values: (kind.pushes() && random.one_in(8)).then_some(own),
        reply: kind.pulls().then_some(own),
    }
}

/// Filters of any kind, with lengths that may be right.
fn coding(kind: RequestKind, row_count: u32, random: &mut Random) -> Option<Coding> {
    if !random.one_in(3) || kind == RequestKind::Scan {
        return None;
    }
    let byte = |random: &mut Random| random.word().to_le_bytes()[0];
    let filters = FilterStack::from_bytes([byte(random) & 3, byte(random) & 0x87])?;
    let mut length = |usual: u32| match random.below(8) {
        0 => u32::MAX,
        1..4 => u32::from(byte(random)),
        _ => usual,
    };
    let keys_len = length(row_count.saturating_mul(8));
    let keys = match length(0) {
        0..32 => CodedKeys::Sent { len: keys_len },
        at @ 32..96 => CodedKeys::Keep { len: keys_len, at },
        at => CodedKeys::Kept { at, checksum: keys_len },
    };
    Some(Coding { filters, keys, values_len: length(row_count.saturating_mul(16)) })
}

/// Keys in order from the ends of what there is, then values; cut off where a message ends.
fn body(header: &RequestHeader, random: &mut Random) -> Vec<u8> {
    const LEN_MAX: u64 = 64 << 10;
    if header.coding.is_some() {
        let bytes = 0..header.body_len().min(LEN_MAX);
        return bytes.map(|_| random.word().to_le_bytes()[0]).collect();
    }
    let keys = usize::try_from(header.sent_keys_len().min(LEN_MAX) / 8).unwrap_or(0);
    let highest = random.one_in(2);
    let key = |at: usize| match highest {
        true => u64::MAX - (keys - 1 - at) as u64,
        false => at as u64,
    };
    let values_len = header.inline_values_len().min(LEN_MAX);
    let values = (0..values_len / 4).flat_map(|_| 1_f32.to_le_bytes());
    (0..keys).flat_map(|at| key(at).to_le_bytes()).chain(values).collect()
}
