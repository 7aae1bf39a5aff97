//! The update kernels beside what bounds them: the plainest `p += g` loop with the same instructions,
//! and memcpy. Rates count the bytes of the gradient.
//!
//! `cargo bench -p windlass-benches --bench kernels`; ratios taken in turns within one run come last.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{hint::black_box, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use windlass_engine::update::{FiniteScan, Kernel, Path, Run};
use windlass_wire::DataType;

const IN_CACHE_BYTES: usize = 256 << 10;
const IN_MEMORY_BYTES: usize = 64 << 20;
/// Values in a row: only rules that count steps care.
const WIDTH: usize = 64;

/// Parameters, two planes of state, step counts and a gradient of ordinary numbers.
struct Table {
    values: Vec<u64>,
    state: [Vec<u64>; 2],
    words: Vec<u32>,
    gradient: Vec<u64>,
    count: usize,
}

impl Table {
    fn new(table: DataType, pushed: DataType, bytes: usize) -> Self {
        let count = bytes / pushed.size();
        let words = |dtype: DataType| (count * dtype.size()).div_ceil(8);
        let state = if table == DataType::F64 { DataType::F64 } else { DataType::F32 };
        Self {
            values: vec![one(table); words(table)],
            state: [0; 2].map(|_| vec![0; words(state)]),
            words: vec![0; count / WIDTH],
            gradient: vec![one(pushed); words(pushed)],
            count,
        }
    }

    fn apply(&mut self, kernel: &Kernel) {
        let run = Run {
            values: self.values.as_mut_ptr().cast(),
            state: self.state.each_mut().map(|plane| plane.as_mut_ptr().cast()),
            words: self.words.as_mut_ptr(),
            gradient: self.gradient.as_ptr().cast(),
            rows: self.count / WIDTH,
            width: WIDTH,
        };
        // SAFETY: the vectors hold `count` values each and `count / WIDTH` words, and stay as they are.
        unsafe { kernel.apply(&run) }
    }
}

/// Eight bytes full of a small value.
fn one(dtype: DataType) -> u64 {
    match dtype {
        DataType::F32 => 0x3A80_0000_3A80_0000,
        DataType::F64 => 0x3F50_0000_0000_0000,
        DataType::F16 => 0x1400_1400_1400_1400,
        DataType::Bf16 => 0x3A80_3A80_3A80_3A80,
        _ => 1,
    }
}

#[inline(always)]
fn plain_loop(values: &mut [f32], gradient: &[f32]) {
    for (value, gradient) in values.iter_mut().zip(gradient) {
        *value += *gradient;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline(never)]
fn plain_avx512(values: &mut [f32], gradient: &[f32]) {
    plain_loop(values, gradient);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline(never)]
fn plain_avx2(values: &mut [f32], gradient: &[f32]) {
    plain_loop(values, gradient);
}

#[inline(never)]
fn plain(path: Path, values: &mut [f32], gradient: &[f32]) {
    assert!(path.is_available());
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the path is available, as asserted.
        Path::Avx512 => unsafe { plain_avx512(values, gradient) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the path is available, as asserted.
        Path::Avx2 => unsafe { plain_avx2(values, gradient) },
        _ => plain_loop(values, gradient),
    }
}

fn size_name(bytes: usize) -> &'static str {
    if bytes == IN_CACHE_BYTES { "256KiB" } else { "64MiB" }
}

fn rate(bytes: usize) -> Throughput {
    Throughput::Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// The product's hottest loop on every path.
fn sum(criterion: &mut Criterion) {
    for bytes in [IN_CACHE_BYTES, IN_MEMORY_BYTES] {
        let mut group = criterion.benchmark_group(format!("add_f32_{}", size_name(bytes)));
        group.throughput(rate(bytes)).sample_size(20);
        let gradient = vec![0.001f32; bytes / 4];
        let mut values = gradient.clone();
        group.bench_function("memcpy", |bench| {
            bench.iter(|| black_box(&mut values).copy_from_slice(black_box(&gradient)));
        });
        for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
            group.bench_function(BenchmarkId::new("plain", path), |bench| {
                bench.iter(|| plain(path, black_box(&mut values), black_box(&gradient)));
            });
            let Some(kernel) = kernel("add", DataType::F32, DataType::F32, path) else { continue };
            let mut table = Table::new(DataType::F32, DataType::F32, bytes);
            group.bench_function(BenchmarkId::new("kernel", path), |bench| {
                bench.iter(|| table.apply(&kernel));
            });
        }
        group.finish();
    }
}

