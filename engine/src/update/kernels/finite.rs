//! Looking for NaN and infinities in pushed values, for tables that refuse them.

use half::{bf16, f16};
use windlass_wire::DataType;

use super::path::Path;

/// Scans values of one dtype; made once for each table. Integers are always finite.
///
/// The bytes may belong to a peer that changes them after the scan: that costs its own table its
/// values, as pushing garbage would, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct FiniteScan {
    scan: Scan,
    value_len: usize,
}

/// Whether all of `count` values are finite. Safe to call where they are readable, on a processor with
/// the instructions it is compiled for.
type Scan = unsafe fn(*const u8, usize) -> bool;

impl FiniteScan {
    /// A scan for values of this dtype by the fastest path.
    #[must_use]
    pub fn new(dtype: DataType) -> Self {
        Self::on(dtype, Path::best()).unwrap_or(Self { scan: nothing, value_len: 1 })
    }

    /// A scan by this path, or `None` where the processor lacks it.
    #[must_use]
    pub fn on(dtype: DataType, path: Path) -> Option<Self> {
        path.is_available().then(|| Self {
            scan: match dtype {
                DataType::F32 => compiled::<f32>(path),
                DataType::F64 => compiled::<f64>(path),
                DataType::F16 => compiled::<f16>(path),
                DataType::Bf16 => compiled::<bf16>(path),
                DataType::I8 | DataType::I32 | DataType::I64 | DataType::U64 => nothing,
            },
            value_len: dtype.size(),
        })
    }

    /// Whether all of `count` values are finite.
    ///
    /// # Safety
    /// `values` points to `count` readable values of the dtype; any alignment will do.
    #[must_use]
    #[inline]
    pub unsafe fn is_finite(&self, values: *const u8, count: usize) -> bool {
        // SAFETY: the caller promises the values, and the path was available when this was made.
        unsafe { (self.scan)(values, count) }
    }

    /// Whether all values that these bytes are are finite.
    #[must_use]
    pub fn are_finite(&self, values: &[u8]) -> bool {
        // SAFETY: the bytes hold so many whole values of the dtype.
        unsafe { self.is_finite(values.as_ptr(), values.len() / self.value_len) }
    }
}

unsafe fn nothing(_: *const u8, _: usize) -> bool {
    true
}

/// A floating-point dtype as an unsigned number.
trait Exponent: Copy {
    /// 1 where the exponent is all ones: an infinity or a NaN. As wide as the value, so that the
    /// comparison and the sum stay within one kind of vector.
    type Flag: Copy + Default + std::ops::BitOr<Output = Self::Flag> + PartialEq;
    fn flag(self) -> Self::Flag;
}

macro_rules! exponent {
    ($type:ty, $flag:ty, $mask:expr) => {
        impl Exponent for $type {
            type Flag = $flag;
            #[inline(always)]
            fn flag(self) -> $flag {
                <$flag>::from(self.to_bits() & $mask == $mask)
            }
        }
    };
}

exponent!(f32, u32, 0x7F80_0000);
exponent!(f64, u64, 0x7FF0_0000_0000_0000);
exponent!(f16, u16, 0x7C00);
exponent!(bf16, u16, 0x7F80);

/// Values between two looks at the outcome.
const BLOCK: usize = 256;

#[inline(always)]
unsafe fn scan<T: Exponent>(values: *const u8, count: usize) -> bool {
    let values = values.cast::<T>();
    let mut at = 0;
    while at < count {
        let end = count.min(at.saturating_add(BLOCK));
        let mut flags = T::Flag::default();
        for index in at..end {
            // SAFETY: the index is below `count`; the caller promises that many readable values.
            flags = flags | unsafe { values.add(index).read_unaligned() }.flag();
        }
        if flags != T::Flag::default() {
            return false;
        }
        at = end;
    }
    true
}

fn compiled<T: Exponent>(path: Path) -> Scan {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn avx512<T: Exponent>(values: *const u8, count: usize) -> bool {
        // SAFETY: this function has the contract of its body.
        unsafe { scan::<T>(values, count) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2<T: Exponent>(values: *const u8, count: usize) -> bool {
        // SAFETY: this function has the contract of its body.
        unsafe { scan::<T>(values, count) }
    }

    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => avx512::<T>,
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => avx2::<T>,
        _ => scan::<T>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finite values of `dtype` with one of `special` at `at`, behind one byte of misalignment.
    fn bytes(dtype: DataType, count: usize, special: Option<(usize, u64)>) -> Vec<u8> {
        let size = dtype.size();
        let mut bytes = vec![0x11; 1 + count * size];
        if let Some((at, bits)) = special {
            bytes[1 + at * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
        }
        bytes
    }

    #[test]
    fn finds_one_special_value_anywhere() {
        let specials = [
            (DataType::F32, [0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001]),
            (DataType::F64, [0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, (0x7FF0 << 48) + 1]),
            (DataType::F16, [0x7C00, 0xFC00, 0x7E00, 0x7C01]),
            (DataType::Bf16, [0x7F80, 0xFF80, 0x7FC0, 0x7F81]),
        ];
        for path in Path::ALL {
            for (dtype, specials) in specials {
                let Some(scan) = FiniteScan::on(dtype, path) else { continue };
                for count in [0, 1, 7, 63, 256, 300, 600] {
                    let clean = bytes(dtype, count, None);
                    // SAFETY: the vector holds `count` values from its second byte on.
                    assert!(unsafe { scan.is_finite(clean[1..].as_ptr(), count) });
                    for at in 0..count {
                        let dirty = bytes(dtype, count, Some((at, specials[at % 4])));
                        // SAFETY: as above.
                        let finite = unsafe { scan.is_finite(dirty[1..].as_ptr(), count) };
                        assert!(!finite, "{dtype} {path} {at} of {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn largest_values_and_integers_are_finite() {
        let scan = FiniteScan::new(DataType::F32);
        let values = [f32::MAX, f32::MIN, -0.0, f32::from_bits(1)];
        // SAFETY: the array holds four values.
        assert!(unsafe { scan.is_finite(values.as_ptr().cast(), values.len()) });
        let scan = FiniteScan::new(DataType::I32);
        // SAFETY: the array holds one value.
        assert!(unsafe { scan.is_finite([u8::MAX; 4].as_ptr(), 1) });
    }
}
