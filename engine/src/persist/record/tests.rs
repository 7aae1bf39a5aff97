//! Round trips, golden bytes, and refusal of everything else.

use proptest::prelude::*;

use super::*;

fn facts() -> Facts {
    Facts {
        kind: Kind::Keys,
        partition: PartitionId(3),
        epoch: Epoch(2),
        table: TableId(9),
        dtype: DataType::F32,
        rows: RowRange::default(),
        tag: 0x0102,
        durability: Durability::Sync,
    }
}

fn sample(salt: Salt) -> Vec<u8> {
    let shape = Shape { covered_max: 3, stamps_max: 2, keys: 2, delta_bytes: 20 };
    let mut draft = Draft::new(facts(), shape, Lsn(77));
    let mut bytes = vec![0xEE_u8; shape.length()];
    draft.prepare(&mut bytes);
    let mut record = RecordMut::new(&mut bytes, &mut draft);
    let (keys, delta) = record.keys_and_delta();
    keys[..8].copy_from_slice(&5_u64.to_le_bytes());
    keys[8..].copy_from_slice(&u64::MAX.to_le_bytes());
    for (byte, value) in delta.iter_mut().zip(1..) {
        *byte = value;
    }
    record.cover(Covered {
        session: SessionId(11),
        incarnation: Incarnation(1),
        sequence: Sequence(100),
    });
    record.stamp(Stamp { worker: WorkerRank(4), clock: WorkerClock(6) });
    record.stamp(Stamp { worker: WorkerRank(5), clock: WorkerClock(7) });
    draft.seal(&mut bytes, salt);
    bytes
}

#[test]
fn what_is_written_is_read() {
    let salt = Salt::of_segment(1, 1);
    let bytes = sample(salt);
    let record = Record::decode(&bytes, salt).unwrap();
    assert_eq!(record.keys().collect::<Vec<_>>(), [5, u64::MAX]);
    assert_eq!(record.covered().len(), 1);
    assert_eq!(record.covered().next().unwrap().sequence, Sequence(100));
    let clocks: Vec<_> = record.stamps().map(|stamp| (stamp.worker.0, stamp.clock.0)).collect();
    assert_eq!(clocks, [(4, 6), (5, 7)]);
    assert_eq!(record.delta(), (1..=20).collect::<Vec<u8>>());
    assert_eq!((record.lsn(), record.tag()), (Lsn(77), 0x0102));
}

#[test]
fn records_that_fill_their_shape_are_read_whole() {
    for (covered_max, stamps_max, keys, delta_bytes) in
        [(0, 0, 0, 0), (0, 0, 1, 4), (1, 1, 1, 8), (2, 7, 3, 12), (9, 2, 40, 1), (31, 33, 5, 640)]
    {
        let shape = Shape { covered_max, stamps_max, keys, delta_bytes };
        let mut draft = Draft::new(facts(), shape, Lsn(5));
        let mut bytes = vec![0xEE_u8; shape.length()];
        draft.prepare(&mut bytes);
        let mut record = RecordMut::new(&mut bytes, &mut draft);
        let (into_keys, delta) = record.keys_and_delta();
        into_keys.fill(7);
        delta.fill(9);
        for number in 0..covered_max as u64 {
            let (session, incarnation) = (SessionId(number), Incarnation(1));
            record.cover(Covered { session, incarnation, sequence: Sequence(number + 1) });
        }
        for number in (0..).take(stamps_max) {
            record.stamp(Stamp { worker: WorkerRank(number), clock: WorkerClock(3) });
        }
        draft.seal(&mut bytes, Salt::NONE);
        let read = Record::decode(&bytes, Salt::NONE).unwrap();
        assert!(read.keys().eq(std::iter::repeat_n(0x0707_0707_0707_0707, keys)), "{shape:?}");
        assert!(read.covered().map(|covered| covered.session.0).eq(0..covered_max as u64));
        assert!(read.stamps().map(|stamp| stamp.worker.0).eq((0..).take(stamps_max)));
        assert_eq!(read.delta(), vec![9; delta_bytes], "{shape:?}");
    }
}

