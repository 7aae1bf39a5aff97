//! Every interleaving of one writer and one reader of a block, by loom. The source is included once
//! more, so that its atomics are the model's.

use loom::{sync::Arc, thread};

use crate::sync::modelled as sync;

#[path = "protocol.rs"]
mod protocol;

use protocol::{FENCED, Look, begin, end, is_unchanged, look};
use sync::{AtomicU64, Ordering};

/// Times the writer writes all rows anew.
const UPDATES: u64 = 2;

struct Block {
    head: AtomicU64,
    rows: [AtomicU64; 2],
    tail: AtomicU64,
}

impl Block {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Self { head: word(), rows: [word(), word()], tail: word() })
    }

    /// Both rows always hold the number of the update.
    fn write(&self) {
        for update in 1..=UPDATES {
            let version = begin(&self.head, &self.tail);
            for row in &self.rows {
                row.store(update, Ordering::Relaxed);
            }
            end(&self.head, &self.tail, version);
        }
    }

    fn read(&self, order: Ordering) -> [u64; 2] {
        [self.rows[0].load(order), self.rows[1].load(order)]
    }
}

#[test]
fn loom_rows_between_two_equal_looks_are_whole() {
    loom::model(|| {
        let block = Block::new();
        let writer = Arc::clone(&block);
        let writing = thread::spawn(move || writer.write());
        if let Look::Rests(version) = look(&block.head) {
            let [first, second] = block.read(Ordering::Relaxed);
            if is_unchanged(&block.head, version) {
                assert_eq!((first, second), (version / 2, version / 2));
            }
        }
        writing.join().unwrap();
        assert_eq!(look(&block.head), Look::Rests(2 * UPDATES));
    });
}

/// What a device does that reads upwards: each load stays behind the one before.
#[test]
fn loom_rows_read_upwards_between_equal_ends_are_whole() {
    loom::model(|| {
        let block = Block::new();
        let writer = Arc::clone(&block);
        let writing = thread::spawn(move || writer.write());
        let head = block.head.load(Ordering::Acquire);
        let [first, second] = block.read(Ordering::Acquire);
        let tail = block.tail.load(Ordering::Acquire);
        if head == tail && head & (FENCED | 1) == 0 {
            assert_eq!((first, second), (head / 2, head / 2));
        }
        writing.join().unwrap();
    });
}

/// The model can fail: without versions, rows of two updates are seen side by side.
#[test]
#[should_panic(expected = "torn")]
fn loom_rows_read_without_looking_are_torn() {
    loom::model(|| {
        let block = Block::new();
        let writer = Arc::clone(&block);
        let writing = thread::spawn(move || writer.write());
        let [first, second] = block.read(Ordering::Acquire);
        assert!(first == second, "torn: {first} and {second}");
        writing.join().unwrap();
    });
}
