//! Memory bandwidth of one thread: copying, and `p += g`. Each operation works on the next stretch
//! of a working set as large as that of the bench, so that caches help both alike.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Fewest operations between two looks at the clock, in bytes: reading it must cost nothing.
const BYTES_PER_LOOK: usize = 1 << 20;

/// Copies bytes.
#[derive(Debug)]
pub(super) struct Copy {
    from: Vec<f32>,
    to: Vec<f32>,
    stretch: Stretch,
}

/// Adds floats.
#[derive(Debug)]
pub(super) struct Add {
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    stretch: Stretch,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: usize,
    length: usize,
    total: usize,
}

impl Copy {
    pub(super) fn new(bytes: usize, working_set_bytes: usize) -> Self {
        let stretch = Stretch::new(bytes, working_set_bytes);
        Self { from: filled(stretch.total), to: filled(stretch.length), stretch }
    }

    /// Bytes copied per second.
    pub(super) fn rate(&mut self, time: Duration) -> f64 {
        let Self { from, to, stretch } = self;
        rate(stretch, time, |range| to.copy_from_slice(black_box(&from[range])))
    }
}

impl Add {
    pub(super) fn new(bytes: usize, working_set_bytes: usize) -> Self {
        let stretch = Stretch::new(bytes, working_set_bytes);
        Self { parameters: filled(stretch.total), gradients: filled(stretch.length), stretch }
    }

    /// Bytes of gradient added per second.
    pub(super) fn rate(&mut self, time: Duration) -> f64 {
        let Self { parameters, gradients, stretch } = self;
        rate(stretch, time, |range| {
            let gradients = black_box(&gradients[..]);
            for (parameter, gradient) in parameters[range].iter_mut().zip(gradients) {
                *parameter += gradient;
            }
        })
    }
}

impl Stretch {
    fn new(bytes: usize, working_set_bytes: usize) -> Self {
        let length = (bytes / 4).max(1);
        Self { start: 0, length, total: (working_set_bytes / 4).max(length) }
    }

    fn next(&mut self) -> std::ops::Range<usize> {
        if self.start + self.length > self.total {
            self.start = 0;
        }
        let range = self.start..self.start + self.length;
        self.start = range.end;
        range
    }
}

fn filled(count: usize) -> Vec<f32> {
    // Written, not only reserved: a page that was never touched is read from one zero page.
    black_box(vec![1e-30; count])
}

#[expect(clippy::cast_precision_loss, reason = "a few terabytes at most")]
fn rate(
    stretch: &mut Stretch,
    time: Duration,
    mut operation: impl FnMut(std::ops::Range<usize>),
) -> f64 {
    let operations_per_look = BYTES_PER_LOOK.div_ceil(4 * stretch.length);
    operation(stretch.next());
    let start = Instant::now();
    let mut bytes = 0;
    loop {
        for _ in 0..operations_per_look {
            operation(stretch.next());
        }
        bytes += 4 * stretch.length * operations_per_look;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return bytes as f64 / elapsed.as_secs_f64();
        }
    }
}
