//! When pushes are applied, as flags and results name it.

use windlass_client::Aggregation;

/// `immediate`, or `rounds` with how many workers close one and what becomes of late pushes.
pub(super) fn parse(text: &str) -> Result<Aggregation, String> {
    let wrong = || {
        "use immediate, rounds, rounds:M with M workers from 1, or either with :fold behind, which \
         counts late pushes in the next round"
            .to_owned()
    };
    if text == "immediate" {
        return Ok(Aggregation::Immediate {});
    }
    let rest = text.strip_prefix("rounds").ok_or_else(wrong)?;
    let (rest, fold_late) = match rest.strip_suffix(":fold") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let quorum = match rest.strip_prefix(':') {
        Some(number) => number.parse().ok().filter(|quorum| *quorum > 0).ok_or_else(wrong)?,
        None if rest.is_empty() => 0,
        None => return Err(wrong()),
    };
    Ok(Aggregation::Rounds { quorum, fold_late })
}

/// The same, printed.
pub(super) fn text(aggregation: Aggregation) -> String {
    match aggregation {
        Aggregation::Immediate {} => "immediate".to_owned(),
        Aggregation::Rounds { quorum, fold_late } => {
            let quorum = if quorum == 0 { String::new() } else { format!(":{quorum}") };
            format!("rounds{quorum}{}", if fold_late { ":fold" } else { "" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given() {
        for given in ["immediate", "rounds", "rounds:3", "rounds:fold", "rounds:2:fold"] {
            assert_eq!(text(parse(given).unwrap()), given);
        }
        for wrong in ["", "round", "rounds:", "rounds:0", "rounds:x", "rounds2", "rounds:fold:2"] {
            assert!(parse(wrong).unwrap_err().contains("rounds:M"), "{wrong}");
        }
    }
}
