//! Every rule, dtype and path against the oracle, bit for bit; and the oracle's formulas against
//! numbers computed elsewhere.
#![allow(unsafe_code)]

mod known;
mod oracle;

use oracle::Cell;
use proptest::prelude::*;
use windlass_wire::DataType;

use super::{Accumulator, Kernel, KernelError, Limits, Path, Run, UpdateRule};

const RULES: [&str; 26] = [
    "add",
    "assign",
    "sgd:lr=0.1",
    "sgd:lr=0.1,wd=0.01",
    "sgd:lr=0.1,momentum=0.9",
    "sgd:lr=0.1,momentum=0.9,nesterov=true,wd=0.001",
    "adagrad:lr=0.1,eps=1e-8",
    "adagrad:lr=0.1,eps=1e-8,init=0.1,wd=0.01",
    "adam:lr=0.001",
    "adam:lr=0.001,wd=0.01",
    "adamw:lr=0.001,wd=0.01",
    "ftrl:alpha=0.1,beta=1,l1=0.5,l2=0.1",
    "ftrl:alpha=0.1",
    "rmsprop:lr=0.01,decay=0.9",
    "rmsprop:lr=0.01,decay=0.9,eps=1e-6,momentum=0.9,wd=0.001",
    "sgd:lr=0.1,clip=0.5,min=-1",
    "sgd:lr=0.1,wd=0.01,clip_norm=2,max=1",
    "sgd:lr=0.1,momentum=0.9,nesterov=true,clip_norm=1e-3",
    "adagrad:lr=0.1,clip=1,clip_norm=10,min=-0.5,max=0.5",
    "adam:lr=0.001,clip=0.1,clip_norm=0.5",
    "ftrl:alpha=0.1,l1=0.5,min=-1,max=2",
    "rmsprop:lr=0.01,clip_norm=3",
    "rmsprop:lr=0.01,momentum=0.9,min=-0.1,max=0.1",
    "row-adagrad:lr=0.1,eps=1e-8",
    "row-adagrad:lr=0.1,init=0.1,clip=0.5",
    "row-adagrad:lr=0.1,clip=1,clip_norm=2,min=-1,max=1",
];

/// A small generator whose whole state is its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Bits of one value: any bits, numbers near 1, zeros, subnormals, infinities, NaN.
    fn value(&mut self, dtype: DataType) -> u64 {
        let bits = self.next() >> (64 - 8 * dtype.size());
        let (sign, exponent, one) = match dtype {
            DataType::F32 => (1 << 31, 0x7F80_0000, 0x3F00_0000),
            DataType::F64 => (1 << 63, 0x7FF0 << 48, 0x3FE0 << 48),
            DataType::F16 => (1 << 15, 0x7C00, 0x3800),
            DataType::Bf16 => (1 << 15, 0x7F80, 0x3F00),
            _ => return bits,
        };
        match self.next() % 16 {
            0 => bits & sign,
            1 => bits & !exponent,
            2 => bits & sign | exponent,
            3 => bits | exponent,
            4..8 => bits,
            _ => bits & !exponent | one,
        }
    }
}

/// An array of values behind `offset` bytes, with guard bytes on both sides.
struct Array {
    bytes: Vec<u8>,
    offset: usize,
    size: usize,
}

const GUARD: u8 = 0xA5;

impl Array {
    fn new(size: usize, count: usize, offset: usize) -> Self {
        Self { bytes: vec![GUARD; 64 + offset + size * count + 64], offset: 64 + offset, size }
    }

    fn read(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word[..self.size].copy_from_slice(&self.bytes[self.offset + at * self.size..][..self.size]);
        u64::from_le_bytes(word)
    }

    fn write(&mut self, at: usize, bits: u64) {
        self.bytes[self.offset + at * self.size..][..self.size]
            .copy_from_slice(&bits.to_le_bytes()[..self.size]);
    }

    fn pointer(&mut self) -> *mut u8 {
        self.bytes[self.offset..].as_mut_ptr()
    }

    fn assert_guards(&self, count: usize) {
        assert!(self.bytes[..self.offset].iter().all(|byte| *byte == GUARD));
        assert!(self.bytes[self.offset + count * self.size..].iter().all(|byte| *byte == GUARD));
    }
}

