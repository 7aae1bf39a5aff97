//! A fast hash for keys that the server itself hands out, so nobody can choose them to collide. The standard
//! hash costs more than the rest of a lookup.

use rustc_hash::FxBuildHasher;

pub(super) use rustc_hash::FxHashMap as IdMap;

/// A map that grows from so many entries on.
pub(super) fn with_capacity<K, V>(capacity: usize) -> IdMap<K, V> {
    IdMap::with_capacity_and_hasher(capacity, FxBuildHasher)
}
