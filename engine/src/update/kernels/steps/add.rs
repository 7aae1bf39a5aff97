//! `p += g` and `p = g`.

use super::{PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct Add;

impl Step for Add {
    const PLANES: usize = 0;

    #[inline(always)]
    fn step<R: Real>(
        _: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        (value + gradient, state)
    }
}

/// Assignment with a change of dtype; within one dtype bytes are copied instead.
pub(in super::super) struct Assign;

impl Step for Assign {
    const PLANES: usize = 0;

    #[inline(always)]
    fn step<R: Real>(
        _: &Splat<R>,
        _: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        (gradient, state)
    }
}