/// Applies `kernel` to `rows` rows of `width` random values and compares with the oracle.
fn compare(kernel: &Kernel, rows: usize, width: usize, offset: usize, seed: u64) {
    let (rule, table, pushed) = (*kernel.rule(), kernel.table_dtype(), kernel.gradient_dtype());
    let state_dtype = if table == DataType::F64 { DataType::F64 } else { DataType::F32 };
    let count = rows * width;
    let mut random = Random(seed);
    let mut values = Array::new(table.size(), count, 0);
    let mut gradient = Array::new(pushed.size(), count, offset);
    let mut state = [0; 2].map(|_| Array::new(UpdateRule::state_value_size(table), count, 0));
    let mut words: Vec<u32> = (0..rows)
        .map(|_| match random.next() % 8 {
            0 => u32::MAX,
            1 => 0,
            other => u32::try_from(random.next() >> (40 + other)).unwrap(),
        })
        .collect();
    for at in 0..count {
        values.write(at, random.value(table));
        gradient.write(at, random.value(pushed));
        for plane in &mut state {
            plane.write(at, random.value(state_dtype));
        }
    }
    let of_rows: Vec<(u32, f64)> = (0..rows)
        .map(|row| {
            let first = row * width;
            let pushes: Vec<u64> = (first..first + width).map(|at| gradient.read(at)).collect();
            let scale = match rule.limits().is_none() || !table.is_float() {
                true => 1.0,
                false => oracle::scale_of(rule, pushed, &pushes),
            };
            (oracle::word_after(rule, pushed, (words[row], scale), &pushes), scale)
        })
        .collect();
    let expected: Vec<Cell> = (0..count)
        .map(|at| {
            let cell =
                Cell { value: values.read(at), state: [state[0].read(at), state[1].read(at)] };
            oracle::update(rule, [table, pushed], cell, gradient.read(at), of_rows[at / width])
        })
        .collect();
    let [first, second] = &mut state;
    let run = Run {
        values: values.pointer(),
        state: [first.pointer(), second.pointer()],
        words: words.as_mut_ptr(),
        gradient: gradient.pointer(),
        rows,
        width,
    };
    // SAFETY: each array holds `count` values of its dtype and `words` holds a word for each row.
    unsafe { kernel.apply(&run) };
    for (at, expected) in expected.into_iter().enumerate() {
        let cell = Cell { value: values.read(at), state: [state[0].read(at), state[1].read(at)] };
        let path = kernel.path();
        assert_eq!(cell, expected, "{rule} {table} {pushed} {path} {at} of {rows} x {width}");
    }
    let expected: Vec<u32> = of_rows.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, expected, "{rule} {table} {pushed}");
    values.assert_guards(count);
    gradient.assert_guards(count);
    state.iter().for_each(|plane| plane.assert_guards(count));
}

/// Every kernel that this processor can run.
fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for rule in RULES {
        for table in DataType::ALL {
            for pushed in DataType::ALL {
                for path in Path::ALL {
                    kernels.extend(Kernel::on(rule.parse().unwrap(), table, pushed, path));
                }
            }
        }
    }
    kernels
}

#[test]
fn every_kernel_equals_the_oracle() {
    for (seed, kernel) in (0..).zip(kernels()) {
        for (rows, width) in [(0, 5), (3, 0), (1, 1), (7, 1), (5, 3), (4, 17), (3, 64), (2, 211)] {
            for offset in [0, 1] {
                compare(&kernel, rows, width, offset, seed);
            }
        }
    }
}

#[test]
fn each_pair_of_dtypes_has_its_kernels() {
    let kernels = kernels();
    let paths = Path::ALL.into_iter().filter(|path| path.is_available()).count();
    // Nine float pairs take every rule; four integer dtypes take two.
    assert_eq!(kernels.len(), paths * (9 * RULES.len() + 4 * 2));
}

#[test]
fn refusals_say_why() {
    let rule: UpdateRule = "adam".parse().unwrap();
    assert!(matches!(Kernel::new(rule, DataType::I32, DataType::I32), Err(KernelError::Rule(_))));
    assert!(matches!(
        Kernel::new(rule, DataType::F16, DataType::F64),
        Err(KernelError::Gradient { .. })
    ));
    let invalid =
        UpdateRule::Ftrl { alpha: -1.0, beta: 1.0, l1: 0.0, l2: 0.0, limits: Limits::NONE };
    assert!(matches!(
        Kernel::new(invalid, DataType::F32, DataType::F32),
        Err(KernelError::Rule(_))
    ));
}

