//! Tables: where pushes go and pulls come from.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Range};

use windlass_wire::{NotFinitePolicy, RowRange, TableEntry, TableSchema};

use crate::{
    config::{PullOptions, PushOptions},
    core::{
        Core, Source, TableIndex, pull_into, pull_keys, pull_keys_into, pull_range, push_keys,
        push_range, remove_below, remove_keys, set_rule, wait_for_workers,
    },
    element::Element,
    error::{RequestError, TableError},
    order::Order,
    pending::{Detour, PendingPull, PendingPush},
    prepared::Prepared,
    rows::Rows,
    shared::SharedCore,
    sparsify::{ParseSparsifierError, Sparsifier},
};

/// Rows of a request: keys, or a range of a dense table. Keys may come in any order and repeat. A push sums the values
/// of a repeated key; with rule `assign` the last ones count. A pull copies the row to each place of its key.
/// Ascending keys without repeats are sent as they are; others are sorted first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowSelection<'a> {
    /// These keys, or rows of a dense table.
    Keys(&'a [u64]),
    /// These rows of a dense table.
    Range(Range<u64>),
}

impl<'a> From<&'a [u64]> for RowSelection<'a> {
    fn from(keys: &'a [u64]) -> Self {
        Self::Keys(keys)
    }
}

impl<'a, const N: usize> From<&'a [u64; N]> for RowSelection<'a> {
    fn from(keys: &'a [u64; N]) -> Self {
        Self::Keys(keys)
    }
}

impl<'a> From<&'a Vec<u64>> for RowSelection<'a> {
    fn from(keys: &'a Vec<u64>) -> Self {
        Self::Keys(keys)
    }
}

impl From<Range<u64>> for RowSelection<'_> {
    fn from(rows: Range<u64>) -> Self {
        Self::Range(rows)
    }
}

impl RowSelection<'_> {
    /// Number of rows; a reversed range has none.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Keys(keys) => keys.len() as u64,
            Self::Range(rows) => rows.end.saturating_sub(rows.start),
        }
    }
}

/// A table with values of type `T`. Cheap to clone.
pub struct Table<T: Element> {
    core: SharedCore,
    index: TableIndex,
    width: usize,
    element: PhantomData<T>,
}

impl<T: Element> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self::new(&self.core, self.index)
    }
}

impl<T: Element> fmt::Debug for Table<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Table").field("entry", &self.entry()).finish_non_exhaustive()
    }
}

impl<T: Element> Table<T> {
    pub(crate) fn new(core: &SharedCore, index: TableIndex) -> Self {
        let width = core.look().tables[index].entry.schema.width as usize;
        Self { core: core.clone(), index, width, element: PhantomData }
    }

    /// The table's number, name and schema.
    #[must_use]
    pub fn entry(&self) -> TableEntry {
        self.core.look().tables[self.index].entry.clone()
    }

    /// The table's schema.
    #[must_use]
    pub fn schema(&self) -> TableSchema {
        self.entry().schema
    }

    /// As [`Client::set_hyper_parameters`](crate::Client::set_hyper_parameters), for this table.
    ///
    /// # Errors
    /// As there.
    pub fn set_hyper_parameters(&self, parameters: &str) -> Result<TableEntry, TableError> {
        let name = self.entry().name;
        set_rule(&mut *self.core.enter()?, &name, parameters)
    }

    /// Removes the rows of keys of a sparse table, with their optimiser state, at every replica; returns how many
    /// there were. Keys may come in any order and repeatedly. A pull of a removed key brings the table's first values,
    /// and a push makes its row anew. Returns once the removal is as safe as the table's durability says. A push that
    /// is under way may be applied before or after it. Should a server die meanwhile, rows that it had removed
    /// already may not be counted.
    ///
    /// # Errors
    /// When the table is dense, pushes to one of the keys wait for their round, or a server is gone.
    pub fn remove(&self, keys: &[u64]) -> Result<u64, TableError> {
        remove_keys(&mut *self.core.enter()?, self.index, keys)
    }

    /// Removes the rows of a sparse table whose values have a Euclidean norm below `norm`, as [`Table::remove`] does:
    /// each row is compared and removed in one step, so that no push is lost.
    ///
    /// # Errors
    /// As there, or when `norm` is not a number.
    pub fn remove_below(&self, norm: f64) -> Result<u64, TableError> {
        remove_below(&mut *self.core.enter()?, self.index, norm)
    }

    /// Values per row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether a pull may overtake earlier pushes. If so, a pull that must see a push names it in
    /// [`PullOptions::after`]. One-sided pulls may overtake; so may all pulls if the rows have, or may move to, other
    /// servers.
    #[must_use]
    pub fn pulls_overtake(&self) -> bool {
        let core = self.core.look();
        core.cluster.map.servers.len() > 1 || core.tables[self.index].dense_rows().is_some()
    }

