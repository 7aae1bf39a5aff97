//! What servers of one chain say to each other: one frame a mailbox message, or one piece of a frame
//! whose body is longer than a piece.
//!
//! ```text
//! offset size
//!      0    1  kind
//!      1    1  flags: bit 0 a position follows (report)
//!      2    2  zero
//!      4    4  partition; zero for ping and grant
//!      8    8  epoch of the sender's chain (grant: of the map the grantor acts by)
//!     16    8  first word   \
//!     24    8  second word   | as the kind has it, see `ChainFrame`
//!     32    4  third word    |
//!     36    4  fourth word  /
//!     40    4  CRC32C of the header, taken with this field zero, and of the body, unless that holds
//!              records: those carry checksums of their own
//!     44    4  zero
//!     48       body: what is left of the message
//! ```

use crate::{
    checksum::Checksum,
    codec::DecodeError,
    ids::{Epoch, Lsn, PartitionId, TableId},
};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 48;

/// Most bytes of one message's body: longer ones travel in pieces.
pub const BODY_LEN_MAX: usize = 128 << 10;

/// Most bytes of a body in all its pieces: the longest record, or the longest session table.
pub const WHOLE_LEN_MAX: u32 = 24 << 20;

const CHECKSUM_AT: usize = 40;
const HAS_POSITION: u8 = 1;

/// The last record a replica holds: epoch of the head that made it, and its place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainPosition {
    /// Epoch of the head that appended it.
    pub epoch: Epoch,
    /// Its place.
    pub lsn: Lsn,
}

/// The header of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainFrame {
    /// Whole records, one behind the other.
    Records {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Of the first of them.
        first: Lsn,
    },
    /// A piece of one record.
    RecordPiece {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The record.
        lsn: Lsn,
        /// Where in the record the piece begins.
        offset: u32,
        /// Length of the record.
        len: u32,
    },
    /// The committed position, or a learner's received one, has moved.
    Committed {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The position.
        lsn: Lsn,
    },
    /// What the sender holds.
    Report {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Its last record; `None` when its state is no prefix of any log.
        position: Option<ChainPosition>,
        /// Counted up whenever it needs an answer anew.
        attempt: u64,
    },
    /// Asks for a report.
    AskReport {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
    },
    /// The report is accepted.
    Welcome {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The sender's last record.
        last: Lsn,
    },
    /// The receiver has to discard what it holds: rows and sessions follow, the log streams from
    /// after `start`.
    CopyFrom {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Where the stream starts.
        start: ChainPosition,
    },
    /// A piece of rows with their state, all of them as of the last record sent before.
    CopyRows {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The table.
        table: TableId,
        /// Which rows: the number of their piece (dense), or the last position of the scan that has been copied
        /// with them, of rows there are and of others (sparse).
        index: u64,
        /// Where in the rows' bytes the piece begins.
        offset: u32,
        /// Length of the rows' bytes.
        len: u32,
    },
    /// A piece of a table's range clock, as of the last record sent before it.
    CopyClock {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// The table.
        table: TableId,
        /// Where in the clock's bytes the piece begins.
        offset: u32,
        /// Length of the clock's bytes.
        len: u32,
    },
    /// A piece of the session table, with whose last piece the copy is whole.
    CopyEnd {
        /// The partition.
        partition: PartitionId,
        /// The sender's chain epoch.
        epoch: Epoch,
        /// Start of the copy.
        start: Lsn,
        /// The newest record in any copied row or session.
        through: Lsn,
        /// Where in the table the piece begins.
        offset: u32,
        /// Length of the table in bytes.
        len: u32,
    },
    /// The receiver's epoch is old.
    Refuse {
        /// The partition.
        partition: PartitionId,
        /// The chain epoch in force at the sender.
        epoch: Epoch,
    },
    /// Asks for a lease.
    Ping {
        /// The asker's clock, microseconds.
        asked_at: u64,
    },
    /// Grants the lease asked for.
    Grant {
        /// As it came.
        asked_at: u64,
        /// Epoch of the map the grantor acts by.
        map_epoch: Epoch,
    },
}

/// The fields as they lie.
#[derive(Default, PartialEq)]
struct Raw {
    kind: u8,
    flags: u8,
    partition: u32,
    epoch: u64,
    words: [u64; 2],
    halves: [u32; 2],
}

