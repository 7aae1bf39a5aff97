//! Bounded little-endian reading of bytes that came from a peer or a disk. Every length is checked
//! against what is left before anything is allocated for it.

use thiserror::Error;

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("{what} ends after {left} bytes where {needed} are needed: the bytes are cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// A count or a length is above its bound.
    #[error("{what} is {value}, above its bound of {bound}: refuse the sender or raise the bound")]
    AboveBound {
        /// What was being read.
        what: &'static str,
        /// The value found.
        value: u64,
        /// The bound in force.
        bound: u64,
    },
    /// A field holds a value that no writer produces.
    #[error("{what} holds {value}, which no writer produces: the bytes are damaged")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// The value found.
        value: u64,
    },
}

/// A cursor over foreign bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        if count > self.bytes.len() {
            return Err(DecodeError::Truncated {
                what: self.what,
                needed: count,
                left: self.bytes.len(),
            });
        }
        let (head, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0_u8; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A u32 count of items of at least `item_bytes` each: refused when above `bound` or when the
    /// bytes left cannot hold that many, so that a count never makes a reader allocate.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        bound: usize,
        item_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let value = self.u32()? as usize;
        if value > bound {
            return Err(DecodeError::AboveBound { what, value: value as u64, bound: bound as u64 });
        }
        let needed = value.saturating_mul(item_bytes);
        if needed > self.bytes.len() {
            return Err(DecodeError::Truncated { what, needed, left: self.bytes.len() });
        }
        Ok(value)
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed { what: self.what, value: self.bytes.len() as u64 })
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }
}

/// Appends a count that is bounded by construction.
pub(crate) fn write_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("counts are bounded by limits far below 2^32");
    out.extend_from_slice(&count.to_le_bytes());
}
