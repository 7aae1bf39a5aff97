//! Reads from devices that do not promise to read in ascending order. The blocks' versions are read before
//! and after the rows, each read begun when the one before has ended. Equal even versions from before and
//! after say that the rows are whole.

use windlass_transport::{LocalSlice, RemoteAddress, WorkId, chunks::Chunk};

use super::{
    super::{Links, Memory, Pending, places::Place, view::FENCED},
    Phase, Read, Reads, remote_of,
    span::Span,
};

/// What a read costs besides the bytes it brings, in bytes. A queue pair sends 16 to 30 million
/// requests a second, and where it may have no more than 16 reads under way, of 2 us each, 8 million:
/// 33 to 125 ns, in which 100 Gb/s bring 400 to 1,560 bytes. Versions so far apart and further are
/// read one by one: bytes come by a server's link, which clients share, and requests by queue pairs of
/// their own.
const READ_COST: u64 = 1024;

/// Most reads of versions at once: as many reads as devices have under way for a queue pair.
const VERSION_READS_MAX: u64 = 16;

/// Room on a link for the reads of versions, twice, and that of the rows: far less than it has.
const REQUESTS_MAX: usize = 34;
const _: () = assert!(REQUESTS_MAX as u64 > 2 * VERSION_READS_MAX);

/// Where the versions of a read's blocks go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions {
    /// Which of [`Reads::guards`].
    guard: usize,
    /// Bytes in each half of it before the first block's, and from one block's to the next.
    at: u64,
    step: u64,
}

/// Memory for the versions of reads that came by one request: from before, then from after.
#[derive(Debug)]
pub(super) struct Guard {
    chunk: Chunk,
    half_len: u64,
    /// Reads that are not done.
    users: u32,
}

/// Versions that come by one request, and where in either half they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionRead {
    remote: RemoteAddress,
    at: u64,
    len: u64,
}

/// Lays out the versions of pieces that come by one request, and counts the reads they take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    /// Bytes of each half so far.
    pub(super) len: u64,
    reads: u64,
    /// Address of the last version so far.
    last: Option<u64>,
}

impl Layout {
    /// Adds a piece; returns where its first version goes, and the step from there to the next.
    pub(super) fn add(&mut self, place: &Place, block: u64, block_count: u64) -> (u64, u64) {
        let first = remote_of(place, block, 0).address;
        let stride = u64::from(place.at.block_stride);
        let gap = self.last.and_then(|last| first.checked_sub(last));
        let at = match gap.filter(|gap| *gap < READ_COST) {
            // Bytes in between come along.
            Some(gap) => self.len - 8 + gap,
            None => {
                self.reads += 1;
                self.len
            }
        };
        let step = if stride < READ_COST {
            stride
        } else {
            self.reads += block_count - 1;
            8
        };
        self.len = at + (block_count - 1) * step + 8;
        self.last = Some(first + (block_count - 1) * stride);
        (at, step)
    }

    /// Whether one request may have so many reads.
    pub(super) fn fits(&self) -> bool {
        self.reads <= VERSION_READS_MAX
    }
}

/// Most blocks whose versions are read at once.
pub(super) fn blocks_max(stride: u64) -> u64 {
    if stride < READ_COST { u64::MAX } else { VERSION_READS_MAX }
}

impl Guard {
    pub(super) fn new(chunk: Chunk, half_len: u64) -> Self {
        Self { chunk, half_len, users: 0 }
    }
}

impl Reads {
    /// Keeps memory for versions; returns its number.
    pub(super) fn add_guard(&mut self, guard: Guard) -> usize {
        let at = self.guards.iter().position(Option::is_none).unwrap_or_else(|| {
            self.guards.push(None);
            self.guards.len() - 1
        });
        self.guards[at] = Some(guard);
        at
    }

    /// One more read's versions go to a guard.
    pub(super) fn guarded_by(&mut self, guard: usize, at: u64, step: u64) -> Versions {
        if let Some(guard) = &mut self.guards[guard] {
            guard.users += 1;
        }
        Versions { guard, at, step }
    }
}

impl Reads {
    /// Where a read's versions from before and after lie in the staging area, block by block.
    fn versions(&self, read: &Read) -> impl Iterator<Item = (u64, u64)> + use<> {
        let guard = read.versions.and_then(|versions| {
            let guard = self.guards[versions.guard].as_ref()?;
            let first = guard.chunk.offset + versions.at;
            Some((first, guard.half_len, versions.step))
        });
        let count = read.span.block_count;
        guard.into_iter().flat_map(move |(first, half_len, step)| {
            let before = (0..count).map(move |block| first + block * step);
            before.map(move |before| (before, before + half_len))
        })
    }

    /// Whether the versions from before and after are equal and even.
    pub(super) fn agrees(&self, memory: &Memory, read: &Read) -> bool {
        let pages = memory.staging_pages();
        read.versions.is_some()
            && self.versions(read).all(|(before, after)| {
                let version = pages.load_u64(before);
                version == pages.load_u64(after) && version & (FENCED | 1) == 0
            })
    }

    /// Whether a version from after is fenced.
    pub(super) fn ends_fenced(&self, memory: &Memory, read: &Read) -> bool {
        let pages = memory.staging_pages();
        self.versions(read).any(|(_, after)| pages.load_u64(after) & FENCED != 0)
    }

    /// Versions from after a read are those from before it is made again.
    pub(super) fn turn_versions(&self, memory: &Memory, read: &Read) {
        let pages = memory.staging_pages();
        for (before, after) in self.versions(read) {
            pages.store_u64(before, pages.load_u64(after));
        }
    }

