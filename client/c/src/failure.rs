//! Why a call failed: a code that never changes its meaning, and a sentence.

use std::ops::RangeInclusive;

use windlass_client::{
    ConnectError, FilterRefusal, RequestError, Status, TableError, WrongProcess, chain,
};

use crate::c_abi::status::WindlassStatus;

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: WindlassStatus,
    pub(crate) text: String,
    /// Rows of a push that were not applied, while others of it were.
    pub(crate) refused: Vec<RangeInclusive<u64>>,
}

impl Failure {
    pub(crate) fn new(status: WindlassStatus, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), refused: Vec::new() }
    }

    /// The caller's mistake.
    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::new(WindlassStatus::InvalidArgument, text)
    }

    /// A pointer that must not be NULL.
    pub(crate) fn null(name: &str) -> Self {
        Self::argument(format!("{name} is NULL"))
    }

    /// The system has no memory for values.
    pub(crate) fn no_memory(error: &dyn std::error::Error) -> Self {
        Self::new(WindlassStatus::NoMemory, chain(error))
    }
}

impl From<WrongProcess> for Failure {
    fn from(error: WrongProcess) -> Self {
        Self::new(WindlassStatus::WrongProcess, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let status = match &error {
            ConnectError::Address { .. } => WindlassStatus::InvalidArgument,
            ConnectError::Refused { .. } => WindlassStatus::Refused,
            ConnectError::Timeout { .. } => WindlassStatus::Timeout,
            ConnectError::Interrupted => WindlassStatus::Interrupted,
            ConnectError::NoProvider { .. } => WindlassStatus::NoTransport,
            ConnectError::Allocate(_) | ConnectError::Register(_) => WindlassStatus::NoMemory,
            _ => WindlassStatus::ConnectFailed,
        };
        Self::new(status, chain(&error))
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        let status = match &error {
            TableError::WrongProcess(_) => WindlassStatus::WrongProcess,
            TableError::Timeout { .. } => WindlassStatus::Timeout,
            TableError::Interrupted => WindlassStatus::Interrupted,
            TableError::Unknown { .. } => WindlassStatus::UnknownTable,
            TableError::Exists { .. } => WindlassStatus::TableExists,
            TableError::Dtype { .. } => WindlassStatus::WrongDtype,
            TableError::Control(_) | TableError::OutOfReach { .. } => WindlassStatus::ServerGone,
            _ => WindlassStatus::Refused,
        };
        Self::new(status, chain(&error))
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let status = match &error {
            RequestError::WrongProcess(_) => WindlassStatus::WrongProcess,
            RequestError::Length { .. } => WindlassStatus::WrongLength,
            RequestError::OutOfRange { .. } => WindlassStatus::OutOfRange,
            RequestError::RangeOfSparse => WindlassStatus::RangeOfSparse,
            RequestError::ScanOfDense
            | RequestError::CursorOfAnother { .. }
            | RequestError::Offsets { .. }
            | RequestError::MeanOfIntegers { .. } => WindlassStatus::InvalidArgument,
            RequestError::NotFinite
            | RequestError::Filter(FilterRefusal::NotFinite | FilterRefusal::RowNotFinite) => {
                WindlassStatus::NotFinite
            }
            RequestError::Filter(FilterRefusal::Stack(_) | FilterRefusal::Rows(_)) => {
                WindlassStatus::InvalidArgument
            }
            RequestError::Refused { status: Status::UnknownTable, .. }
            | RequestError::NotCurrent { .. } => WindlassStatus::UnknownTable,
            RequestError::Refused { status: Status::Full, .. } => WindlassStatus::NoMemory,
            RequestError::Refused { .. } => WindlassStatus::Refused,
            RequestError::ServerGone { .. } => WindlassStatus::ServerGone,
            RequestError::SessionExpired { .. } => WindlassStatus::SessionExpired,
            RequestError::PartitionUnavailable { .. } => WindlassStatus::Unavailable,
            RequestError::RowsLost => WindlassStatus::RowsLost,
            RequestError::Timeout { .. } | RequestError::SendTimeout { .. } => {
                WindlassStatus::Timeout
            }
            RequestError::Interrupted => WindlassStatus::Interrupted,
            RequestError::UnknownTimestamp { .. } => WindlassStatus::UnknownTimestamp,
            RequestError::TooLarge { .. } | RequestError::RoundFull => WindlassStatus::TooLarge,
            _ => WindlassStatus::SetupFailed,
        };
        let text = chain(&error);
        let refused = match error {
            RequestError::Refused { rows, .. } => rows,
            _ => Vec::new(),
        };
        Self { status, text, refused }
    }
}
