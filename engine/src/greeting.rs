//! The first message of a control connection, checked.

use std::time::Duration;

use windlass_wire::{
    Incarnation, SessionId, WorkerRank,
    control::{ClientRequest, PROTOCOL_VERSION, PeerRole, RefusalKind},
};

use crate::refusal::{Refusal, invalid};

/// Who connects.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) session: SessionId,
    pub(crate) incarnation: Incarnation,
    pub(crate) rank: Option<WorkerRank>,
    pub(crate) host: String,
    pub(crate) peer: Option<PeerRole>,
}

/// How long a server that has come to join, or to ask, may take to say so.
const PURPOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Greeting {
    /// How long it may say nothing from now on. The places of servers are few.
    pub(crate) fn silence_max(&self) -> Option<Duration> {
        matches!(self.peer, Some(PeerRole::Joins {})).then_some(PURPOSE_TIMEOUT)
    }

    /// Checks a greeting against the token that is asked for, if one is.
    pub(crate) fn check(message: ClientRequest, expected: Option<&str>) -> Result<Self, Refusal> {
        let ClientRequest::Hello { version, token, session, incarnation, rank, host, peer } =
            message
        else {
            return Err(invalid("a connection begins with hello"));
        };
        if version != PROTOCOL_VERSION {
            let text = format!(
                "the server speaks protocol {PROTOCOL_VERSION}, the client {version}: use one release for both"
            );
            return Err(Refusal::new(RefusalKind::Version {}, text));
        }
        if let Some(expected) = expected
            && !equal_in_constant_time(expected.as_bytes(), token.as_bytes())
        {
            let text = "the token is missing or wrong: pass the server's token file".to_owned();
            return Err(Refusal::new(RefusalKind::Token {}, text));
        }
        if session == SessionId(0) {
            return Err(invalid("a session number cannot be zero"));
        }
        Ok(Self { session, incarnation, rank, host, peer })
    }
}

/// Takes as long for any pair of one length, so that a token cannot be guessed byte by byte.
fn equal_in_constant_time(expected: &[u8], presented: &[u8]) -> bool {
    expected.len() == presented.len()
        && expected.iter().zip(presented).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_compare_whole() {
        assert!(equal_in_constant_time(b"token", b"token"));
        assert!(!equal_in_constant_time(b"token", b"tokem"));
        assert!(!equal_in_constant_time(b"token", b"toke"));
        assert!(!equal_in_constant_time(b"token", b""));
    }
}
