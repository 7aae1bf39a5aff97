use std::collections::BTreeMap;

use windlass_wire::{DataType, UpdateRule};

use super::*;
use crate::table::{StatePlanes, ahead::Held};

#[test]
fn rows_are_made_by_pushes_and_bounded_by_memory() {
    let schema = TableSchema::sparse(DataType::F32, 2);
    let kernel = Kernel::new(UpdateRule::Add, DataType::F32, DataType::F32).unwrap();
    let mut partition = SparsePartition::new(PartitionId(0), &schema);
    let mut memory = 5000;
    let mut full = 0;
    for key in (0..100).chain(0..100) {
        let gradient = [key as f32, 1.0];
        // SAFETY: two readable values of the table's dtype.
        let pushed =
            unsafe { partition.apply(&kernel, key << 40, gradient.as_ptr().cast(), &mut memory) };
        full += u32::from(pushed.is_err());
    }
    assert_eq!(partition.row_count(), 48);
    assert_eq!(full, 2 * 52);
    assert_eq!(partition.values_of(47 << 40), Some(bytemuck::cast_slice(&[94.0_f32, 2.0])));
    assert_eq!(partition.values_of(48 << 40), None);
}

/// Rows so wide that slabs are soon large enough to be made ahead.
fn wide() -> TableSchema {
    TableSchema::sparse(DataType::F32, 256)
}

#[test]
fn rows_are_the_same_whoever_made_their_memory_and_when() {
    for lag in [0, 1, 5, 10_000] {
        let held = Held::default();
        let mut here = SparsePartition::new(PartitionId(0), &wide());
        let mut there = SparsePartition::new(PartitionId(0), &wide());
        there.grow_ahead(Arc::new(held.clone()));
        let (mut left_here, mut left_there) = (u64::MAX, u64::MAX);
        let mut made = 0;
        for at in 0..3000_u64 {
            let key = mix(at);
            let row = here.make_row(key, &mut left_here);
            assert_eq!(there.make_row(key, &mut left_there), row);
            assert_eq!(u64::MAX - left_there, there.charged_len());
            assert!(there.key_of(at) == key && there.contains(key) && !there.contains(!key));
            if lag > 0 && at % lag == 0 {
                made += held.carry_out();
            }
        }
        assert_eq!(made > 0, lag > 0 && lag < 3000, "lag {lag}");
        // Rows that were made too late, or while the partition goes, harm nobody.
        drop(there);
        held.carry_out();
    }
}

#[test]
fn a_slab_that_was_made_ahead_is_put_in_use() {
    let held = Held::default();
    let mut partition = SparsePartition::new(PartitionId(0), &wide());
    partition.grow_ahead(Arc::new(held.clone()));
    let mut memory = u64::MAX;
    let mut keys = 0..;
    while partition.ahead.slab.is_none() {
        partition.make_row(keys.next().unwrap(), &mut memory).unwrap();
    }
    let (count, charged) = (partition.slabs.len(), memory);
    // A slab that can be told from one made in place.
    let mut marked = Slab::populated(RowLayout::of(&wide()), usize_of(partition.shape.rows(count)));
    marked.rows[0] = 1;
    partition.ahead.slab = Some(Ahead::begin(&held, move || marked));
    held.carry_out();
    while partition.slabs.len() == count {
        partition.make_row(keys.next().unwrap(), &mut memory).unwrap();
    }
    assert_eq!(partition.slabs[count].rows[0], 1);
    assert_eq!(memory, charged, "it was paid for when it was asked for");
}

