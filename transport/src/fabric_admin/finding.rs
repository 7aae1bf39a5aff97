//! What a check has found, and what it means.

use serde::Serialize;

/// How good or bad a finding is. Ordered: the worst of several is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but could be better or may surprise.
    Warning,
    /// Does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two: `library`, `port`, `memlock`.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, as a sentence.
    pub text: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
}

impl Finding {
    pub(crate) fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, text: text.into(), remedy: None }
    }

    pub(crate) fn warning(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { subject, verdict: Verdict::Warning, text: text.into(), remedy }
    }

    pub(crate) fn failed(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { subject, verdict: Verdict::Failed, text: text.into(), remedy }
    }
}

/// Everything found about one transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// The transport: `verbs`, `shm` or `tcp`.
    pub provider: &'static str,
    /// The worst of the findings.
    pub verdict: Verdict,
    /// The findings, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl Preflight {
    pub(crate) fn new(provider: &'static str, findings: Vec<Finding>) -> Self {
        let verdict =
            findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Failed);
        Self { provider, verdict, findings }
    }

    /// Whether the transport can be used.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.verdict != Verdict::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let findings =
            vec![Finding::good("library", "a"), Finding::warning("mtu", "b", "raise it")];
        let preflight = Preflight::new("verbs", findings);
        assert_eq!(preflight.verdict, Verdict::Warning);
        assert!(preflight.usable());
        assert!(!Preflight::new("verbs", Vec::new()).usable());
    }
}
