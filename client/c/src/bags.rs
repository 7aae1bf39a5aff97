//! Bags of keys, of tables whose type is not known.

use windlass_client::{Element, Pooling, PullOptions, Table};

use crate::{erased::typed_mut, failure::Failure};

/// Pulls bags of a table of any type.
pub(crate) trait ErasedBags {
    fn pull_bags(
        &self,
        bags: (&[u64], &[u64], Pooling),
        into: &mut [u8],
        options: &PullOptions,
    ) -> Result<(), Failure>;
}

impl<T: Element> ErasedBags for Table<T> {
    fn pull_bags(
        &self,
        (keys, offsets, pooling): (&[u64], &[u64], Pooling),
        into: &mut [u8],
        options: &PullOptions,
    ) -> Result<(), Failure> {
        Ok(self.pull_bags_into(keys, offsets, pooling, typed_mut(into)?, options)?)
    }
}
