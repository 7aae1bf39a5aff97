//! Gradient sparsification: of each push only the rows that matter go to the servers now. The client holds the
//! others back and adds them to the next push of the same rows, so that every gradient counts once in the end
//! (error feedback: Stich, Cordonnier and Jaggi 2018, "Sparsified SGD with memory").

mod held;
mod residuals;
mod select;

use std::{borrow::Cow, fmt};

use windlass_wire::{TableKind, UpdateRule, rule::Merge};

use crate::{
    config::PushOptions,
    element::Element,
    error::RequestError,
    order::Order,
    pending::PendingPush,
    table::{RowSelection, Table},
};

pub use self::select::{Candidates, ParseSparsifierError, SelectRows};
use self::{held::Held, residuals::Residuals};

/// Most rows that a sparsifier holds back, unless its owner says otherwise.
const HELD_ROWS_MAX: usize = 1 << 22;
/// Bytes of a key in a message.
const KEY_LEN: u64 = 8;

/// Filters that choose which rows of each push are sent, and the rows that they hold back. Of one table and one
/// worker. Made by [`Table::sparsifier`].
///
/// What it holds lives in this process. [`Sparsifier::push_held`] sends it, at the end of training for instance. Who
/// wants it to outlive the process saves [`Sparsifier::held`] and gives it to [`Sparsifier::hold`] later.
pub struct Sparsifier<T: Element> {
    width: usize,
    filters: Vec<Filter<T>>,
    residuals: Option<Residuals>,
    held: Held<T>,
    held_rows_max: usize,
    // Of the push under way.
    sums: Vec<T>,
    is_sent: Vec<bool>,
    is_held: Vec<bool>,
    keys: Vec<u64>,
    values: Vec<T>,
}

/// One of the filters, and what it has kept from being sent.
struct Filter<T> {
    name: &'static str,
    select: Box<dyn SelectRows<T>>,
    bytes_saved: u64,
}

impl<T: Element> fmt::Debug for Sparsifier<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sparsifier")
            .field("filters", &self.filters.iter().map(|filter| filter.name).collect::<Vec<_>>())
            .field("held_rows", &self.held_rows())
            .finish_non_exhaustive()
    }
}

impl<T: Element> Sparsifier<T> {
    /// Filters for rows of `width` values, parsed from text such as `kkt,top-k:1000`, in the order in which they are
    /// asked. A row is sent if all of them choose it.
    ///
    /// | filter | sends |
    /// |---|---|
    /// | `significance:T` | rows with a value of magnitude `T` or more |
    /// | `top-k:K` | the `K` rows of the largest Euclidean norm |
    /// | `skip:P` | each row with probability `1 - P` |
    /// | `kkt`, `kkt:T` | rows that are not zero at the servers, and those with a value above `T` in magnitude |
    /// | `residuals:bf16`, `residuals:f16` | chosen rows of f32 rounded to this type, whose rest is held |
    ///
    /// `residuals` goes with the filter of messages of the same name, `bf16` or `f16`, which rounds nothing away then:
    /// what it would cut off goes with later pushes of the same rows.
    ///
    /// `kkt` is for rules with an L1 penalty (Li et al. 2014, "Scaling Distributed Machine Learning with the
    /// Parameter Server", section 5.1): such a small gradient leaves a weight of zero at zero. Without `T` it goes by
    /// a twentieth of the penalty of `rule`.
    ///
    /// # Errors
    /// When the text names no filters, or one does not suit the rule.
    pub fn new(width: usize, rule: &UpdateRule, text: &str) -> Result<Self, ParseSparsifierError> {
        if rule.merge() != Merge::Sum {
            return Err(ParseSparsifierError::Rule { rule: rule.name() });
        }
        let mut sparsifier = Self::without_filters(width);
        for word in text.split(',') {
            if let Some(residuals) = Residuals::parse(word, T::DTYPE)? {
                sparsifier.residuals = Some(residuals);
                continue;
            }
            let (name, select) = select::parse(word, rule)?;
            sparsifier.filters.push(Filter { name, select, bytes_saved: 0 });
        }
        Ok(sparsifier)
    }

