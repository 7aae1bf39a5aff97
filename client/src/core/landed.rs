//! Rows that a server has written here over a queue pair that does not order its writes. The completion may
//! become visible before the rows, so a digest says when the rows are whole.

use std::time::{Duration, Instant};

use windlass_transport::mailbox::digest_of;
use windlass_wire::{CompletionWord, RequestHeader, RequestKind, Status, scan::answer_len};

use super::{Links, Memory, Scratch, link::Link};

/// How long rows may be on their way when their pull has completed, before the link is given up.
const DOUBT_MAX: Duration = Duration::from_secs(1);

/// What is known of rows whose pull has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landed {
    Yes,
    NotYet,
    /// They are late beyond doubt: the link is of no use any more.
    Never,
}

impl Links {
    /// Whether all that a completed message brought is here.
    #[inline]
    pub(super) fn has_landed(
        &mut self,
        memory: &Memory,
        scratch: &mut Scratch,
        at: usize,
        number: u32,
        word: CompletionWord,
    ) -> bool {
        let link = &mut self.all[at];
        if link.terms.promises.writes_in_order || word.status != Status::Done {
            return true;
        }
        let landed = link.look_for_rows(memory, &mut scratch.values, number);
        if landed == Landed::Never {
            self.lose(at);
        }
        landed == Landed::Yes
    }
}

impl Link {
    /// Looks whether the rows of a completed pull are here. `bytes` is a buffer.
    fn look_for_rows(&mut self, memory: &Memory, bytes: &mut Vec<u8>, number: u32) -> Landed {
        bytes.clear();
        let found = self.mailbox.writer.read_back(number, bytes);
        let decoded = RequestHeader::decode(bytes, bytes.len() as u64);
        let Some(header) = decoded.ok().filter(|_| found) else {
            unreachable!("the mirror holds every message in flight as it was written");
        };
        let len = header.answer_len();
        let Some(place) = header.reply.filter(|_| header.kind.pulls() && len > 0) else {
            return Landed::Yes;
        };
        let Some((region, offset)) = self.shared.region_of(place) else {
            unreachable!("messages name regions that were shared with their link");
        };
        let pages = memory.pages(region);
        let len = if header.kind == RequestKind::Scan {
            // How long it is says how it begins, which may not be here yet: then the digest is another.
            let mut row_count = [0; 4];
            pages.read(offset, &mut row_count);
            let row_count = u32::from_le_bytes(row_count).min(header.row_count);
            answer_len(row_count, header.width)
        } else {
            len
        };
        let told = self.mailbox.completions.rows_digest(number);
        let read = |at, section: &mut [u8]| pages.read(offset + at, section);
        if told.is_some_and(|told| told == digest_of(number, len, read)) {
            self.doubted_since = None;
            return Landed::Yes;
        }
        let since = *self.doubted_since.get_or_insert_with(Instant::now);
        if since.elapsed() > DOUBT_MAX {
            let server = self.server.0;
            tracing::warn!(server, "rows of a completed pull do not come: the link is given up");
            return Landed::Never;
        }
        Landed::NotYet
    }
}
