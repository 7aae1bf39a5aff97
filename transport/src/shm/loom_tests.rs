//! Every interleaving of the doorbell and of the immediates ring, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p windlass-transport --lib loom`.

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

use crate::sync::modelled as sync;

#[path = "doorbell.rs"]
mod doorbell;
#[path = "immediates.rs"]
mod immediates;

use immediates::{Consumer, Overrun, Producer, Ring};
use sync::{AtomicU32, AtomicU64, Ordering};

struct Words {
    produced: AtomicU64,
    posted: AtomicU64,
    slots: [AtomicU32; 2],
    sleeping: AtomicU32,
    /// Stands for the payload in a region: written before the immediate.
    payload: [AtomicU64; 4],
    /// Stands for the eventfd.
    bell: Mutex<bool>,
    rung: Condvar,
}

impl Words {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            produced: AtomicU64::new(0),
            posted: AtomicU64::new(0),
            slots: [AtomicU32::new(0), AtomicU32::new(0)],
            sleeping: AtomicU32::new(0),
            payload: [0; 4].map(AtomicU64::new),
            bell: Mutex::new(false),
            rung: Condvar::new(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring { produced: &self.produced, posted: &self.posted, slots: &self.slots }
    }

    fn send(&self, producer: &mut Producer, immediate: u32) {
        self.payload[immediate as usize].store(u64::from(immediate) + 10, Ordering::Relaxed);
        producer.push(self.ring(), immediate);
        if doorbell::must_ring(&self.sleeping) {
            *self.bell.lock().unwrap() = true;
            self.rung.notify_one();
        }
    }

    fn sleep(&self) {
        let mut bell = self.bell.lock().unwrap();
        while !*bell {
            bell = self.rung.wait(bell).unwrap();
        }
        *bell = false;
    }
}

/// A sleeper is never left asleep: loom reports a deadlock if it is.
#[test]
fn loom_no_wake_up_is_lost() {
    loom::model(|| {
        let words = Words::new();
        let mut consumer = Consumer::default();
        assert!(consumer.post(words.ring(), 2));
        let writer = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let mut producer = Producer::default();
                for immediate in 0..2 {
                    assert!(producer.has_receive(words.ring()));
                    words.send(&mut producer, immediate);
                }
            })
        };
        let mut taken = 0;
        while taken < 2 {
            if let Some(immediate) = consumer.take(words.ring()).unwrap() {
                assert_eq!(immediate, taken);
                taken += 1;
                continue;
            }
            doorbell::announce(&words.sleeping);
            if !consumer.is_ready(words.ring()) {
                words.sleep();
            }
            doorbell::withdraw(&words.sleeping);
        }
        writer.join().unwrap();
    });
}

/// An immediate is taken after its payload, in order, and no slot is overwritten while receives are
/// posted again one by one.
#[test]
fn loom_immediates_carry_their_payload() {
    loom::model(|| {
        let words = Words::new();
        let mut consumer = Consumer::default();
        assert!(consumer.post(words.ring(), 1));
        let writer = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let mut producer = Producer::default();
                for immediate in 0..3 {
                    while !producer.has_receive(words.ring()) {
                        thread::yield_now();
                    }
                    words.send(&mut producer, immediate);
                }
            })
        };
        for expected in 0..3_u32 {
            let immediate = loop {
                match consumer.take(words.ring()).unwrap() {
                    Some(immediate) => break immediate,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(immediate, expected);
            let payload = words.payload[expected as usize].load(Ordering::Relaxed);
            assert_eq!(payload, u64::from(expected) + 10);
            if expected < 2 {
                assert!(consumer.post(words.ring(), 1));
            }
        }
        writer.join().unwrap();
    });
}

/// A writer that claims what it cannot have is found out, and never more receives than slots.
#[test]
fn loom_lies_are_found_out() {
    loom::model(|| {
        let words = Words::new();
        let mut consumer = Consumer::default();
        assert!(!consumer.post(words.ring(), 3), "there are two slots");
        assert!(consumer.post(words.ring(), 1));
        words.produced.store(2, Ordering::Release);
        assert_eq!(consumer.take(words.ring()), Err(Overrun));
        words.produced.store(1, Ordering::Release);
        assert_eq!(consumer.take(words.ring()), Ok(Some(0)));
        assert!(consumer.post(words.ring(), 1));
        words.produced.store(0, Ordering::Release);
        assert_eq!(consumer.take(words.ring()), Err(Overrun));
    });
}
