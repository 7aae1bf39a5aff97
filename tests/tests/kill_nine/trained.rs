//! Tables with optimiser state, against a serial oracle bit for bit: every row holds the pushes up
//! to the last acknowledged one that touched it, and then the next ones up to some point.

use std::collections::{HashMap, VecDeque};

use windlass_client::{Client, Element, PendingPush, PullOptions, PushOptions, Table, TableSchema};
use windlass_tests::crash::random::Random;

use crate::{connect, durable};

const RATE: f32 = 0.05;
const EPSILON: f32 = 1e-8;
const BETAS: (f64, f64) = (0.9, 0.999);
/// Enough of them that some pushes go by reference.
const DENSE_ROWS: u64 = 4096;
const SPARSE_ROWS: u64 = 2000;
const WIDTHS: [usize; 2] = [4, 3];
const NAMES: [&str; 2] = ["adagrad", "adam"];
const WINDOW: usize = 4;

/// The oracle: every row of both tables.
#[derive(Default)]
pub(crate) struct Trained {
    rows: HashMap<(usize, u64), Row>,
}

#[derive(Clone, Default)]
struct Row {
    values: Vec<f32>,
    planes: [Vec<f32>; 2],
    steps: u32,
}

/// One push of one thread in one life of the server.
pub(crate) struct Push {
    table: usize,
    rows: Vec<u64>,
    gradient: Vec<f32>,
    acknowledged: bool,
}

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
        let mut touched: HashMap<(usize, u64), Vec<(&[f32], bool)>> = HashMap::new();
        for push in pushes {
            for (row, gradient) in push.rows.iter().zip(push.gradient.chunks(WIDTHS[push.table])) {
                let of_row = touched.entry((push.table, *row)).or_default();
                of_row.push((gradient, push.acknowledged));
            }
        }
        let mut wrong = 0;
        for (table, row_count) in [DENSE_ROWS, SPARSE_ROWS].into_iter().enumerate() {
            let keys: Vec<u64> = (0..row_count).collect();
            let pulled = client.open_table::<f32>(NAMES[table]).unwrap();
            let pulled = pulled.pull(&keys, &PullOptions::default()).unwrap().wait().unwrap();
            for (row, values) in keys.iter().zip(pulled.chunks(WIDTHS[table])) {
                let state = self.rows.entry((table, *row)).or_default();
                if state.values.is_empty() {
                    state.values = vec![0.0; WIDTHS[table]];
                    state.planes = [vec![0.0; WIDTHS[table]], vec![0.0; WIDTHS[table]]];
                }
                let pushes = touched.get(&(table, *row)).map_or(&[][..], Vec::as_slice);
                if !state.reach(table, pushes, values) {
                    eprintln!(
                        "{} row {row} holds {values:?}, not {:?}",
                        NAMES[table], state.values
                    );
                    wrong += 1;
                }
            }
        }
        wrong
    }
}

impl Row {
    /// Goes on to the state in which the row has these values, at or after its last acknowledged
    /// push; false if there is none.
    fn reach(&mut self, table: usize, pushes: &[(&[f32], bool)], values: &[f32]) -> bool {
        let sure = pushes.iter().rposition(|push| push.1).map_or(0, |last| last + 1);
        for (gradient, _) in &pushes[..sure] {
            self.step(table, gradient);
        }
        let mut ahead = self.clone();
        let mut left = pushes[sure..].iter();
        loop {
            if ahead.values.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()) {
                *self = ahead;
                return true;
            }
            let Some((gradient, _)) = left.next() else { return false };
            ahead.step(table, gradient);
        }
    }

    fn step(&mut self, table: usize, gradient: &[f32]) {
        self.steps += 1;
        let [first, second] = &mut self.planes;
        if table == 0 {
            for (at, gradient) in gradient.iter().enumerate() {
                first[at] += gradient * gradient;
                let scale = first[at].sqrt() + EPSILON;
                self.values[at] -= RATE * gradient / scale;
            }
            return;
        }
        let steps = i32::try_from(self.steps).unwrap();
        let (beta1, beta2) = (BETAS.0 as f32, BETAS.1 as f32);
        // The text of the rule is read as binary64.
        let rate: f64 = RATE.to_string().parse().unwrap();
        let step_length = (rate / (1.0 - power(BETAS.0, steps))) as f32;
        let root_scale = (1.0 / (1.0 - power(BETAS.1, steps)).sqrt()) as f32;
        for (at, gradient) in gradient.iter().enumerate() {
            first[at] = beta1 * first[at] + (1.0 - beta1) * gradient;
            second[at] = beta2 * second[at] + (1.0 - beta2) * (gradient * gradient);
            let scale = second[at].sqrt() * root_scale + EPSILON;
            self.values[at] -= step_length * first[at] / scale;
        }
    }
}

/// By squaring from the highest bit, as the engine documents.
fn power(base: f64, exponent: i32) -> f64 {
    let bits = i32::BITS - exponent.leading_zeros();
    (0..bits).rev().fold(1.0, |result, bit| {
        let square = result * result;
        if exponent >> bit & 1 == 1 { square * base } else { square }
    })
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
    loop {
        // One that fails shows at the next push.
        if random.one_in(40) {
            let _ = client.checkpoint(server);
        }
        let at = pushes.len();
        pushes.push(push(&mut random));
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
    let value = |random: &mut Random| (random.below(4001) as f32 - 2000.5) / 1000.0;
    let gradient = (0..rows.len() * WIDTHS[table]).map(|_| value(random)).collect();
    Push { table, rows, gradient, acknowledged: false }
}
