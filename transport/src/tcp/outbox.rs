//! Bytes on their way to the socket: headers and short payloads are copied into a stage, long
//! payloads are referred to where they lie, and one system call takes as much of both as the socket
//! has room for.

use std::collections::VecDeque;

use windlass_wire::checksum::Checksum;

use crate::fabric::{LocalSlice, SCATTER_MAX};

use super::{
    frame::TRAILER_LEN,
    limits::{CALLS_PER_POLL_MAX, FRAME_SEGMENTS_MAX, SEGMENTS_MAX, STAGE_LEN},
    region::{Gone, Regions},
    socket::{Gather, Socket, Transfer},
};

/// The unsent rest of what was put in, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    stage: Box<[u8]>,
    /// `stage[start..end]` is unsent.
    start: usize,
    end: usize,
    segments: VecDeque<Segment>,
    /// Of the sent part of the payload at the front, when it has a trailer.
    checksum: Checksum,
    trailer: [u8; TRAILER_LEN],
}

#[derive(Clone, Copy, Debug)]
enum Segment {
    /// The next so many bytes of the stage.
    Staged(usize),
    /// Bytes where they lie; they count for the trailer to come if `checked`.
    Referred { slice: LocalSlice, checked: bool },
    /// The rest of a word whose first bytes the socket has taken: what is sent of a word is of one time.
    Cut(CutWord),
    /// The last so many bytes of the checksum over the referred bytes before.
    Trailer(usize),
}

/// Bytes `start..end` of a word.
#[derive(Clone, Copy, Debug)]
struct CutWord {
    bytes: [u8; WORD_LEN],
    start: usize,
    end: usize,
}

const WORD_LEN: usize = size_of::<u64>();

/// How a flush went.
#[derive(Debug)]
pub(super) enum Flush {
    /// Everything is in the socket.
    Empty,
    /// The socket takes no more for now.
    Blocked,
    /// There is more, and the socket may take it: flush again.
    More,
    /// The connection has ended.
    Ended,
    /// A region was deregistered under an unfinished payload.
    Gone,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            stage: vec![0; STAGE_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            segments: VecDeque::with_capacity(SEGMENTS_MAX),
            checksum: Checksum::default(),
            trailer: [0; TRAILER_LEN],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.segments.clear();
        (self.start, self.end) = (0, 0);
    }

    /// Whether a frame with so many copied bytes, header and trailer included, fits whatever its
    /// scatter list.
    pub(super) fn has_room(&self, copied_len: usize) -> bool {
        STAGE_LEN - (self.end - self.start) >= copied_len
            && SEGMENTS_MAX - self.segments.len() >= SCATTER_MAX + FRAME_SEGMENTS_MAX
    }

    /// Copies bytes in. There is room, see [`Outbox::has_room`].
    pub(super) fn stage(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
    }

