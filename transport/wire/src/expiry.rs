//! Which rows of a sparse table go by themselves: those that nothing was pushed to for long, or more than there
//! may be.
//!
//! Time is counted by each partition in seconds of service. It stands still while nobody serves the partition, and no
//! clock is asked for the date: a cluster that was down for a month, or a host whose clock is wrong, loses no row for it.

use std::{fmt, str::FromStr};

use crate::codec::wire_struct;

/// Which rows of a sparse table are removed. As text: `never`, `age:3600s`, `rows:1000000` or
/// `age:7d,rows:1000000`; a time is whole, with `s`, `m`, `h` or `d` behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Rows that nothing was pushed to for longer than so many seconds of service; zero for none.
    pub age_s: u32,
    /// Of more rows than this, those that something was last pushed to the longest ago; zero for no bound. Each
    /// partition holds at most its share, rounded up, but for what was pushed just now.
    pub rows_max: u64,
}

wire_struct!(Expiry { age_s, rows_max });

/// Why an expiry is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    /// The text names none.
    #[error(
        "there is no expiry {text:?}: use never, age:TIME, rows:COUNT or age:TIME,rows:COUNT, where TIME is a whole \
         number of at least 1 with s, m, h or d behind, at most 49710d, and COUNT is at least 1"
    )]
    Text {
        /// The text.
        text: String,
    },
    /// A dense table has all of its rows for ever.
    #[error("rows of a dense table do not expire: make the table sparse")]
    Dense,
}

/// Seconds of each unit, the longest first.
const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Expiry {
    /// Whether rows stay until they are removed.
    #[inline]
    #[must_use]
    pub fn is_never(&self) -> bool {
        *self == Self::default()
    }

    /// The most rows of one of so many partitions; `None` for no bound.
    #[must_use]
    pub fn rows_max_of_partition(&self, partitions: u32) -> Option<u64> {
        (self.rows_max > 0).then(|| self.rows_max.div_ceil(u64::from(partitions.max(1))))
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_never() {
            return formatter.write_str("never");
        }
        let fits = |(_, seconds): &(char, u32)| self.age_s.is_multiple_of(*seconds);
        if self.age_s > 0
            && let Some((unit, seconds)) = UNITS.into_iter().find(fits)
        {
            write!(formatter, "age:{}{unit}", self.age_s / seconds)?;
        }
        if self.rows_max > 0 {
            let comma = if self.age_s > 0 { "," } else { "" };
            write!(formatter, "{comma}rows:{}", self.rows_max)?;
        }
        Ok(())
    }
}

impl FromStr for Expiry {
    type Err = ExpiryError;

    fn from_str(text: &str) -> Result<Self, ExpiryError> {
        let wrong = || ExpiryError::Text { text: text.to_owned() };
        let mut expiry = Self::default();
        if text == "never" {
            return Ok(expiry);
        }
        for part in text.split(',') {
            let (name, value) = part.split_once(':').ok_or_else(wrong)?;
            match name {
                "age" if expiry.age_s == 0 => expiry.age_s = seconds(value).ok_or_else(wrong)?,
                "rows" if expiry.rows_max == 0 => {
                    expiry.rows_max = number(value).ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(expiry)
    }
}

/// A number above zero.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && *number > 0)
}

fn seconds(text: &str) -> Option<u32> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let count = number(text.strip_suffix(unit)?)?;
    u32::try_from(count.checked_mul(u64::from(seconds))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_its_text() {
        let cases = [
            ("never", 0, 0, "never"),
            ("age:90s", 90, 0, "age:90s"),
            ("age:120s", 120, 0, "age:2m"),
            ("age:36h", 36 * 3_600, 0, "age:36h"),
            ("age:7d", 7 * 86_400, 0, "age:7d"),
            ("rows:5", 0, 5, "rows:5"),
            ("rows:9,age:1s", 1, 9, "age:1s,rows:9"),
            ("age:4294967295s", u32::MAX, 0, "age:4294967295s"),
        ];
        for (text, age_s, rows_max, shown) in cases {
            let expiry: Expiry = text.parse().unwrap();
            assert_eq!(expiry, Expiry { age_s, rows_max }, "{text}");
            assert_eq!(expiry.to_string(), shown);
            assert_eq!(shown.parse(), Ok(expiry));
        }
        for text in [
            "",
            "age",
            "age:",
            "age:0s",
            "age:5",
            "age:5x",
            "age:-1s",
            "age:+1s",
            "age:1.5h",
            "age:s",
            "rows:0",
            "rows:-1",
            "rows:1k",
            "age:1s,age:2s",
            "rows:1,rows:1",
            "age:1s,",
            "never,rows:1",
            "age:4294967296s",
            "age:49711d",
            "age:99999999999999999999d",
            "size:1",
        ] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_partition_has_its_share() {
        let expiry = Expiry { age_s: 0, rows_max: 10 };
        let shares = [1, 3, 10, 64].map(|count| expiry.rows_max_of_partition(count));
        assert_eq!(shares, [Some(10), Some(4), Some(1), Some(1)]);
        assert_eq!(Expiry::default().rows_max_of_partition(4), None);
    }
}
