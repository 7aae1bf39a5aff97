//! Everything that C sees, one file per noun, in the order of the header.
//!
//! What every function relies on, and its caller promises, is in the header's first comment:
//! pointers are NULL or valid for as many elements as the count beside them says, texts end with
//! NUL, handles come from this library and are not used after they are closed. Whatever else can be
//! checked is.
#![allow(
    clippy::missing_safety_doc,
    reason = "the same for all functions: in the header's preamble"
)]

pub mod buffer;
pub mod client;
pub mod options;
pub mod prepared;
pub mod pull;
pub mod push;
pub mod scan;
pub mod schema;
pub mod sparsifier;
pub mod status;
pub mod table;

mod arguments;
pub(crate) mod registered;
