//! The interface that training needs to the weights: rows of one f32 each, by sorted keys.

/// The weights, as a worker sees them.
pub trait Parameters {
    /// A pull that is under way.
    type Pull;
    /// Why it did not work.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Asks for the rows of `keys` (strictly ascending) and returns at once.
    fn begin_pull(&mut self, keys: &[u64]) -> Result<Self::Pull, Self::Error>;

    /// Waits for a pull and puts its rows, one value for each key, into `rows`.
    fn finish_pull(&mut self, pull: Self::Pull, rows: &mut Vec<f32>) -> Result<(), Self::Error>;

    /// Pushes one gradient for each of `keys`, whose rows were pulled as `rows`; all may be reused when it returns,
    /// which may be before the push is acknowledged.
    fn push(&mut self, keys: &[u64], rows: &[f32], gradients: &[f32]) -> Result<(), Self::Error>;

    /// Pushes what filters hold back, and returns how many rows that were.
    fn push_held(&mut self) -> Result<usize, Self::Error>;

    /// Ends a round: what was pushed belongs to it.
    fn end_round(&mut self) -> Result<(), Self::Error>;

    /// Waits until every push is acknowledged.
    fn wait_for_pushes(&mut self) -> Result<(), Self::Error>;
}
