//! One error per operation of the transport. Each text says what failed and what to do about it.

use crate::{descriptors, fabric::QueuePairId, text::Shown};

/// Why memory could not be allocated.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// Zero bytes were asked for, or more than the address space has.
    #[error("cannot allocate {len} bytes of pinned memory: ask for between 1 byte and 16 TiB")]
    Length {
        /// Bytes asked for.
        len: usize,
    },
    /// The system refused.
    #[error("{step} of {len} bytes failed: {}", remedy(source))]
    System {
        /// The system call.
        step: &'static str,
        /// Bytes asked for.
        len: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Locking was required and refused.
    #[error(
        "cannot lock {len} bytes of memory (limit {limit_bytes} bytes): raise it with `ulimit -l` or \
         LimitMEMLOCK=infinity in the service, or grant CAP_IPC_LOCK"
    )]
    Lock {
        /// Bytes to be locked.
        len: usize,
        /// The limit in force, in bytes.
        limit_bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// What helps where memory is refused for this reason.
fn remedy(source: &std::io::Error) -> &'static str {
    if descriptors::are_exhausted(source) {
        "no file descriptor is left, raise `ulimit -n` or end connections"
    } else {
        "free memory or ask for less"
    }
}

/// Why a region could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The provider has no number left for it.
    #[error("too many memory regions ({count_max}): register fewer and larger ones")]
    TooMany {
        /// Most regions of one instance.
        count_max: u32,
    },
    /// The device could not pin the memory.
    #[error(
        "the device cannot pin {len} bytes (memlock limit {limit_bytes} bytes): raise it with \
         `ulimit -l`, LimitMEMLOCK=infinity in the service, or CAP_IPC_LOCK"
    )]
    Pin {
        /// Bytes to be pinned.
        len: usize,
        /// The limit in force, in bytes.
        limit_bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The device refused for another reason.
    #[error("{verb} of {len} bytes failed")]
    Verb {
        /// The call that failed.
        verb: &'static str,
        /// Bytes.
        len: usize,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Why a transport could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The provider is not usable on this machine.
    #[error("the {provider} transport is not available: {reason}; {remedy}")]
    Unavailable {
        /// The provider.
        provider: &'static str,
        /// What is missing.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A system call or verb failed.
    #[error("cannot open the {provider} transport: {step} failed")]
    System {
        /// The provider.
        provider: &'static str,
        /// What failed.
        step: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Why two endpoints could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint's bytes make no sense to this provider.
    #[error("the peer's endpoint is not a {provider} endpoint of this version")]
    Malformed {
        /// The provider.
        provider: &'static str,
    },
    /// The peer has ended or forgotten that endpoint.
    #[error("the peer does not know this endpoint any more: connect again")]
    Stale,
    /// The peer could not be reached in time.
    #[error(
        "the peer at {} cannot be reached: check that it runs and that the address is right",
        Shown(.address)
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Too many queue pairs.
    #[error("too many queue pairs ({count_max}): close some")]
    TooMany {
        /// Most queue pairs of one instance.
        count_max: u32,
    },
    /// A system call or verb failed.
    #[error("{step} failed")]
    System {
        /// What failed.
        step: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Why a region could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It was registered without access for peers.
    #[error("the region grants peers nothing: register it with remote access")]
    NoAccess,
    /// The memory was not allocated by the transport and this provider cannot show it to others.
    #[error("this memory cannot be shared by {provider}: allocate it with Pages::allocate")]
    ForeignMemory {
        /// The provider.
        provider: &'static str,
    },
    /// The queue pair is gone.
    #[error("queue pair {} is not connected", queue_pair.0)]
    NotConnected {
        /// The queue pair.
        queue_pair: QueuePairId,
    },
    /// A system call failed.
    #[error("{step} failed")]
    System {
        /// What failed.
        step: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// A device gave no memory window, which every peer needs that writes to this process.
    #[error(
        "the device gives no further memory window (max_mw {max}), which every peer that writes here needs: \
         connect fewer clients, or use another device"
    )]
    Windows {
        /// How many it promises.
        max: u32,
        /// Its reason.
        source: std::io::Error,
    },
}

/// Why a request was not taken. Never fatal to other queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The queue is full: poll, then post the rest again.
    #[error("the send or receive queue is full: poll for completions and post again")]
    QueueFull,
    /// The passive side has not heard of its peer yet.
    #[error("the peer has not connected yet: post again after its first message")]
    NotConnected,
    /// The queue pair is unknown or has failed.
    #[error("the queue pair has failed or was disconnected: connect again")]
    QueuePairError,
    /// The first request left in the batch can never be posted.
    #[error("invalid request: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn want_of_descriptors_is_not_told_as_want_of_memory() {
        let text = |errno: Errno| {
            let (step, len) = ("memfd_create", 4096);
            AllocateError::System { step, len, source: errno.into() }.to_string()
        };
        assert!(text(Errno::MFILE).contains("ulimit -n"), "{}", text(Errno::MFILE));
        assert!(text(Errno::NOMEM).contains("free memory"), "{}", text(Errno::NOMEM));
    }
}