    /// What a read was between is needed no longer.
    pub(super) fn release_versions(&mut self, memory: &mut Memory, versions: Option<Versions>) {
        let Some(versions) = versions else { return };
        let slot = &mut self.guards[versions.guard];
        let Some(guard) = slot else { return };
        guard.users = guard.users.saturating_sub(1);
        if guard.users == 0 {
            memory.release(guard.chunk);
            *slot = None;
        }
    }

    /// Whether the steps of a read may be posted at once, each fenced from the one before: that saves
    /// waiting here, but holds whatever is posted behind, other reads above all.
    pub(super) fn may_fence(&self, read: &Read) -> bool {
        let guard_of = |read: &Read| read.versions.map(|versions| versions.guard);
        let is_other = |other: &Read| {
            other.queue_pair == read.queue_pair
                && other.span.place.link == read.span.place.link
                && other.phase != Phase::Done
                && guard_of(other) != guard_of(read)
        };
        read.is_sole && !self.reads.iter().flatten().any(is_other)
    }

    /// Lists the reads of versions of a read and those joined to it.
    fn list_version_reads(&self, first: &Read, list: &mut Vec<VersionRead>) {
        for read in self.joined(first) {
            let Some(versions) = read.versions else { continue };
            for block in 0..read.span.block_count {
                let remote = remote_of(&read.span.place, read.span.block + block, 0);
                let at = versions.at + block * versions.step;
                match list.last_mut() {
                    Some(last) if remote.address - last.remote.address == at - last.at => {
                        last.len = at + 8 - last.at;
                    }
                    _ => list.push(VersionRead { remote, at, len: 8 }),
                }
            }
        }
    }
}

impl Pending {
    /// Posts the steps of a read, and of those joined to it, from the one it is at to `last`, with one
    /// doorbell. False when the link has no room.
    pub(super) fn post_guarded(
        &mut self,
        links: &mut Links,
        read: &Read,
        last: Phase,
        work_id: WorkId,
    ) -> bool {
        let mut list = std::mem::take(&mut self.reads.version_reads);
        list.clear();
        self.reads.list_version_reads(read, &mut list);
        let is_posted = self.post_steps(links, read, last, work_id, &list);
        self.reads.version_reads = list;
        is_posted
    }

    fn post_steps(
        &mut self,
        links: &mut Links,
        read: &Read,
        last: Phase,
        work_id: WorkId,
        list: &[VersionRead],
    ) -> bool {
        if links.all[read.span.place.link].mailbox.sender.room() < REQUESTS_MAX {
            return false;
        }
        let (rows, rows_len) = self.reads.extent(read);
        let transport = links.all[read.span.place.link].transport;
        let guard = read.versions.and_then(|versions| self.reads.guards[versions.guard].as_ref());
        let (Some(guard), Some(rows)) = (guard, self.memory.staged(transport, rows, rows_len))
        else {
            unreachable!("reads start once the staging area is registered")
        };
        let staged_at = |offset: u64, len: u64| LocalSlice {
            offset,
            // As long as the guard at most, which is staged as a whole.
            len: u32::try_from(len).unwrap_or(u32::MAX),
            ..rows
        };
        let (before, half_len) = (guard.chunk.offset, guard.half_len);
        let (remote, sender) = (read.remote(), &mut links.all[read.span.place.link].mailbox.sender);
        let (mut fenced, mut count, mut bytes) = (false, 0, 0);
        for phase in [Phase::Before, Phase::Rows, Phase::After] {
            if phase < read.phase || phase > last {
                continue;
            }
            let ends = (phase == last).then_some(work_id);
            if phase == Phase::Rows {
                sender.push_read((rows, remote), fenced, ends);
                count += 1;
                bytes += rows_len;
            } else {
                let half = if phase == Phase::Before { before } else { before + half_len };
                for (number, version) in list.iter().enumerate() {
                    let local = staged_at(half + version.at, version.len);
                    let ends = ends.filter(|_| number + 1 == list.len());
                    sender.push_read((local, version.remote), fenced && number == 0, ends);
                    count += 1;
                    bytes += version.len;
                }
            }
            fenced = true;
        }
        self.count_reads(count, bytes);
        links.flush(read.span.place.link);
        true
    }
}

impl Pending {
    /// Memory for a guarded read that takes no request, unless there is none or it would take several
    /// steps.
    pub(super) fn stage_guarded(&mut self, links: &Links, span: &Span) -> Option<Read> {
        let mut layout = Layout::default();
        let (at, step) = layout.add(&span.place, span.block, span.block_count);
        if !layout.fits() {
            return None;
        }
        let guard = Guard::new(self.memory.allocate(2 * layout.len)?, layout.len);
        let guard = self.reads.add_guard(guard);
        let versions = Some(self.reads.guarded_by(guard, at, step));
        let chunk = self.memory.allocate(span.len);
        let (queue_pair, none) =
            (links.all[span.place.link].queue_pair, Chunk { offset: 0, len: 0 });
        let read = span.read(queue_pair, chunk.unwrap_or(none), Phase::Before);
        let mut read = Read { versions, ..read };
        let transport = links.all[read.span.place.link].transport;
        let is_registered = self.memory.staged(transport, read.chunk, read.chunk.len).is_some();
        if chunk.is_none() || !is_registered || !self.reads.may_fence(&read) {
            self.release_short(&mut read);
            return None;
        }
        Some(read)
    }

    pub(super) fn release_short(&mut self, read: &mut Read) {
        self.reads.release_versions(&mut self.memory, read.versions.take());
        if read.chunk.len > 0 {
            self.memory.release(read.chunk);
        }
    }
}
