//! Records of groups are held back until the frame comes that says that their group is whole. What a crash
//! left of a group is dropped: nobody was told that it is there.

use windlass_wire::{Lsn, PartitionId};

use crate::persist::{
    frame::{Frame, Header},
    log_walk::Position,
};

/// Frames held back.
#[derive(Debug, Default)]
pub(super) struct Groups {
    held: Vec<Held>,
    /// Their bytes, one behind the other, aligned as words.
    words: Vec<u64>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) header: Header,
    file: String,
    offset: u64,
    position: u64,
    /// Its bytes, by word.
    words: (usize, usize),
}

impl Held {
    /// Where it lies.
    pub(super) fn place(&self) -> Position<'_> {
        Position { file: &self.file, offset: self.offset, position: self.position }
    }
}

impl Groups {
    /// Holds a frame back.
    pub(super) fn hold(&mut self, place: &Position<'_>, frame: Frame<'_>) {
        let first = self.words.len();
        self.words.resize(first + frame.bytes.len() / 8, 0);
        bytemuck::cast_slice_mut(&mut self.words[first..]).copy_from_slice(frame.bytes);
        self.held.push(Held {
            header: frame.header,
            file: place.file.to_owned(),
            offset: place.offset,
            position: place.position,
            words: (first, self.words.len()),
        });
    }

    /// The frames of the group that began at this position of the log. Those before it are of a group that a
    /// crash cut off.
    pub(super) fn of(&self, first: u64) -> impl Iterator<Item = (&Held, Frame<'_>)> {
        let of_group = self.held.iter().filter(move |held| held.position >= first);
        of_group.map(|held| {
            let bytes = bytemuck::cast_slice(&self.words[held.words.0..held.words.1]);
            (held, Frame { header: held.header, bytes })
        })
    }

    /// The last record of a partition among them.
    pub(super) fn last_of(&self, partition: PartitionId) -> Option<Lsn> {
        let mut newest = self.held.iter().rev();
        let newest = newest.find(|held| held.header.partition == partition.0);
        newest.map(|held| Lsn(held.header.lsn))
    }

    /// Lets go of all of them.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.words.clear();
    }
}
