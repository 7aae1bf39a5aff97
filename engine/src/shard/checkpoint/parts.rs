//! A piece that is longer than a block goes into several blocks, one behind the other. Each of them says
//! in its detail where it lies in the piece:
//!
//! ```text
//!  0   4  offset of the block in the piece, in bytes
//!  4   4  length of the piece in bytes; offset and length are zero when the block is all of it
//! ```
//!
//! All blocks of a piece are copied in one turn, so that one position in the log holds for all of it.

use crate::persist::{checkpoint::BlockHead, recovery::ReplayError};

/// Where a block lies in its piece, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PiecePart {
    pub(super) offset: usize,
    pub(super) total: usize,
}

impl PiecePart {
    /// What a block of so many bytes says of it. Panics when the piece is 4 GiB long: it is a row, or a
    /// 4096th part of a partition.
    pub(super) fn detail(self, length: usize) -> u64 {
        if length == self.total {
            return 0;
        }
        let [offset, total] = [self.offset, self.total]
            .map(|bytes| u32::try_from(bytes).expect("pieces are far shorter than 4 GiB"));
        u64::from(offset) | u64::from(total) << 32
    }

    #[expect(clippy::cast_possible_truncation, reason = "halves of the word")]
    const fn of(head: &BlockHead) -> Self {
        if head.detail == 0 {
            return Self { offset: 0, total: head.length };
        }
        Self { offset: head.detail as u32 as usize, total: (head.detail >> 32) as usize }
    }
}

/// Puts pieces together from their blocks.
#[derive(Debug, Default)]
pub(in crate::shard) struct PieceParts {
    bytes: Vec<u8>,
}

impl PieceParts {
    /// Takes the next block; the piece's bytes when that was the last of them.
    ///
    /// # Errors
    /// When the block is not the next one of its piece.
    pub(in crate::shard) fn take<'a>(
        &'a mut self,
        head: &BlockHead,
        bytes: &'a [u8],
    ) -> Result<Option<&'a [u8]>, ReplayError> {
        let part = PiecePart::of(head);
        if part.offset == 0 {
            // A piece whose end is missing was told to be so where its file ends.
            self.bytes.clear();
        }
        if part.offset != self.bytes.len() || part.offset + bytes.len() > part.total {
            let (index, table) = (head.index, head.table);
            return Err(ReplayError::MissingBlock { table, index });
        }
        if bytes.len() == part.total {
            return Ok(Some(bytes));
        }
        self.bytes.extend_from_slice(bytes);
        Ok((self.bytes.len() == part.total).then_some(&self.bytes[..]))
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::{Epoch, Lsn, TableId};

    use super::*;

    fn head(offset: usize, total: usize, length: usize) -> BlockHead {
        BlockHead {
            table: TableId(1),
            section: 1,
            index: 7,
            detail: PiecePart { offset, total }.detail(length),
            lsn: Lsn(3),
            epoch: Epoch(1),
            length,
        }
    }

    #[test]
    fn a_piece_comes_back_from_its_blocks_in_order_only() {
        let piece: Vec<u8> = (0..250).collect();
        let mut parts = PieceParts::default();
        assert_eq!(parts.take(&head(0, 250, 250), &piece).unwrap(), Some(&piece[..]));
        assert_eq!(head(0, 250, 250).detail, 0);
        assert_eq!(parts.take(&head(0, 0, 0), &[]).unwrap(), Some(&[][..]), "an empty piece");
        assert_eq!(parts.take(&head(0, 250, 100), &piece[..100]).unwrap(), None);
        assert!(parts.take(&head(200, 250, 50), &piece[200..]).is_err(), "one is missing");
        assert_eq!(parts.take(&head(100, 250, 100), &piece[100..200]).unwrap(), None);
        let whole = parts.take(&head(200, 250, 50), &piece[200..]).unwrap();
        assert_eq!(whole, Some(&piece[..]));
        assert!(parts.take(&head(100, 250, 200), &[0; 200]).is_err(), "longer than the piece");
    }
}
