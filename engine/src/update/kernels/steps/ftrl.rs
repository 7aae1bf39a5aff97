//! FTRL-Proximal with per-coordinate rates: planes are z and n of McMahan et al. 2013, algorithm 1.

use super::{PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct Ftrl;

impl Step for Ftrl {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        [z, n]: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [alpha, beta, l1, l2, ..] = constants.numbers;
        let n_next = n + gradient * gradient;
        let root = n_next.sqrt();
        let sigma = (root - n.sqrt()) / alpha;
        let z_next = z + gradient - sigma * value;
        let rate = (beta + root) / alpha + l2;
        let moved = -(z_next - l1.copysign(z_next)) / rate;
        (z_next.abs().if_at_most(l1, R::splat(0.0), moved), [z_next, n_next])
    }
}