#[test]
fn large_slabs_are_asked_for_when_half_of_the_last_one_is_taken() {
    for schema in [TableSchema::sparse(DataType::F32, 1), wide()] {
        let held = Held::default();
        let mut partition = SparsePartition::new(PartitionId(0), &schema);
        partition.grow_ahead(Arc::new(held.clone()));
        let (shape, mut memory) = (Slabs::of(&schema), u64::MAX);
        let asked_at: Vec<u64> = (1..)
            .filter(|slab| shape.charge(*slab) >= MADE_AHEAD_LEN)
            .map(|slab| {
                (0..slab).map(|slab| shape.rows(slab)).sum::<u64>() - shape.rows(slab - 1) / 2
            })
            .take_while(|row| *row < 5000)
            .collect();
        assert!(!asked_at.is_empty());
        for row in 0..5000 {
            partition.make_row(row, &mut memory).unwrap();
            assert_eq!(held.carry_out() == 1, asked_at.contains(&row), "row {row} of {schema:?}");
        }
        let slabs = (0..).take_while(|slab| (0..*slab).map(|n| shape.rows(n)).sum::<u64>() < 5000);
        let rows: u64 = slabs.map(|slab| shape.rows(slab)).sum();
        let rows_len = rows * (8 + partition.layout.stride() as u64);
        // 5,000 keys take 8,192 slots of 16 bytes, all moved from 4,096.
        assert_eq!(partition.memory_len() as u64, rows_len + 8192 * 16);
    }
}

#[test]
fn rows_that_changed_are_taken_once_with_their_keys() {
    let schema = TableSchema::sparse(DataType::F32, 2);
    let kernel = Kernel::new(UpdateRule::Add, DataType::F32, DataType::F32).unwrap();
    let mut partition = SparsePartition::new(PartitionId(7), &schema);
    assert_eq!((partition.partition(), partition.values_len()), (PartitionId(7), 8));
    let mut memory = 1 << 20;
    let mut push = |partition: &mut SparsePartition, key: u64| {
        // SAFETY: two readable values of the table's dtype.
        unsafe { partition.apply(&kernel, key, [1.0_f32, 2.0].as_ptr().cast(), &mut memory) }
            .unwrap();
    };
    push(&mut partition, 50);
    assert_eq!(partition.dirty().count(), 0, "nobody asked");
    partition.track_dirty();
    for key in [70, 90, 50, 90] {
        push(&mut partition, key);
    }
    assert_eq!(partition.dirty().count(), 3);
    assert_eq!(partition.take_dirty(), [(50, 0), (70, 1), (90, 2)]);
    push(&mut partition, 90);
    assert_eq!(partition.take_dirty(), [(90, 2)]);
    assert_eq!(partition.take_dirty(), []);
    // A restored row is in the next checkpoint.
    partition.track_changes();
    let _ = partition.changed_mut().take();
    let row = saved(&partition, 70).unwrap();
    assert!(partition.restore_row(&row, &mut 0));
    let changed: Vec<u64> =
        (0..PIECES).filter(|piece| partition.changed_mut().contains(*piece)).collect();
    assert_eq!(changed, [piece_of(70)]);
    assert!(!partition.restore_row(&row[1..], &mut 0), "not of the right length");
    // An index that grows goes on with keys that are met.
    let slots = |partition: &SparsePartition| partition.index.memory_len() / 16;
    let mut keys = 1000..;
    while slots(&partition) != 512 + 1024 {
        push(&mut partition, keys.next().unwrap());
    }
    (0..10_000).for_each(|key| partition.settle(key));
    assert_eq!(slots(&partition), 1024);
}

#[test]
fn rows_find_their_slab_where_none_could_be_paid_for_ahead() {
    let shape = Slabs::of(&wide());
    let mut partition = SparsePartition::new(PartitionId(0), &wide());
    partition.grow_ahead(Arc::new(Held::default()));
    let mut memory = (0..20).map(|slab| shape.charge(slab)).sum();
    let made = (0..).take_while(|key| partition.make_row(*key, &mut memory).is_ok()).count();
    let room: u64 = (0..20).map(|slab| shape.rows(slab)).sum();
    assert_eq!((made as u64, memory), (room, 0), "as many as there is memory for");
}

