use std::sync::Mutex;

use windlass_wire::{DataType, UpdateRule};

use super::*;

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
    let mut row = [9.0_f32; 2];
    // SAFETY: room for one row.
    unsafe { partition.copy_out(47 << 40, row.as_mut_ptr().cast()) };
    assert_eq!(row, [94.0, 2.0]);
    // SAFETY: room for one row.
    unsafe { partition.copy_out(48 << 40, row.as_mut_ptr().cast()) };
    assert_eq!(row, [0.0; 2]);
}

/// Carries out what it is given when it is told to.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<Vec<Work>>>);

struct Work(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

impl Background for Held {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(Work(work));
    }
}

impl Held {
    fn carry_out(&self) -> usize {
        let work = std::mem::take(&mut *self.0.lock().unwrap());
        work.into_iter().map(|work| (work.0)()).count()
    }
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
    while partition.next.is_none() {
        partition.make_row(keys.next().unwrap(), &mut memory).unwrap();
    }
    let (count, charged) = (partition.slabs.len(), memory);
    // A slab that can be told from one made in place.
    let mut marked = Slab::populated(&wide(), usize_of(partition.shape.rows(count)));
    marked.values.push(1);
    partition.next = Some(Ahead::begin(&held, move || marked));
    held.carry_out();
    while partition.slabs.len() == count {
        partition.make_row(keys.next().unwrap(), &mut memory).unwrap();
    }
    assert_eq!(partition.slabs[count].values.last(), Some(&1));
    assert_eq!(memory, charged, "it was paid for when it was asked for");
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
