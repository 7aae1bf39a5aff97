//! What values of the protocol answer when they are asked, and the exact ends of what is allowed.
#![allow(missing_docs, clippy::unwrap_used)]

use windlass_wire::{
    ClusterMap, DataType, DecodeError, Epoch, Incarnation, Lsn, PartitionId, RowRange, Sequence,
    ServerId, Status, TableSchema, UpdateRule,
    codec::BLOB_LEN_MAX,
    control::{FRAME_HEADER_LEN, MESSAGE_LEN_MAX, Provider, decode_frame_header, encode_frame},
    map::{Chain, ServerEntry, ServerState},
    request::WIDTH_MAX,
    scan::ScanColumns,
    schema::ROW_LEN_MAX,
};

#[test]
fn numbers_go_up_by_one() {
    assert_eq!(Sequence(7).next(), Sequence(8));
    assert_eq!(Lsn(7).next(), Lsn(8));
    assert_eq!(Epoch(7).next(), Epoch(8));
    assert_eq!(Lsn::MAX, Lsn((1 << 63) - 1));
}

#[test]
fn a_range_has_its_first_row_and_not_its_end() {
    let rows = RowRange::new(4, 6);
    assert_eq!([3, 4, 5, 6].map(|row| rows.contains(row)), [false, true, true, false]);
    assert_eq!(rows.count(), 2);
    assert!(!rows.is_empty() && RowRange::new(4, 4).is_empty());
    assert_eq!(rows.intersection(RowRange::new(5, 9)), Some(RowRange::new(5, 6)));
    assert_eq!(rows.intersection(RowRange::new(6, 9)), None);
}

#[test]
fn a_map_says_who_leads_and_who_answers() {
    let [first, second, down] = [1, 2, 3].map(ServerId);
    let entry = |id, state| ServerEntry {
        id,
        incarnation: Incarnation(5),
        address: "127.0.0.1:1".to_owned(),
        shard_count: 2,
        state,
    };
    let mut map = ClusterMap {
        servers: vec![
            entry(first, ServerState::Up),
            entry(second, ServerState::Up),
            entry(down, ServerState::Down),
        ],
        chains: vec![Chain::default(); 4],
        ..ClusterMap::default()
    };
    assert!(!map.is_founded(), "no chain has an epoch");
    map.chains[1] = Chain { epoch: Epoch(1), servers: vec![second, first], ..Chain::default() };
    assert!(map.is_founded());
    assert_eq!(map.partition_count(), 4);
    assert_eq!(map.head(PartitionId(1)), Some(second));
    assert_eq!(map.tail(PartitionId(1)), Some(first));
    for nobody in [PartitionId(0), PartitionId(4)] {
        assert_eq!((map.head(nobody), map.tail(nobody)), (None, None));
    }
    assert!(map.admits(first, Incarnation(5)));
    assert!(!map.admits(first, Incarnation(6)), "another life");
    assert!(!map.admits(down, Incarnation(5)), "it is down");
    assert!(!map.admits(ServerId(4), Incarnation(5)), "it is not known");
}

#[test]
fn values_are_called_by_their_names() {
    let floats = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];
    for dtype in DataType::ALL {
        assert_eq!(dtype.is_float(), floats.contains(&dtype), "{dtype}");
        assert_eq!(dtype.to_string().parse(), Ok(dtype));
        let state = if dtype == DataType::F64 { 8 } else { 4 };
        assert_eq!(UpdateRule::state_value_size(dtype), state, "{dtype}");
    }
    assert_eq!(Provider::ALL.map(Provider::name), ["verbs", "shm", "tcp"]);
    let all: Vec<_> = (0..).map_while(Status::from_number).collect();
    let mut said: Vec<_> = all.iter().map(ToString::to_string).collect();
    said.sort();
    said.dedup();
    assert_eq!(said.len(), all.len(), "no two outcomes are told alike");
    assert!(said.iter().all(|text| !text.is_empty()));
}

#[test]
fn a_message_may_be_as_long_as_its_bound_and_no_longer() {
    let header = |len: usize| {
        let mut frame = encode_frame(&7_u32);
        frame.truncate(FRAME_HEADER_LEN);
        frame[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        decode_frame_header(frame.as_slice().try_into().unwrap())
    };
    const { assert!(MESSAGE_LEN_MAX > BLOB_LEN_MAX) };
    assert_eq!(header(MESSAGE_LEN_MAX).unwrap().0, MESSAGE_LEN_MAX);
    for len in [MESSAGE_LEN_MAX + 1, u32::MAX as usize] {
        assert!(matches!(header(len), Err(DecodeError::TooLong { .. })), "{len}");
    }
}

#[test]
fn a_schema_may_be_as_wide_as_its_bound_and_no_wider() {
    let is_valid = |width| TableSchema::sparse(DataType::I8, width).validate().is_ok();
    let widest = WIDTH_MAX;
    assert!(is_valid(1) && !is_valid(0));
    assert!(is_valid(widest) && !is_valid(widest + 1));
}

#[test]
fn a_row_may_be_as_long_as_its_bound_and_no_longer() {
    let longest = u32::try_from(ROW_LEN_MAX / 8).unwrap();
    let is_valid = |dtype, width| TableSchema::dense(dtype, 1, width).validate().is_ok();
    if longest < WIDTH_MAX {
        assert!(is_valid(DataType::F64, longest));
        assert!(!is_valid(DataType::F64, longest + 1));
    }
    assert!(is_valid(DataType::F64, longest.min(WIDTH_MAX)), "the bound itself");
}

#[test]
fn rows_and_their_state_are_as_long_as_their_columns() {
    for width in [1, 3, 16] {
        let mut schema = TableSchema::sparse(DataType::F32, width);
        for (rule, planes, counts) in [("add", 0, 0), ("adagrad", 1, 0), ("adam", 2, 4)] {
            schema.rule = rule.parse().unwrap();
            let row = u64::from(width) * 4;
            assert_eq!(schema.state_planes_len(), planes * row, "{rule}");
            assert_eq!(schema.state_len(), planes * row + counts, "{rule}");
            let words = |columns: ScanColumns| columns.row_words(&schema);
            assert_eq!(words(ScanColumns::Keys), 1);
            assert_eq!(words(ScanColumns::Values), 1 + row.div_ceil(8));
            assert_eq!(words(ScanColumns::State), 1 + (row + planes * row + counts).div_ceil(8));
        }
    }
}

#[test]
fn a_tail_that_is_joining_is_not_read_but_where_it_is_alone() {
    let [first, second] = [1, 2].map(ServerId);
    let mut map = ClusterMap { chains: vec![Chain::default(); 1], ..ClusterMap::default() };
    for (servers, joining, readable) in [
        (vec![], false, vec![]),
        (vec![first], false, vec![first]),
        (vec![first], true, vec![first]),
        (vec![first, second], true, vec![first]),
        (vec![first, second], false, vec![first, second]),
    ] {
        map.chains[0] =
            Chain { epoch: Epoch(1), servers, tail_joining: joining, ..Chain::default() };
        assert_eq!(map.readable(PartitionId(0)), readable);
        assert_eq!(map.read_tail(PartitionId(0)), readable.last().copied());
    }
    assert!(map.readable(PartitionId(1)).is_empty());
}