#[test]
fn new_keys_are_taken_once_and_pieces_that_changed_are_noted() {
    let schema = TableSchema::sparse(DataType::F32, 2);
    let kernel = Kernel::new(UpdateRule::Add, DataType::F32, DataType::F32).unwrap();
    let mut partition = SparsePartition::new(PartitionId(0), &schema);
    let mut memory = 1 << 20;
    let mut push = |partition: &mut SparsePartition, key: u64| {
        // SAFETY: two readable values of the table's dtype.
        unsafe { partition.apply(&kernel, key, [1.0_f32, 2.0].as_ptr().cast(), &mut memory) }
            .unwrap();
    };
    push(&mut partition, 5);
    assert_eq!(partition.take_fresh().count(), 0, "nobody asked for new keys");
    partition.note_fresh(true);
    for key in [7, 5, 9] {
        push(&mut partition, key);
    }
    assert_eq!(partition.take_fresh().collect::<Vec<_>>(), [(7, 1), (9, 2)]);
    assert_eq!(partition.take_fresh().count(), 0, "they were taken");
    push(&mut partition, 11);
    partition.note_fresh(false);
    assert_eq!(partition.take_fresh().count(), 0, "nobody asks any more");

    assert!((0..PIECES).all(|piece| !partition.changed_mut().contains(piece)), "not tracked");
    partition.track_changes();
    assert!((0..PIECES).all(|piece| partition.changed_mut().contains(piece)));
    let _ = partition.changed_mut().take();
    push(&mut partition, 7);
    assert_eq!((0..PIECES).filter(|piece| partition.changed_mut().contains(*piece)).count(), 1);
}

/// Rows of `schema` by key, each with a memory of its own.
struct Apart {
    schema: TableSchema,
    rows: BTreeMap<u64, (Vec<u8>, StatePlanes)>,
}

impl Apart {
    fn apply(&mut self, kernel: &Kernel, key: u64, gradient: &[u8]) {
        let TableSchema { rule, dtype, width, .. } = &self.schema;
        let (width, row_len) = (*width as usize, usize_of(self.schema.row_len()));
        let (values, state) = self
            .rows
            .entry(key)
            .or_insert_with(|| (vec![0; row_len], StatePlanes::new(rule, *dtype, 1, width)));
        let run = Run {
            values: values.as_mut_ptr(),
            state: state.planes_at(0),
            words: state.word_at(0),
            gradient: gradient.as_ptr(),
            rows: 1,
            width,
        };
        // SAFETY: one row's values and state, which nothing else refers to, and a gradient as long.
        unsafe { kernel.apply(&run) };
    }

    fn saved(&self, key: u64) -> Option<Vec<u8>> {
        let (values, state) = self.rows.get(&key)?;
        let mut saved = [&key.to_le_bytes()[..], values].concat();
        state.save(0, 1, &mut saved);
        Some(saved)
    }
}

fn saved(partition: &SparsePartition, key: u64) -> Option<Vec<u8>> {
    let row = partition.index.find(key)?;
    let mut saved = Vec::new();
    partition.save_row(key, row, &mut saved);
    assert_eq!(saved.len(), partition.saved_row_len());
    Some(saved)
}

#[test]
fn rows_and_state_beside_each_other_are_what_they_are_apart() {
    let rules =
        ["add", "adagrad:lr=0.1", "adam:lr=0.1", "ftrl:alpha=0.1,beta=1,l1=1,l2=1", "row-adagrad"];
    let dtypes = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];
    for (rule, dtype) in rules.iter().flat_map(|rule| dtypes.map(|dtype| (rule, dtype))) {
        for width in [1, 3, 16, 65] {
            let rule: UpdateRule = rule.parse().unwrap();
            let schema = TableSchema { rule, ..TableSchema::sparse(dtype, width) };
            let kernel = Kernel::new(rule, dtype, dtype).unwrap();
            let mut apart = Apart { schema: schema.clone(), rows: BTreeMap::new() };
            let mut partition = SparsePartition::new(PartitionId(0), &schema);
            let mut memory = u64::MAX;
            let mut random = u64::from(width);
            for step in 0..600_u64 {
                random = mix(random);
                let key = mix(random % (1 + step / 2));
                // Bytes of some numbers; of `f16` and `bf16` ones too.
                let gradient: Vec<u8> = (0..schema.row_len())
                    .map(|at| ((random >> (at % 50)) & 0x3f).to_le_bytes()[0])
                    .collect();
                apart.apply(&kernel, key, &gradient);
                // SAFETY: one row of gradients.
                unsafe { partition.apply(&kernel, key, gradient.as_ptr(), &mut memory) }.unwrap();
                let other = mix(mix(random) % (1 + step));
                assert_eq!(saved(&partition, other), apart.saved(other), "{schema:?}");
                partition.settle(key);
            }
            assert_eq!(partition.row_count(), apart.rows.len() as u64);
            let mut again = SparsePartition::new(PartitionId(0), &schema);
            for key in apart.rows.keys() {
                let saved = saved(&partition, *key);
                assert_eq!(saved, apart.saved(*key), "{schema:?}");
                assert!(again.restore_row(&saved.unwrap(), &mut memory));
            }
            for (key, (values, _)) in &apart.rows {
                assert_eq!(saved(&again, *key), apart.saved(*key), "{schema:?}");
                assert_eq!(again.values_of(*key), Some(&values[..]));
                let near = again.fetch_values_of(*key).unwrap();
                assert_eq!(near, again.values_of(*key).unwrap().as_ptr());
            }
            assert_eq!(again.fetch_values_of(1), None);
        }
    }
}

