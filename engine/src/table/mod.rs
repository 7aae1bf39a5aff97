//! Tables of one shard: the rows of the partitions it owns, and how pushes and pulls touch them.

mod ahead;
mod block;
mod changed;
mod dense;
mod dirty;
mod hash_index;
mod row_numbers;
mod slab;
mod sparse;
mod state;

pub use ahead::{Ahead, Background};
pub use block::{BlockGeometry, Blocks, FENCED, HEAD_VERSION_AT, TAIL_VERSION_AT};
pub use changed::ChangedPieces;
pub use dense::DensePartition;
pub use dirty::DirtyRows;
pub use hash_index::HashIndex;
pub use sparse::{PIECES, SparseFull, SparsePartition, piece_of};
pub use state::StatePlanes;
