//! The consistency of a table, as flags and results name it.

use windlass_client::Consistency;

/// `sequential`, `bounded:N` or `eventual`.
pub(super) fn parse(text: &str) -> Result<Consistency, String> {
    let bound = text.strip_prefix("bounded:").map(str::parse::<u64>);
    match (text, bound) {
        ("sequential", _) => Ok(Consistency::Sequential {}),
        ("eventual", _) => Ok(Consistency::Eventual {}),
        (_, Some(Ok(tau))) => Ok(Consistency::Bounded { tau }),
        _ => Err("use sequential, eventual, or bounded:N with N rounds".to_owned()),
    }
}

/// The same, printed.
pub(super) fn text(consistency: Consistency) -> String {
    match consistency {
        Consistency::Sequential {} => "sequential".to_owned(),
        Consistency::Bounded { tau } => format!("bounded:{tau}"),
        Consistency::Eventual {} => "eventual".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given() {
        for given in ["sequential", "bounded:0", "bounded:16", "eventual"] {
            assert_eq!(text(parse(given).unwrap()), given);
        }
        for wrong in ["", "bounded", "bounded:", "bounded:-1", "strict"] {
            assert!(parse(wrong).unwrap_err().contains("bounded:N"), "{wrong}");
        }
    }
}
