//! Tables with optimiser state, against a serial oracle bit for bit: every row holds the pushes up
//! to the last acknowledged one that touched it, and then the next ones up to some point. Pushes in
//! flight together may have come in one turn, and then the rule was applied to their sum.

use std::collections::{HashMap, VecDeque};

use windlass_client::{Client, Element, PendingPush, PullOptions, PushOptions, Table, TableSchema};
use windlass_tests::crash::random::Random;

use crate::{
    connect, durable,
    oracle::{EPSILON, RATE, Row, Touch},
};

/// Enough of them that some pushes go by reference.
const DENSE_ROWS: u64 = 4096;
const SPARSE_ROWS: u64 = 2000;
const WIDTHS: [usize; 2] = [4, 3];
const NAMES: [&str; 2] = ["adagrad", "adam"];
const WINDOW: usize = 4;
/// How often in one life a row is pushed again while it may still be in flight: each time doubles
/// what the oracle has to try.
const MEETINGS_MAX: u32 = 4;

/// The oracle: every row of both tables.
#[derive(Default)]
pub(crate) struct Trained {
    rows: HashMap<(usize, u64), Row>,
    /// Rows that hold what only sums of pushes give.
    pub(crate) summed: usize,
}

/// One push of one thread in one life of the server.
pub(crate) struct Push {
    table: usize,
    rows: Vec<u64>,
    gradient: Vec<f32>,
    acknowledged: bool,
    /// Index of the oldest push that may have been in flight when this one was sent.
    oldest: usize,
}

/// What a thread knows of each row, by table: its last push, and how often pushes of it met.
struct Meetings([Vec<(Option<usize>, u32)>; 2]);

impl Trained {
    pub(crate) fn create(client: &Client) {
        let dense = TableSchema {
            rule: format!("adagrad:lr={RATE},eps={EPSILON}").parse().unwrap(),
            ..TableSchema::dense(f32::DTYPE, DENSE_ROWS, 4)
        };
        let sparse = TableSchema {
            rule: format!("adam:lr={RATE},eps={EPSILON}").parse().unwrap(),
            ..TableSchema::sparse(f32::DTYPE, 3)
        };
        client.create_table::<f32>(NAMES[0], &durable(dense)).unwrap();
        client.create_table::<f32>(NAMES[1], &durable(sparse)).unwrap();
    }

    /// Takes in what was pushed and compares every row; returns how many are wrong.
    pub(crate) fn verify(&mut self, client: &Client, pushes: &[Push]) -> usize {
        let mut touched: HashMap<(usize, u64), Vec<Touch<'_>>> = HashMap::new();
        for (index, push) in pushes.iter().enumerate() {
            let (oldest, acknowledged) = (push.oldest, push.acknowledged);
            for (row, gradient) in push.rows.iter().zip(push.gradient.chunks(WIDTHS[push.table])) {
                let of_row = touched.entry((push.table, *row)).or_default();
                of_row.push(Touch { gradient, acknowledged, index, oldest });
            }
        }
        let mut wrong = 0;
        for (table, row_count) in [DENSE_ROWS, SPARSE_ROWS].into_iter().enumerate() {
            let keys: Vec<u64> = (0..row_count).collect();
            let pulled = client.open_table::<f32>(NAMES[table]).unwrap();
            let pulled = pulled.pull(&keys, &PullOptions::default()).unwrap().wait().unwrap();
            for (row, values) in keys.iter().zip(pulled.chunks(WIDTHS[table])) {
                let key = (table, *row);
                let state = self.rows.entry(key).or_insert_with(|| Row::new(WIDTHS[table]));
                let pushes = touched.get(&key).map_or(&[][..], Vec::as_slice);
                if let Some((reached, sums)) = state.reach(table, pushes, values) {
                    *state = reached;
                    self.summed += usize::from(sums);
                } else {
                    let (name, alone) = (NAMES[table], state.alone(table, pushes));
                    eprintln!("{name} row {row} holds {values:?}, not {alone:?}: {pushes:?}");
                    wrong += 1;
                }
            }
        }
        wrong
    }
}

