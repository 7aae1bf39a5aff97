//! The events that wake the stepping thread.

use crossbeam::channel::Sender;
use windlass_wire::{control::ClientRequest, coordination::Report};

use super::{
    desk::{Answer, Downward, Joining},
    store::{Item, Kept},
};

/// One thing that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// This coordinator leads in a new term, and the store holds this.
    Elected {
        term: u64,
        kept: Box<Kept>,
    },
    /// Another one leads, or nobody.
    Deposed,
    /// A write is safe.
    Stored {
        item: Item,
        version: u64,
    },
    /// The store cannot be reached, or can be again.
    StoreTrouble(Option<String>),
    /// A server asks to be taken in over a connection.
    Joining {
        connection: u64,
        joining: Joining,
        is_local: bool,
        downward: Sender<Downward>,
    },
    /// A server said something.
    Report {
        connection: u64,
        report: Report,
    },
    /// A server's connection is gone.
    Closed {
        connection: u64,
    },
    /// Somebody asks.
    Ask {
        request: ClientRequest,
        answer: Answer,
    },
    Stop,
}
