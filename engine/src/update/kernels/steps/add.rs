//! `p += g` and `p = g`.

use super::{PLANES_MAX, Step};
use crate::update::kernels::real::{CONSTANTS, Real};

#[derive(Clone, Copy)]
pub(in super::super) struct Add;

impl<R: Real> Step<R> for Add {
    const PLANES: usize = 0;

    #[inline(always)]
    fn new(_: &[R; CONSTANTS]) -> Self {
        Self
    }

    #[inline(always)]
    fn step(self, value: R, state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        (value + gradient, state)
    }
}

/// Assignment with a change of dtype; within one dtype bytes are copied instead.
#[derive(Clone, Copy)]
pub(in super::super) struct Assign;

impl<R: Real> Step<R> for Assign {
    const PLANES: usize = 0;

    #[inline(always)]
    fn new(_: &[R; CONSTANTS]) -> Self {
        Self
    }

    #[inline(always)]
    fn step(self, _: R, state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        (gradient, state)
    }
}
