//! CRC32C (Castagnoli), the one checksum of the wire, the log and the checkpoints. It uses the
//! processor's instruction where there is one.

/// CRC32C of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Checksum(pub u32);

impl Checksum {
    /// The checksum of `bytes`.
    #[must_use]
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self(0).append(bytes)
    }

    /// The checksum of the bytes this one covers followed by `bytes`.
    #[must_use]
    #[inline]
    pub fn append(self, bytes: &[u8]) -> Self {
        // Messages have parts that are empty more often than not, each of which would cost a call.
        if bytes.is_empty() {
            return self;
        }
        Self(crc32c::crc32c_append(self.0, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vector() {
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xE306_9283));
        assert_eq!(Checksum::of(b"1234").append(b"56789"), Checksum::of(b"123456789"));
    }
}
