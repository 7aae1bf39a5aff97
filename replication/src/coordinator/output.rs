//! What a coordinator wants done.

use std::fmt;

use windlass_wire::{Epoch, Incarnation, ServerId};

use crate::{
    membership::{Change, TransitionError},
    time::Time,
};

/// What a coordinator wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorOutput {
    /// Store [`Coordinator::draft`](super::Coordinator::draft) if the store still holds `expected`; then give `Stored`, or
    /// `Deposed` when it holds another.
    Store {
        /// The epoch the store must hold.
        expected: Epoch,
    },
    /// Send [`Coordinator::map`](super::Coordinator::map) (or the delta to it) to every server and client.
    Publish {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Tell this life of a server that it is fenced; it destroys its links and rejoins anew.
    Fence {
        /// The server.
        server: ServerId,
        /// The life that is fenced.
        incarnation: Incarnation,
    },
    /// Ask a server for a heartbeat at once, and to say that this is what it answers.
    Probe {
        /// The server.
        server: ServerId,
        /// When this was asked first.
        sent_at: Time,
    },
    /// Send the map to a server whose own is old.
    SendMap {
        /// The server.
        to: ServerId,
    },
    /// A server acts by a newer map than the store held: the store is an old copy. The coordinator has
    /// stopped leading, since its next map would contradict those that servers follow.
    Outdated {
        /// Who says so.
        server: ServerId,
        /// The epoch it acts by.
        epoch: Epoch,
    },
    /// For the log: the next map fails a server, or takes it out of the chains that it shares with another.
    Removes {
        /// The server.
        server: ServerId,
        /// Why.
        cause: Cause,
    },
    /// This coordinator hears servers badly that live: another one may hear them better, and should lead,
    /// if there is one.
    Resign,
    /// A server or an operator asked for something that is not legal.
    Refuse {
        /// The change.
        change: Change,
        /// Why.
        error: TransitionError,
    },
}

/// Why a server is failed, or taken out of the chains that it shares with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its connection broke, and it has not come back.
    Gone,
    /// It was not heard for so many microseconds.
    Silent(u64),
    /// Some servers do not hear each other in time. Times in microseconds.
    Late {
        /// The server whose chains it leaves; without, it is failed.
        from: Option<ServerId>,
        /// The first hears the second so late.
        peers: Vec<(ServerId, ServerId, u64)>,
        /// The coordinator hears the server so late.
        here: Vec<(ServerId, u64)>,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("its connection broke, and it has not come back"),
            Self::Silent(micros) => write!(formatter, "it was silent for {} ms", micros / 1_000),
            Self::Late { from, peers, here } => {
                if let Some(from) = from {
                    write!(formatter, "it leaves the chains that it shares with server {from}: ")?;
                }
                let mut separator = "";
                for (by, of, micros) in peers {
                    let millis = micros / 1_000;
                    write!(formatter, "{separator}server {by} hears {of} {millis} ms late")?;
                    separator = ", ";
                }
                for (of, micros) in here {
                    let millis = micros / 1_000;
                    write!(formatter, "{separator}the coordinator hears {of} {millis} ms late")?;
                    separator = ", ";
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_who_hears_whom_late() {
        let (a, b) = (ServerId(1), ServerId(2));
        let late =
            |from| Cause::Late { from, peers: vec![(a, b, 900_000)], here: vec![(b, 1_000)] };
        let texts = [Cause::Gone, Cause::Silent(512_000), late(None), late(Some(a))]
            .map(|cause| cause.to_string());
        assert_eq!(
            texts,
            [
                "its connection broke, and it has not come back",
                "it was silent for 512 ms",
                "server 1 hears 2 900 ms late, the coordinator hears 2 1 ms late",
                "it leaves the chains that it shares with server 1: server 1 hears 2 900 ms late, the coordinator hears 2 1 ms late",
            ]
        );
    }
}