#[test]
fn rows_come_and_go_as_in_a_map_and_their_memory_is_used_again() {
    for rule in ["add", "adam:lr=0.1"] {
        let schema = TableSchema {
            rule: rule.parse().unwrap(),
            initializer: "uniform:-1,1,seed=3".parse().unwrap(),
            ..TableSchema::sparse(DataType::F32, 3)
        };
        let kernel = Kernel::new(schema.rule, schema.dtype, schema.dtype).unwrap();
        let fresh = || SparsePartition::new(PartitionId(0), &schema).of_table("t");
        let (mut partition, mut memory) = (fresh(), u64::MAX);
        let push = |partition: &mut SparsePartition, key: u64| {
            // SAFETY: three readable values of the table's dtype.
            let applied = unsafe {
                partition.apply(&kernel, key, [1.0_f32; 3].as_ptr().cast(), &mut { u64::MAX })
            };
            applied.unwrap();
        };
        // What each key was pushed since its row was made.
        let mut oracle = BTreeMap::new();
        let mut random = 9;
        for step in 0..20_000_u64 {
            random = mix(random);
            let key = mix(random % 300);
            if random >> 40 & 3 == 0 {
                assert_eq!(partition.remove_row(key), oracle.remove(&key).is_some());
                assert!(!partition.contains(key) && partition.values_of(key).is_none());
            } else {
                push(&mut partition, key);
                *oracle.entry(key).or_insert(0) += 1;
            }
            assert_eq!(partition.row_count(), oracle.len() as u64);
            if step % 1000 == 0 {
                let listed = partition.keys_of(0..partition.rows_end());
                let listed: BTreeMap<u64, u64> = listed.collect();
                assert!(listed.keys().eq(oracle.keys()));
                assert!(listed.iter().all(|(key, row)| partition.has_row(*key, *row)));
                let other = |row: u64| (row + 1) % partition.rows_end();
                let mut others = listed.iter().map(|(key, row)| (*key, other(*row)));
                assert!(
                    others.all(|(key, row)| row == listed[&key] || !partition.has_row(key, row))
                );
            }
        }
        assert!(partition.rows_end() <= 300, "rows that are free are taken first");
        for (key, pushes) in oracle {
            let mut alone = fresh();
            (0..pushes).for_each(|_| push(&mut alone, key));
            assert_eq!(
                saved(&partition, key),
                saved(&alone, key),
                "{rule}: nothing of what was before"
            );
            assert!(partition.remove_row(key));
        }
        assert_eq!(partition.keys_of(0..partition.rows_end()).count(), 0);
        let rows = partition.rows_end();
        for key in 0..rows {
            assert!(partition.make_row(key, &mut memory).unwrap().1);
        }
        assert_eq!((partition.rows_end(), memory), (rows, u64::MAX));
    }
}

