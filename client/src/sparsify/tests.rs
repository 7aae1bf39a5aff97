use proptest::prelude::*;

use super::*;

const FTRL: UpdateRule = UpdateRule::Ftrl {
    alpha: 0.1,
    beta: 1.0,
    l1: 2.0,
    l2: 0.0,
    limits: windlass_wire::rule::Limits::NONE,
};

fn sparsifier<T: Element>(width: usize, text: &str) -> Sparsifier<T> {
    Sparsifier::new(width, &FTRL, text).unwrap()
}

/// The keys that are sent of a push that succeeds.
fn sent<T: Element>(
    sparsifier: &mut Sparsifier<T>,
    keys: &[u64],
    values: &[T],
    weights: Option<&[T]>,
) -> Vec<u64> {
    sparsifier.choose(keys, values, weights);
    sparsifier.keep_rest(keys);
    sparsifier.keys.clone()
}

#[test]
fn each_filter_chooses_what_its_name_says() {
    let keys = [1, 4, 7, 9];
    let values = [0.5_f32, -0.5, 3.0, 0.0, -2.0, -2.5, 0.25, 0.0];
    for (text, expected) in [
        ("significance:2.5", &[4, 7][..]),
        ("significance:0.1", &[1, 4, 7, 9]),
        ("top-k:1", &[7]),
        ("top-k:3", &[1, 4, 7]),
        ("top-k:9", &[1, 4, 7, 9]),
        ("top-k:2,significance:3", &[4]),
        ("significance:3,top-k:1", &[4]),
        ("skip:0", &[1, 4, 7, 9]),
    ] {
        assert_eq!(sent(&mut sparsifier(2, text), &keys, &values, None), expected, "{text}");
    }
    // A twentieth of the penalty of 2 decides where the weights are zero, and nothing elsewhere.
    let weights = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
    let values = [0.05, -0.1, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0];
    let mut by_penalty = sparsifier(2, "kkt");
    assert_eq!(sent(&mut by_penalty, &keys, &values, Some(&weights)), [4, 9]);
    assert_eq!(sent(&mut by_penalty, &keys, &values, Some(&weights)), [1, 4, 9]);
    let mut by_threshold = sparsifier(2, "kkt:0.3");
    assert_eq!(sent(&mut by_threshold, &keys, &values, Some(&weights)), [9]);
    assert_eq!(sent(&mut by_threshold, &keys, &values, None), keys);
}

#[test]
fn equal_rows_are_chosen_by_their_keys() {
    let keys: Vec<u64> = (0..100).collect();
    assert_eq!(sent(&mut sparsifier(1, "top-k:3"), &keys, &[1.0_f32; 100], None), [0, 1, 2]);
}

#[test]
fn a_share_of_the_rows_is_skipped() {
    let keys: Vec<u64> = (0..10_000).collect();
    let mut skipping = sparsifier(1, "skip:0.75");
    let share = sent(&mut skipping, &keys, &[1_i64; 10_000], None).len();
    assert!((2300..2700).contains(&share), "{share} of 10,000 rows were sent");
    assert_eq!(skipping.held_rows(), 10_000 - share);
}

#[test]
fn what_is_not_finite_goes_and_so_does_what_there_is_no_room_for() {
    let mut small = sparsifier(1, "significance:10").with_held_rows_max(2);
    let keys = [1, 2, 3, 4];
    assert_eq!(sent(&mut small, &keys, &[1.0_f32, f32::NAN, 1.0, 1.0], None), [2, 4]);
    // Rows that are held need no more room.
    assert_eq!(sent(&mut small, &keys, &[1.0, 1.0, 1.0, 1.0], None), [2, 4]);
    assert_eq!(small.held(), (vec![1, 3], vec![2.0, 2.0]));
    assert_eq!(sent(&mut small, &[1], &[8.0], None), [1]);
    assert_eq!(small.held_rows(), 1);
}

#[test]
fn a_push_that_is_refused_leaves_what_is_held() {
    let mut refused = sparsifier(1, "significance:3");
    assert!(sent(&mut refused, &[5, 6], &[1.0_f32, 2.0], None).is_empty());
    let before = refused.held();
    // `keep_rest` is what a push that was taken does.
    refused.choose(&[5, 6, 7], &[2.5, 0.5, 9.0], None);
    assert_eq!(
        (refused.keys.as_slice(), refused.values.as_slice()),
        (&[5, 7][..], &[3.5, 9.0][..])
    );
    assert_eq!(refused.held(), before);
}

#[test]
fn residuals_go_with_later_pushes_of_the_same_rows() {
    let mut rounding = sparsifier(1, "residuals:bf16");
    // A step of bf16 at 1 is 1/128: what is pushed is an eighth of it more than 1.
    let pushed = 1.0 + 1.0 / 1024.0_f32;
    let mut arrived = 0.0_f64;
    for round in 1..=8 {
        assert_eq!(sent(&mut rounding, &[7], &[pushed], None), [7]);
        arrived += f64::from(rounding.values[0]);
        let held = rounding.held().1.first().copied().map_or(0.0, f64::from);
        assert_eq!(arrived + held, f64::from(pushed) * f64::from(round));
    }
    assert_eq!((arrived, rounding.held_rows()), (8.0 * f64::from(pushed), 0));
    // Rows that filters hold back are held whole, and without room nothing is rounded.
    let mut both = sparsifier(1, "residuals:bf16,top-k:1").with_held_rows_max(1);
    assert_eq!(sent(&mut both, &[1, 2], &[pushed, 9.0], None), [2]);
    assert_eq!(both.held(), (vec![1], vec![pushed]));
    assert_eq!(sent(&mut both, &[3], &[pushed], None), [3]);
    assert_eq!((both.values[0], both.held_rows()), (pushed, 1));
    assert_eq!(both.bytes_saved().collect::<Vec<_>>(), [("top-k", 12), ("residuals", 0)]);
    // A push that is refused leaves what is held.
    let before = both.held();
    both.choose(&[1], &[pushed], None);
    assert_eq!(both.held(), before);
}

