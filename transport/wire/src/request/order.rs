//! How pushes of a session stay in order at a shard, though some are refused and sent again. Replicas tell
//! duplicates by the highest sequence of a session, so nothing may be applied behind a push that was refused:
//! the refused one would be taken for applied when it comes again.
//!
//! Once a shard refuses a push that its client sends again, it refuses all behind it, until one *resumes*:
//! its client has an answer to everything before, and sends again what was refused, oldest first.

/// The shard's end, for one connection of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    is_closed: bool,
}

impl Gate {
    /// A push was refused, and its client will send it again.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether everything is refused that does not resume.
    #[must_use]
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the next push may be looked at. Opens the gate for one that resumes.
    pub fn admits(&mut self, resumes: bool) -> bool {
        self.is_closed &= !resumes;
        !self.is_closed
    }
}

/// The client's end, for one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    is_refused: bool,
    resumes: bool,
}

impl Resumption {
    /// Nothing was refused.
    pub const NONE: Self = Self { is_refused: false, resumes: false };

    /// A push was refused that has to be sent again: nothing else is sent before.
    pub fn refused(&mut self) {
        self.is_refused = true;
    }

    /// Whether one was, and is not settled.
    #[must_use]
    #[inline]
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Everything that was sent by the link has an answer.
    pub fn settled(&mut self) {
        self.resumes |= self.is_refused;
        self.is_refused = false;
    }

    /// Whether the next push resumes.
    #[must_use]
    #[inline]
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// A push was sent.
    #[inline]
    pub fn sent(&mut self) {
        self.resumes = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_behind_a_refused_push_until_its_client_resumes() {
        let (mut gate, mut link) = (Gate::default(), Resumption::default());
        assert!(gate.admits(link.resumes()) && gate.admits(false));
        gate.close();
        link.refused();
        assert!(gate.is_closed() && !gate.admits(link.resumes()), "it was under way");
        link.settled();
        assert!(!link.is_refused() && gate.admits(link.resumes()));
        link.sent();
        assert!(!link.resumes() && gate.admits(link.resumes()), "one says it for all behind it");
        link.settled();
        assert!(!link.resumes(), "nothing was refused since");
    }
}
