//! Bags of keys, whose rows are pulled and pooled: what a layer of embeddings gets for each example.

use crate::{
    config::PullOptions, element::Element, error::RequestError, order::Order, table::Table,
};

/// What a bag's rows are made into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their sum: of halves in f32 and rounded once, of integers modulo their size.
    #[default]
    Sum,
    /// Their mean, of a key that comes several times as often; there is none of integers.
    Mean,
}

impl<T: Element> Table<T> {
    /// Pulls bags of rows and pools each of them: width values of the first bag, then of the next. Bag `b` has
    /// the keys from `offsets[b]` up to, not including, `offsets[b + 1]`, so that there is one offset more than there
    /// are bags: the first is 0, the last the number of keys. Keys come in any order and several times; the row
    /// of each is pulled once. A bag without keys is all zeros.
    ///
    /// # Errors
    /// When offsets do not begin at 0, ascend and end at the number of keys; when a mean of integers is asked
    /// for; otherwise as [`Table::pull_into`].
    pub fn pull_bags(
        &self,
        keys: &[u64],
        offsets: &[u64],
        pooling: Pooling,
        options: &PullOptions,
    ) -> Result<Vec<T>, RequestError> {
        let mut pooled = vec![T::default(); offsets.len().saturating_sub(1) * self.width()];
        self.pull_bags_into(keys, offsets, pooling, &mut pooled, options)?;
        Ok(pooled)
    }

    /// The same into `into`, which has width values for each bag.
    ///
    /// # Errors
    /// As [`Table::pull_bags`], and when `into` is not as long.
    pub fn pull_bags_into(
        &self,
        keys: &[u64],
        offsets: &[u64],
        pooling: Pooling,
        into: &mut [T],
        options: &PullOptions,
    ) -> Result<(), RequestError> {
        check(offsets, keys.len())?;
        if pooling == Pooling::Mean && !T::HAS_MEAN {
            return Err(RequestError::MeanOfIntegers { dtype: T::DTYPE });
        }
        let (width, bag_count) = (self.width(), offsets.len() - 1);
        self.core().enter()?.tables.check_length(self.index(), bag_count * width, into.len())?;
        let order = (!keys.is_sorted_by(|one, next| one < next)).then(|| Order::of(keys));
        let distinct = order.as_ref().map_or(keys, Order::keys);
        let mut rows = vec![T::default(); distinct.len() * width];
        self.pull_into(distinct, &mut rows, options)?;
        let places = order.map(|order| order.places());
        let row_at = |at: usize| places.as_ref().map_or(at, |places| places[at] as usize);
        for (bag, into) in offsets.windows(2).zip(into.chunks_exact_mut(width)) {
            let bag = position(bag[0])..position(bag[1]);
            let count = bag.len();
            for (column, into) in into.iter_mut().enumerate() {
                let values = bag.clone().map(|at| rows[row_at(at) * width + column]);
                *into = match pooling {
                    // The sum of no floating-point values is -0.
                    _ if count == 0 => T::default(),
                    Pooling::Mean => T::mean(values, count),
                    Pooling::Sum => T::sum(values),
                };
            }
        }
        Ok(())
    }
}

fn check(offsets: &[u64], key_count: usize) -> Result<(), RequestError> {
    let refused = |what: String| Err(RequestError::Offsets { what, key_count });
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
        return refused("there are none".to_owned());
    };
    if *first != 0 {
        return refused(format!("the first is {first}"));
    }
    if let Some(at) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        let (one, next) = (offsets[at], offsets[at + 1]);
        return refused(format!("{next} follows {one} at {}", at + 1));
    }
    if *last != key_count as u64 {
        return refused(format!("the last is {last}"));
    }
    Ok(())
}

/// An offset that was checked.
fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
