//! Unique keys, each pushed once with the value 1: what was counted is 0 or 1, and 1 when the push
//! was acknowledged.

use std::collections::VecDeque;

use windlass_client::{Client, Element, PendingPush, PullOptions, PushOptions, TableSchema};
use windlass_tests::crash::random::Random;

use crate::{connect, durable};

const TABLE: &str = "ledger";
const KEYS_MAX: u64 = 16;
const WINDOW: usize = 8;

/// What is known of every key so far.
#[derive(Default)]
pub(crate) struct Ledger {
    next: u64,
    present: Vec<u64>,
    absent: Vec<u64>,
    uncertain: Vec<u64>,
}

/// What one thread pushed in one life of the server.
#[derive(Default)]
pub(crate) struct Posted {
    acknowledged: Vec<u64>,
    unanswered: Vec<u64>,
}

/// Figures of a whole run.
#[derive(Default, Debug)]
pub(crate) struct Found {
    pub(crate) acknowledged: usize,
    pub(crate) unanswered: usize,
    pub(crate) unanswered_present: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) risen: usize,
}

impl Ledger {
    pub(crate) fn create(client: &Client) {
        let schema = durable(TableSchema::sparse(i64::DTYPE, 1));
        client.create_table::<i64>(TABLE, &schema).unwrap();
    }

    /// Numbers that nobody else uses.
    pub(crate) fn reserve(&mut self) -> u64 {
        self.next += 1 << 32;
        self.next
    }

    pub(crate) fn note(&mut self, posted: Posted, found: &mut Found) {
        found.acknowledged += posted.acknowledged.len();
        found.unanswered += posted.unanswered.len();
        self.present.extend(posted.acknowledged);
        self.uncertain.extend(posted.unanswered);
    }

    /// Compares every key ever pushed. What was uncertain is certain from now on.
    pub(crate) fn verify(&mut self, client: &Client, found: &mut Found) {
        let mut present = std::mem::take(&mut self.present);
        for count in pull(client, &mut present) {
            found.lost += usize::from(count < 1);
            found.doubled += usize::from(count > 1);
        }
        self.present = present;
        found.risen += pull(client, &mut self.absent).iter().filter(|count| **count != 0).count();
        let mut uncertain = std::mem::take(&mut self.uncertain);
        let counts = pull(client, &mut uncertain);
        for (key, count) in uncertain.into_iter().zip(counts) {
            found.doubled += usize::from(!(0..=1).contains(&count));
            found.unanswered_present += usize::from(count > 0);
            if count > 0 { &mut self.present } else { &mut self.absent }.push(key);
        }
    }
}

/// Pushes until the server is gone.
pub(crate) fn load(address: &str, life: u64, seed: u64, first: u64) -> Posted {
    let (mut random, mut posted, mut next) = (Random::new(seed), Posted::default(), first);
    let Some(client) = connect(address, life) else { return posted };
    let Ok(table) = client.open_table::<i64>(TABLE) else { return posted };
    let mut pending: VecDeque<(Vec<u64>, PendingPush<i64>)> = VecDeque::new();
    let options = PushOptions::default();
    loop {
        let count = 1 + random.below(KEYS_MAX);
        let mut keys: Vec<u64> = (next..next + count).map(key).collect();
        next += count;
        keys.sort_unstable();
        match table.push(&keys, &vec![1; keys.len()], &options) {
            Ok(push) => pending.push_back((keys, push)),
            Err(_) => {
                posted.unanswered.extend(keys);
                break;
            }
        }
        if pending.len() == WINDOW {
            let (keys, push) = pending.pop_front().unwrap();
            if push.wait().is_err() {
                posted.unanswered.extend(keys);
                break;
            }
            posted.acknowledged.extend(keys);
        }
    }
    posted.unanswered.extend(pending.into_iter().flat_map(|(keys, _)| keys));
    posted
}

/// Spreads numbers over partitions and pieces, each to a key of its own.
fn key(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Counts of the keys, which are sorted for it.
fn pull(client: &Client, keys: &mut [u64]) -> Vec<i64> {
    keys.sort_unstable();
    let table = client.open_table::<i64>(TABLE).unwrap();
    let pull = |keys: &[u64]| table.pull(keys, &PullOptions::default()).unwrap().wait().unwrap();
    keys.chunks(4096).flat_map(pull).collect()
}
