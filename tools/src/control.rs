//! Asking a server or coordinator over its control port, without a data path to it.

use windlass_transport::control::{ControlError, ControlStream, host_identity};
use windlass_wire::{
    ClusterMap, Incarnation, SessionId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, RefusalKind},
    coordination::{CoordinatorStatus, Operation, PartitionChecksum},
};

/// A control connection.
#[derive(Debug)]
pub struct Control {
    stream: ControlStream,
}

/// Why something was not asked or not done.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers.
    #[error(
        "cannot reach {}: check that `windlass serve` or `windlass coordinator` runs there",
        windlass_transport::text::Shown(.address)
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: ControlError,
    },
    /// The coordinator is gone.
    #[error("no coordinator answers: {text}")]
    NoCoordinator {
        /// Why.
        text: String,
    },
    /// It was refused.
    #[error("{text}")]
    Refused {
        /// Why.
        text: String,
    },
    /// The answer is not one to the question.
    #[error("unexpected answer: use one release for this program and the servers")]
    Unexpected,
}

impl Control {
    /// Connects to the first of several addresses, `HOST:PORT[,HOST:PORT]`, that answers and knows the
    /// coordinator that leads; where there is none, to the first that answers.
    ///
    /// # Errors
    /// When none does, or the token is refused.
    pub fn connect(addresses: &str, token: Option<&str>) -> Result<Self, AskError> {
        let mut failed = None;
        let mut standby = None;
        for address in addresses.split(',') {
            let address = address.trim().trim_start_matches("windlass://");
            match Self::connect_one(address, token) {
                Ok(mut control) => match control.status() {
                    Ok(status) if status.leads => return Ok(control),
                    _ => standby = standby.or(Some(control)),
                },
                Err(error @ AskError::Unreachable { .. }) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        standby.map_or_else(|| Err(failed.unwrap_or(AskError::Unexpected)), Ok)
    }

    fn connect_one(address: &str, token: Option<&str>) -> Result<Self, AskError> {
        let unreachable = |source| AskError::Unreachable { address: address.to_owned(), source };
        let mut stream = ControlStream::connect(address).map_err(unreachable)?;
        // Nothing is kept for the session: it pushes nothing.
        let session = SessionId(u64::from(std::process::id()).max(1));
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: token.unwrap_or_default().to_owned(),
            session,
            incarnation: Incarnation(session.0),
            rank: None,
            host: host_identity(),
            peer: None,
        };
        match stream.ask(&hello).map_err(unreachable)? {
            ClientReply::Welcome { .. } => Ok(Self { stream }),
            ClientReply::Refused { text, .. } => Err(AskError::Refused { text }),
            _ => Err(AskError::Unexpected),
        }
    }

    fn ask(&mut self, request: &ClientRequest) -> Result<ClientReply, AskError> {
        let asked: Result<ClientReply, ControlError> = self.stream.ask(request);
        let address = self.stream.peer().to_owned();
        match asked.map_err(|source| AskError::Unreachable { address, source })? {
            ClientReply::Refused { status: RefusalKind::NoCoordinator {}, text } => {
                Err(AskError::NoCoordinator { text })
            }
            ClientReply::Refused { text, .. } => Err(AskError::Refused { text }),
            reply => Ok(reply),
        }
    }

    /// The map in force, as the coordinator has it.
    ///
    /// # Errors
    /// As [`Control::status`].
    pub fn map(&mut self) -> Result<ClusterMap, AskError> {
        Ok(self.status()?.map)
    }

    /// How the coordinator is doing; a server passes the question on.
    ///
    /// # Errors
    /// When no coordinator answers.
    pub fn status(&mut self) -> Result<CoordinatorStatus, AskError> {
        match self.ask(&ClientRequest::CoordinatorStatus {})? {
            ClientReply::CoordinatorStatus { status } => Ok(status),
            _ => Err(AskError::Unexpected),
        }
    }

    /// Has the coordinator change something.
    ///
    /// # Errors
    /// When it does not.
    pub fn operate(&mut self, operation: Operation) -> Result<(), AskError> {
        match self.ask(&ClientRequest::Operate { operation })? {
            ClientReply::Done {} => Ok(()),
            _ => Err(AskError::Unexpected),
        }
    }

    /// What every partition of a server amounts to.
    ///
    /// # Errors
    /// When it is not told.
    pub fn checksums(&mut self) -> Result<Vec<PartitionChecksum>, AskError> {
        match self.ask(&ClientRequest::Checksums {})? {
            ClientReply::Checksums { partitions } => Ok(partitions),
            _ => Err(AskError::Unexpected),
        }
    }
}

impl AskError {
    /// Whether nobody answered, rather than refused.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoCoordinator { .. })
    }
}
