//! The rules once more, as plainly as they can be said: one value at a time, values as bit patterns.

use half::{bf16, f16};
use windlass_wire::DataType;

use crate::update::UpdateRule;

/// One parameter value with its state, as bit patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) value: u64,
    pub(super) state: [u64; 2],
}

/// The cell after an update of its row that left the row's word at `count`, with gradients scaled by `scale`.
pub(super) fn update(
    rule: UpdateRule,
    [table, pushed]: [DataType; 2],
    cell: Cell,
    gradient: u64,
    (count, scale): (u32, f64),
) -> Cell {
    if rule == UpdateRule::Assign && table == pushed {
        return Cell { value: gradient, ..cell };
    }
    if !table.is_float() {
        let bits = 8 * table.size();
        let mask = u64::MAX >> (64 - bits);
        return Cell { value: cell.value.wrapping_add(gradient) & mask, ..cell };
    }
    if table == DataType::F64 {
        let state = cell.state.map(f64::from_bits);
        let gradient = match pushed {
            DataType::F64 => f64::from_bits(gradient),
            _ => f64::from(single(pushed, gradient)),
        };
        let value = f64::from_bits(cell.value);
        let (value, state) = limited_double(rule, value, state, gradient, (count, scale));
        let bits = |x: f64| if x.is_nan() { 0x7FF8_0000_0000_0000 } else { x.to_bits() };
        let mut next = Cell { value: bits(value), ..cell };
        for (plane, number) in state.into_iter().enumerate().take(rule.state_width()) {
            next.state[plane] = bits(number);
        }
        return next;
    }
    let state = cell.state.map(|bits| single(DataType::F32, bits));
    let (value, state) = limited_single(
        rule,
        single(table, cell.value),
        state,
        single(pushed, gradient),
        (count, scale),
    );
    let value = match (table, value.is_nan()) {
        (DataType::F16, true) => 0x7E00,
        (DataType::F16, false) => u64::from(f16::from_f32_const(value).to_bits()),
        (DataType::Bf16, true) => 0x7FC0,
        (DataType::Bf16, false) => u64::from(bf16::from_f32(value).to_bits()),
        (_, true) => 0x7FC0_0000,
        (_, false) => u64::from(value.to_bits()),
    };
    let mut next = Cell { value, ..cell };
    for (plane, number) in state.into_iter().enumerate().take(rule.state_width()) {
        next.state[plane] = if number.is_nan() { 0x7FC0_0000 } else { u64::from(number.to_bits()) };
    }
    next
}

fn single(dtype: DataType, bits: u64) -> f32 {
    match dtype {
        DataType::F32 => f32::from_bits(u32::try_from(bits).unwrap()),
        DataType::F16 => f16::from_bits(u16::try_from(bits).unwrap()).to_f32_const(),
        DataType::Bf16 => bf16::from_bits(u16::try_from(bits).unwrap()).to_f32(),
        other => panic!("{other} is not computed in f32"),
    }
}

fn power(base: f64, exponent: u32) -> f64 {
    if exponent == 0 {
        return 1.0;
    }
    let root = power(base, exponent / 2);
    if exponent % 2 == 1 { root * root * base } else { root * root }
}

/// What a row's gradient is scaled by, so that it is not longer than the rule allows.
pub(super) fn scale_of(rule: UpdateRule, pushed: DataType, gradient: &[u64]) -> f64 {
    let mut sums = [0.0; 8];
    for (at, bits) in gradient.iter().enumerate() {
        let value = match pushed {
            DataType::F64 => f64::from_bits(*bits),
            _ => f64::from(single(pushed, *bits)),
        };
        sums[at % 8] += value * value;
    }
    let norm = (0..8).fold(0.0, |sum: f64, at| sum + sums[at]).sqrt();
    let longest = rule.limits().clip_norm;
    if norm > longest { longest / norm } else { 1.0 }
}

/// A row's word after an update with this gradient, of which `scale` is left.
#[expect(clippy::cast_possible_truncation, reason = "the sum is kept as a binary32")]
pub(super) fn word_after(
    rule: UpdateRule,
    pushed: DataType,
    (word, scale): (u32, f64),
    gradient: &[u64],
) -> u32 {
    match rule {
        UpdateRule::Adam { .. } => word.saturating_add(1),
        UpdateRule::RowAdagrad { limits, .. } if !gradient.is_empty() => {
            let mut sums = [0.0; 8];
            for (at, bits) in gradient.iter().enumerate() {
                let value = match pushed {
                    DataType::F64 => f64::from_bits(*bits),
                    _ => f64::from(single(pushed, *bits)),
                };
                let scaled = value * scale;
                let limited = if scaled.abs() > limits.clip { limits.clip } else { scaled };
                sums[at % 8] += limited * limited;
            }
            let squares = (0..8).fold(0.0, |sum: f64, at| sum + sums[at]);
            let sum = f64::from(f32::from_bits(word)) + squares / gradient.len() as f64;
            if sum.is_nan() { 0x7FC0_0000 } else { (sum as f32).to_bits() }
        }
        _ => word,
    }
}