#[test]
fn shapes_within_the_limits_are_allowed() {
    let shape = |covered_max, stamps_max, keys, delta_bytes| {
        Shape { covered_max, stamps_max, keys, delta_bytes }.is_allowed()
    };
    assert!(shape(COVERED_MAX, STAMPS_MAX, KEYS_MAX, 0));
    assert!(!shape(COVERED_MAX + 1, 0, 0, 0));
    assert!(!shape(0, STAMPS_MAX + 1, 0, 0));
    assert!(!shape(0, 0, KEYS_MAX + 1, 0));
    let most = RECORD_BYTES_MAX - HEADER_BYTES;
    assert!(shape(0, 0, 0, most));
    assert!(!shape(0, 0, 0, most + 1));
    assert!(!shape(0, 0, 0, usize::MAX - 4096), "nothing overflows");
    let shape = Shape { covered_max: 1, stamps_max: 2, keys: 3, delta_bytes: 65 };
    assert_eq!((shape.delta_start(), shape.length()), (64 + 128, 64 + 128 + 128));
}

/// A record that is nothing but a header of this kind in front of so many bytes.
fn framed(header: Header, length: usize) -> Result<usize, RecordError> {
    let mut frame = vec![0_u8; length];
    header.seal(&mut frame, Salt::NONE);
    Record::decode(&frame, Salt::NONE).map(|record| record.bytes().len())
}

#[test]
fn lists_past_their_limits_or_the_delta_are_refused() {
    let keys =
        |row_count, units| Header { row_count, delta_offset: units, ..Header::of(Kind::Keys) };
    assert_eq!(framed(keys(8, 2), 128), Ok(128));
    let lists = RecordError::Lists { keys: 9, covered: 0, stamps: 0 };
    assert_eq!(framed(keys(9, 2), 128), Err(lists));
    // 24 bytes for each push it covers, 16 for each stamp.
    let lists = |covered, stamps, units: u16| {
        let header = Header { covered, stamps, delta_offset: units, ..Header::of(Kind::Rows) };
        framed(header, usize::from(units) * 64)
    };
    assert_eq!(lists(2, 1, 2), Ok(128));
    let refused = |covered, stamps| RecordError::Lists { keys: 0, covered, stamps };
    assert_eq!(lists(3, 0, 2), Err(refused(3, 0)));
    assert_eq!(lists(2, 2, 2), Err(refused(2, 2)));
    assert_eq!(lists(4096, 4096, 2561), Ok(2561 * 64));
    assert_eq!(lists(4097, 0, 2561), Err(refused(4097, 0)));
    assert_eq!(lists(0, 4097, 2561), Err(refused(0, 4097)));
    let units = u16::try_from(KEYS_MAX * 8 / 64 + 2).unwrap();
    let (most, length) = (KEYS_MAX as u64, usize::from(units) * 64);
    assert_eq!(framed(keys(most, units), length), Ok(length));
    let lists = RecordError::Lists { keys: most + 1, covered: 0, stamps: 0 };
    assert_eq!(framed(keys(most + 1, units), length), Err(lists));
    assert_eq!(framed(Header::of(Kind::Rows), RECORD_BYTES_MAX), Ok(RECORD_BYTES_MAX));
    let refused = framed(Header::of(Kind::Rows), RECORD_BYTES_MAX + 64);
    assert_eq!(refused, Err(RecordError::Lists { keys: 0, covered: 0, stamps: 0 }));
}

#[test]
fn what_is_no_record_is_refused_with_the_reason() {
    let refused = framed(Header::of(Kind::Batch), 64);
    assert_eq!(refused, Err(RecordError::NoRecord { kind: Kind::Batch }));
    let refused = framed(Header { dtype: 200, ..Header::of(Kind::Rows) }, 64);
    assert_eq!(refused, Err(RecordError::DataType { found: 200 }));
    let rows = |row_start| Header { row_start, row_count: 3, ..Header::of(Kind::Rows) };
    assert_eq!(framed(rows(u64::MAX - 3), 64), Ok(64));
    let refused = Err(RecordError::Rows { start: u64::MAX - 2, count: 3 });
    assert_eq!(framed(rows(u64::MAX - 2), 64), refused);
    // As far as that is known without sums.
    let bytes = sample(Salt::of_segment(1, 1));
    assert_eq!(Record::checked_before(&bytes).unwrap().lsn(), Lsn(77));
    for length in [0, 63, bytes.len() - 1] {
        let refused = Record::checked_before(&bytes[..length]).unwrap_err();
        let needed = if length < 64 { 64 } else { bytes.len() };
        assert_eq!(refused, FrameError::Short { needed, present: length }.into());
    }
}

