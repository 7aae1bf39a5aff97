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
