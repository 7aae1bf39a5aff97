//! Sizes in bytes as people write them.

/// Reads `4GiB`, `512 MB`, `65536`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size: write a number and B, kB, MB, GB, KiB, MiB or GiB");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A whole number and what follows it.
pub(super) fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units() {
        assert_eq!(parse("65536"), Ok(65536));
        assert_eq!(parse("4GiB"), Ok(4 << 30));
        assert_eq!(parse("512 MB"), Ok(512_000_000));
        for text in ["", "GiB", "4 TB?", "-1", "99999999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
