//! What is answered to whom asks for something that is not done.

use windlass_wire::control::{ClientReply, RefusalKind};

/// Its kind, and a sentence for people.
pub(crate) type Refusal = (RefusalKind, String);

/// The refusal as it is sent.
pub(crate) fn refused((status, text): Refusal) -> ClientReply {
    ClientReply::Refused { status, text }
}

/// A request that is not valid.
pub(crate) fn invalid(text: impl Into<String>) -> Refusal {
    (RefusalKind::Invalid {}, text.into())
}

/// A table that is not there.
pub(crate) fn unknown_table(text: impl Into<String>) -> Refusal {
    (RefusalKind::UnknownTable {}, text.into())
}

/// A session has no mailbox, or the one it had ended with a life of the server's.
pub(crate) fn no_mailbox() -> Refusal {
    (RefusalKind::NoMailbox {}, "open a mailbox first".to_owned())
}

/// Something that failed inside.
pub(crate) fn internal(text: impl Into<String>) -> Refusal {
    (RefusalKind::Internal {}, text.into())
}
