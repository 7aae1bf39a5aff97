//! Four gradients on one value, against the papers' formulas evaluated step by step in Python.

use windlass_wire::DataType;

use crate::update::{Kernel, Path, Run};

const GRADIENTS: [f64; 4] = [0.5, -0.25, 1.0, 0.125];

#[expect(
    clippy::cast_possible_truncation,
    reason = "the values are small and exact or compared loosely"
)]
fn check(rule: &str, start: f64, expected: [f64; 4]) {
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        let double = Kernel::on(rule.parse().unwrap(), DataType::F64, DataType::F64, path).unwrap();
        let single = Kernel::on(rule.parse().unwrap(), DataType::F32, DataType::F32, path).unwrap();
        // Wide enough that the widest vector takes part.
        const WIDTH: usize = 37;
        let (mut p64, mut s64, mut t64) = ([start; WIDTH], [[0f64; WIDTH]; 2], 0u32);
        let (mut p32, mut s32, mut t32) = ([start as f32; WIDTH], [[0f32; WIDTH]; 2], 0u32);
        for (gradient, expected) in GRADIENTS.into_iter().zip(expected) {
            let (g64, g32) = ([gradient; WIDTH], [gradient as f32; WIDTH]);
            let run = Run {
                values: p64.as_mut_ptr().cast(),
                state: s64.each_mut().map(|plane| plane.as_mut_ptr().cast()),
                words: &raw mut t64,
                gradient: g64.as_ptr().cast(),
                rows: 1,
                width: WIDTH,
            };
            // SAFETY: every array holds WIDTH values, and there is one count.
            unsafe { double.apply(&run) };
            let run = Run {
                values: p32.as_mut_ptr().cast(),
                state: s32.each_mut().map(|plane| plane.as_mut_ptr().cast()),
                words: &raw mut t32,
                gradient: g32.as_ptr().cast(),
                rows: 1,
                width: WIDTH,
            };
            // SAFETY: as above.
            unsafe { single.apply(&run) };
            for lane in 0..WIDTH {
                assert!((p64[lane] - expected).abs() < 1e-13, "{rule} {path}: {}", p64[lane]);
                let error = (f64::from(p32[lane]) - expected).abs();
                assert!(error < 3e-7, "{rule} {path}: {}", p32[lane]);
            }
        }
    }
}

#[test]
fn sgd_with_momentum() {
    check("sgd:lr=0.1,momentum=0.9", 1.0, [0.95, 0.93, 0.812, 0.6933]);
}

#[test]
fn sgd_with_nesterov_and_decay() {
    check(
        "sgd:lr=0.1,momentum=0.9,nesterov=true,wd=0.01",
        1.0,
        [0.9031, 0.907_574_11, 0.698_189_208_190_999, 0.575_483_053_766_337],
    );
}

#[test]
fn adagrad() {
    check(
        "adagrad:lr=0.1,eps=1e-8",
        1.0,
        [0.900_000_002, 0.944_721_360_749_995_8, 0.857_434_205_417_503_6, 0.846_587_682_620_688_4],
    );
}

/// Where all values of a row have the same gradients it is Adagrad.
#[test]
fn row_adagrad() {
    check(
        "row-adagrad:lr=0.1,eps=1e-8",
        1.0,
        [0.900_000_002, 0.944_721_360_749_995_8, 0.857_434_205_417_503_6, 0.846_587_682_620_688_4],
    );
}

#[test]
fn adam() {
    check(
        "adam:lr=0.001",
        1.0,
        [
            0.999_000_000_02,
            0.998_733_662_987_078_4,
            0.998_075_551_396_770_8,
            0.997_476_574_665_001_4,
        ],
    );
}

#[test]
fn adamw() {
    check(
        "adamw:lr=0.001,wd=0.1",
        1.0,
        [
            0.998_900_000_02,
            0.998_533_772_987_076_5,
            0.997_775_808_019_470_2,
            0.997_077_053_706_898_8,
        ],
    );
}

#[test]
fn ftrl() {
    check(
        "ftrl:alpha=0.1,beta=1,l1=0.2,l2=0.1",
        0.0,
        [
            -0.019_867_549_668_874_173,
            -0.003_934_006_508_011_657,
            -0.050_323_857_307_929_59,
            -0.056_104_356_340_541_01,
        ],
    );
}

#[test]
fn rmsprop() {
    check(
        "rmsprop:lr=0.01,decay=0.9",
        1.0,
        [
            0.968_377_225_398_316,
            0.983_121_420_144_241,
            0.954_935_627_930_367,
            0.951_247_172_836_150,
        ],
    );
}

#[test]
fn rmsprop_with_momentum_and_decay() {
    check(
        "rmsprop:lr=0.01,decay=0.9,eps=1e-6,momentum=0.9,wd=0.01",
        1.0,
        [
            0.968_377_419_475_532,
            0.953_984_267_108_868,
            0.912_833_144_136_950,
            0.871_878_605_896_490,
        ],
    );
}

#[test]
fn gradients_are_cut_and_values_kept_within_bounds() {
    check("sgd:lr=1,clip=0.3,max=0.9", 1.0, [0.7, 0.9, 0.6, 0.475]);
    check("sgd:lr=1,clip=0.3,min=0.6", 1.0, [0.7, 0.95, 0.65, 0.6]);
}

/// The row has 37 equal values.
#[test]
fn long_gradients_are_scaled_down() {
    check(
        "sgd:lr=1,clip_norm=2",
        1.0,
        [0.671202025389285, 0.921202025389285, 0.592404050778571, 0.467404050778571],
    );
}
