//! The eight-byte word that completes a request, written by the server into the requester's
//! completion ring at `sequence % slots`.
//!
//! ```text
//! bits  0.. 8  status
//! bits  8..32  detail: what the status points at, for example the index of a bad row
//! bits 32..64  low half of the request's sequence in its mailbox
//! ```
//!
//! The sequence, which the reader looks for, is in the last bytes: network cards place the word as
//! one, but software RDMA may copy it byte by byte in ascending order, and a sequence seen early
//! would lend its request the status of another.

use std::fmt;

crate::numbered::numbered! {
    /// How a request ended. The discriminant is its number on the wire.
    pub enum Status {
        /// Done.
        Done = 0 "done",
        /// The request's bytes made no sense.
        Malformed = 1 "the request was malformed",
        /// Its checksum did not match.
        Checksum = 2 "the request was damaged on its way",
        /// There is no such table.
        UnknownTable = 3 "there is no such table",
        /// The table has another dtype.
        WrongDtype = 4 "the table has another dtype",
        /// The table's rows have another width.
        WrongWidth = 5 "the table's rows have another width",
        /// Keys are not ascending; the detail is the index of the first that is not.
        UnsortedKeys = 6 "keys must be ascending",
        /// A key appears twice; the detail is the index of the second.
        DuplicateKey = 7 "a key appears twice",
        /// A row is past the table's end; the detail is its index in the request.
        OutOfRange = 8 "a row is past the table's end",
        /// A value is not finite and the table refuses such; the detail is the row's index.
        NotFinite = 9 "a value is NaN or infinite and the table refuses such",
        /// The sender's cluster map is old: fetch the new one and try again.
        StaleEpoch = 10 "the cluster map changed",
        /// The rows live elsewhere: fetch the map and try again.
        NotHere = 11 "the rows live on another server",
        /// The session may not do that.
        Forbidden = 12 "the session may not do that",
        /// The requester's memory could not be read or written.
        Unreachable = 13
            "the server could not reach the client's memory: on one host it maps as much of each \
             client's as its own limit (--memory) says",
        /// No memory is left for new rows.
        Full = 14 "the server has no memory left for new rows",
        /// The partition stopped accepting pushes after a failed write to disk.
        Poisoned = 15 "the partition accepts no pushes after a failed write to disk",
        /// The server is shutting down.
        ShuttingDown = 16 "the server is shutting down",
        /// The request would have to wait for a worker that is behind the table's bound.
        TooEarly = 17 "a worker is behind the table's staleness bound",
        /// The sequence is older than the last one applied and its outcome is no longer known.
        Superseded = 18 "the outcome of so old a request is no longer known",
        /// The push asks for the disk, and the table keeps nothing there.
        NotDurable = 19
            "the table keeps nothing on disk: create it with durability interval or sync on \
             servers with a data directory",
        /// The push is larger than one record of the log.
        TooLarge = 20 "the push is larger than one record of the log: push fewer rows at once",
        /// The table counts workers' clocks, and the session is none of its workers.
        NoRank = 21 "the table counts its workers' clocks: connect with a rank, and open the table",
        /// The partition remembers as many sessions as it may, and this is none of them.
        TooManySessions = 22
            "the partition remembers the pushes of as many sessions as it may: push from fewer \
             clients, or wait until idle ones have expired",
        /// The clock is so far ahead of the table's slowest worker that it cannot be right.
        ClockTooFar = 23
            "the clock is further ahead of the table's slowest worker than any worker can be: \
             push with the worker's own clock",
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionWord {
    /// Low half of the request's number in its mailbox, from 1.
    pub number: u32,
    /// How it ended.
    pub status: Status,
    /// What the status points at, below 2^24.
    pub detail: u32,
}

/// Largest detail a word holds; larger ones are cut to it.
pub const DETAIL_MAX: u32 = (1 << 24) - 1;

impl CompletionWord {
    /// The word.
    #[must_use]
    #[inline]
    pub fn encode(self) -> u64 {
        u64::from(self.status as u8)
            | u64::from(self.detail.min(DETAIL_MAX)) << 8
            | u64::from(self.number) << 32
    }

    /// The number in a word, whatever its status.
    #[must_use]
    pub const fn number_of(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// The completion in a word, or `None` for a status this version does not know.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are cut out by shifts")]
    #[inline]
    pub fn decode(word: u64) -> Option<Self> {
        let status = Status::from_number(word as u8)?;
        let detail = word as u32 >> 8;
        Some(Self { number: Self::number_of(word), status, detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_round_trips() {
        for status in Status::ALL {
            let word = CompletionWord { number: 0xdead_beef, status, detail: DETAIL_MAX };
            assert_eq!(CompletionWord::decode(word.encode()), Some(word));
        }
        assert_eq!(CompletionWord::decode(255), None);
    }

    #[test]
    fn a_word_placed_byte_by_byte_has_its_number_last() {
        let old = CompletionWord { number: 0x0001_00ff, status: Status::Done, detail: 0 };
        let new = CompletionWord { number: 0x0002_0100, status: Status::Full, detail: 7 };
        let mut bytes = old.encode().to_le_bytes();
        for (at, byte) in new.encode().to_le_bytes().into_iter().enumerate() {
            bytes[at] = byte;
            let word = u64::from_le_bytes(bytes);
            if CompletionWord::number_of(word) == new.number {
                assert_eq!(CompletionWord::decode(word), Some(new), "after byte {at}");
            }
        }
    }
}
