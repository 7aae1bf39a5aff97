//! Every bound of the TCP provider, and how they hang together.

use crate::fabric::{INLINE_LEN_MAX, SCATTER_MAX};

use super::frame::HEADER_LEN;

/// Most requests of one queue pair in flight. Part of the protocol: a peer that has more
/// unanswered reads than this is cut off.
pub(super) const OUTSTANDING_MAX: u32 = 256;

/// Most receives posted on one queue pair.
pub(super) const RECEIVES_MAX: u32 = 1024;

/// Most bytes of one request. Part of the protocol.
pub(super) const MESSAGE_LEN_MAX: u32 = 1 << 30;

/// Most queue pairs of one instance.
pub(super) const QUEUE_PAIRS_MAX: u32 = 4096;

/// Most regions of one instance.
pub(super) const REGIONS_MAX: u32 = 16_384;

/// Most regions shared with the peer of one queue pair.
pub(super) const GRANTS_MAX: u32 = 4096;

/// Most connections that were accepted and have not said which queue pair they are for.
pub(super) const STRANGERS_MAX: usize = 64;

/// Most connections accepted in one poll.
pub(super) const ACCEPTS_PER_POLL_MAX: usize = 8;

/// Payloads up to this are copied beside their header when sent; longer ones are referred to.
pub(super) const COPIED_LEN_MAX: usize = 1024;

/// Payloads up to this are placed only when they have all arrived, in one go; longer ones are
/// received straight into their destination.
pub(super) const WHOLE_LEN_MAX: usize = 1024;

/// Bytes of frames waiting to be sent, payloads that are referred to not counted.
pub(super) const STAGE_LEN: usize = 16 << 10;

/// Pieces of frames waiting to be sent.
pub(super) const SEGMENTS_MAX: usize = 64;

/// Pieces of a frame beside those of its scatter list: header, trailer, and the rest of a word that was cut.
pub(super) const FRAME_SEGMENTS_MAX: usize = 3;

/// Bytes received beyond the payload in progress.
pub(super) const INBOX_LEN: usize = 64 << 10;

/// Most pieces of one system call.
pub(super) const PIECES_MAX: usize = 32;

/// Most system calls on one socket and in one direction within one poll.
pub(super) const CALLS_PER_POLL_MAX: usize = 8;

/// Up to this many queue pairs every poll tries each socket; beyond, it asks the kernel which are
/// ready.
pub(super) const DIRECT_CONNECTIONS_MAX: usize = 2;

/// Polls between two looks at the clock, at the listener and at the busy connections' silence.
pub(super) const POLLS_PER_CHECK: u32 = 256;

const _: () = assert!(COPIED_LEN_MAX + HEADER_LEN + 4 <= STAGE_LEN);
const _: () = assert!(WHOLE_LEN_MAX + HEADER_LEN + 4 <= INBOX_LEN);
const _: () = assert!(INLINE_LEN_MAX <= COPIED_LEN_MAX);
const _: () = assert!(INLINE_LEN_MAX <= WHOLE_LEN_MAX);
const _: () = assert!(SCATTER_MAX + FRAME_SEGMENTS_MAX <= SEGMENTS_MAX);
const _: () = assert!(SCATTER_MAX < PIECES_MAX);
const _: () = assert!(OUTSTANDING_MAX < 1 << 30);
const _: () = assert!(QUEUE_PAIRS_MAX < 1 << 16);
const _: () = assert!(REGIONS_MAX < 1 << 16);
