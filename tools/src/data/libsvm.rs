//! Streams a LIBSVM file, plain or gzip, as batches of examples. Malformed lines are counted and
//! described with file and line; they end the reading only under [`Strictness::Strict`].

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;

use super::{
    batch::Batch,
    limits::{LINE_BYTES_MAX, MALFORMED_SHOWN_MAX},
    parse::{Line, LineError, parse_line},
};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER_BYTES: usize = 256 << 10;

/// What a malformed line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// It is skipped, counted, and described if it is among the first.
    Lenient,
    /// It ends the reading with [`ReadError::Malformed`].
    Strict,
}

/// Which lines of a file one of several readers takes: blocks of `block_lines` lines go round the
/// readers, so that every line, malformed ones included, is one reader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This reader, from 0.
    pub index: u64,
    /// Number of readers.
    pub count: u64,
    /// Lines a reader takes at a time.
    pub block_lines: u64,
}

impl Share {
    /// The whole file.
    pub const WHOLE: Self = Self { index: 0, count: 1, block_lines: 1 };

    fn contains(self, line_number: u64) -> bool {
        self.count == 1 || (line_number - 1) / self.block_lines % self.count == self.index
    }
}

/// A line that is no example, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line_number}: {problem}", path.display())]
pub struct MalformedLine {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line_number: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("cannot open {}: check the path and that you may read it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Reading or decompressing failed part of the way.
    #[error(
        "cannot read {} past line {line_number}: the file may be cut short or damaged",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The last line that was read whole.
        line_number: u64,
        /// The system's or the decompressor's reason.
        source: io::Error,
    },
    /// A line is no example, and the reader is strict.
    #[error("{0}; drop --strict to skip such lines")]
    Malformed(MalformedLine),
}

/// Reads one file from start to end.
pub struct LibsvmReader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    share: Share,
    strictness: Strictness,
    line: Vec<u8>,
    line_number: u64,
    features: Vec<(u64, f32)>,
    skipped_count: u64,
    unreported: Vec<MalformedLine>,
}

impl std::fmt::Debug for LibsvmReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LibsvmReader")
            .field("path", &self.path)
            .field("line_number", &self.line_number)
            .finish_non_exhaustive()
    }
}