#[test]
fn removed_rows_are_in_no_list_and_rows_that_are_made_anew_are() {
    let schema = TableSchema::sparse(DataType::F32, 1);
    let mut partition = SparsePartition::new(PartitionId(0), &schema);
    let mut memory = u64::MAX;
    let mut make = |partition: &mut SparsePartition, key| {
        let (row, _) = partition.make_row(key, &mut memory).unwrap();
        partition.dirty.set(row);
        row
    };
    partition.track_dirty();
    let rows: Vec<u64> = (0..5).map(|key| make(&mut partition, key)).collect();
    partition.remove_row(1);
    assert_eq!(partition.take_dirty(), [(0, rows[0]), (2, rows[2]), (3, rows[3]), (4, rows[4])]);
    partition.note_fresh(true);
    assert_eq!(make(&mut partition, 7), rows[1], "the free row");
    let last = make(&mut partition, 8);
    partition.remove_row(3);
    let again = make(&mut partition, 3);
    partition.remove_row(8);
    let mut fresh: Vec<_> = partition.take_fresh().collect();
    fresh.sort_unstable();
    assert_eq!(fresh, [(3, again), (7, rows[1])]);
    assert_eq!((again, last), (rows[3], 5));
    // Pieces that lost keys, noted whether or not changes are.
    let thinned = partition.take_thinned();
    let pieces: Vec<u64> = (0..PIECES).filter(|piece| thinned.contains(*piece)).collect();
    let mut expected = [1, 3, 8].map(piece_of);
    expected.sort_unstable();
    assert_eq!(pieces, expected);
    assert!(!partition.take_thinned().is_tracked());
    partition.track_changes();
    let _ = partition.changed_mut().take();
    assert!(!partition.remove_row(999) && partition.remove_row(0));
    let changed = partition.changed_mut().take();
    assert!((0..PIECES).all(|piece| changed.contains(piece) == (piece == piece_of(0))));
}

#[test]
fn a_full_partition_takes_a_new_key_for_one_that_went() {
    let schema = TableSchema::sparse(DataType::F32, 2);
    let mut partition = SparsePartition::new(PartitionId(0), &schema);
    let mut memory = 5000;
    let full = (0..).find(|key| partition.make_row(*key, &mut memory).is_err()).unwrap();
    assert!(partition.remove_row(3) && partition.remove_row(9));
    assert!(partition.make_row(full, &mut memory).is_ok());
    assert!(partition.make_row(9, &mut memory).is_ok());
    assert!(partition.make_row(3, &mut memory).is_err());
    assert_eq!(partition.row_count(), full);
}

#[test]
fn rows_are_as_old_as_the_last_push_and_keep_their_age_when_they_are_saved() {
    let schema = TableSchema {
        rule: "adam".parse().unwrap(),
        expiry: "age:1h".parse().unwrap(),
        ..TableSchema::sparse(DataType::F32, 3)
    };
    let kernel = Kernel::new(schema.rule, schema.dtype, schema.dtype).unwrap();
    let mut memory = u64::MAX;
    let mut partition = SparsePartition::new(PartitionId(0), &schema);
    let mut push = |partition: &mut SparsePartition, key| {
        // SAFETY: a row of values of the table's dtype.
        unsafe { partition.apply(&kernel, key, [1.0_f32; 3].as_ptr().cast(), &mut memory) }
            .unwrap();
    };
    push(&mut partition, 7);
    partition.pass_time(5);
    push(&mut partition, 8);
    partition.pass_time(10);
    let age =
        |partition: &SparsePartition, key| partition.age_of(partition.index.find(key).unwrap());
    assert_eq!((age(&partition, 7), age(&partition, 8)), (15, 10));

    let mut copy = SparsePartition::new(PartitionId(0), &schema);
    let mut memory = u64::MAX;
    for key in [8, 7] {
        let mut bytes = Vec::new();
        partition.save_row(key, partition.index.find(key).unwrap(), &mut bytes);
        assert_eq!(bytes.len(), partition.saved_row_len());
        assert!(copy.restore_row(&bytes, &mut memory));
    }
    // Of the time since nobody has told it.
    assert_eq!((age(&copy, 7), age(&copy, 8)), (5, 0));
    push(&mut copy, 7);
    assert_eq!(age(&copy, 7), 0);
    // Rows that are set begin anew, and so do keys that come again.
    copy.pass_time(3);
    let mut set = 9_u64.to_le_bytes().to_vec();
    set.resize(copy.saved_row_len(), 0);
    assert!(copy.restore_row(&set, &mut memory));
    assert!(copy.remove_row(8));
    push(&mut copy, 8);
    assert_eq!([7, 8, 9].map(|key| age(&copy, key)), [3, 0, 0]);
}
