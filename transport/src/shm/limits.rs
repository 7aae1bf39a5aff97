//! Every bound of the provider.

/// Most queue pairs of one instance.
pub(super) const QUEUE_PAIRS_MAX: u32 = 4096;

/// Most regions of one instance: each has a liveness word in the instance page.
pub(super) const REGIONS_MAX: u32 = 4096;

/// Most receives posted on one queue pair: the slots of its immediates ring.
pub(super) const RECEIVES_MAX: u32 = 512;

/// Most completions of one queue pair that wait to be polled, unless options say otherwise.
pub(super) const OUTSTANDING_MAX: u32 = 512;

/// Most bytes of one request.
pub(super) const MESSAGE_LEN_MAX: u32 = 1 << 30;

/// Connections whose first message has not come yet; the oldest goes when one more arrives.
pub(super) const GREETINGS_MAX: usize = 64;

/// Connections accepted in one go.
pub(super) const ACCEPTS_MAX: usize = 16;

/// Socket events handled in one go.
pub(super) const EVENTS_MAX: usize = 32;

/// Messages taken from one socket in one go.
pub(super) const MESSAGES_MAX: usize = 64;

/// Messages that wait for room in one queue pair's socket.
pub(super) const OUTBOX_MAX: usize = 8192;

/// Immediates rings looked at in one poll.
pub(super) const RINGS_PER_POLL: usize = 8;

/// Polls between two looks at the clock.
pub(super) const POLLS_PER_CLOCK: u32 = 32;

/// Most descriptors that one message carries.
pub(super) const DESCRIPTORS_MAX: usize = 3;

const _: () = assert!(RECEIVES_MAX.is_power_of_two(), "ring slots are found by a mask");
const _: () = assert!(REGIONS_MAX <= 1 << 16 && QUEUE_PAIRS_MAX <= 1 << 16, "slots have 16 bits");