#[test]
fn what_is_told_of_a_record_is_what_was_said() {
    let bytes = sample(Salt::NONE);
    let record = Record::decode(&bytes, Salt::NONE).unwrap();
    assert_eq!((record.kind(), record.dtype()), (Kind::Keys, DataType::F32));
    assert_eq!(
        (record.partition(), record.epoch(), record.table()),
        (PartitionId(3), Epoch(2), TableId(9))
    );
    assert_eq!((record.rows(), record.is_grouped()), (RowRange::default(), false), "by key");
    assert_eq!(record.key_bytes().len(), 16);
    assert_eq!(record.bytes(), bytes);
    let facts = Facts { kind: Kind::Rows, rows: RowRange::new(10, 14), ..facts() };
    let shape = Shape { delta_bytes: 16, ..Shape::default() };
    let mut draft = Draft::new(facts, shape, Lsn(1));
    draft.grouped = true;
    let mut bytes = vec![0_u8; shape.length()];
    draft.seal(&mut bytes, Salt::NONE);
    let record = Record::decode(&bytes, Salt::NONE).unwrap();
    assert_eq!((record.rows(), record.keys().len()), (RowRange::new(10, 14), 0));
    assert!(record.is_grouped());
    draft.void();
    draft.seal(&mut bytes, Salt::NONE);
    assert_eq!(Record::decode(&bytes, Salt::NONE).unwrap().kind(), Kind::Nothing);
}

/// What the ring held before is nothing of a record that leaves room unused.
#[test]
fn every_byte_between_the_lists_and_behind_the_delta_is_zero() {
    let bytes = sample(Salt::NONE);
    // Two keys and a covered push end at 104; two stamps begin at 160, 20 bytes of delta end at 212.
    assert!(bytes[104..160].iter().chain(&bytes[212..]).all(|byte| *byte == 0));
}

#[test]
#[should_panic(expected = "more pushes than room")]
fn a_record_covers_no_more_than_was_reserved() {
    let (mut draft, mut bytes) = small();
    let mut record = RecordMut::new(&mut bytes, &mut draft);
    let covered =
        Covered { session: SessionId(1), incarnation: Incarnation(1), sequence: Sequence(1) };
    record.cover(covered);
    record.cover(covered);
}

#[test]
#[should_panic(expected = "more clocks than room")]
fn a_record_takes_no_more_clocks_than_were_reserved() {
    let (mut draft, mut bytes) = small();
    let mut record = RecordMut::new(&mut bytes, &mut draft);
    record.stamp(Stamp { worker: WorkerRank(1), clock: WorkerClock(1) });
    record.stamp(Stamp { worker: WorkerRank(2), clock: WorkerClock(1) });
}

/// Room for one of each.
fn small() -> (Draft, Vec<u8>) {
    let shape = Shape { covered_max: 1, stamps_max: 1, keys: 0, delta_bytes: 0 };
    let facts = Facts { kind: Kind::Rows, ..facts() };
    (Draft::new(facts, shape, Lsn(1)), vec![0; shape.length()])
}

/// Changing these bytes is a change of the format: it needs a new version and a fixture.
#[test]
fn golden_bytes() {
    let bytes = sample(Salt::NONE);
    let hex: Vec<String> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    let golden = include_str!("../../../golden/record-2.hex");
    assert_eq!(hex.join("\n"), golden.trim_end());
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Record::decode(&bytes, Salt::NONE).is_err());
    }

    /// Even where somebody computes valid checksums over nonsense.
    #[test]
    fn nonsense_with_valid_checksums_never_panics(
        header in prop::collection::vec(any::<u8>(), 64),
        blocks in 1_usize..6,
        kind in 1_u8..9,
    ) {
        let mut frame = vec![0_u8; blocks * 64];
        let nonsense = Header {
            kind: Kind::from_number(kind).unwrap(),
            dtype: header[0] % 9,
            slack: header[1] % 64,
            row_start: word64(&header, 8),
            row_count: if header[2] < 128 { u64::from(header[3]) } else { word64(&header, 16) },
            covered: u16::from(header[4] % 16),
            stamps: u16::from(header[5] % 16),
            delta_offset: u16::from(header[6] % 8),
            ..Header::of(Kind::Rows)
        };
        nonsense.seal(&mut frame, Salt::NONE);
        if let Ok(record) = Record::decode(&frame, Salt::NONE) {
            let read = record.keys().len() + record.covered().count() + record.stamps().count();
            prop_assert!(read * 8 <= frame.len());
            prop_assert!(record.delta().len() < frame.len());
            prop_assert!(record.rows().start <= record.rows().end);
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(bit in 0_usize..(192 * 8)) {
        let mut bytes = sample(Salt::NONE);
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Record::decode(&bytes, Salt::NONE).is_err());
    }
}
