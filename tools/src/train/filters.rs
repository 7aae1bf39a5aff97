//! The filters of a training run, as `--filters` names them.

use std::str::FromStr;

use windlass_client::{FilterRefusal, FilterStack, Limits, Sparsifier, StackError, UpdateRule};

/// Filters that choose the rows of a push, and filters that make its message smaller. Text such as
/// `key-cache,kkt,fixed:2` may name them in any order between the two kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Those that choose rows, apart by commas, as [`windlass_client::Sparsifier::new`] reads them; `None` for none.
    pub rows: Option<String>,
    /// Those of messages.
    pub messages: FilterStack,
}

impl FromStr for Filters {
    type Err = FilterRefusal;

    fn from_str(text: &str) -> Result<Self, FilterRefusal> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let is_of_rows = |word: &&str| {
            matches!(word.parse::<FilterStack>(), Err(StackError::Unknown { .. }))
                || word.is_empty()
        };
        let (rows, messages): (Vec<&str>, Vec<&str>) = text.split(',').partition(is_of_rows);
        let messages = messages.join(",").parse().map_err(FilterRefusal::Stack)?;
        let rows = (!rows.is_empty()).then(|| rows.join(","));
        let filters = Self { rows, messages };
        // Any rule with an L1 penalty: what the table's is, is not known here.
        let rule =
            UpdateRule::Ftrl { alpha: 1.0, beta: 1.0, l1: 1.0, l2: 0.0, limits: Limits::NONE };
        filters.sparsifier(1, &rule)?;
        Ok(filters)
    }
}

impl Filters {
    /// What chooses the rows of pushes to a table of this width and rule; `None` where nothing does.
    ///
    /// # Errors
    /// When a filter does not suit the rule.
    pub fn sparsifier(
        &self,
        width: usize,
        rule: &UpdateRule,
    ) -> Result<Option<Sparsifier<f32>>, FilterRefusal> {
        let sparsifier = self.rows.as_ref().map(|text| Sparsifier::new(width, rule, text));
        sparsifier.transpose().map_err(FilterRefusal::Rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_stand_in_one_list() {
        let filters: Filters = "key-cache,kkt,snappy,fixed:2,top-k:100".parse().unwrap();
        assert_eq!(filters.rows.as_deref(), Some("kkt,top-k:100"));
        assert_eq!(filters.messages, "key-cache,snappy,fixed:2".parse().unwrap());
        assert_eq!("".parse(), Ok(Filters::default()));
        assert_eq!("bf16".parse::<Filters>().unwrap().rows, None);
        assert_eq!("skip:0.5".parse::<Filters>().unwrap().messages, FilterStack::default());
    }

    #[test]
    fn wrong_filters_are_refused_by_name() {
        for (text, expected) in [
            ("key-cache,gzip", "unknown filter \"gzip\""),
            ("kkt,", "unknown filter \"\""),
            ("fixed:9,kkt", "\"fixed:9\" needs a width"),
            ("key-cache,top-k", "\"top-k\" needs a number of rows"),
            ("skip:2,bf16", "\"skip:2\" needs a probability"),
        ] {
            let error = text.parse::<Filters>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
