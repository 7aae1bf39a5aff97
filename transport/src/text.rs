//! Text of others and durations, made fit for errors and logs.

use std::{
    fmt::{self, Write},
    time::Duration,
};

/// A foreign text, such as an address that a user typed or a peer told: control characters are shown escaped, so
/// that they neither forge lines of a log nor command a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                formatter.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A span of time, rounded to three digits or to seconds, whichever is finer: what is left of 3 s is "3s", and not
/// "2.99999983s".
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u128 = 1_000_000_000;
        let nanos = self.0.as_nanos();
        let mut step = 1;
        while step < SECOND && step * 1000 <= nanos {
            step *= 10;
        }
        let rounded = nanos.saturating_add(step / 2) / step * step;
        // Only the longest span of all is too long when it is rounded up.
        let rounded = u64::try_from(rounded).map_or(self.0, Duration::from_nanos);
        write!(formatter, "{rounded:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_to_what_people_read() {
        let spans = [
            (2_999_999_830, "3s"),
            (2_500_000_000, "2.5s"),
            (200_000_000, "200ms"),
            (199_999_421, "200ms"),
            (999_999_999, "1s"),
            (1_234_567, "1.23ms"),
            (15_000_000_017, "15s"),
            (12_345_400_000_000, "12345s"),
            (17, "17ns"),
            (0, "0ns"),
        ];
        for (nanos, text) in spans {
            assert_eq!(Span(Duration::from_nanos(nanos)).to_string(), text);
        }
        assert!(Span(Duration::MAX).to_string().ends_with('s'));
    }

    #[test]
    fn control_characters_are_shown_escaped() {
        let shown = Shown("h\u{1b}[2J\nwörk\u{7f}:1").to_string();
        assert_eq!(shown, r"h\u{1b}[2J\nwörk\u{7f}:1");
    }
}
