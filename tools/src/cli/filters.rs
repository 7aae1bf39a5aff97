//! Filters as flags name them.

use windlass_client::FilterStack;

/// Filters, apart by commas.
pub(super) fn parse(text: &str) -> Result<FilterStack, String> {
    text.parse().map_err(|error: windlass_client::StackError| error.to_string())
}

/// The same as text, which is handed on.
pub(super) fn named(text: &str) -> Result<String, String> {
    parse(text).map(|_| text.to_owned())
}
