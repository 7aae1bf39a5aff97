//! Why a control request gets nothing else.

use crate::Epoch;

/// Why a control request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The peers' protocol versions differ.
    Version {},
    /// The token does not match.
    Token {},
    /// There is no such table.
    UnknownTable {},
    /// A table of that name exists with another schema.
    TableExists {},
    /// The request is not valid.
    Invalid {},
    /// The server has no room.
    Full {},
    /// The server is shutting down.
    ShuttingDown {},
    /// The coordinator cannot be reached; try again.
    NoCoordinator {},
    /// Something failed inside the server.
    Internal {},
    /// The map is older than what the request needs; try again.
    StaleEpoch {
        /// Epoch of the server's map.
        epoch: Epoch,
    },
    /// The session has no mailbox at that shard, or none any more: open one.
    NoMailbox {},
}

crate::codec::wire_enum!(RefusalKind {
    1 => Version {},
    2 => Token {},
    3 => UnknownTable {},
    4 => TableExists {},
    5 => Invalid {},
    6 => Full {},
    7 => ShuttingDown {},
    8 => NoCoordinator {},
    9 => Internal {},
    10 => StaleEpoch { epoch },
    11 => NoMailbox {},
});
