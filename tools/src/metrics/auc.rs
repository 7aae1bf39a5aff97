//! Area under the ROC curve, exactly: the rank-sum statistic, with tied scores sharing their mean
//! rank (Fawcett 2006, "An introduction to ROC analysis", section 8).

/// The probability that a positive example scores above a negative one, ties counting half; `None`
/// when one of the two kinds is missing or a score is NaN. Sorts a copy: O(n log n).
///
/// Panics when the lengths differ.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn auc(scores: &[f32], labels: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), labels.len());
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut ranked: Vec<(f32, bool)> =
        scores.iter().map(|score| score + 0.0).zip(labels.iter().copied()).collect();
    ranked.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));

    // Twice the number of (negative, positive) pairs in the right order, ties counting one: whole
    // numbers all the way, so the order of summation cannot matter.
    let mut pairs_doubled = 0_u128;
    let mut negatives_below = 0_u64;
    for tied in ranked.chunk_by(|left, right| left.0 == right.0) {
        let positives = tied.iter().filter(|example| example.1).count() as u64;
        let negatives = tied.len() as u64 - positives;
        pairs_doubled += u128::from(positives) * u128::from(2 * negatives_below + negatives);
        negatives_below += negatives;
    }
    let negatives = u128::from(negatives_below);
    let positives = ranked.len() as u128 - negatives;
    let pairs = positives * negatives;
    (pairs > 0).then(|| pairs_doubled as f64 / (2 * pairs) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn perfect_reversed_and_guessing() {
        let labels = [false, false, true, true];
        assert_eq!(auc(&[0.1, 0.2, 0.3, 0.4], &labels), Some(1.0));
        assert_eq!(auc(&[0.4, 0.3, 0.2, 0.1], &labels), Some(0.0));
        assert_eq!(auc(&[0.5; 4], &labels), Some(0.5));
        assert_eq!(auc(&[-0.0, 0.0], &[true, false]), Some(0.5));
    }

    #[test]
    fn one_kind_of_label_has_none() {
        assert_eq!(auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(auc(&[], &[]), None);
        assert_eq!(auc(&[f32::NAN, 0.1], &[true, false]), None);
    }

    proptest! {
        #[test]
        fn equals_counting_pairs(
            examples in proptest::collection::vec((0_u8..8, any::<bool>()), 0..40),
        ) {
            let scores: Vec<f32> = examples.iter().map(|example| f32::from(example.0)).collect();
            let labels: Vec<bool> = examples.iter().map(|example| example.1).collect();
            let (mut wins, mut pairs) = (0.0_f64, 0.0_f64);
            for (score, _) in examples.iter().filter(|example| example.1) {
                for (other, _) in examples.iter().filter(|example| !example.1) {
                    pairs += 1.0;
                    wins += if score > other { 1.0 } else if score == other { 0.5 } else { 0.0 };
                }
            }
            match auc(&scores, &labels) {
                None => prop_assert_eq!(pairs, 0.0),
                Some(area) => prop_assert!((area - wins / pairs).abs() < 1e-12),
            }
        }
    }
}
