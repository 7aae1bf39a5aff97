//! One line of a LIBSVM file: `label id:value id:value ... # comment`.

use super::limits::{FEATURE_ID_MAX, QUOTED_CHARACTERS_MAX};

/// Why a line is not an example. The texts complete the sentence "FILE:LINE: ...".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("label {0:?} is none of 0, 1, -1, +1")]
    Label(String),
    #[error("feature {0:?} is not of the form id:value")]
    Form(String),
    #[error("feature id {0:?} is not a whole number from 0 to 2^63")]
    Id(String),
    #[error("value {0:?} is not a finite number")]
    Value(String),
    #[error("feature id {0} stands twice")]
    Duplicate(u64),
    #[error("line is longer than {0} bytes")]
    TooLong(usize),
}

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing: empty, or only a comment.
    Blank,
    /// An example with this label; its features are in the caller's vector.
    Example { label: bool },
}

/// Reads one line, without its end, into `features` (cleared first; ascending by id afterwards).
pub(super) fn parse_line(line: &[u8], features: &mut Vec<(u64, f32)>) -> Result<Line, LineError> {
    features.clear();
    let content = line.split(|&byte| byte == b'#').next().unwrap_or_default();
    let mut words =
        content.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return Ok(Line::Blank) };
    let label = parse_label(first)?;
    for word in words {
        features.push(parse_feature(word)?);
    }
    if !features.is_sorted_by(|left, right| left.0 < right.0) {
        features.sort_unstable_by_key(|feature| feature.0);
        if let Some(pair) = features.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LineError::Duplicate(pair[0].0));
        }
    }
    Ok(Line::Example { label })
}

fn parse_label(word: &[u8]) -> Result<bool, LineError> {
    match word {
        b"1" | b"+1" => return Ok(true),
        b"0" | b"-1" => return Ok(false),
        _ => {}
    }
    // Files written by numeric tools say 1.0 or 1e0.
    let number: Option<f64> = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    match number {
        Some(1.0) => Ok(true),
        Some(0.0 | -1.0) => Ok(false),
        _ => Err(LineError::Label(quote(word))),
    }
}

fn parse_feature(word: &[u8]) -> Result<(u64, f32), LineError> {
    let colon =
        word.iter().position(|&byte| byte == b':').ok_or_else(|| LineError::Form(quote(word)))?;
    let (id, value) = (&word[..colon], &word[colon + 1..]);
    Ok((parse_id(id)?, parse_value(value)?))
}

fn parse_id(digits: &[u8]) -> Result<u64, LineError> {
    let error = || LineError::Id(quote(digits));
    if digits.is_empty() {
        return Err(error());
    }
    let mut id = 0_u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(error());
        }
        id = id
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(digit - b'0')))
            .ok_or_else(error)?;
    }
    if id <= FEATURE_ID_MAX { Ok(id) } else { Err(error()) }
}

fn parse_value(word: &[u8]) -> Result<f32, LineError> {
    if word == b"1" {
        return Ok(1.0);
    }
    let value: Option<f32> = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    value.filter(|value| value.is_finite()).ok_or_else(|| LineError::Value(quote(word)))
}

fn quote(bytes: &[u8]) -> String {
    // A character is at most four bytes: cut the bytes first so that a huge word costs nothing.
    let head = &bytes[..bytes.len().min(4 * QUOTED_CHARACTERS_MAX)];
    let mut text: String =
        String::from_utf8_lossy(head).chars().take(QUOTED_CHARACTERS_MAX).collect();
    if text.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<(Line, Vec<(u64, f32)>), LineError> {
        let mut features = Vec::new();
        parse_line(line.as_bytes(), &mut features).map(|kind| (kind, features))
    }

    #[test]
    fn labels_in_every_spelling() {
        for (text, label) in
            [("1", true), ("+1", true), ("1.0", true), ("0", false), ("-1", false), ("-1.0", false)]
        {
            assert_eq!(parse(text), Ok((Line::Example { label }, vec![])), "{text}");
        }
        for text in ["2", "yes", "nan", "0.5", "\u{1F980}"] {
            assert!(matches!(parse(text), Err(LineError::Label(_))), "{text}");
        }
    }

    #[test]
    fn features_are_sorted_and_bounded() {
        let example = Line::Example { label: true };
        assert_eq!(parse("1 7:0.5 3:-1e-2 # note"), Ok((example, vec![(3, -0.01), (7, 0.5)])));
        assert_eq!(parse("1\t9223372036854775808:1\r"), Ok((example, vec![(FEATURE_ID_MAX, 1.0)])));
        assert!(matches!(parse("1 9223372036854775809:1"), Err(LineError::Id(_))));
        assert!(matches!(parse("1 99999999999999999999999:1"), Err(LineError::Id(_))));
        assert!(matches!(parse("1 -3:1"), Err(LineError::Id(_))));
        assert!(matches!(parse("1 :1"), Err(LineError::Id(_))));
        assert!(matches!(parse("1 5"), Err(LineError::Form(_))));
        assert!(matches!(parse("1 5:"), Err(LineError::Value(_))));
        assert!(matches!(parse("1 5:inf"), Err(LineError::Value(_))));
        assert!(matches!(parse("1 5:1:2"), Err(LineError::Value(_))));
        assert_eq!(parse("0 5:1 4:1 5:2"), Err(LineError::Duplicate(5)));
    }

    #[test]
    fn blank_lines_are_no_examples() {
        for text in ["", "   ", "# a comment", "\t# 1 2:3"] {
            assert_eq!(parse(text), Ok((Line::Blank, vec![])));
        }
    }

    #[test]
    fn long_words_are_quoted_short() {
        let error = parse(&"x".repeat(1000)).unwrap_err();
        assert!(error.to_string().len() < 100, "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_in_order(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut features = Vec::new();
            if parse_line(&line, &mut features).is_ok() {
                prop_assert!(features.is_sorted_by(|left, right| left.0 < right.0));
                prop_assert!(features.iter().all(|feature| feature.1.is_finite()));
            }
        }

        #[test]
        fn what_is_written_is_read(
            label in any::<bool>(),
            features in proptest::collection::btree_map(0..=FEATURE_ID_MAX, -1e9_f32..1e9, 0..20),
        ) {
            let mut line = if label { "+1".to_owned() } else { "-1".to_owned() };
            for (id, value) in &features {
                line.push_str(&format!(" {id}:{value}"));
            }
            let (kind, read) = parse(&line).unwrap();
            prop_assert_eq!(kind, Line::Example { label });
            prop_assert_eq!(read, features.into_iter().collect::<Vec<_>>());
        }
    }
}
