//! The preflight of the verbs transport: each thing that can be missing, looked at by itself, and
//! then a write and a read through the device to itself.

use std::time::{Duration, Instant};

use super::{
    Capability, Finding, ModuleState, Preflight, Verdict,
    host::{kernel_release, memlock_limit, module_state, packet_filter_active},
};
use crate::{
    batch::Batch,
    doctor::describe,
    error::OpenError,
    fabric::{
        Access, Completion, CompletionStatus, InlineBytes, Operation, Promises, QueuePairId, Role,
        SendRequest, Transport, WorkId,
    },
    memory::{Pages, PagesOptions},
    verbs::{
        VerbsConfig, VerbsTransport,
        device::{DeviceInfo, GidKind, Link, PortInfo, choose_gid, devices},
        load::library,
    },
};

/// Memory that a small server registers; below this limit registration will fail sooner or later.
const MEMLOCK_WANTED: u64 = 1 << 30;
const SELF_TEST_LEN: usize = 1 << 20;
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(10);
const SELF_TEST_ROUNDS: u32 = 100;

/// Looks at everything the verbs transport needs on this host, with these settings.
#[must_use]
pub fn check(config: &VerbsConfig) -> Preflight {
    let mut findings = Vec::new();
    examine(config, &mut findings);
    Preflight::new("verbs", findings)
}

/// Ends early where nothing further can be looked at.
fn examine(config: &VerbsConfig, findings: &mut Vec<Finding>) {
    if let Err(error) = library() {
        let text = error.to_string();
        let (what, remedy) = text.rsplit_once(": ").unwrap_or((&text, "install rdma-core"));
        findings.push(Finding::failed("library", what, remedy));
        findings.push(driver());
        return;
    }
    findings.push(Finding::good("library", "libibverbs is loaded"));
    let listed = match devices() {
        Ok(listed) => listed,
        Err(error) => {
            findings.push(open_failure("device", &error));
            findings.push(driver());
            return;
        }
    };
    let chosen = match &config.device {
        Some(name) => listed.iter().find(|device| device.name == *name),
        None => listed
            .iter()
            .find(|device| device.ports.iter().any(|port| port.active))
            .or(listed.first()),
    };
    let Some(device) = chosen else {
        let what = config
            .device
            .as_ref()
            .map_or("this host has no verbs device".into(), |name| format!("there is no {name}"));
        findings.push(Finding::failed("device", what, "`windlass fabric up` makes a software one"));
        findings.push(driver());
        return;
    };
    findings.push(Finding::good(
        "device",
        format!("{} with firmware {}", device.name, device.firmware),
    ));
    port(config, device, findings);
    findings.push(memlock());
    if packet_filter_active() {
        findings.push(Finding::warning(
            "firewall",
            "a packet filter is active",
            "RoCE needs UDP port 4791 between all hosts: \
             `iptables -I INPUT -p udp --dport 4791 -j ACCEPT`",
        ));
    }
    findings.extend(promises(config));
    findings.push(self_test(config));
}

/// What the device promises, when it can be opened: the self test says why it cannot.
fn promises(config: &VerbsConfig) -> Vec<Finding> {
    let Ok(transport) = VerbsTransport::open(config.clone()) else { return Vec::new() };
    let capabilities = transport.capabilities();
    vec![order(capabilities.promises), isolation(capabilities.isolates_writers)]
}

/// Whether clients can write to each other's mailboxes.
fn isolation(isolates_writers: bool) -> Finding {
    if isolates_writers {
        let text = "what a client may write is open to its queue pair alone (memory windows)";
        return Finding::good("isolation", text);
    }
    Finding::warning(
        "isolation",
        "the device has no memory windows of type 2: a client that guesses a key and an address can \
         write to another's mailbox",
        "let only trusted clients in, or serve others by `--providers tcp`",
    )
}

/// What a device promises of the order in which it reads and writes memory.
fn order(promises: Promises) -> Finding {
    let Promises { reads_in_order, reads_words_whole, writes_in_order } = promises;
    let word = |promised| if promised { "yes" } else { "not promised, so it is checked" };
    let text = format!(
        "reads in ascending order: {}; words read whole: {}; writes show in order: {}",
        word(reads_in_order),
        word(reads_words_whole),
        word(writes_in_order)
    );
    Finding::good("order", text)
}

