//! A table of durability `interval` whose every row is pushed by every push, beside a `sync` one
//! pushed by the same session: in each partition all rows count the same pushes, whole ones, never
//! one twice, and never fewer than after an earlier kill; of the `sync` table none is missing.

use std::collections::VecDeque;

use windlass_client::{
    Client, Durability, Element, PendingPush, PullOptions, PushOptions, Table, TableSchema,
};

use crate::{connect, durable};

const HOT: &str = "hot";
const EXACT: &str = "exact";
const ROWS: u64 = 64;
/// Rows of a partition: there are four.
const PARTITION_ROWS: usize = 16;
const WINDOW: usize = 8;

/// What is known of the two tables so far.
#[derive(Default)]
pub(crate) struct Interval {
    /// Counts of each partition when last verified, of both tables.
    floors: [Vec<i64>; 2],
    /// Pushes to the interval table that were acknowledged and are gone, in all lives: the price.
    pub(crate) forgotten: i64,
    pub(crate) counted: i64,
}

/// What was sent in one life, and what of it was acknowledged, by table.
#[derive(Default)]
pub(crate) struct Sent {
    sent: [i64; 2],
    acknowledged: [i64; 2],
}

impl Interval {
    pub(crate) fn create(client: &Client) {
        let schema = TableSchema::dense(i64::DTYPE, ROWS, 2);
        client.create_table::<i64>(EXACT, &durable(schema.clone())).unwrap();
        let durability = Durability::Interval { milliseconds: 5 };
        client.create_table::<i64>(HOT, &TableSchema { durability, ..schema }).unwrap();
    }

    pub(crate) fn note(&mut self, sent: &Sent) {
        self.counted += sent.acknowledged[0];
    }

    /// Number of broken promises.
    pub(crate) fn verify(&mut self, client: &Client, last: &Sent) -> usize {
        let mut wrong = 0;
        for (at, name) in [HOT, EXACT].into_iter().enumerate() {
            let table = client.open_table::<i64>(name).unwrap();
            let values = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
            let counts: Vec<i64> = values
                .chunks(PARTITION_ROWS * 2)
                .map(|partition| {
                    wrong += usize::from(partition.iter().any(|count| *count != partition[0]));
                    partition[0]
                })
                .collect();
            for (partition, count) in counts.iter().enumerate() {
                let floor = self.floors[at].get(partition).copied().unwrap_or(0);
                wrong += usize::from(*count < floor || *count > floor + last.sent[at]);
                let forgotten = (floor + last.acknowledged[at] - count).max(0);
                if at == 1 {
                    wrong += usize::from(forgotten > 0);
                } else {
                    self.forgotten += forgotten;
                }
            }
            self.floors[at] = counts;
        }
        wrong
    }
}

/// Pushes to both tables until the server is gone.
pub(crate) fn load(address: &str, life: u64) -> Sent {
    let mut sent = Sent::default();
    let Some(client) = connect(address, life) else { return sent };
    let open = |name| client.open_table::<i64>(name);
    let (Ok(hot), Ok(exact)) = (open(HOT), open(EXACT)) else { return sent };
    let mut pending: VecDeque<(usize, PendingPush<i64>)> = VecDeque::new();
    for round in 0_u64.. {
        let at = usize::from(round.is_multiple_of(25));
        let table: &Table<i64> = [&hot, &exact][at];
        let ones = vec![1; usize::try_from(ROWS).unwrap() * 2];
        let Ok(push) = table.push(0..ROWS, &ones, &PushOptions::default()) else { break };
        sent.sent[at] += 1;
        pending.push_back((at, push));
        if pending.len() == WINDOW {
            let (at, push) = pending.pop_front().unwrap();
            if push.wait().is_err() {
                break;
            }
            sent.acknowledged[at] += 1;
        }
    }
    sent
}
