//! All preflights of this host: what `windlass doctor` shows, with a verdict per transport.

use std::error::Error;

use crate::{
    fabric_admin::{self, Finding, Preflight},
    memory::{Lock, Pages, PagesOptions},
    shm::{Shm, ShmOptions},
    tcp::{Tcp, TcpOptions},
    verbs::VerbsConfig,
};

/// Memory that is locked on trial.
const TRIAL_LEN: usize = 64 << 20;

/// The preflights of every transport, best transport first. The first usable one is what two hosts
/// that both pass it will use.
#[must_use]
pub fn preflights(verbs: &VerbsConfig) -> Vec<Preflight> {
    vec![fabric_admin::check(verbs), shm(), tcp()]
}

/// The preflight of shared memory, between processes of this host.
fn shm() -> Preflight {
    let open = match Shm::open(ShmOptions::default()) {
        Ok(_) => Finding::good("socket", "a Unix socket for peers can be opened"),
        Err(error) => Finding::failed(
            "socket",
            describe(&error),
            "check the limits on open files (`ulimit -n`) and the container's seccomp profile",
        ),
    };
    Preflight::new("shm", vec![open, pinned_memory()])
}

/// The preflight of TCP, between any hosts.
fn tcp() -> Preflight {
    let open = match Tcp::open(TcpOptions::LOOPBACK) {
        Ok(_) => Finding::good("socket", "a TCP port can be opened"),
        Err(error) => Finding::failed(
            "socket",
            describe(&error),
            "check the limits on open files (`ulimit -n`) and that loopback is up: \
             `ip link set lo up`",
        ),
    };
    Preflight::new("tcp", vec![open])
}

fn pinned_memory() -> Finding {
    let options = PagesOptions { lock: Lock::Try, ..PagesOptions::default() };
    match Pages::allocate(TRIAL_LEN, options) {
        Ok(pages) if pages.report().locked => {
            Finding::good("memory", "64 MiB of shareable memory can be locked")
        }
        Ok(_) => Finding::warning(
            "memory",
            "shareable memory cannot be locked and may be swapped out",
            "`ulimit -l unlimited`, LimitMEMLOCK=infinity in the service, or CAP_IPC_LOCK",
        ),
        Err(error) => Finding::failed(
            "memory",
            describe(&error),
            "free memory, or raise the memory limit of the container",
        ),
    }
}

/// An error with its causes, as one sentence.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric_admin::Verdict;

    #[test]
    fn every_transport_has_a_verdict_and_every_fault_a_remedy() {
        let preflights = preflights(&VerbsConfig::from_environment());
        let names: Vec<&str> = preflights.iter().map(|preflight| preflight.provider).collect();
        assert_eq!(names, ["verbs", "shm", "tcp"]);
        for finding in preflights.iter().flat_map(|preflight| &preflight.findings) {
            assert_eq!(finding.verdict == Verdict::Good, finding.remedy.is_none(), "{finding:?}");
        }
    }
}
