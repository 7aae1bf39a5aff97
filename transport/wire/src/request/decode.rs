//! Reading a header: every field is checked that can be without the body and the table.

use super::{
    BY_REFERENCE, Coding, PLACE_LEN, Place, RANGE, RESUMES, ROWS_BITS, ROWS_MAX, RequestHeader,
    RequestKind, Rows, STRONG, SYNC, VALUES_LEN_MAX, WIDTH_MAX, WITH_FILTERS, WITH_STATE,
    WITH_VALUES,
};
use crate::{
    codec::DecodeError,
    dtype::DataType,
    ids::{Epoch, PartitionId, Sequence, TableId, WorkerClock},
    scan::ScanColumns,
};

impl RequestHeader {
    /// Decodes the header of a message of `message_len` bytes that begins with `start`, at least
    /// [`RequestHeader::LEN_MAX`] bytes of it or the whole; checks everything that can be checked without
    /// the body and the table. The digest is checked apart, by [`RequestHeader::verify`].
    ///
    /// # Errors
    /// When any field is out of its bounds or contradicts another.
    #[inline]
    pub fn decode(start: &[u8], message_len: u64) -> Result<Self, DecodeError> {
        let truncated = |needed: usize| DecodeError::Truncated { missing: needed - start.len() };
        let Some((bytes, mut places)) = start.split_first_chunk::<{ Self::LEN_MIN }>() else {
            return Err(truncated(Self::LEN_MIN));
        };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let mut section = || {
            let Some((section, rest)) = places.split_first_chunk::<PLACE_LEN>() else {
                return Err(truncated(start.len() - places.len() + PLACE_LEN));
            };
            places = rest;
            Ok(section)
        };
        let numbers = word(0);
        let kind_number = bits(numbers, 0, 4);
        let kind = RequestKind::from_number(kind_number)
            .ok_or(DecodeError::Unknown { field: "request kind", value: u64::from(kind_number) })?;
        let dtype_number = bits(numbers, 4, 4);
        let dtype = DataType::from_number(dtype_number)
            .ok_or(DecodeError::Unknown { field: "dtype", value: u64::from(dtype_number) })?;
        let flags = bits(numbers, 8, 8);
        let scans = kind == RequestKind::Scan;
        check_flags(flags, scans)?;
        let counts = numbers >> 16;
        let (row_count, width) = (counts & ((1 << ROWS_BITS) - 1), counts >> ROWS_BITS);
        let row_count = within("row count", row_count, ROWS_MAX)?;
        let width = within("width", width, WIDTH_MAX)?;
        let (first, clock) = (word(32), word(24));
        let (rows, clock) = match scans {
            true => (decode_scan(flags, clock, first, row_count)?, 0),
            false if flags & RANGE != 0 => (Rows::Range { first }, clock),
            false => (Rows::Keys, clock),
        };
        if rows == Rows::Keys && first != 0 {
            return Err(DecodeError::Inconsistent { reason: "a key list has a first row" });
        }
        if !scans && first.checked_add(u64::from(row_count)).is_none() {
            return Err(DecodeError::Inconsistent { reason: "the row range passes 2^64" });
        }
        if flags & BY_REFERENCE != 0 && !kind.pushes() {
            return Err(DecodeError::Inconsistent {
                reason: "a request without values has a place",
            });
        }
        let values = if flags & BY_REFERENCE != 0 { Some(decode_place(section()?)?) } else { None };
        let reply = if kind.pulls() { Some(decode_place(section()?)?) } else { None };
        let coding = match flags & WITH_FILTERS {
            0 => None,
            _ => Some(Coding::decode(section()?)?),
        };
        let header = Self {
            kind,
            sync: flags & SYNC != 0,
            resumes: flags & RESUMES != 0,
            strong: flags & STRONG != 0,
            dtype,
            table: TableId(low_half(word(40))),
            sequence: Sequence(word(8)),
            epoch: Epoch(word(16)),
            clock: WorkerClock(clock),
            rows,
            row_count,
            width,
            coding,
            values,
            reply,
        };
        check_lens(&header, message_len)?;
        Ok(header)
    }
}

/// Whether a header's lengths agree with each other and with its message's.
#[inline]
fn check_lens(header: &RequestHeader, message_len: u64) -> Result<(), DecodeError> {
    if (header.kind.pushes() || header.kind.pulls()) && header.values_len() > VALUES_LEN_MAX {
        return Err(DecodeError::TooLong {
            field: "values length",
            value: header.values_len(),
            max: VALUES_LEN_MAX,
        });
    }
    if !(header.kind.pushes() || header.kind.pulls()) && header.row_count != 0 {
        return Err(DecodeError::Inconsistent { reason: "a request about no rows has rows" });
    }
    if let Some(coding) = &header.coding {
        coding.check(header)?;
    }
    if header.len() as u64 + header.body_len() != message_len {
        return Err(DecodeError::Inconsistent {
            reason: "the body's length is not what the header says",
        });
    }
    Ok(())
}

/// Whether a request may have these flags.
#[inline]
fn check_flags(flags: u8, scans: bool) -> Result<(), DecodeError> {
    let known = if scans {
        STRONG | WITH_VALUES | WITH_STATE
    } else {
        BY_REFERENCE | RANGE | SYNC | RESUMES | STRONG | WITH_FILTERS
    };
    if flags & !known != 0 {
        return Err(DecodeError::Unknown { field: "request flags", value: u64::from(flags) });
    }
    Ok(())
}

/// Bits of a number from `from` on, at most eight.
#[expect(clippy::cast_possible_truncation, reason = "masked to eight bits")]
const fn bits(number: u64, from: u32, count: u32) -> u8 {
    (number >> from & ((1 << count) - 1)) as u8
}

#[expect(clippy::cast_possible_truncation, reason = "the half that is asked for")]
const fn low_half(number: u64) -> u32 {
    number as u32
}

#[inline]
fn within(field: &'static str, value: u64, max: u32) -> Result<u32, DecodeError> {
    match u32::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(DecodeError::TooLong { field, value, max: u64::from(max) }),
    }
}

/// Which rows a scan is about.
fn decode_scan(flags: u8, partition: u64, from: u64, row_count: u32) -> Result<Rows, DecodeError> {
    let columns = match flags & (WITH_VALUES | WITH_STATE) {
        0 => ScanColumns::Keys,
        WITH_VALUES => ScanColumns::Values,
        WITH_STATE => ScanColumns::State,
        _ => {
            return Err(DecodeError::Inconsistent {
                reason: "a scan asks for two sets of columns",
            });
        }
    };
    if row_count == 0 {
        return Err(DecodeError::Inconsistent { reason: "a scan asks for no rows" });
    }
    let partition = within("partition", partition, u32::MAX)?;
    Ok(Rows::Partition { partition: PartitionId(partition), from, columns })
}

#[inline]
fn decode_place(bytes: &[u8; PLACE_LEN]) -> Result<Place, DecodeError> {
    let number = u128::from_le_bytes(*bytes);
    let [low, high] = [0, 64].map(|from| {
        #[expect(clippy::cast_possible_truncation, reason = "the half that is asked for")]
        let half = (number >> from) as u64;
        half
    });
    if low >> 32 != 0 {
        return Err(DecodeError::Inconsistent { reason: "reserved bytes are not zero" });
    }
    Ok(Place { key: low_half(low), address: high })
}