    /// The next `len` bytes of the stage, to be filled.
    pub(super) fn reserve(&mut self, len: usize) -> &mut [u8] {
        if STAGE_LEN - self.end < len {
            self.stage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if let Some(Segment::Staged(count)) = self.segments.back_mut() {
            *count += len;
        } else {
            self.segments.push_back(Segment::Staged(len));
        }
        self.end += len;
        &mut self.stage[self.end - len..self.end]
    }

    /// Adds bytes where they lie; nobody may change them until they are sent.
    pub(super) fn refer(&mut self, slice: LocalSlice, checked: bool) {
        if slice.len > 0 {
            self.segments.push_back(Segment::Referred { slice, checked });
        }
    }

    /// Adds the checksum of the bytes referred to as `checked` since the last one.
    pub(super) fn refer_trailer(&mut self) {
        self.segments.push_back(Segment::Trailer(TRAILER_LEN));
    }

    /// Writes as much as the socket accepts.
    pub(super) fn flush(&mut self, socket: &Socket, regions: &Regions) -> Flush {
        for _ in 0..CALLS_PER_POLL_MAX {
            if self.segments.is_empty() {
                return Flush::Empty;
            }
            let mut gather = Gather::new();
            if self.gather(regions, &mut gather).is_err() {
                return Flush::Gone;
            }
            let asked = gather.len();
            match socket.send(&gather) {
                Transfer::Bytes(sent) => {
                    if self.advance(sent, regions).is_err() {
                        return Flush::Gone;
                    }
                    if sent < asked {
                        return Flush::Blocked;
                    }
                }
                Transfer::Blocked => return Flush::Blocked,
                Transfer::Ended(_) => return Flush::Ended,
            }
        }
        if self.segments.is_empty() { Flush::Empty } else { Flush::More }
    }

    fn gather<'a>(&'a self, regions: &'a Regions, gather: &mut Gather<'a>) -> Result<(), Gone> {
        let mut staged_start = self.start;
        for (position, segment) in self.segments.iter().enumerate() {
            if gather.is_full() {
                break;
            }
            match segment {
                Segment::Staged(len) => {
                    gather.push_bytes(&self.stage[staged_start..staged_start + len]);
                    staged_start += len;
                }
                Segment::Referred { slice, .. } => regions.gather(*slice, gather)?,
                Segment::Cut(word) => gather.push_bytes(&word.bytes[word.start..word.end]),
                // Known only when the payload before it has been sent.
                Segment::Trailer(_) if position > 0 => break,
                Segment::Trailer(left) => gather.push_bytes(&self.trailer[TRAILER_LEN - left..]),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut sent: usize, regions: &Regions) -> Result<(), Gone> {
        while sent > 0 {
            let Some(front) = self.segments.front_mut() else { break };
            let mut cut = None;
            let done = match front {
                Segment::Staged(left) => {
                    let taken = sent.min(*left);
                    (*left, self.start, sent) = (*left - taken, self.start + taken, sent - taken);
                    *left == 0
                }
                Segment::Referred { slice, checked } => {
                    let taken = sent.min(slice.len as usize);
                    let taken_len = u32::try_from(taken).unwrap_or(slice.len);
                    if *checked {
                        let part = LocalSlice { len: taken_len, ..*slice };
                        self.checksum = regions.checksum(self.checksum, part)?;
                    }
                    slice.offset += u64::from(taken_len);
                    slice.len -= taken_len;
                    sent -= taken;
                    cut = cut_word(slice, regions)?;
                    if let Some(word) = cut.filter(|_| *checked) {
                        self.checksum = self.checksum.append(&word.bytes[..word.end]);
                    }
                    slice.len == 0
                }
                Segment::Cut(word) => {
                    let taken = sent.min(word.end - word.start);
                    (word.start, sent) = (word.start + taken, sent - taken);
                    word.start == word.end
                }
                Segment::Trailer(left) => {
                    let taken = sent.min(*left);
                    (*left, sent) = (*left - taken, sent - taken);
                    *left == 0
                }
            };
            if done {
                self.segments.pop_front();
            }
            if let Some(word) = cut {
                self.segments.push_front(Segment::Cut(word));
            } else if done && matches!(self.segments.front(), Some(Segment::Trailer(TRAILER_LEN))) {
                self.trailer = std::mem::take(&mut self.checksum).0.to_le_bytes();
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }
}

/// The rest of the word that a slice begins in the middle of, which the slice then has no more.
fn cut_word(slice: &mut LocalSlice, regions: &Regions) -> Result<Option<CutWord>, Gone> {
    let pages = regions.pages_of(*slice)?;
    let begun = pages.pointer(slice.offset, 0).addr() % WORD_LEN;
    if slice.len == 0 || begun == 0 {
        return Ok(None);
    }
    let len = slice.len.min(u32::try_from(WORD_LEN - begun).unwrap_or(0));
    let mut word = CutWord { bytes: [0; WORD_LEN], start: 0, end: len as usize };
    // The thread that writes rows is this one: since the socket took the word's beginning nothing changed.
    pages.read(slice.offset, &mut word.bytes[..len as usize]);
    slice.offset += u64::from(len);
    slice.len -= len;
    Ok(Some(word))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use super::*;
    use crate::{
        fabric::Access,
        memory::{Lock, Pages, PagesOptions},
        tcp::socket::SocketOptions,
    };

    const OLD: u8 = 0x11;
    const NEW: u8 = 0x22;
    const LEN: usize = 64;

    /// What a peer gets of eight words of which the socket has taken `cut` bytes before their owner wrote
    /// all of them anew; the first part as it was taken.
    fn sent(cut: usize, first: u64, checked: bool) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let options = SocketOptions { buffer_len: None, silence_max: Duration::from_secs(10) };
        let socket = Socket::new(stream, options).unwrap();
        let options = PagesOptions { lock: Lock::Never, ..PagesOptions::default() };
        let pages = Pages::allocate(4096, options).unwrap();
        let mut regions = Regions::new();
        let region = regions.insert(&pages, Access::READ).unwrap();
        pages.write(0, &[OLD; 2 * LEN]);
        let len = u32::try_from(LEN).unwrap();
        let mut outbox = Outbox::new();
        outbox.refer(LocalSlice { region, offset: first, len }, checked);
        if checked {
            outbox.refer_trailer();
        }
        outbox.advance(cut, &regions).unwrap();
        pages.write(0, &[NEW; 2 * LEN]);
        while !outbox.is_empty() {
            assert!(!matches!(outbox.flush(&socket, &regions), Flush::Gone | Flush::Ended));
        }
        drop(socket);
        let mut bytes = vec![OLD; cut];
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn of_a_word_that_was_cut_all_is_of_the_time_of_its_beginning() {
        for first in [0, 4] {
            for cut in 1..LEN {
                let bytes = sent(cut, first, false);
                let begun = usize::try_from(first).unwrap();
                let whole = ((cut + begun).next_multiple_of(WORD_LEN) - begun).min(LEN);
                let expected = [vec![OLD; whole], vec![NEW; LEN - whole]].concat();
                assert_eq!(bytes, expected, "{cut} bytes from {first} were taken");
                let checked = sent(cut, first, true);
                let sum = Checksum::of(&expected).0.to_le_bytes();
                assert_eq!(checked, [&expected[..], &sum].concat(), "{cut} bytes were taken");
            }
        }
    }
}