fn driver() -> Finding {
    let release = kernel_release();
    match module_state("rdma_rxe") {
        ModuleState::Loaded => Finding::good("driver", "rdma_rxe is loaded"),
        ModuleState::Available if Capability::NetAdmin.held() => {
            Finding::good("driver", "rdma_rxe can be loaded, so `windlass fabric up` can work")
        }
        ModuleState::Available => Finding::warning(
            "driver",
            "rdma_rxe can be loaded, but this process lacks CAP_NET_ADMIN",
            "`sudo windlass fabric up`",
        ),
        ModuleState::Missing => Finding::failed(
            "driver",
            format!("kernel {release} has no rdma_rxe module"),
            format!(
                "install linux-modules-extra-{release} (Ubuntu), kernel-modules-extra (Fedora) or \
                 a full instead of a cloud kernel (Debian); until then shm and tcp are used"
            ),
        ),
    }
}

fn port(config: &VerbsConfig, device: &DeviceInfo, findings: &mut Vec<Finding>) {
    let chosen = match config.port {
        Some(number) => device.ports.iter().find(|port| port.number == number),
        None => device.ports.iter().find(|port| port.active).or(device.ports.first()),
    };
    let Some(port) = chosen else {
        findings.push(Finding::failed(
            "port",
            format!("{} has no such port", device.name),
            "`windlass fabric list` shows its ports",
        ));
        return;
    };
    if port.active {
        findings.push(Finding::good("port", format!("port {} is active", port.number)));
    } else {
        findings.push(Finding::failed(
            "port",
            format!("port {} is {}", port.number, port.state),
            match port.link {
                Link::InfiniBand => "check the cable and that a subnet manager runs",
                Link::Ethernet | Link::Other => "check the cable, or `ip link set dev ... up`",
            },
        ));
    }
    findings.push(gid(config, port));
    findings.push(mtu(port));
}

fn gid(config: &VerbsConfig, port: &PortInfo) -> Finding {
    let chosen = match config.gid_index {
        Some(index) => port.gids.iter().find(|entry| entry.index == index),
        None => choose_gid(port),
    };
    let Some(entry) = chosen else {
        return Finding::failed(
            "gid",
            "the port has no address that could be used",
            "give its network interface an IP address, or correct the GID index",
        );
    };
    let text = format!("GID index {} is {}", entry.index, entry.gid);
    match entry.kind {
        GidKind::RoceV1 => Finding::warning(
            "gid",
            format!("{text}, RoCE v1: not routed and often filtered"),
            "give the interface an IP address, which adds RoCE v2 entries",
        ),
        GidKind::RoceV2 if entry.gid.is_unicast_link_local() => Finding::warning(
            "gid",
            format!("{text}, link-local: only hosts of the same link are reached"),
            "give the interface an IPv4 address",
        ),
        GidKind::RoceV2 => Finding::good("gid", format!("{text}, RoCE v2")),
        GidKind::InfiniBand => Finding::good("gid", format!("{text}, InfiniBand")),
    }
}

fn mtu(port: &PortInfo) -> Finding {
    let text = format!("path MTU is {} of {} bytes", port.active_mtu, port.max_mtu);
    if port.active_mtu >= port.max_mtu {
        return Finding::good("mtu", text);
    }
    match port.link {
        Link::Ethernet => Finding::warning(
            "mtu",
            text,
            "for 4096 bytes give the interface and every switch on the way an MTU of 4200 or \
             more: `ip link set dev ... mtu 4200`",
        ),
        Link::InfiniBand | Link::Other => {
            Finding::warning("mtu", text, "the subnet manager sets it")
        }
    }
}

fn memlock() -> Finding {
    match memlock_limit() {
        _ if Capability::IpcLock.held() => {
            Finding::good("memlock", "CAP_IPC_LOCK lifts the memlock limit")
        }
        None => Finding::good("memlock", "there is no memlock limit"),
        Some(limit) if limit >= MEMLOCK_WANTED => {
            Finding::good("memlock", format!("{} MiB may be pinned", limit >> 20))
        }
        Some(limit) => Finding::warning(
            "memlock",
            format!("only {} KiB may be pinned, less than a server registers", limit >> 10),
            "`ulimit -l unlimited`, LimitMEMLOCK=infinity in the service, or CAP_IPC_LOCK",
        ),
    }
}

/// Connects the device to itself, writes a word and reads it back many times.
fn self_test(config: &VerbsConfig) -> Finding {
    match time_self_test(config) {
        Ok(round_trip) => Finding::good(
            "self test",
            format!("8 bytes written and read back through the device in {:.1} us", round_trip),
        ),
        Err(SelfTestError::Open(error)) => open_failure("self test", &error),
        Err(error) => Finding::failed(
            "self test",
            describe(&error),
            "try another --device, --port or --gid-index, and look for drops: \
             `rdma statistic show`",
        ),
    }
}

