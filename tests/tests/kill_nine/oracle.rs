//! One row and its optimiser state, computed push by push as the engine documents it.

/// Learning rate and epsilon of both rules.
pub(crate) const RATE: f32 = 0.05;
pub(crate) const EPSILON: f32 = 1e-8;
const BETAS: (f64, f64) = (0.9, 0.999);

/// Values and state of one row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    values: Vec<f32>,
    planes: [Vec<f32>; 2],
    steps: u32,
}

/// One push of a row, in the order in which they were sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch<'a> {
    pub(crate) gradient: &'a [f32],
    pub(crate) acknowledged: bool,
    /// Number of the push, and of the oldest one that may have been in flight when it was sent.
    pub(crate) index: usize,
    pub(crate) oldest: usize,
}

impl Row {
    pub(crate) fn new(width: usize) -> Self {
        Self { values: vec![0.0; width], planes: [vec![0.0; width], vec![0.0; width]], steps: 0 }
    }

    /// The state in which the row has these values, at or after its last acknowledged push, and
    /// whether it takes a sum of pushes to get there; `None` if there is none.
    pub(crate) fn reach(
        &self,
        table: usize,
        pushes: &[Touch<'_>],
        values: &[f32],
    ) -> Option<(Self, bool)> {
        let is_sure = !pushes.iter().any(|push| push.acknowledged);
        if is_sure && self.values.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return Some((self.clone(), false));
        }
        let (first, mut sum) = (pushes.first()?, vec![0.0; values.len()]);
        for (at, push) in pushes.iter().enumerate() {
            // A turn brings only what was in flight with the first of it.
            if push.oldest > first.index {
                break;
            }
            sum.iter_mut().zip(push.gradient).for_each(|(sum, gradient)| *sum += gradient);
            let mut ahead = self.clone();
            ahead.step(table, &sum);
            if let Some((reached, sums)) = ahead.reach(table, &pushes[at + 1..], values) {
                return Some((reached, sums || at > 0));
            }
        }
        None
    }

    /// Its values after every acknowledged push, each in a turn of its own.
    pub(crate) fn alone(&self, table: usize, pushes: &[Touch<'_>]) -> Vec<f32> {
        let mut ahead = self.clone();
        let sure = pushes.iter().rposition(|push| push.acknowledged).map_or(0, |last| last + 1);
        pushes[..sure].iter().for_each(|push| ahead.step(table, push.gradient));
        ahead.values
    }

    /// One step of adagrad (table 0) or adam.
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

/// Two pushes that seed 23155 sends within one window, and what a server held that took both in
/// one turn. Had the first been answered before the second was sent, it would be wrong.
#[test]
fn pushes_in_flight_together_may_be_one_step() {
    let gradients = [[-0.2915_f32, 0.6345, 0.0595], [1.9425, 0.2975, -0.0155]];
    let one_step = [-0.050_000_336_f32, -0.050_000_336, -0.050_000_325];
    let two_steps = [0.018_174_358_f32, -0.096_133_71, -0.073_036_43];
    let sent = |oldest| {
        let touch = |at: usize, index, oldest| Touch {
            gradient: &gradients[at],
            acknowledged: true,
            index,
            oldest,
        };
        [touch(0, 1, 0), touch(1, 3, oldest)]
    };
    let row = Row::new(3);
    let sums = |oldest, values: &[f32]| Some(row.reach(1, &sent(oldest), values)?.1);
    assert_eq!(sums(0, &one_step), Some(true));
    assert_eq!(sums(0, &two_steps), Some(false));
    assert_eq!(sums(2, &one_step), None);
    assert_eq!(sums(2, &two_steps), Some(false));
    assert_eq!(row.alone(1, &sent(0)), two_steps);
}