/// The formulas of the rules' documentation, in one precision.
macro_rules! step {
    ($limited:ident, $name:ident, $real:ident) => {
        #[allow(clippy::cast_possible_truncation)]
        fn $limited(
            rule: UpdateRule,
            p: $real,
            state: [$real; 2],
            g: $real,
            (count, scale): (u32, f64),
        ) -> ($real, [$real; 2]) {
            let limits = rule.limits();
            let [clip, min, max] = [limits.clip, limits.min, limits.max].map(|x| x as $real);
            let g = if scale < 1.0 { g * scale as $real } else { g };
            let g = if g.abs() > clip { clip.copysign(g) } else { g };
            let (p, state) = $name(rule, p, state, g, count);
            let p = if p <= min { min } else { p };
            (if p >= max { max } else { p }, state)
        }

        #[allow(clippy::cast_possible_truncation)]
        fn $name(
            rule: UpdateRule,
            p: $real,
            [a, b]: [$real; 2],
            g: $real,
            count: u32,
        ) -> ($real, [$real; 2]) {
            let penalised = |decay: f64| if decay == 0.0 { g } else { g + decay as $real * p };
            match rule {
                UpdateRule::Add => (p + g, [a, b]),
                UpdateRule::Assign => (g, [a, b]),
                UpdateRule::Sgd { learning_rate, momentum, nesterov, weight_decay, .. } => {
                    let lr = learning_rate as $real;
                    let d = penalised(weight_decay);
                    if momentum == 0.0 {
                        return (p - lr * d, [a, b]);
                    }
                    let m = momentum as $real * a + d;
                    let d = if nesterov { d + momentum as $real * m } else { m };
                    (p - lr * d, [m, b])
                }
                UpdateRule::Adagrad {
                    learning_rate,
                    epsilon,
                    initial_accumulator,
                    weight_decay,
                    ..
                } => {
                    let d = penalised(weight_decay);
                    let n = a + d * d;
                    let root = (initial_accumulator as $real + n).sqrt();
                    (p - learning_rate as $real * d / (root + epsilon as $real), [n, b])
                }
                UpdateRule::Adam {
                    learning_rate,
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay,
                    decoupled,
                    ..
                } => {
                    let d = penalised(if decoupled { 0.0 } else { weight_decay });
                    let keep = if decoupled { 1.0 - learning_rate * weight_decay } else { 1.0 };
                    let rate = learning_rate / (1.0 - power(beta1, count));
                    let scale = 1.0 / (1.0 - power(beta2, count)).sqrt();
                    let (beta1, beta2) = (beta1 as $real, beta2 as $real);
                    let m = beta1 * a + (1.0 - beta1) * d;
                    let v = beta2 * b + (1.0 - beta2) * (d * d);
                    let below = v.sqrt() * scale as $real + epsilon as $real;
                    (keep as $real * p - rate as $real * m / below, [m, v])
                }
                UpdateRule::Ftrl { alpha, beta, l1, l2, .. } => {
                    let (alpha, beta) = (alpha as $real, beta as $real);
                    let (l1, l2) = (l1 as $real, l2 as $real);
                    let n = b + g * g;
                    let sigma = (n.sqrt() - b.sqrt()) / alpha;
                    let z = a + g - sigma * p;
                    if z.abs() <= l1 {
                        return (0.0, [z, n]);
                    }
                    let sign = if z.is_sign_negative() { -1.0 } else { 1.0 };
                    (-(z - sign * l1) / ((beta + n.sqrt()) / alpha + l2), [z, n])
                }
                UpdateRule::Rmsprop {
                    learning_rate,
                    decay,
                    epsilon,
                    momentum,
                    weight_decay,
                    ..
                } => {
                    let d = penalised(weight_decay);
                    let v = decay as $real * a + (1.0 - decay) as $real * (d * d);
                    let scaled = d / (v.sqrt() + epsilon as $real);
                    let m = if momentum == 0.0 { scaled } else { momentum as $real * b + scaled };
                    (p - learning_rate as $real * m, [v, if momentum == 0.0 { b } else { m }])
                }
                UpdateRule::RowAdagrad { learning_rate, epsilon, initial_accumulator, .. } => {
                    let sum = f64::from(f32::from_bits(count));
                    let rate = learning_rate / ((initial_accumulator + sum).sqrt() + epsilon);
                    (p - rate as $real * g, [a, b])
                }
            }
        }
    };
}

step!(limited_single, single_step, f32);
step!(limited_double, double_step, f64);
