//! `windlass doctor`: every preflight of this host, and a verdict per transport.

use serde::Serialize;
use windlass_transport::{
    doctor::preflights,
    fabric_admin::{Finding, Preflight, Verdict},
};

use super::{ExitStatus, Failure, Output};
use crate::verbs_flags::VerbsFlags;

const AFTER_HELP: &str = "\
Transports are tried in the order verbs, shm, tcp; each finding that stands in the way of one comes \
with its remedy. Exits with 0 if any transport works.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    verbs: VerbsFlags,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Diagnosis {
    preflights: Vec<Preflight>,
    between_hosts: Option<&'static str>,
    same_host: Option<&'static str>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let verbs = arguments.verbs.config();
    let preflights = preflights(&verbs.map_err(|error| Failure::new(ExitStatus::Usage, error))?);
    let usable = |name: &str| {
        preflights
            .iter()
            .find(|preflight| preflight.provider == name)
            .is_some_and(Preflight::usable)
    };
    let best = |names: &[&'static str]| names.iter().copied().find(|name| usable(name));
    let diagnosis = Diagnosis {
        between_hosts: best(&["verbs", "tcp"]),
        same_host: best(&["shm", "verbs", "tcp"]),
        preflights,
    };
    output.result(&diagnosis, || text(&diagnosis))?;
    match diagnosis.between_hosts.or(diagnosis.same_host) {
        Some(_) => Ok(()),
        None => Err(Failure::failed("no transport works on this host: see the remedies above")),
    }
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut lines = Vec::new();
    for preflight in &diagnosis.preflights {
        lines.push(preflight_text(preflight));
    }
    let verdict = |name: Option<&str>| name.unwrap_or("none works").to_owned();
    lines.push(format!("between processes of this host: {}", verdict(diagnosis.same_host)));
    lines.push(format!("between hosts:                  {}", verdict(diagnosis.between_hosts)));
    lines.join("\n")
}

/// A transport with its findings, each fault with its remedy.
pub(crate) fn preflight_text(preflight: &Preflight) -> String {
    let verdict = match preflight.verdict {
        Verdict::Good => "works",
        Verdict::Warning => "works, with warnings",
        Verdict::Failed => "cannot be used",
    };
    let mut text = format!("{}: {verdict}\n", preflight.provider);
    for finding in &preflight.findings {
        text.push_str(&finding_text(finding));
    }
    text
}

fn finding_text(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => "ok",
        Verdict::Warning => "!!",
        Verdict::Failed => "no",
    };
    let mut text = format!("  {mark} {:<12} {}\n", finding.subject, finding.text);
    if let Some(remedy) = &finding.remedy {
        text.push_str(&format!("     {:<12} remedy: {remedy}\n", ""));
    }
    text
}
