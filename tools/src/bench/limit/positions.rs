//! Rows at known positions, gathered or updated by one thread: what a table of rows by key would do if
//! nothing had to be looked up, sent or protected.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// What is done to the rows of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtPositions {
    /// They are copied out.
    Gather,
    /// Gradients are added to them.
    Add,
    /// Adagrad's update, whose state lies beside them.
    Adagrad,
}

/// Rows, and the positions that operations touch one after the other.
#[derive(Debug)]
pub(super) struct Positions {
    what: AtPositions,
    values: Vec<f32>,
    state: Vec<f32>,
    batch: Vec<f32>,
    width: usize,
    lists: Vec<Vec<u64>>,
    next: usize,
}

impl Positions {
    /// `lists` of positions below `rows`, of rows of `width` values.
    pub(super) fn new(what: AtPositions, rows: usize, width: usize, lists: Vec<Vec<u64>>) -> Self {
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let state = if what == AtPositions::Adagrad { rows * width } else { 0 };
        Self {
            what,
            // Written, not only reserved: a page that was never touched is read from one zero page.
            values: black_box(vec![1e-30; rows * width]),
            state: black_box(vec![1e-8; state]),
            batch: black_box(vec![1e-3; longest * width]),
            width,
            lists,
            next: 0,
        }
    }

    /// Bytes of values gathered or updated per second.
    #[expect(clippy::cast_precision_loss, reason = "a few terabytes at most")]
    pub(super) fn rate(&mut self, time: Duration) -> f64 {
        let start = Instant::now();
        let mut values = 0;
        loop {
            values += self.operate();
            let elapsed = start.elapsed();
            if elapsed >= time {
                return 4.0 * values as f64 / elapsed.as_secs_f64();
            }
        }
    }

    /// One operation; how many values it was of.
    fn operate(&mut self) -> usize {
        let (list, width) = (&self.lists[self.next], self.width);
        self.next = (self.next + 1) % self.lists.len();
        let rows = list.iter().map(|row| usize::try_from(*row).unwrap_or(usize::MAX) * width);
        match self.what {
            AtPositions::Gather => {
                for (to, from) in self.batch.chunks_exact_mut(width).zip(rows) {
                    to.copy_from_slice(&self.values[from..from + width]);
                }
                black_box(&self.batch);
            }
            AtPositions::Add => {
                for (gradient, at) in black_box(&self.batch).chunks_exact(width).zip(rows) {
                    let values = &mut self.values[at..at + width];
                    values.iter_mut().zip(gradient).for_each(|(value, step)| *value += step);
                }
            }
            AtPositions::Adagrad => {
                for (gradient, at) in black_box(&self.batch).chunks_exact(width).zip(rows) {
                    let values = &mut self.values[at..at + width];
                    let state = &mut self.state[at..at + width];
                    for ((value, sum), step) in values.iter_mut().zip(state).zip(gradient) {
                        *sum += step * step;
                        *value -= 0.1 * step / (sum.sqrt() + 1e-8);
                    }
                }
            }
        }
        list.len() * width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_at_their_positions_are_touched_and_no_others() {
        for what in [AtPositions::Gather, AtPositions::Add, AtPositions::Adagrad] {
            let mut positions = Positions::new(what, 8, 2, vec![vec![1, 6]]);
            positions.values.iter_mut().zip(0_u8..).for_each(|(value, at)| *value = f32::from(at));
            assert_eq!(positions.operate(), 4);
            if what == AtPositions::Gather {
                assert_eq!(positions.batch, [2.0, 3.0, 12.0, 13.0]);
            } else {
                let changed =
                    (0_u8..16).filter(|at| positions.values[usize::from(*at)] != f32::from(*at));
                assert_eq!(changed.collect::<Vec<u8>>(), [2, 3, 12, 13]);
            }
            assert!(positions.rate(Duration::from_millis(2)) > 0.0);
        }
    }
}
