//! The C ABI of the Windlass client, for trainers in C, C++ and whatever calls C.
//!
//! `c_abi` has the functions, one file per noun, and the only unsafe code: it turns what C passes
//! into slices, texts and handles, each checked as far as C allows. The rest is safe Rust that does
//! not know that C exists. The header is `client/include/windlass.h`, written by a test.
#![deny(unsafe_code)]

mod bags;
#[allow(unsafe_code)]
pub mod c_abi;
mod erased;
mod failure;
mod guard;
mod sparsify;
