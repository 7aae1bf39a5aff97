//! Sparsifiers of tables whose type is not known.

use windlass_client::{
    Element, FilterRefusal, PendingPush, PushOptions, RequestError, RowSelection, Sparsifier,
    Table, Timestamp,
};

use crate::{
    c_abi::status::WindlassStatus,
    erased::{typed, typed_mut},
    failure::Failure,
};

/// Makes sparsifiers of a table of any type.
pub(crate) trait ErasedSparsify {
    fn sparsifier(&self, filters: &str) -> Result<Box<dyn ErasedSparsifier>, Failure>;
}

/// Filters that choose rows, and what they hold back.
pub(crate) trait ErasedSparsifier {
    /// Pushes what is chosen; `None` where nothing was.
    fn push(
        &mut self,
        rows: RowSelection<'_>,
        values: &[u8],
        weights: Option<&[u8]>,
        options: &PushOptions,
    ) -> Result<Option<Timestamp>, Failure>;
    fn push_held(&mut self, options: &PushOptions) -> Result<Option<Timestamp>, Failure>;
    fn held_rows(&self) -> usize;
    fn held_into(&self, keys: &mut Vec<u64>, values: &mut [u8]) -> Result<(), Failure>;
    fn hold(&mut self, keys: &[u64], values: &[u8]) -> Result<(), Failure>;
    /// Bytes that filters of this name kept from being sent; `None` where there is none.
    fn bytes_saved(&self, filter: &str) -> Option<u64>;
}

impl<T: Element> ErasedSparsify for Table<T> {
    fn sparsifier(&self, filters: &str) -> Result<Box<dyn ErasedSparsifier>, Failure> {
        let by = Self::sparsifier(self, filters);
        let by = by.map_err(|error| RequestError::from(FilterRefusal::Rows(error)))?;
        Ok(Box::new(Sparsified { table: self.clone(), by }))
    }
}

/// A sparsifier and the table that it pushes to.
struct Sparsified<T: Element> {
    table: Table<T>,
    by: Sparsifier<T>,
}

impl<T: Element> Sparsified<T> {
    fn check_values(&self, keys: usize, values: &[T]) -> Result<(), Failure> {
        let width = self.table.width();
        if keys.checked_mul(width) == Some(values.len()) {
            return Ok(());
        }
        let text = format!("{keys} rows of {width} values do not have {} values", values.len());
        Err(Failure::new(WindlassStatus::WrongLength, text))
    }
}

impl<T: Element> ErasedSparsifier for Sparsified<T> {
    fn push(
        &mut self,
        rows: RowSelection<'_>,
        values: &[u8],
        weights: Option<&[u8]>,
        options: &PushOptions,
    ) -> Result<Option<Timestamp>, Failure> {
        let weights = weights.map(typed).transpose()?;
        let push = self.by.push(&self.table, rows, typed(values)?, weights, options)?;
        Ok(push.as_ref().map(PendingPush::timestamp))
    }

    fn push_held(&mut self, options: &PushOptions) -> Result<Option<Timestamp>, Failure> {
        let push = self.by.push_held(&self.table, options)?;
        Ok(push.as_ref().map(PendingPush::timestamp))
    }

    fn held_rows(&self) -> usize {
        self.by.held_rows()
    }

    fn held_into(&self, keys: &mut Vec<u64>, values: &mut [u8]) -> Result<(), Failure> {
        let values = typed_mut::<T>(values)?;
        self.check_values(self.held_rows(), values)?;
        let held = self.by.held();
        *keys = held.0;
        values.copy_from_slice(&held.1);
        Ok(())
    }

    fn hold(&mut self, keys: &[u64], values: &[u8]) -> Result<(), Failure> {
        let values = typed(values)?;
        self.check_values(keys.len(), values)?;
        self.by.hold(keys, values);
        Ok(())
    }

    fn bytes_saved(&self, filter: &str) -> Option<u64> {
        let saved = self.by.bytes_saved().filter(|(name, _)| *name == filter);
        saved.map(|(_, bytes)| bytes).reduce(|sum, bytes| sum + bytes)
    }
}