impl LibsvmReader {
    /// Opens a file; gzip is recognised by its first bytes, whatever the name.
    pub fn open(path: &Path, share: Share, strictness: Strictness) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, file);
        let is_gzip = raw.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC);
        let input: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        Ok(Self {
            path: path.to_owned(),
            input,
            share,
            strictness,
            line: Vec::new(),
            line_number: 0,
            features: Vec::new(),
            skipped_count: 0,
            unreported: Vec::new(),
        })
    }

    /// Appends up to `count_max` examples to `batch` and returns how many; 0 at the end of the file.
    pub fn read(&mut self, batch: &mut Batch, count_max: usize) -> Result<usize, ReadError> {
        let mut count = 0;
        while count < count_max {
            let length = self.next_line().map_err(|source| ReadError::Read {
                path: self.path.clone(),
                line_number: self.line_number,
                source,
            })?;
            let Some(length) = length else { break };
            if !self.share.contains(self.line_number) {
                continue;
            }
            let parsed = if length > LINE_BYTES_MAX {
                Err(LineError::TooLong(LINE_BYTES_MAX))
            } else {
                parse_line(&self.line, &mut self.features)
            };
            match parsed {
                Ok(Line::Blank) => {}
                Ok(Line::Example { label }) => {
                    batch.push(label, &self.features);
                    count += 1;
                }
                Err(problem) => self.skip(&problem)?,
            }
        }
        Ok(count)
    }

    /// Lines of this reader's share that were skipped as malformed so far.
    #[must_use]
    pub fn skipped_count(&self) -> u64 {
        self.skipped_count
    }

    /// Takes the descriptions of malformed lines not taken before. Only the first few of a file are
    /// described; [`Self::skipped_count`] counts all.
    pub fn take_malformed(&mut self) -> Vec<MalformedLine> {
        std::mem::take(&mut self.unreported)
    }

    fn skip(&mut self, problem: &LineError) -> Result<(), ReadError> {
        let malformed = MalformedLine {
            path: self.path.clone(),
            line_number: self.line_number,
            problem: problem.to_string(),
        };
        if self.strictness == Strictness::Strict {
            return Err(ReadError::Malformed(malformed));
        }
        self.skipped_count += 1;
        if self.skipped_count <= MALFORMED_SHOWN_MAX {
            self.unreported.push(malformed);
        }
        Ok(())
    }

    /// Reads the next line into `self.line`, holding no more of it than the bound, and returns its
    /// length; `None` at the end of the file. Other readers' lines are passed over unheld.
    fn next_line(&mut self) -> io::Result<Option<usize>> {
        self.line.clear();
        if !self.share.contains(self.line_number + 1) {
            let length = self.input.skip_until(b'\n')?;
            return Ok(self.count_line(length));
        }
        let bound = LINE_BYTES_MAX as u64 + 1;
        let mut length = (&mut self.input).take(bound).read_until(b'\n', &mut self.line)?;
        if length > LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
            length += self.input.skip_until(b'\n')?;
        }
        Ok(self.count_line(length))
    }

    fn count_line(&mut self, length: usize) -> Option<usize> {
        if length == 0 {
            return None;
        }
        self.line_number += 1;
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(reader: &mut LibsvmReader) -> Result<Batch, ReadError> {
        let mut batch = Batch::default();
        while reader.read(&mut batch, 3)? > 0 {}
        Ok(batch)
    }

    #[test]
    fn plain_and_gzip_give_the_same() {
        let text = b"1 3:1 5:0.5\n-1 2:1\n\n# note\n0 9:1";
        let mut twice = gzip(text);
        twice.extend(gzip(b"\n1 1:1\n"));
        let mut plain_text = text.to_vec();
        plain_text.extend(b"\n1 1:1\n");
        let batches: Vec<Batch> = [plain_text, twice]
            .iter()
            .map(|bytes| {
                let file = write(bytes);
                let mut reader =
                    LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Strict).unwrap();
                read_all(&mut reader).unwrap()
            })
            .collect();
        assert_eq!(batches[0].labels(), [true, false, false, true]);
        assert_eq!(batches[0], batches[1]);
    }

    #[test]
    fn malformed_lines_are_named_and_counted() {
        let file = write(b"1 3:1\nclick 3:1\n0 4:x\n1 4:1\n");
        let mut reader =
            LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Lenient).unwrap();
        assert_eq!(read_all(&mut reader).unwrap().len(), 2);
        assert_eq!(reader.skipped_count(), 2);
        let lines: Vec<u64> = reader.take_malformed().iter().map(|line| line.line_number).collect();
        assert_eq!(lines, [2, 3]);

        let mut strict = LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Strict).unwrap();
        let error = read_all(&mut strict).unwrap_err().to_string();
        assert!(error.contains(":2: label \"click\""), "{error}");
    }

    #[test]
    fn only_the_first_malformed_lines_are_described() {
        let file = write("bad\n".repeat(50).as_bytes());
        let mut reader =
            LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Lenient).unwrap();
        read_all(&mut reader).unwrap();
        assert_eq!(reader.skipped_count(), 50);
        assert_eq!(reader.take_malformed().len() as u64, MALFORMED_SHOWN_MAX);
    }

    #[test]
    fn shares_cover_every_line_once() {
        let mut text = String::new();
        for id in 0..100 {
            text.push_str(&if id % 7 == 0 { "bad\n".to_owned() } else { format!("1 {id}:1\n") });
        }
        let file = write(text.as_bytes());
        let mut ids = Vec::new();
        let mut skipped_count = 0;
        for index in 0..3 {
            let share = Share { index, count: 3, block_lines: 4 };
            let mut reader = LibsvmReader::open(file.path(), share, Strictness::Lenient).unwrap();
            ids.extend_from_slice(read_all(&mut reader).unwrap().ids());
            skipped_count += reader.skipped_count();
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..100).filter(|id| id % 7 != 0).collect::<Vec<_>>());
        assert_eq!(skipped_count, 15);
    }

    #[test]
    fn a_line_past_the_bound_is_skipped_whole() {
        let mut text = b"1 1:1\n1 ".to_vec();
        text.resize(text.len() + LINE_BYTES_MAX + 10, b' ');
        text.extend(b"2:1\n1 3:1\n");
        let file = write(&text);
        let mut reader =
            LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Lenient).unwrap();
        assert_eq!(read_all(&mut reader).unwrap().ids(), [1, 3]);
        assert_eq!(reader.skipped_count(), 1);
    }

    #[test]
    fn missing_and_damaged_files_say_so() {
        let missing = Path::new("/nonexistent/clicks.svm");
        let error = LibsvmReader::open(missing, Share::WHOLE, Strictness::Lenient).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/clicks.svm"));

        let bytes = gzip("1 1:1\n".repeat(10_000).as_bytes());
        let file = write(&bytes[..bytes.len() / 2]);
        let mut reader =
            LibsvmReader::open(file.path(), Share::WHOLE, Strictness::Lenient).unwrap();
        let error = read_all(&mut reader).unwrap_err();
        assert!(matches!(error, ReadError::Read { .. }), "{error}");
    }
}
