//! The filters of pushes against `memcpy` of the same keys or values: encode and decode, bytes of the plain
//! form a second. The plain form fits a core's cache, as a push in flight does.
#![allow(missing_docs, reason = "criterion makes public functions without a comment")]

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use windlass_wire::{FilterError, filter};

/// Keys or values of a push.
const COUNT: usize = 1 << 14;

criterion::criterion_group!(benches, keys, values);
criterion::criterion_main!(benches);

/// Keys at gaps of 1 to 1000: most differences take one byte or two.
fn keys(criterion: &mut Criterion) {
    let mut last = 0;
    let keys: Vec<u64> = (0..COUNT as u64)
        .map(|index| {
            last += 1 + (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) % 1000;
            last
        })
        .collect();
    let mut group = criterion.benchmark_group("filters_keys");
    group.throughput(Throughput::Bytes(size_of_val(keys.as_slice()) as u64));
    memcpy(&mut group, &keys);
    pair(&mut group, "delta-keys", &keys, filter::encode_keys, filter::decode_keys);
    let plain: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
    snappy(&mut group, &plain);
}

fn values(criterion: &mut Criterion) {
    let values: Vec<f32> = (0..COUNT).map(|index| (index as f32 * 0.37).sin() * 0.01).collect();
    let mut group = criterion.benchmark_group("filters_values");
    group.throughput(Throughput::Bytes(size_of_val(values.as_slice()) as u64));
    memcpy(&mut group, &values);
    let infallible = |encode: fn(&[f32], &mut Vec<u8>)| {
        move |values: &[f32], out: &mut Vec<u8>| {
            encode(values, out);
            Ok(())
        }
    };
    pair(&mut group, "bf16", &values, infallible(filter::encode_bf16), filter::decode_bf16);
    pair(&mut group, "f16", &values, infallible(filter::encode_f16), filter::decode_f16);
    for bytes in 1..=4 {
        let width = filter::FixedWidth::new(bytes).expect("one to four bytes");
        pair(
            &mut group,
            &format!("fixed:{bytes}"),
            &values,
            |values, out| filter::encode_fixed(values, width, 7, out),
            |bytes, values| filter::decode_fixed(bytes, width, values),
        );
    }
    let plain: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    snappy(&mut group, &plain);
}

fn memcpy<T: Copy + Default>(group: &mut BenchmarkGroup<'_, WallTime>, plain: &[T]) {
    let mut copy = vec![T::default(); plain.len()];
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(plain)));
    });
}

fn pair<T: Copy + Default>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    plain: &[T],
    mut encode: impl FnMut(&[T], &mut Vec<u8>) -> Result<(), FilterError>,
    mut decode: impl FnMut(&[u8], &mut [T]) -> Result<(), FilterError>,
) {
    let mut encoded = Vec::new();
    group.bench_function(format!("{name}/encode"), |bencher| {
        bencher.iter(|| {
            encoded.clear();
            encode(black_box(plain), &mut encoded).expect("encodes");
        });
    });
    // A filter of the command line may have left the encoding out.
    encoded.clear();
    encode(plain, &mut encoded).expect("encodes");
    let mut decoded = vec![T::default(); plain.len()];
    group.bench_function(format!("{name}/decode"), |bencher| {
        bencher.iter(|| decode(black_box(&encoded), &mut decoded).expect("decodes"));
    });
}

fn snappy(group: &mut BenchmarkGroup<'_, WallTime>, plain: &[u8]) {
    let mut compressor = filter::Compressor::default();
    let encode = move |bytes: &[u8], out: &mut Vec<u8>| compressor.compress(bytes, out);
    pair(group, "snappy", plain, encode, filter::decompress);
}