    /// Starts a push: `values` has `width` values for each row, in the order of the rows. They are
    /// copied before this returns.
    ///
    /// Each shard gets the push in messages of at most 1 MiB of values (256 KiB where devices write values) and
    /// 16,384 keys (4,096 in a sparse table). It applies and keeps each message whole or not at all. If server and
    /// client both end before the acknowledgement, nobody sends the push again: some messages may be kept and others
    /// not. With replicas and in `interval` tables this can also happen to the partitions of one message.
    ///
    /// # Errors
    /// When keys or lengths are not valid, or the server is gone; nothing is sent then.
    pub fn push<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        values: &[T],
        options: &PushOptions,
    ) -> Result<PendingPush<T>, RequestError> {
        let source = Source::Plain(bytemuck::cast_slice(values));
        let id = self.start_push(&rows.into(), None, values, source, options)?;
        Ok(PendingPush::new(&self.core, id, None))
    }

    /// Starts a push of registered rows, without a copy. They come back from
    /// [`PendingPush::wait_rows`].
    ///
    /// # Errors
    /// As [`Table::push`]; the rows are dropped then.
    pub fn push_rows<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        values: Rows<T>,
        options: &PushOptions,
    ) -> Result<PendingPush<T>, RequestError> {
        let source = Source::Registered { region: values.region(), offset: 0 };
        let id = self.start_push(&rows.into(), None, &values, source, options)?;
        Ok(PendingPush::new(&self.core, id, Some(values)))
    }

    /// Starts a pull. A dense range is read one-sided, without the server's processor. If the rows exceed half of the
    /// client's staging area, the rest is requested when the pull is waited for.
    ///
    /// # Errors
    /// When keys are not valid, or the server is gone.
    pub fn pull<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        options: &PullOptions,
    ) -> Result<PendingPull<T>, RequestError> {
        let rows = rows.into();
        let (id, detour) = self.start_pull(&rows, options)?;
        let count = usize::try_from(rows.count()).unwrap_or(usize::MAX);
        let value_count = count.saturating_mul(self.width);
        Ok(PendingPull::new(&self.core, id, self.index, value_count).by(detour))
    }

    /// Pulls rows into `into`, which has `width` values for each, and waits for them. The fastest
    /// way for large dense ranges.
    ///
    /// # Errors
    /// As [`Table::pull`] and [`PendingPull::wait_into`].
    pub fn pull_into<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        into: &mut [T],
        options: &PullOptions,
    ) -> Result<(), RequestError> {
        let rows = rows.into();
        let count = usize::try_from(rows.count()).unwrap_or(usize::MAX);
        let mut core = self.core.enter()?;
        core.tables.check_length(self.index, count.saturating_mul(self.width), into.len())?;
        let bytes = bytemuck::cast_slice_mut(into);
        let keys = match rows {
            RowSelection::Range(range) => {
                let rows = RowRange::new(range.start, range.end.max(range.start));
                return pull_into(&mut core, self.index, rows, options, bytes);
            }
            RowSelection::Keys(keys) => keys,
        };
        if pull_keys_into(&mut core, self.index, keys, options, bytes)? {
            return Ok(());
        }
        self.pull_in_order(&mut core, &Order::of(keys), into, options)
    }

    /// Like `pull_into`, for keys that had to be sorted.
    #[cold]
    pub(crate) fn pull_in_order(
        &self,
        core: &mut Core,
        order: &Order,
        into: &mut [T],
        options: &PullOptions,
    ) -> Result<(), RequestError> {
        let mut rows = vec![T::default(); order.keys().len() * self.width];
        let bytes = bytemuck::cast_slice_mut(&mut rows);
        if !pull_keys_into(core, self.index, order.keys(), options, bytes)? {
            unreachable!("the keys are sorted");
        }
        order.expand(&rows, self.width, into);
        Ok(())
    }

    /// A push followed by a pull of the same rows that sees it.
    ///
    /// # Errors
    /// As [`Table::push`] and [`Table::pull`].
    pub fn push_pull<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        values: &[T],
        options: &PushOptions,
    ) -> Result<PendingPull<T>, RequestError> {
        let rows = rows.into();
        let pushed = self.push(rows.clone(), values, options)?;
        // Keys are answered by the servers in order; only one-sided reads could overtake.
        let overtakes = self.pulls_overtake();
        let after = overtakes.then(|| pushed.timestamp());
        let pulled = self.pull(rows, &PullOptions { after, ..PullOptions::default() })?;
        Ok(pulled.after(pushed.timestamp().0))
    }

    /// Fixes rows once, for pushes and pulls of them again and again: keys are checked and routed,
    /// memory is registered.
    ///
    /// # Errors
    /// When keys are not valid or there is no memory.
    pub fn prepare<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
    ) -> Result<Prepared<T>, RequestError> {
        Prepared::new(self.clone(), &rows.into())
    }

    /// Waits until `count` workers, this one included, have opened the table. A worker that comes later starts at
    /// the others' clock; nobody waits for it before that.
    ///
    /// # Errors
    /// When they are not there within the client's timeout, or the table keeps no clocks.
    pub fn wait_for_workers(&self, count: u64) -> Result<(), RequestError> {
        wait_for_workers(&mut *self.core.enter()?, self.index, count)
    }

    /// Filters that choose which rows of a push to this table are sent now; [`Sparsifier::new`] says what the
    /// text may name.
    ///
    /// # Errors
    /// As there.
    pub fn sparsifier(&self, text: &str) -> Result<Sparsifier<T>, ParseSparsifierError> {
        Sparsifier::new(self.width, &self.schema().rule, text)
    }

    pub(crate) fn core(&self) -> &SharedCore {
        &self.core
    }

    pub(crate) fn index(&self) -> TableIndex {
        self.index
    }

    pub(crate) fn start_push(
        &self,
        rows: &RowSelection<'_>,
        order: Option<&Order>,
        values: &[T],
        source: Source<'_>,
        options: &PushOptions,
    ) -> Result<u64, RequestError> {
        let mut core = self.core.enter()?;
        self.check_length(&core, rows, values)?;
        self.check_values(&core, values, options)?;
        let keys = match rows {
            RowSelection::Keys(keys) => keys,
            RowSelection::Range(rows) => {
                let end = rows.end.max(rows.start);
                let rows = RowRange::new(rows.start, end);
                return push_range(&mut core, self.index, rows, source, options);
            }
        };
        if order.is_none()
            && let Some(id) = push_keys(&mut core, self.index, keys, source, options)?
        {
            return Ok(id);
        }
        let order = order.map_or_else(|| Cow::Owned(Order::of(keys)), Cow::Borrowed);
        let merge = core.tables[self.index].entry.schema.rule.merge();
        let merged = order.merged(values, self.width, merge);
        // Sums may be too great.
        self.check_values(&core, &merged, options)?;
        let source = Source::Plain(bytemuck::cast_slice(&merged));
        let sent = push_keys(&mut core, self.index, order.keys(), source, options)?;
        Ok(sent.unwrap_or_else(|| unreachable!("the keys are sorted")))
    }

    /// Checks that there are `width` values for each row.
    pub(crate) fn check_length(
        &self,
        core: &Core,
        rows: &RowSelection<'_>,
        values: &[T],
    ) -> Result<(), RequestError> {
        let expected = rows.count().saturating_mul(self.width as u64);
        match expected == values.len() as u64 {
            true => Ok(()),
            false => Err(core.tables.length_error(self.index, rows.count(), values.len())),
        }
    }

    /// Checks what is sent: shards refuse what is not finite too, but each only its own part of a push.
    fn check_values(
        &self,
        core: &Core,
        values: &[T],
        options: &PushOptions,
    ) -> Result<(), RequestError> {
        let policy = core.tables[self.index].entry.schema.not_finite;
        if policy == (NotFinitePolicy::Reject {}) && !T::all_finite(values) {
            return Err(RequestError::NotFinite);
        }
        core.tables.check_filters(self.index, options, || T::all_finite(values))
    }

    pub(crate) fn start_pull(
        &self,
        rows: &RowSelection<'_>,
        options: &PullOptions,
    ) -> Result<(u64, Option<Detour>), RequestError> {
        let mut core = self.core.enter()?;
        let keys = match rows {
            RowSelection::Keys(keys) => keys,
            RowSelection::Range(rows) => {
                let end = rows.end.max(rows.start);
                let rows = RowRange::new(rows.start, end);
                return pull_range(&mut core, self.index, rows, options).map(|id| (id, None));
            }
        };
        let fits =
            core.pending.memory.keys_at_first(&core.tables, self.index, keys.len()) == keys.len();
        if fits && let Some(id) = pull_keys(&mut core, self.index, keys, options)? {
            return Ok((id, None));
        }
        let is_unsorted = fits || !core.tables.check_keys(self.index, keys)?;
        let order = is_unsorted.then(|| Order::of(keys));
        let sorted = order.as_ref().map_or(*keys, Order::keys);
        let (first, rest) = sorted.split_at(core.pending.memory.keys_at_first(
            &core.tables,
            self.index,
            sorted.len(),
        ));
        // Before the first of them are asked for.
        core.tables.check_keys(self.index, rest)?;
        let id = pull_keys(&mut core, self.index, first, options)?;
        let detour = Detour { rest: rest.to_vec(), order, options: *options };
        Ok((id.unwrap_or_else(|| unreachable!("the keys are sorted")), Some(detour)))
    }
}
