//! Spans of time as people write them.

use super::size;

/// Reads `1h`, `90 s`, `500ms`; milliseconds. `never` is 0.
pub(crate) fn parse_ms(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!("{text:?} is no span of time: write a number and ms, s, min, h or d, or `never`")
    };
    if text.trim() == "never" {
        return Ok(0);
    }
    let (number, unit) = size::number_and_unit(text).ok_or_else(wrong)?;
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).and_then(|span| span.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn units() {
        assert_eq!(parse_ms("1h"), Ok(3_600_000));
        assert_eq!(parse_ms("90 s"), Ok(90_000));
        assert_eq!(parse_ms("500ms"), Ok(500));
        assert_eq!(parse_ms("30min"), Ok(1_800_000));
        assert_eq!(parse_ms("never"), Ok(0));
        for text in ["", "1", "h", "-1s", "60d", "1 week"] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
