//! `windlass doctor`: every preflight of this host, a verdict per transport, and one on its disk.

use serde::Serialize;
use windlass_transport::{
    doctor::preflights,
    fabric_admin::{Finding, Preflight, Verdict},
};

use std::path::{Path, PathBuf};

use windlass_engine::persist::storage::{self, Provider, StorageReport};

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

    /// A data directory, to see how a log there would be written
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
}

/// Transports between processes of one host, in the order in which clients try them.
const SAME_HOST: [&str; 3] = ["verbs", "shm", "tcp"];

/// How a log in a directory would be written.
#[derive(Debug, Serialize)]
struct StorageDiagnosis {
    directory: PathBuf,
    /// `io_uring`, or `buffered` where that is refused; `null` when not even that works.
    provider: Option<&'static str>,
    o_direct: bool,
    registered_buffers: bool,
    durable_by: Option<&'static str>,
    /// Why a better way is not taken, with what to do.
    findings: Vec<Finding>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Diagnosis {
    preflights: Vec<Preflight>,
    storage: StorageDiagnosis,
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
        same_host: best(&SAME_HOST),
        preflights,
        storage: storage_of(&arguments.data_dir),
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
    lines.push(storage_text(&diagnosis.storage));
    let verdict = |name: Option<&str>| name.unwrap_or("none works").to_owned();
    lines.push(format!("between processes of this host: {}", verdict(diagnosis.same_host)));
    lines.push(format!("between hosts:                  {}", verdict(diagnosis.between_hosts)));
    lines.join("\n")
}

/// Tries the storage out in a directory that exists, with a block that is removed again.
fn storage_of(directory: &Path) -> StorageDiagnosis {
    let mut diagnosis = StorageDiagnosis {
        directory: directory.to_owned(),
        provider: None,
        o_direct: false,
        registered_buffers: false,
        durable_by: None,
        findings: Vec::new(),
    };
    // A directory that is made for the question would be left behind.
    let existing = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    match storage::open(existing, Provider::Automatic) {
        Ok(storage) => {
            let report = storage.report();
            diagnosis.provider = Some(report.provider);
            diagnosis.o_direct = report.direct;
            diagnosis.registered_buffers = report.registered_buffers;
            diagnosis.durable_by = Some(report.durable_write);
            diagnosis.findings = findings_of(report);
        }
        Err(error) => diagnosis.findings.push(Finding {
            subject: "storage",
            verdict: Verdict::Failed,
            text: windlass_transport::error::chain(&error),
            remedy: Some("choose another --data-dir, or free and repair this one".to_owned()),
        }),
    }
    diagnosis
}

fn findings_of(report: &StorageReport) -> Vec<Finding> {
    let remedy_of = |reason: &str| {
        if reason.contains("io_uring") {
            "allow io_uring: in containers by the seccomp profile, on hosts by \
             sysctl kernel.io_uring_disabled=0"
        } else if reason.contains("O_DIRECT") {
            "put the data directory on ext4, XFS or another file system with direct IO"
        } else {
            "raise `ulimit -l`"
        }
    };
    let fallbacks = report.fallbacks.iter().map(|reason| Finding {
        subject: "storage",
        verdict: Verdict::Warning,
        text: format!("{reason}; the same guarantees, more slowly"),
        remedy: Some(remedy_of(reason).to_owned()),
    });
    fallbacks.collect()
}

fn storage_text(storage: &StorageDiagnosis) -> String {
    let yes = |flag| if flag { "yes" } else { "no" };
    let mut text = match (storage.provider, storage.durable_by) {
        (Some(provider), Some(durable_by)) => format!(
            "storage in {}: {provider}, O_DIRECT {}, registered buffers {}, durable by {durable_by}\n",
            storage.directory.display(),
            yes(storage.o_direct),
            yes(storage.registered_buffers),
        ),
        _ => format!("storage in {}: cannot be used\n", storage.directory.display()),
    };
    for finding in &storage.findings {
        text.push_str(&finding_text(finding));
    }
    text
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

#[cfg(test)]
mod tests {
    use windlass_wire::control::Provider;

    #[test]
    fn what_doctor_names_is_what_clients_try() {
        assert_eq!(super::SAME_HOST, Provider::ALL.map(Provider::name));
    }
}
