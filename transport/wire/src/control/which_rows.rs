//! Which rows a request removes.

use crate::Blob;

/// Which rows of a partition of a sparse table.
#[derive(Clone, Debug, PartialEq)]
pub enum WhichRows {
    /// Those of these keys, 8 little-endian bytes each, at most [`REMOVED_KEYS_MAX`].
    Keys {
        /// The keys; one that has no row is passed over.
        keys: Blob,
    },
    /// Those whose values have a Euclidean norm below a bound, as far as the server looks at once.
    Below {
        /// The bound.
        norm: f64,
        /// Where in the order of a [`scan`](crate::scan::position) the server begins to look.
        from: u64,
    },
}

/// Most keys whose rows one request removes.
pub const REMOVED_KEYS_MAX: usize = 4 << 10;

crate::codec::wire_enum!(WhichRows { 1 => Keys { keys }, 2 => Below { norm, from } });
