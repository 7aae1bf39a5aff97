//! Pieces of one registered area: few and large registrations, many small uses.

/// A piece of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, a multiple of [`CHUNK_ALIGNMENT`].
    pub len: u64,
}

/// Chunks begin and end at multiples of so many bytes: a cache line.
pub const CHUNK_ALIGNMENT: u64 = 64;

/// Gaps between pieces in use from which a list of them grows.
const GAPS: usize = 64;

/// Which pieces of an area are free. First fit; free neighbours join.
#[derive(Debug)]
pub struct Chunks {
    /// Free pieces by offset, never touching each other.
    free: Vec<Chunk>,
}

impl Chunks {
    /// An area of `len` bytes, all of it free.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let len = len / CHUNK_ALIGNMENT * CHUNK_ALIGNMENT;
        // Pieces come back in any order: room for gaps is not to be made when there is one first.
        let mut free = Vec::with_capacity(GAPS);
        free.push(Chunk { offset: 0, len });
        Self { free }
    }

    /// A piece of at least `len` bytes, or `None` until others are released.
    pub fn allocate(&mut self, len: u64) -> Option<Chunk> {
        let len = len.max(1).next_multiple_of(CHUNK_ALIGNMENT);
        let at = self.free.iter().position(|chunk| chunk.len >= len)?;
        let chunk = &mut self.free[at];
        let allocated = Chunk { offset: chunk.offset, len };
        chunk.offset += len;
        chunk.len -= len;
        if chunk.len == 0 {
            self.free.remove(at);
        }
        Some(allocated)
    }

    /// Whether [`Chunks::allocate`] would find a piece now.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        let len = len.max(1).next_multiple_of(CHUNK_ALIGNMENT);
        self.free.iter().any(|chunk| chunk.len >= len)
    }

    /// Gives a piece back.
    pub fn release(&mut self, chunk: Chunk) {
        let at = self.free.partition_point(|free| free.offset < chunk.offset);
        let (before, behind) = self.free.split_at_mut(at);
        let before = before.last_mut().filter(|free| free.offset + free.len == chunk.offset);
        let behind = behind.first_mut().filter(|free| chunk.offset + chunk.len == free.offset);
        match (before, behind) {
            (Some(before), Some(behind)) => {
                before.len += chunk.len + behind.len;
                self.free.remove(at);
            }
            (Some(before), None) => before.len += chunk.len,
            (None, Some(behind)) => {
                behind.offset = chunk.offset;
                behind.len += chunk.len;
            }
            (None, None) => self.free.insert(at, chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pieces_join_again() {
        let mut chunks = Chunks::new(32 << 20);
        let pieces: Vec<Chunk> = (0..8).map(|_| chunks.allocate(1 << 20).unwrap()).collect();
        for order in [0, 2, 1, 7, 5, 6, 3, 4] {
            chunks.release(pieces[order]);
        }
        assert_eq!(chunks.free, [Chunk { offset: 0, len: 32 << 20 }]);
        assert!(!chunks.has_room((32 << 20) + 1) && chunks.has_room(32 << 20));
        assert!(chunks.allocate((32 << 20) + 1).is_none());
        assert!(chunks.allocate(32 << 20).is_some());
        assert!(chunks.allocate(1).is_none());
    }
}