#[test]
fn integers_wrap() {
    let kernel = Kernel::new(UpdateRule::Add, DataType::I8, DataType::I8).unwrap();
    let mut values = [127i8, -128, 100];
    let gradient = [1i8, -1, 27];
    let run = Run {
        values: values.as_mut_ptr().cast(),
        state: [std::ptr::null_mut(); 2],
        words: std::ptr::null_mut(),
        gradient: gradient.as_ptr().cast(),
        rows: 1,
        width: 3,
    };
    // SAFETY: both arrays hold three values.
    unsafe { kernel.apply(&run) };
    assert_eq!(values, [-128, 127, 127]);
}

#[test]
fn low_precision_pushes_are_summed_in_f32() {
    let sum = Accumulator::new(DataType::Bf16).unwrap();
    assert_eq!(Accumulator::sum_dtype(DataType::Bf16), DataType::F32);
    // 256 + 1 is not a bfloat16; the sum keeps it.
    let pushes = [[half::bf16::from_f32(256.0); 3], [half::bf16::from_f32(1.0); 3]];
    let mut total = [f32::NAN; 3];
    // SAFETY: both arrays hold three values.
    unsafe { sum.set(total.as_mut_ptr().cast(), pushes[0].as_ptr().cast(), 3) };
    // SAFETY: as above.
    unsafe { sum.add(total.as_mut_ptr().cast(), pushes[1].as_ptr().cast(), 3) };
    assert_eq!(total, [257.0; 3]);
    for dtype in DataType::ALL {
        assert!(Accumulator::new(dtype).is_ok());
    }
}

/// A finite learning problem of any shape, for the property below.
fn any_rule() -> impl Strategy<Value = UpdateRule> {
    let unit = 1e-6..0.999f64;
    let small = prop_oneof![Just(0.0), 1e-6..10.0f64];
    let positive = 1e-9..100.0f64;
    prop_oneof![
        Just(UpdateRule::Add),
        (positive.clone(), unit.clone(), any::<bool>(), small.clone()).prop_map(
            |(learning_rate, momentum, nesterov, weight_decay)| UpdateRule::Sgd {
                learning_rate,
                momentum,
                nesterov,
                weight_decay,
                limits: Limits::NONE,
            }
        ),
        (positive.clone(), positive.clone(), small.clone(), small.clone()).prop_map(
            |(learning_rate, epsilon, initial_accumulator, weight_decay)| UpdateRule::Adagrad {
                learning_rate,
                epsilon,
                initial_accumulator,
                weight_decay,
                limits: Limits::NONE,
            }
        ),
        (positive.clone(), unit.clone(), unit, positive.clone(), small.clone(), any::<bool>())
            .prop_map(|(learning_rate, beta1, beta2, epsilon, weight_decay, decoupled)| {
                UpdateRule::Adam {
                    learning_rate,
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay,
                    decoupled,
                    limits: Limits::NONE,
                }
            }),
        (positive.clone(), positive, small.clone(), small).prop_map(|(alpha, beta, l1, l2)| {
            UpdateRule::Ftrl { alpha, beta, l1, l2, limits: Limits::NONE }
        }),
        Just("row-adagrad:lr=0.5,init=0.25".parse().unwrap()),
    ]
}

/// Some of the limits, as text.
fn any_limits() -> impl Strategy<Value = String> {
    let clip = || prop_oneof![Just(f64::INFINITY), 1e-6..10.0f64];
    let min = prop_oneof![Just(f64::NEG_INFINITY), -10.0..-1e-6f64];
    (clip(), clip(), min, clip()).prop_map(|(clip, norm, min, max)| {
        format!("clip={clip},clip_norm={norm},min={min},max={max}")
    })
}

proptest! {
    #[test]
    fn any_rule_and_shape_equals_the_oracle(
        rule in any_rule(),
        limits in any_limits(),
        rows in 0..6usize,
        width in 0..150usize,
        offset in 0..8usize,
        seed in any::<u64>(),
    ) {
        let rule = if rule == UpdateRule::Add { rule } else { rule.with(&limits).unwrap() };
        for table in [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16] {
            for pushed in [table, DataType::F32] {
                for path in Path::ALL {
                    if let Ok(kernel) = Kernel::on(rule, table, pushed, path) {
                        compare(&kernel, rows, width, offset, seed);
                    }
                }
            }
        }
    }
}
