//! Which dtypes of values and gradients go together, and what computes with them on each path.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::apply::Lanes;
#[cfg(target_arch = "x86_64")]
use super::vectors::{F32x4, F32x8, F32x16, F64x2, F64x4, F64x8};

// Other architectures have one path, and the compiler's own vectors.
#[cfg(not(target_arch = "x86_64"))]
use std::primitive::{
    f32 as F32x4, f32 as F32x8, f32 as F32x16, f64 as F64x2, f64 as F64x4, f64 as F64x8,
};

/// A dtype of values with a dtype of gradients.
pub(super) trait Pair: Sized {
    type Value;
    type Gradient;
    /// The precision that is computed in, and of the state.
    type State: Lanes<Self> + Into<f64>;
    type Avx512: Lanes<Self>;
    type Avx2: Lanes<Self>;
    type Baseline: Lanes<Self>;
}

/// Values of type `V` with gradients of type `G`.
pub(super) struct Of<V, G>(PhantomData<(V, G)>);

macro_rules! pair {
    ($value:ty, $gradient:ty, $state:ty, $avx512:ty, $avx2:ty, $baseline:ty) => {
        impl Pair for Of<$value, $gradient> {
            type Value = $value;
            type Gradient = $gradient;
            type State = $state;
            type Avx512 = $avx512;
            type Avx2 = $avx2;
            type Baseline = $baseline;
        }
    };
}

pair!(f32, f32, f32, F32x16, F32x8, F32x4);
pair!(f32, f16, f32, F32x16, F32x8, F32x4);
pair!(f32, bf16, f32, F32x16, F32x8, F32x4);
pair!(f16, f16, f32, F32x16, F32x8, F32x4);
pair!(f16, f32, f32, F32x16, F32x8, F32x4);
pair!(bf16, bf16, f32, F32x16, F32x8, F32x4);
pair!(bf16, f32, f32, F32x16, F32x8, F32x4);
pair!(f64, f64, f64, F64x8, F64x4, F64x2);
pair!(f64, f32, f64, F64x8, F64x4, F64x2);