fn kernel(rule: &str, table: DataType, pushed: DataType, path: Path) -> Option<Kernel> {
    Kernel::on(rule.parse().ok()?, table, pushed, path).ok()
}

const RULES: [&str; 6] =
    ["sgd:lr=0.01", "sgd:momentum=0.9", "adagrad", "rmsprop", "adam", "ftrl:l1=0.001"];

/// Every rule on `f32`, and sums of every dtype, by the best path.
fn rules(criterion: &mut Criterion) {
    let on_f32 = RULES.map(|rule| (rule, DataType::F32, DataType::F32));
    let sums = DataType::ALL.map(|dtype| ("add", dtype, dtype));
    let accumulations = [DataType::F16, DataType::Bf16].map(|dtype| ("add", DataType::F32, dtype));
    for bytes in [IN_CACHE_BYTES, IN_MEMORY_BYTES] {
        let mut group = criterion.benchmark_group(format!("rules_{}", size_name(bytes)));
        group.throughput(rate(bytes)).sample_size(10);
        for (rule, table, pushed) in on_f32.into_iter().chain(sums).chain(accumulations) {
            let Some(kernel) = kernel(rule, table, pushed, Path::best()) else { continue };
            let mut rows = Table::new(table, pushed, bytes);
            let name = format!("{}_{table}_{pushed}", rule.replace([':', '='], "_"));
            group.bench_function(name, |bench| bench.iter(|| rows.apply(&kernel)));
        }
        let scan = FiniteScan::new(DataType::F32);
        let gradient = vec![0.001f32; bytes / 4];
        group.bench_function("finite_f32", |bench| {
            // SAFETY: the vector holds that many values.
            bench.iter(|| unsafe { scan.is_finite(gradient.as_ptr().cast(), gradient.len()) });
        });
        group.finish();
    }
}

/// Sum kernel against plain loop and memcpy, in turns, so that a noisy machine is noisy for all three.
fn ratios() {
    const ROUNDS: usize = 41;
    eprintln!("\nadd_f32, medians of {ROUNDS} interleaved rounds, GB/s of gradient");
    for bytes in [IN_CACHE_BYTES, IN_MEMORY_BYTES] {
        for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
            let Some(kernel) = kernel("add", DataType::F32, DataType::F32, path) else { continue };
            // All three work on the same cache lines: how buffers lie decides more than the code does.
            let mut lines = vec![Line([0.001; 16]); bytes / 64 * 2];
            let (values, gradient) = lanes(&mut lines).split_at_mut(bytes / 4);
            let mut rounds = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                let run = Run {
                    values: values.as_mut_ptr().cast(),
                    state: [std::ptr::null_mut(); 2],
                    words: std::ptr::null_mut(),
                    gradient: gradient.as_ptr().cast(),
                    rows: bytes / 4 / WIDTH,
                    width: WIDTH,
                };
                // SAFETY: both slices hold that many values and are used for nothing else meanwhile.
                rounds[0].push(timed(bytes, || unsafe { kernel.apply(black_box(&run)) }));
                rounds[1].push(timed(bytes, || plain(path, values, gradient)));
                rounds[2].push(timed(bytes, || {
                    black_box(&mut *values).copy_from_slice(black_box(gradient));
                }));
            }
            let [ours, plain, copy] = rounds.map(median);
            eprintln!(
                "{:>6} {path:<8} kernel {ours:6.1}  plain {plain:6.1}  memcpy {copy:6.1}  \
                 kernel/plain {:.3}  kernel/memcpy {:.3}",
                size_name(bytes),
                ours / plain,
                ours / copy,
            );
        }
    }
}

/// One cache line, so that vectors of them are aligned as tables are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

fn lanes(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a line is sixteen values and nothing else.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn timed(bytes: usize, mut work: impl FnMut()) -> f64 {
    let repeats = (IN_MEMORY_BYTES / bytes).max(1);
    work();
    let start = Instant::now();
    for _ in 0..repeats {
        work();
    }
    (bytes * repeats) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(400));
    targets = sum, rules
}

fn main() {
    kernels();
    Criterion::default().configure_from_args().final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        ratios();
    }
}
