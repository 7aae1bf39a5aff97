//! Comparing long slices of values: a failure names the first difference instead of printing all of them.

use std::fmt::Debug;

/// Panics with the first place at which the slices differ, their lengths, and what the caller says of them.
#[track_caller]
pub(crate) fn assert_same_rows<T: PartialEq + Debug>(found: &[T], expected: &[T], about: &str) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        let (found, expected) = (&found[at], &expected[at]);
        panic!("{about}: value {at} is {found:?} where {expected:?} was expected");
    }
    assert_eq!(
        found.len(),
        expected.len(),
        "{about}: all common values are equal, the lengths are not"
    );
}
