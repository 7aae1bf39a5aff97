//! FTRL-Proximal with per-coordinate rates: planes are z and n of McMahan et al. 2013, algorithm 1.

use super::{PLANES_MAX, Step};
use crate::update::kernels::real::{CONSTANTS, Real};

#[derive(Clone, Copy)]
pub(in super::super) struct Ftrl<R> {
    alpha: R,
    beta: R,
    l1: R,
    l2: R,
}

impl<R: Real> Step<R> for Ftrl<R> {
    const PLANES: usize = 2;

    #[inline(always)]
    fn new(constants: &[R; CONSTANTS]) -> Self {
        let [alpha, beta, l1, l2, ..] = *constants;
        Self { alpha, beta, l1, l2 }
    }

    #[inline(always)]
    fn step(self, value: R, state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        let [z, n] = state;
        let n_next = n + gradient * gradient;
        let root = n_next.sqrt();
        let sigma = (root - n.sqrt()) / self.alpha;
        let z_next = z + gradient - sigma * value;
        let rate = (self.beta + root) / self.alpha + self.l2;
        let value_next = -(z_next - self.l1.copysign(z_next)) / rate;
        let value_next = if z_next.abs() <= self.l1 { R::ZERO } else { value_next };
        (value_next, [z_next, n_next])
    }
}
