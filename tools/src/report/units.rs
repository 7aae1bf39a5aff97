//! Numbers as people read them. Sizes are decimal (1 GB = 10^9 bytes), as rates are.

/// `12.3 GB`, `512 B`.
#[must_use]
pub fn bytes(count: f64) -> String {
    scaled(count, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `12.3 GB/s`.
#[must_use]
pub fn bytes_per_s(rate: f64) -> String {
    bytes(rate) + "/s"
}

/// `4.21 M`, `950`.
#[must_use]
pub fn count(value: f64) -> String {
    scaled(value, &["", "k", "M", "G", "T"]).trim_end().to_owned()
}

/// A time given in microseconds: `0.85 us`, `12.3 ms`, `4.1 s`.
#[must_use]
pub fn micros(value: f64) -> String {
    if value < 1e3 {
        format!("{} us", three_digits(value))
    } else if value < 1e6 {
        format!("{} ms", three_digits(value / 1e3))
    } else {
        format!("{} s", three_digits(value / 1e6))
    }
}

/// A moment in seconds since 1970: `2026-11-22 21:05:07 UTC`.
#[must_use]
pub fn moment(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day is a year's last; eras of 400 years are alike.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A whole number with its thousands apart: `1 234 567`.
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut index = 0;
    while value.abs() >= 1000.0 && index + 1 < units.len() {
        value /= 1000.0;
        index += 1;
    }
    format!("{} {}", three_digits(value), units[index])
}

fn three_digits(value: f64) -> String {
    let magnitude = value.abs();
    if value == value.trunc() || magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        // As `date -u -d @SECONDS` has them.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_795_382_899, "2026-11-22 21:28:19 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(seconds), text);
        }
    }

    #[test]
    fn reads_well() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes_per_s(12_345_000_000.0), "12.3 GB/s");
        assert_eq!(count(950.0), "950");
        assert_eq!(count(4_210_000.0), "4.21 M");
        assert_eq!(micros(0.854), "0.85 us");
        assert_eq!(micros(12_345.0), "12.3 ms");
        assert_eq!(micros(4_100_000.0), "4.10 s");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(12), "12");
    }
}
