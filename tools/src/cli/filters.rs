//! Filters as flags name them.

use windlass_client::{FilterRefusal, FilterStack, ParseSparsifierError};

use crate::train::Filters;

/// Filters, apart by commas.
pub(super) fn parse(text: &str) -> Result<FilterStack, String> {
    text.parse().map_err(|error: windlass_client::StackError| error.to_string())
}

/// The same and those that choose rows, as text, which is handed on.
pub(super) fn of_training(text: &str) -> Result<String, String> {
    match text.parse::<Filters>() {
        Ok(_) => Ok(text.to_owned()),
        Err(FilterRefusal::Rows(ParseSparsifierError::Unknown { text })) => Err(format!(
            "unknown filter {text:?}: use key-cache, delta-keys, snappy, bf16, f16, fixed:1 to fixed:4, significance:T, top-k:K, \
             skip:P or kkt"
        )),
        Err(error) => Err(error.to_string()),
    }
}