#[test]
fn wrong_filters_are_refused_by_name() {
    for (text, expected) in [
        ("", "unknown filter \"\""),
        ("top_k:3", "unknown filter \"top_k:3\""),
        ("significance", "\"significance\" needs a magnitude"),
        ("significance:-1", "\"significance:-1\" needs a magnitude"),
        ("significance:nan", "\"significance:nan\" needs a magnitude"),
        ("significance:inf", "\"significance:inf\" needs a magnitude"),
        ("top-k:0", "\"top-k:0\" needs a number of rows"),
        ("top-k:1.5", "\"top-k:1.5\" needs a number of rows"),
        ("skip:1", "\"skip:1\" needs a probability"),
        ("skip:nan", "\"skip:nan\" needs a probability"),
        ("kkt:0", "\"kkt:0\" needs a magnitude"),
        ("residuals", "\"residuals\" needs a type"),
        ("residuals:fixed:2", "\"residuals:fixed:2\" needs a type"),
        ("residual:bf16", "unknown filter \"residual:bf16\""),
        ("skip:0.5,", "unknown filter \"\""),
    ] {
        let error = Sparsifier::<f32>::new(1, &FTRL, text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let of_doubles = Sparsifier::<f64>::new(1, &FTRL, "residuals:f16").unwrap_err().to_string();
    assert!(of_doubles.starts_with("residuals:f16 is for tables of f32"), "{of_doubles}");
    let refusal = |rule: &str, text| {
        Sparsifier::<f32>::new(1, &rule.parse().unwrap(), text).unwrap_err().to_string()
    };
    assert!(refusal("sgd:lr=0.1", "kkt").starts_with("kkt goes by the L1 penalty"));
    assert!(refusal("ftrl:l1=0", "kkt").starts_with("kkt goes by the L1 penalty"));
    assert!(refusal("assign", "skip:0.1").starts_with("rows of rule assign cannot be held back"));
}

/// One push: for each of some keys a row.
fn pushes(width: usize) -> impl Strategy<Value = Vec<Vec<(u64, Vec<i64>)>>> {
    let row = (0_u64..40, prop::collection::vec(-50_i64..50, width));
    let push = prop::collection::vec(row, 0..30).prop_map(|mut rows| {
        rows.sort_by_key(|(key, _)| *key);
        rows.dedup_by_key(|(key, _)| *key);
        rows
    });
    prop::collection::vec(push, 1..20)
}

proptest! {
    #[test]
    fn what_was_sent_and_what_is_held_is_what_was_pushed(
        pushes in pushes(2),
        refused in prop::collection::vec(any::<bool>(), 20),
        filters in prop::sample::select(vec![
            "significance:30", "top-k:5", "skip:0.5", "kkt:20", "skip:0.2,top-k:4,significance:10",
        ]),
        held_rows_max in 0_usize..50,
    ) {
        let mut sparsifier = sparsifier::<i64>(2, filters).with_held_rows_max(held_rows_max);
        let (mut pushed, mut arrived) = ([[0_i64; 2]; 40], [[0_i64; 2]; 40]);
        let tally = |sums: &mut [[i64; 2]; 40], keys: &[u64], values: &[i64]| {
            for (key, row) in keys.iter().zip(values.chunks(2)) {
                let sum = &mut sums[usize::try_from(*key).unwrap()];
                *sum = [sum[0] + row[0], sum[1] + row[1]];
            }
        };
        for (push, is_refused) in pushes.iter().zip(refused) {
            let keys: Vec<u64> = push.iter().map(|(key, _)| *key).collect();
            let values: Vec<i64> = push.iter().flat_map(|(_, row)| row.iter().copied()).collect();
            let weights = vec![0; values.len()];
            sparsifier.choose(&keys, &values, Some(&weights));
            if is_refused {
                continue;
            }
            sparsifier.keep_rest(&keys);
            tally(&mut pushed, &keys, &values);
            tally(&mut arrived, &sparsifier.keys, &sparsifier.values);
            prop_assert!(sparsifier.held_rows() <= held_rows_max);
        }
        let (keys, values) = sparsifier.held();
        prop_assert!(keys.is_sorted_by(|one, next| one < next));
        tally(&mut arrived, &keys, &values);
        prop_assert_eq!(arrived, pushed);
        // Another one goes on where this one ended.
        let mut other = super::Sparsifier::<i64>::new(2, &FTRL, filters).unwrap();
        other.hold(&keys, &values);
        prop_assert_eq!(other.held(), (keys, values));
    }
}
