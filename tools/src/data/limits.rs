//! Bounds of the data readers and generators.

/// Longest line of a LIBSVM file in bytes. A longer one is reported as malformed, and read past
/// without being held in memory.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Largest feature id a file may hold. The ids above it are the trainer's own: see
/// [`INTERCEPT_KEY`].
pub const FEATURE_ID_MAX: u64 = 1 << 63;

/// The key under which a model keeps its intercept.
pub const INTERCEPT_KEY: u64 = FEATURE_ID_MAX + 1;

/// How many malformed lines are described one by one; the rest are only counted.
pub const MALFORMED_SHOWN_MAX: u64 = 10;

/// How much of an offending piece of text a description quotes, in characters.
pub const QUOTED_CHARACTERS_MAX: usize = 40;

/// Most categorical fields, hence features, of one generated example.
pub const FIELDS_MAX: u32 = 1024;

/// Most features of a generated model. Its weights are held in memory while data is written.
pub const GENERATED_FEATURES_MAX: u64 = 1 << 28;

const _: () = {
    assert!(INTERCEPT_KEY < u64::MAX);
    assert!(GENERATED_FEATURES_MAX <= FEATURE_ID_MAX);
    assert!(FIELDS_MAX as u64 <= GENERATED_FEATURES_MAX);
};
