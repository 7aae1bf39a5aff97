//! What is answered to whom asks for something that is not done.

use windlass_wire::control::{ClientReply, RefusalKind};

/// Why something is not done, as it goes to who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What a program goes by.
    pub kind: RefusalKind,
    /// A sentence for people.
    pub text: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The refusal as it is sent.
pub(crate) fn refused(refusal: Refusal) -> ClientReply {
    ClientReply::Refused { status: refusal.kind, text: refusal.text }
}

/// A request that is not valid.
pub(crate) fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid {}, text)
}

/// A table that is not there.
pub(crate) fn unknown_table(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::UnknownTable {}, text)
}

/// A session has no mailbox, or the one it had ended with a life of the server's.
pub(crate) fn no_mailbox() -> Refusal {
    Refusal::new(RefusalKind::NoMailbox {}, "open a mailbox first")
}

/// Something that failed inside.
pub(crate) fn internal(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Internal {}, text)
}
