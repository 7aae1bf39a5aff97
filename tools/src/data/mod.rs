//! Training data: examples in memory, LIBSVM files, generated click data, and model files.

pub mod batch;
pub mod generate;
pub mod libsvm;
pub mod limits;
pub mod model;
mod parse;
pub(crate) mod random;

pub use batch::{Batch, ExampleRef};
pub use generate::{ClickModel, ClickOptions, ClickSummary};
pub use libsvm::{LibsvmReader, MalformedLine, ReadError, Share, Strictness};
pub use model::{Model, ModelError};
pub use random::{draw, shuffle};