/// Pushes until the server is gone, with checkpoints now and then.
pub(crate) fn load(address: &str, life: u64, seed: u64) -> Vec<Push> {
    let (mut random, mut pushes) = (Random::new(seed), Vec::new());
    let Some(client) = connect(address, life) else { return pushes };
    let tables: Vec<Table<f32>> =
        NAMES.iter().filter_map(|name| client.open_table::<f32>(name).ok()).collect();
    if tables.len() < NAMES.len() {
        return pushes;
    }
    let server = client.map().servers[0].id;
    let mut pending: VecDeque<(usize, PendingPush<f32>)> = VecDeque::new();
    let mut meetings = Meetings::new();
    loop {
        // One that fails shows at the next push.
        if random.one_in(40) {
            let _ = client.checkpoint(server);
        }
        let at = pushes.len();
        let mut push = push(&mut random);
        push.oldest = pending.front().map_or(at, |(oldest, _)| *oldest);
        if !meetings.note(&push, at) {
            for (at, push) in pending.drain(..) {
                if push.wait().is_err() {
                    return pushes;
                }
                pushes[at].acknowledged = true;
            }
            push.oldest = at;
        }
        pushes.push(push);
        let Push { table, rows, gradient, .. } = &pushes[at];
        let contiguous = rows[rows.len() - 1] - rows[0] + 1 == rows.len() as u64;
        let options = PushOptions::default();
        let pushed = if *table == 0 && contiguous {
            tables[*table].push(rows[0]..rows[0] + rows.len() as u64, gradient, &options)
        } else {
            tables[*table].push(rows, gradient, &options)
        };
        let Ok(pushed) = pushed else { return pushes };
        pending.push_back((at, pushed));
        if pending.len() == WINDOW {
            let (at, push) = pending.pop_front().unwrap();
            if push.wait().is_err() {
                return pushes;
            }
            pushes[at].acknowledged = true;
        }
    }
}

impl Meetings {
    fn new() -> Self {
        Self([DENSE_ROWS, SPARSE_ROWS].map(|rows| vec![(None, 0); rows as usize]))
    }

    /// Notes a push about to be sent; false when what is in flight has to be answered before.
    fn note(&mut self, push: &Push, at: usize) -> bool {
        let rows = &mut self.0[push.table];
        let meets = |last: Option<usize>| last.is_some_and(|last| last >= push.oldest);
        let of_push = || push.rows.iter().map(|row| *row as usize);
        let waits = of_push().any(|row| meets(rows[row].0) && rows[row].1 == MEETINGS_MAX);
        for row in of_push() {
            let (last, met) = &mut rows[row];
            *met += u32::from(!waits && meets(*last));
            *last = Some(at);
        }
        !waits
    }
}

fn push(random: &mut Random) -> Push {
    let table = usize::from(random.one_in(2));
    let rows: Vec<u64> = match (table, random.below(20)) {
        (0, 0) => (0..DENSE_ROWS).collect(),
        (0, 1..10) => {
            let first = random.below(DENSE_ROWS);
            (first..DENSE_ROWS.min(first + 1 + random.below(700))).collect()
        }
        _ => {
            let bound = [DENSE_ROWS, SPARSE_ROWS][table];
            let count = 1 + random.below(40);
            let mut rows: Vec<u64> = (0..count).map(|_| random.below(bound)).collect();
            rows.sort_unstable();
            rows.dedup();
            rows
        }
    };
    // Sums of them are exact, in whatever order they are made.
    let value = |random: &mut Random| (random.below(4001) as f32 - 2000.5) / 1024.0;
    let gradient = (0..rows.len() * WIDTHS[table]).map(|_| value(random)).collect();
    Push { table, rows, gradient, acknowledged: false, oldest: 0 }
}
