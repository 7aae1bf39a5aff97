//! How a queue pair fails: what can go wrong, and what becomes of its requests then.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::fabric::CompletionStatus;

use super::{
    connection::{Acknowledgement, Answer, Connection, Phase, Receiving, Shared},
    frame::FrameError,
    limits::OUTSTANDING_MAX,
    requests::{NotPending, completion},
    socket::Socket,
};

/// The peer broke the protocol.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    NotPending(#[from] NotPending),
    #[error("request {found} came where {expected} was due")]
    Number { expected: u32, found: u32 },
    #[error("the peer has more than {OUTSTANDING_MAX} unanswered requests")]
    TooMany,
    #[error("the peer introduced itself twice")]
    Hello,
    #[error("a payload does not match its checksum")]
    PayloadChecksum,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Failure {
    /// The stream ended or broke.
    Lost(io::Error),
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// The peer refused a request of ours.
    Refused { number: u32, status: CompletionStatus },
    /// A request of the peer's is refused.
    Refuse { number: u32, status: CompletionStatus },
    /// Memory of our own was deregistered under a request or an answer.
    Deregistered,
}

impl<E: Into<ProtocolError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Protocol(error.into())
    }
}

impl Connection {
    /// Ends what has been silent, stalled or lingering for too long.
    pub(super) fn check(&mut self, now: Instant, shared: &mut Shared) {
        if let Phase::Dialling { until } = self.phase {
            if now >= until {
                self.settle::<()>(Err(Failure::Lost(io::ErrorKind::TimedOut.into())), shared);
            }
        } else if self.is_silent(now, shared.silence_max) {
            tracing::info!(queue_pair = self.id.0, "the peer's host does not answer any more");
            self.end(CompletionStatus::RetryExceeded, shared);
        } else if self.stalled_since.is_some_and(|since| now - since > shared.silence_max) {
            let refusal = Failure::Refuse {
                number: self.executed.wrapping_add(1),
                status: CompletionStatus::ReceiverNotReady,
            };
            self.settle::<()>(Err(refusal), shared);
        } else if let Phase::Refusing { until } = self.phase
            && now >= until
        {
            self.end(CompletionStatus::Flushed, shared);
        }
    }

    /// Whether the peer's host has acknowledged nothing for so long, although something was on its
    /// way to it all the time.
    fn is_silent(&mut self, now: Instant, silence_max: Duration) -> bool {
        let Some(quiet) = self.socket.as_ref().and_then(Socket::unanswered) else {
            self.unanswered_since = None;
            return false;
        };
        let since = *self.unanswered_since.get_or_insert(now);
        if quiet < now - since {
            // It was heard of meanwhile.
            self.unanswered_since = Some(now);
            return false;
        }
        now - since > silence_max
    }

    /// Acts on a failure, or hands the result through.
    pub(super) fn settle<T>(
        &mut self,
        result: Result<T, Failure>,
        shared: &mut Shared,
    ) -> Option<T> {
        let failure = match result {
            Ok(value) => return Some(value),
            Err(failure) => failure,
        };
        match failure {
            Failure::Lost(error) => {
                tracing::debug!(queue_pair = self.id.0, %error, "connection lost");
                let refusing = matches!(self.phase, Phase::Refusing { .. });
                let status = if refusing {
                    CompletionStatus::Flushed
                } else {
                    CompletionStatus::RetryExceeded
                };
                self.end(status, shared);
            }
            Failure::Protocol(error) => {
                tracing::warn!(queue_pair = self.id.0, %error, "cutting off a malformed peer");
                self.end(CompletionStatus::RetryExceeded, shared);
            }
            Failure::Refused { number, status } => {
                let (id, ready) = (self.id, &mut shared.ready);
                let known = self.requests.refuse(number, status, id, |end| ready.push_back(end));
                let left = known.unwrap_or_else(|error| {
                    tracing::warn!(queue_pair = self.id.0, number, %error, "a wrong refusal");
                    CompletionStatus::RetryExceeded
                });
                self.end(left, shared);
            }
            Failure::Refuse { number, status } => {
                if matches!(self.phase, Phase::Refusing { .. }) {
                    return None;
                }
                tracing::debug!(queue_pair = self.id.0, number, ?status, "refusing a request");
                self.receiving = Receiving::Header;
                self.answers.push_back(Answer::Refusal { number, status });
                self.stalled_since = None;
                self.acknowledgement.wanted = false;
                self.phase = Phase::Refusing { until: Instant::now() + shared.silence_max };
            }
            Failure::Deregistered => {
                tracing::warn!(queue_pair = self.id.0, "memory deregistered while in use");
                self.end(CompletionStatus::LocalProtection, shared);
            }
        }
        None
    }

    /// Closes the stream and completes all that is pending, the first with `status`.
    pub(super) fn end(&mut self, status: CompletionStatus, shared: &mut Shared) {
        self.socket = None;
        self.phase = Phase::Failed;
        self.outbox.clear();
        self.answers.clear();
        self.receiving = Receiving::Header;
        self.inbox.consume(self.inbox.unread().len());
        self.stalled_since = None;
        self.acknowledgement = Acknowledgement::default();
        self.has_more = false;
        self.report_failure(status, shared);
    }

    pub(super) fn report_failure(&mut self, status: CompletionStatus, shared: &mut Shared) {
        let (id, ready) = (self.id, &mut shared.ready);
        let mut status = self.requests.fail(status, id, |end| ready.push_back(end));
        for request in self.late.iter_mut().flat_map(|late| late.drain()) {
            ready.push_back(completion(id, &request, status));
            status = CompletionStatus::Flushed;
        }
    }

    /// Reports requests that have succeeded.
    pub(super) fn report_success(&mut self, shared: &mut Shared) {
        let (id, ready) = (self.id, &mut shared.ready);
        self.requests.complete(id, |end| ready.push_back(end));
    }
}