impl ChainFrame {
    /// The header, with `body`'s checksum unless it holds records.
    #[must_use]
    pub fn encode(&self, body: &[u8]) -> [u8; HEADER_LEN] {
        let raw = self.raw();
        let [third, fourth] = raw.halves.map(u64::from);
        let words = [
            u64::from(raw.kind) | u64::from(raw.flags) << 8 | u64::from(raw.partition) << 32,
            raw.epoch,
            raw.words[0],
            raw.words[1],
            third | fourth << 32,
            0,
        ];
        let mut bytes = [0; HEADER_LEN];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        let checksum = self.checksum(&bytes, body);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.0.to_le_bytes());
        bytes
    }

    /// Decodes foreign bytes and checks them, `body` included.
    ///
    /// # Errors
    /// When a field has no meaning, is out of its bounds, or the checksum does not hold.
    pub fn decode(bytes: &[u8; HEADER_LEN], body: &[u8]) -> Result<Self, DecodeError> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let half = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if bytes[2..4] != [0; 2] || bytes[44..48] != [0; 4] {
            return Err(DecodeError::Inconsistent { reason: "a reserved field is not zero" });
        }
        let raw = Raw {
            kind: bytes[0],
            flags: bytes[1],
            partition: half(4),
            epoch: word(8),
            words: [word(16), word(24)],
            halves: [half(32), half(36)],
        };
        let frame = Self::from_raw(&raw)?;
        frame.check_body(body)?;
        let mut header = *bytes;
        header[CHECKSUM_AT..].fill(0);
        let (found, computed) = (half(CHECKSUM_AT), frame.checksum(&header, body).0);
        if found != computed {
            return Err(DecodeError::Checksum { found, computed });
        }
        Ok(frame)
    }

    fn checksum(&self, header: &[u8], body: &[u8]) -> Checksum {
        let header = Checksum::of(header);
        match self {
            Self::Records { .. } | Self::RecordPiece { .. } => header,
            _ => header.append(body),
        }
    }

    fn check_body(&self, body: &[u8]) -> Result<(), DecodeError> {
        if body.len() > BODY_LEN_MAX {
            let (field, max) = ("a chain frame's body", BODY_LEN_MAX as u64);
            return Err(DecodeError::TooLong { field, value: body.len() as u64, max });
        }
        match *self {
            Self::RecordPiece { offset, len, .. }
            | Self::CopyRows { offset, len, .. }
            | Self::CopyClock { offset, len, .. }
            | Self::CopyEnd { offset, len, .. } => {
                if len > WHOLE_LEN_MAX {
                    let (field, value) = ("a chain frame's whole length", u64::from(len));
                    return Err(DecodeError::TooLong { field, value, max: WHOLE_LEN_MAX.into() });
                }
                // A part of a copy without rows has one piece without bytes.
                let is_missing = body.is_empty() && len > 0;
                if u64::from(offset) + body.len() as u64 > u64::from(len) || is_missing {
                    return Err(DecodeError::Inconsistent { reason: "a piece leaves its whole" });
                }
                Ok(())
            }
            Self::Records { .. } if body.is_empty() => {
                Err(DecodeError::Inconsistent { reason: "a chain frame lacks its body" })
            }
            Self::Records { .. } => Ok(()),
            _ if body.is_empty() => Ok(()),
            _ => Err(DecodeError::Trailing { extra: body.len() }),
        }
    }

    fn raw(&self) -> Raw {
        let of = |kind, partition: PartitionId, epoch: Epoch| Raw {
            kind,
            partition: partition.0,
            epoch: epoch.0,
            ..Raw::default()
        };
        match *self {
            Self::Records { partition, epoch, first } => {
                Raw { words: [first.0, 0], ..of(1, partition, epoch) }
            }
            Self::RecordPiece { partition, epoch, lsn, offset, len } => {
                Raw { words: [lsn.0, 0], halves: [offset, len], ..of(2, partition, epoch) }
            }
            Self::Committed { partition, epoch, lsn } => {
                Raw { words: [lsn.0, 0], ..of(3, partition, epoch) }
            }
            Self::Report { partition, epoch, position, attempt } => {
                let at = position.unwrap_or_default();
                let [a, b, c, d, e, f, g, h] = attempt.to_le_bytes();
                Raw {
                    flags: if position.is_some() { HAS_POSITION } else { 0 },
                    words: [at.epoch.0, at.lsn.0],
                    halves: [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])],
                    ..of(4, partition, epoch)
                }
            }
            Self::AskReport { partition, epoch } => of(5, partition, epoch),
            Self::Welcome { partition, epoch, last } => {
                Raw { words: [last.0, 0], ..of(6, partition, epoch) }
            }
            Self::CopyFrom { partition, epoch, start } => {
                Raw { words: [start.epoch.0, start.lsn.0], ..of(7, partition, epoch) }
            }
            Self::CopyRows { partition, epoch, table, index, offset, len } => Raw {
                words: [index, u64::from(table.0)],
                halves: [offset, len],
                ..of(8, partition, epoch)
            },
            Self::CopyClock { partition, epoch, table, offset, len } => Raw {
                words: [0, u64::from(table.0)],
                halves: [offset, len],
                ..of(13, partition, epoch)
            },
            Self::CopyEnd { partition, epoch, start, through, offset, len } => Raw {
                words: [start.0, through.0],
                halves: [offset, len],
                ..of(9, partition, epoch)
            },
            Self::Refuse { partition, epoch } => of(10, partition, epoch),
            Self::Ping { asked_at } => {
                Raw { words: [asked_at, 0], ..of(11, PartitionId(0), Epoch(0)) }
            }
            Self::Grant { asked_at, map_epoch } => {
                Raw { words: [asked_at, 0], ..of(12, PartitionId(0), map_epoch) }
            }
        }
    }

    fn from_raw(raw: &Raw) -> Result<Self, DecodeError> {
        let (partition, epoch) = (PartitionId(raw.partition), Epoch(raw.epoch));
        let ([first, second], [third, fourth]) = (raw.words, raw.halves);
        let at = |epoch, lsn| Ok(ChainPosition { epoch: Epoch(epoch), lsn: lsn_of(lsn)? });
        let frame = match raw.kind {
            1 => Self::Records { partition, epoch, first: lsn_of(first)? },
            2 => {
                let lsn = lsn_of(first)?;
                Self::RecordPiece { partition, epoch, lsn, offset: third, len: fourth }
            }
            3 => Self::Committed { partition, epoch, lsn: lsn_of(first)? },
            4 => Self::Report {
                partition,
                epoch,
                position: match raw.flags {
                    HAS_POSITION => Some(at(first, second)?),
                    _ => None,
                },
                attempt: u64::from(third) | u64::from(fourth) << 32,
            },
            5 => Self::AskReport { partition, epoch },
            6 => Self::Welcome { partition, epoch, last: lsn_of(first)? },
            7 => Self::CopyFrom { partition, epoch, start: at(first, second)? },
            8 => Self::CopyRows {
                partition,
                epoch,
                table: TableId(u32::try_from(second).unwrap_or(u32::MAX)),
                index: first,
                offset: third,
                len: fourth,
            },
            9 => Self::CopyEnd {
                partition,
                epoch,
                start: lsn_of(first)?,
                through: lsn_of(second)?,
                offset: third,
                len: fourth,
            },
            10 => Self::Refuse { partition, epoch },
            11 => Self::Ping { asked_at: first },
            12 => Self::Grant { asked_at: first, map_epoch: epoch },
            13 => Self::CopyClock {
                partition,
                epoch,
                table: TableId(u32::try_from(second).unwrap_or(u32::MAX)),
                offset: third,
                len: fourth,
            },
            value => {
                let field = "chain frame kind";
                return Err(DecodeError::Unknown { field, value: u64::from(value) });
            }
        };
        // One way to say everything: fields a kind does not have are zero.
        if frame.raw() == *raw {
            Ok(frame)
        } else {
            Err(DecodeError::Inconsistent { reason: "a chain frame has a field its kind has not" })
        }
    }
}

fn lsn_of(word: u64) -> Result<Lsn, DecodeError> {
    if word > Lsn::MAX.0 {
        let field = "a position in a log";
        return Err(DecodeError::TooLong { field, value: word, max: Lsn::MAX.0 });
    }
    Ok(Lsn(word))
}

#[cfg(test)]
mod tests;