#[derive(Debug, thiserror::Error)]
enum SelfTestError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Allocate(#[from] crate::error::AllocateError),
    #[error(transparent)]
    Register(#[from] crate::error::RegisterError),
    #[error("the device cannot be connected to itself")]
    Connect(#[from] crate::error::ConnectError),
    #[error(transparent)]
    Share(#[from] crate::error::ShareError),
    #[error(transparent)]
    Post(#[from] crate::error::PostError),
    #[error("a request ended with {0:?}")]
    Completion(CompletionStatus),
    #[error("the device carried out nothing for {} s", SELF_TEST_TIMEOUT.as_secs())]
    Silent,
    #[error("what was read back is not what was written")]
    Corrupt,
}

/// Median time of a write with the read behind it, in microseconds.
fn time_self_test(config: &VerbsConfig) -> Result<f64, SelfTestError> {
    let mut here = VerbsTransport::open(config.clone())?;
    let mut there = VerbsTransport::open(config.clone())?;
    let pages = Pages::allocate(SELF_TEST_LEN, PagesOptions::default())?;
    let target = there.register(&pages, Access::READ_WRITE)?;
    let local = Pages::allocate(SELF_TEST_LEN, PagesOptions::default())?;
    let local = here.register(&local, Access::LOCAL)?;
    let (active, passive) = (here.create_queue_pair()?, there.create_queue_pair()?);
    let (to_there, to_here) = (passive.endpoint().clone(), active.endpoint().clone());
    let passive = there.connect(passive, Role::Passive, &to_here)?;
    let active = here.connect(active, Role::Active, &to_there)?;
    let remote = there.share(passive, &target)?;
    let mut times = Vec::new();
    for round in 0..SELF_TEST_ROUNDS {
        let word = u64::from(round) << 32 | 0x5eed;
        let began = Instant::now();
        let write =
            Operation::WriteInline { bytes: InlineBytes::word(word), remote: remote.at(64) };
        let read = Operation::Read { local: local.slice(0, 8).into(), remote: remote.at(64) };
        carry_out(&mut here, active, &[write, read])?;
        times.push(began.elapsed());
        if local.pages.load_u64(0) != word {
            return Err(SelfTestError::Corrupt);
        }
    }
    here.disconnect(active);
    there.disconnect(passive);
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}

fn carry_out(
    transport: &mut VerbsTransport,
    queue_pair: QueuePairId,
    operations: &[Operation],
) -> Result<(), SelfTestError> {
    let mut batch = Batch::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let signaled = index + 1 == operations.len();
        // A fresh batch of this capacity takes them all.
        let _ = batch.push(SendRequest {
            work_id: WorkId(1),
            signaled,
            fenced: false,
            operation: *operation,
        });
    }
    transport.post_send(queue_pair, &mut batch)?;
    let deadline = Instant::now() + SELF_TEST_TIMEOUT;
    let mut completions = [Completion::EMPTY; 1];
    loop {
        if transport.poll(&mut completions) > 0 {
            return match completions[0].status {
                CompletionStatus::Success => Ok(()),
                status => Err(SelfTestError::Completion(status)),
            };
        }
        if Instant::now() >= deadline {
            return Err(SelfTestError::Silent);
        }
        std::thread::yield_now();
    }
}

fn open_failure(subject: &'static str, error: &OpenError) -> Finding {
    match error {
        OpenError::Unavailable { reason, remedy, .. } => {
            Finding::failed(subject, reason.clone(), remedy.clone())
        }
        OpenError::System { .. } => Finding {
            subject,
            verdict: Verdict::Failed,
            text: describe(error),
            remedy: Some("check permissions of /dev/infiniband and the kernel's log".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_missing_has_a_remedy() {
        let preflight = check(&VerbsConfig::from_environment());
        assert!(!preflight.findings.is_empty());
        for finding in preflight.findings {
            assert_eq!(finding.verdict == Verdict::Good, finding.remedy.is_none(), "{finding:?}");
        }
    }

    #[test]
    fn what_is_not_promised_is_said() {
        let finding = order(Promises { writes_in_order: false, ..Promises::ALL });
        assert_eq!(finding.verdict, Verdict::Good);
        assert!(finding.text.contains("whole: yes; writes show in order: not promised"));
    }

    #[test]
    fn a_device_on_which_clients_reach_each_others_mailboxes_is_a_warning() {
        assert_eq!(isolation(true).verdict, Verdict::Good);
        let finding = isolation(false);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.text.contains("write to another's mailbox"), "{}", finding.text);
    }

    #[test]
    fn a_short_mtu_is_a_warning_with_the_command() {
        let port = PortInfo {
            number: 1,
            active: true,
            state: "ACTIVE",
            link: Link::Ethernet,
            active_mtu: 1024,
            max_mtu: 4096,
            lid: 0,
            message_len_max: 1 << 30,
            gids: Vec::new(),
        };
        let finding = mtu(&port);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.remedy.unwrap().contains("ip link set"));
        assert_eq!(gid(&VerbsConfig::default(), &port).verdict, Verdict::Failed);
    }
}
