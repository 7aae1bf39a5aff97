//! Prepared operations: rows that are chosen once and pushed and pulled many times.

use windlass_wire::Timestamp;

use crate::{
    config::{PullOptions, PushOptions},
    core::Source,
    element::Element,
    error::RequestError,
    order::Order,
    rows::Rows,
    table::{RowSelection, Table},
};

/// Rows of a table with their own registered values. Pushes read the values in place, and pulls write them there.
#[derive(Debug)]
pub struct Prepared<T: Element> {
    table: Table<T>,
    keys: Vec<u64>,
    range: Option<std::ops::Range<u64>>,
    /// How the keys were sorted, if they had to be.
    order: Option<Order>,
    values: Option<Rows<T>>,
    last: Option<Timestamp>,
}

impl<T: Element> Prepared<T> {
    pub(crate) fn new(table: Table<T>, rows: &RowSelection<'_>) -> Result<Self, RequestError> {
        let (keys, range) = match rows {
            RowSelection::Keys(keys) => (keys.to_vec(), None),
            RowSelection::Range(range) => (Vec::new(), Some(range.clone())),
        };
        let order = {
            let core = table.core().enter()?;
            let is_sorted = core.tables.check_rows(table.index(), &keys, range.as_ref())?;
            let order = (!is_sorted).then(|| Order::of(&keys));
            if let Some(order) = &order {
                core.tables.check_rows(table.index(), order.keys(), None)?;
            }
            order
        };
        let count = usize::try_from(rows.count()).unwrap_or(usize::MAX);
        let values = Rows::allocate(table.core(), count.saturating_mul(table.width()))
            .map_err(|error| RequestError::Setup { text: error.to_string() })?;
        Ok(Self { table, keys, range, order, values: Some(values), last: None })
    }

    /// The values, for reading: those of the last pull, or what was written since.
    ///
    /// # Errors
    /// Why the push that still reads them failed.
    pub fn values(&mut self) -> Result<&[T], RequestError> {
        self.settle()?;
        Ok(self.values.as_deref().unwrap_or_default())
    }

    /// The values, for writing. Waits for a push that still reads them.
    ///
    /// # Errors
    /// Why that push failed. Another call returns the values.
    pub fn values_mut(&mut self) -> Result<&mut [T], RequestError> {
        self.settle()?;
        Ok(self.values.as_deref_mut().unwrap_or_default())
    }

    /// Starts a push of the values from where they are.
    ///
    /// # Errors
    /// Why it could not be sent, or why the one before failed.
    pub fn push(&mut self, options: &PushOptions) -> Result<Timestamp, RequestError> {
        self.settle()?;
        let Some(values) = &self.values else {
            return Err(RequestError::Setup { text: "the values are gone".to_owned() });
        };
        let source = Source::Registered { region: values.region(), offset: 0 };
        let rows = selection(&self.keys, &self.range);
        let (pushed, region) = (
            self.table.start_push(&rows, self.order.as_ref(), values, source, options),
            values.region(),
        );
        self.last = match &pushed {
            Ok(id) => Some(Timestamp(*id)),
            // Parts of it may have been sent.
            Err(_) => self.table.core().look().pending.reader_of(region).map(Timestamp),
        };
        pushed.map(Timestamp)
    }

    /// Pulls the rows into the values and waits for them.
    ///
    /// # Errors
    /// Why they could not be pulled, or why the push before failed.
    pub fn pull(&mut self, options: &PullOptions) -> Result<&[T], RequestError> {
        self.settle()?;
        let values = self.values.as_deref_mut().unwrap_or_default();
        match &self.order {
            Some(order) => {
                let mut core = self.table.core().enter()?;
                self.table.pull_in_order(&mut core, order, values, options)?;
            }
            None => self.table.pull_into(selection(&self.keys, &self.range), values, options)?,
        }
        Ok(self.values.as_deref().unwrap_or_default())
    }

    /// Waits for the last push.
    ///
    /// # Errors
    /// Why it failed.
    pub fn wait(&mut self) -> Result<(), RequestError> {
        self.settle()
    }

    fn settle(&mut self) -> Result<(), RequestError> {
        let mut core = self.table.core().enter()?;
        let Some(last) = self.last else { return Ok(()) };
        let outcome = core.wait_for(last.0);
        if !outcome.as_ref().is_err_and(RequestError::leaves_request) {
            self.last = None;
        }
        outcome
    }
}

/// The rows: a range, or else these keys.
fn selection<'a>(keys: &'a [u64], range: &Option<std::ops::Range<u64>>) -> RowSelection<'a> {
    match range {
        Some(range) => RowSelection::Range(range.clone()),
        None => RowSelection::Keys(keys),
    }
}

impl<T: Element> Drop for Prepared<T> {
    fn drop(&mut self) {
        if let (Some(last), Some(values), Ok(mut core)) =
            (self.last, &self.values, self.table.core().enter())
        {
            // A server that does not answer may still read them.
            let _ = core.wait_for(last.0);
            core.pending.keep_until_done(last.0, values.region());
        }
    }
}