    /// Only a filter of the user's own; add others by [`Sparsifier::and`].
    #[must_use]
    pub fn by(width: usize, name: &'static str, select: Box<dyn SelectRows<T>>) -> Self {
        Self::without_filters(width).and(name, select)
    }

    fn without_filters(width: usize) -> Self {
        Self {
            width,
            filters: Vec::new(),
            residuals: None,
            held: Held::new(width),
            held_rows_max: HELD_ROWS_MAX,
            sums: Vec::new(),
            is_sent: Vec::new(),
            is_held: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// The same with one more filter, asked last.
    #[must_use]
    pub fn and(mut self, name: &'static str, select: Box<dyn SelectRows<T>>) -> Self {
        self.filters.push(Filter { name, select, bytes_saved: 0 });
        self
    }

    /// The same with another bound on the rows that it holds (4,194,304 unless set). Rows beyond it are sent,
    /// whatever the filters choose.
    #[must_use]
    pub fn with_held_rows_max(mut self, held_rows_max: usize) -> Self {
        self.held_rows_max = held_rows_max;
        self
    }

    /// Rows that it holds.
    #[must_use]
    pub fn held_rows(&self) -> usize {
        self.held.len()
    }

    /// The keys that it holds, ascending, and `width` values for each.
    #[must_use]
    pub fn held(&self) -> (Vec<u64>, Vec<T>) {
        self.held.sorted()
    }

    /// Adds rows to those that it holds, for instance what [`Sparsifier::held`] gave before a restart.
    ///
    /// # Panics
    /// When there are not `width` values for each key.
    pub fn hold(&mut self, keys: &[u64], values: &[T]) {
        assert_eq!(values.len(), keys.len() * self.width, "{} values for each key", self.width);
        for (key, row) in keys.iter().zip(values.chunks_exact(self.width)) {
            self.held.add(*key, row);
        }
    }

    /// Starts a push of those rows that the filters choose, and holds the others. `weights` are the rows as
    /// they were pulled, in the same order and number as `values`; only `kkt`, and filters of the user's own, look at them.
    /// Returns `None` where no row was chosen.
    ///
    /// # Errors
    /// As [`Table::push`]. Nothing was sent then, and what was held before still is. A push that fails
    /// later takes the rows with it that it sent.
    ///
    /// # Panics
    /// When the table's rows have another width.
    pub fn push<'a>(
        &mut self,
        table: &Table<T>,
        rows: impl Into<RowSelection<'a>>,
        values: &[T],
        weights: Option<&[T]>,
        options: &PushOptions,
    ) -> Result<Option<PendingPush<T>>, RequestError> {
        let width = table.width();
        assert_eq!(self.width, width, "the sparsifier is for rows of this width");
        let rows = rows.into();
        let is_sparse = matches!(table.schema().kind, TableKind::Sparse { .. });
        if is_sparse && matches!(rows, RowSelection::Range(_)) {
            return Err(RequestError::RangeOfSparse);
        }
        for values in [Some(values), weights].into_iter().flatten() {
            table.check_length(&*table.core().enter()?, &rows, values)?;
        }
        let keys = match rows {
            RowSelection::Keys(keys) => Cow::Borrowed(keys),
            RowSelection::Range(rows) => Cow::Owned(rows.collect()),
        };
        if keys.is_sorted_by(|one, next| one < next) {
            return self.push_chosen(table, &keys, values, weights, options);
        }
        let order = Order::of(&keys);
        let values = order.merged(values, width, Merge::Sum);
        let weights = weights.map(|weights| order.merged(weights, width, Merge::Last));
        self.push_chosen(table, order.keys(), &values, weights.as_deref(), options)
    }

    /// The same for keys that ascend.
    fn push_chosen(
        &mut self,
        table: &Table<T>,
        keys: &[u64],
        values: &[T],
        weights: Option<&[T]>,
        options: &PushOptions,
    ) -> Result<Option<PendingPush<T>>, RequestError> {
        self.choose(keys, values, weights);
        let is_any = !self.keys.is_empty();
        let push = is_any.then(|| table.push(&self.keys, &self.values, options)).transpose()?;
        self.keep_rest(keys);
        Ok(push)
    }

    /// Starts a push of all rows that it holds; it holds none then. Returns `None` where it held none. They are not
    /// rounded, unless `options` has filters that do.
    ///
    /// # Errors
    /// As [`Table::push`]; it still holds the rows then.
    pub fn push_held(
        &mut self,
        table: &Table<T>,
        options: &PushOptions,
    ) -> Result<Option<PendingPush<T>>, RequestError> {
        let (keys, values) = self.held();
        if keys.is_empty() {
            return Ok(None);
        }
        let push = table.push(&keys, &values, options)?;
        self.held.clear();
        Ok(Some(push))
    }

    /// Bytes of keys and values that each filter kept from being sent so far, in the filters' order. What is
    /// sent later is not subtracted: it goes in place of a row that its push would have sent anyway.
    pub fn bytes_saved(&self) -> impl Iterator<Item = (&'static str, u64)> {
        // It is the filter of messages that saves.
        let residuals = self.residuals.map(|_| (residuals::NAME, 0));
        self.filters.iter().map(|filter| (filter.name, filter.bytes_saved)).chain(residuals)
    }

    /// Fills `keys` and `values` with what is to be sent of the rows of `keys`, which ascend, and what is held of them;
    /// `sums` and `is_held` then have what is to be held.
    fn choose(&mut self, keys: &[u64], values: &[T], weights: Option<&[T]>) {
        self.sums.clear();
        self.sums.extend_from_slice(values);
        let width = self.width;
        for (key, row) in keys.iter().zip(self.sums.chunks_exact_mut(width)) {
            if let Some(held) = self.held.row(*key) {
                add(row, held);
            }
        }
        self.is_sent.clear();
        self.is_sent.resize(keys.len(), true);
        let row_len = KEY_LEN + (width * size_of::<T>()) as u64;
        let candidates = Candidates { keys, values: &self.sums, weights, width };
        for filter in &mut self.filters {
            let before = count(&self.is_sent);
            filter.select.select(&candidates, &mut self.is_sent);
            // No filter sends what another one holds.
            filter.bytes_saved += before.saturating_sub(count(&self.is_sent)) * row_len;
        }
        let mut room = self.held_rows_max.saturating_sub(self.held.len());
        self.keys.clear();
        self.values.clear();
        self.is_held.clear();
        for ((key, row), is_sent) in
            keys.iter().zip(self.sums.chunks_exact_mut(width)).zip(&mut self.is_sent)
        {
            // Servers say what becomes of values that are not finite.
            let is_finite = T::all_finite(row);
            *is_sent |= !is_finite;
            let has_place = self.held.row(*key).is_some();
            let has_room = has_place || room > 0;
            let mut is_held = !*is_sent && has_room;
            *is_sent = !is_held;
            if *is_sent {
                self.keys.push(*key);
                let from = self.values.len();
                self.values.extend_from_slice(row);
                if let Some(residuals) = self.residuals.filter(|_| is_finite && has_room) {
                    is_held = residuals.round(&mut self.values[from..], row);
                }
            }
            self.is_held.push(is_held);
            room -= usize::from(is_held && !has_place);
        }
    }

    /// The rows that were chosen are on their way; the others are held.
    fn keep_rest(&mut self, keys: &[u64]) {
        for ((key, row), is_held) in
            keys.iter().zip(self.sums.chunks_exact(self.width)).zip(&self.is_held)
        {
            if *is_held {
                self.held.set(*key, row);
            } else {
                self.held.remove(*key);
            }
        }
    }
}

fn count(is_sent: &[bool]) -> u64 {
    is_sent.iter().map(|is_sent| u64::from(*is_sent)).sum()
}

/// Adds one row to another.
fn add<T: Element>(row: &mut [T], other: &[T]) {
    for (value, other) in row.iter_mut().zip(other) {
        *value = T::sum([*value, *other].into_iter());
    }
}

#[cfg(test)]
mod tests;
