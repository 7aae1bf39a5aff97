//! One worker's examples: its share of a file, read again in every epoch, in batches whose examples
//! are mixed within a window of a few batches.

use std::path::PathBuf;

use crate::data::{Batch, LibsvmReader, MalformedLine, ReadError, Share, Strictness, shuffle};

/// Batches over which examples are mixed. Files are often sorted in runs; this breaks short ones
/// up without reading a file into memory.
const WINDOW_BATCHES: usize = 8;

/// Which examples a worker trains on, and in what order.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SourceOptions {
    /// The LIBSVM file.
    pub path: PathBuf,
    /// This worker's rank, from 0.
    pub rank: u64,
    /// Number of workers that share the file.
    pub workers: u64,
    /// Examples of a batch.
    pub batch_examples: usize,
    /// Times the file is read.
    pub epochs: u32,
    /// Seed of the order within a window.
    pub seed: u64,
    /// Whether a malformed line ends the training.
    pub strict: bool,
}

/// Yields batches until the last epoch is over.
#[derive(Debug)]
pub struct Source {
    options: SourceOptions,
    epoch: u32,
    reader: Option<LibsvmReader>,
    window: Batch,
    /// Order of the window's examples, and how many of them have been taken.
    order: Vec<u32>,
    taken: usize,
    windows_read: u64,
    skipped_count: u64,
    malformed: Vec<MalformedLine>,
}

impl Source {
    /// Opens the file for the first epoch.
    pub fn open(options: SourceOptions) -> Result<Self, ReadError> {
        let mut source = Self {
            options,
            epoch: 0,
            reader: None,
            window: Batch::default(),
            order: Vec::new(),
            taken: 0,
            windows_read: 0,
            skipped_count: 0,
            malformed: Vec::new(),
        };
        if source.options.epochs > 0 {
            source.reader = Some(source.open_reader()?);
        }
        Ok(source)
    }

    /// Puts the next batch into `batch`; false when training is over.
    pub fn next(&mut self, batch: &mut Batch) -> Result<bool, ReadError> {
        batch.clear();
        if self.taken == self.order.len() && !self.fill_window()? {
            return Ok(false);
        }
        let end = (self.taken + self.options.batch_examples).min(self.order.len());
        for &index in &self.order[self.taken..end] {
            batch.push_example(self.window.example(index as usize));
        }
        self.taken = end;
        Ok(true)
    }

    /// Malformed lines of this worker's share, counted in the first epoch only.
    #[must_use]
    pub fn skipped_count(&self) -> u64 {
        self.skipped_count
    }

    /// Descriptions of the first malformed lines, each handed out once.
    pub fn take_malformed(&mut self) -> Vec<MalformedLine> {
        std::mem::take(&mut self.malformed)
    }

    fn fill_window(&mut self) -> Result<bool, ReadError> {
        self.window.clear();
        self.taken = 0;
        while self.window.is_empty() {
            let Some(reader) = &mut self.reader else {
                self.order.clear();
                return Ok(false);
            };
            let count = self.options.batch_examples * WINDOW_BATCHES;
            reader.read(&mut self.window, count)?;
            if self.epoch == 0 {
                self.skipped_count = reader.skipped_count();
                self.malformed.append(&mut reader.take_malformed());
            }
            if self.window.is_empty() {
                self.epoch += 1;
                let is_over = self.epoch == self.options.epochs;
                self.reader = if is_over { None } else { Some(self.open_reader()?) };
            }
        }
        let stream = (self.options.rank << 40) + self.windows_read;
        self.windows_read += 1;
        self.order = shuffle(self.window.len(), self.options.seed, stream);
        Ok(true)
    }

    fn open_reader(&self) -> Result<LibsvmReader, ReadError> {
        let share = Share {
            index: self.options.rank,
            count: self.options.workers,
            block_lines: self.options.batch_examples as u64,
        };
        let strictness = if self.options.strict { Strictness::Strict } else { Strictness::Lenient };
        LibsvmReader::open(&self.options.path, share, strictness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(lines: &str) -> (tempfile::NamedTempFile, SourceOptions) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        let options = SourceOptions {
            path: file.path().to_owned(),
            rank: 0,
            workers: 1,
            batch_examples: 7,
            epochs: 2,
            seed: 1,
            strict: false,
        };
        (file, options)
    }

    fn ids(options: SourceOptions) -> (Vec<u64>, u64) {
        let mut source = Source::open(options).unwrap();
        let mut batch = Batch::default();
        let mut ids = Vec::new();
        while source.next(&mut batch).unwrap() {
            assert!((1..=7).contains(&batch.len()));
            ids.extend_from_slice(batch.ids());
        }
        (ids, source.skipped_count())
    }

    #[test]
    fn every_example_comes_once_an_epoch_in_a_seeded_order() {
        let mut lines: String = (0..100).map(|id| format!("1 {id}:1\n")).collect();
        lines.push_str("bad\n");
        let (_file, options) = options(&lines);
        let (first, skipped_count) = ids(options.clone());
        assert_eq!(skipped_count, 1);
        assert_eq!(first, ids(options.clone()).0);
        assert_ne!(first, ids(SourceOptions { seed: 2, ..options }).0);
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).flat_map(|id| [id, id]).collect::<Vec<_>>());
    }

    #[test]
    fn no_epochs_and_no_examples_end_at_once() {
        let (_file, options) = options("# nothing\n");
        assert!(ids(options.clone()).0.is_empty());
        assert!(ids(SourceOptions { epochs: 0, ..options }).0.is_empty());
    }
}
