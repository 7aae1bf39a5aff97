//! Buffers for the pushes of a turn.

use super::{
    admitted::Admitted,
    aggregate::Aggregator,
    record::{Gathered, Outcome},
};

/// What carrying out pushes uses again and again.
#[derive(Debug)]
pub(super) struct Writes {
    pub(super) admitted: Admitted,
    pub(super) aggregator: Aggregator,
    pub(super) gathered: Gathered,
    pub(super) outcomes: Vec<Outcome>,
}

impl Writes {
    pub(super) fn new() -> Self {
        Self {
            admitted: Admitted::default(),
            aggregator: Aggregator::new(),
            gathered: Gathered::default(),
            outcomes: Vec::new(),
        }
    }
}
