//! Running on this host: with a device it has, or with one that `rdma_rxe` makes.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::{SoftroceError, Topology, bounded};

/// Devices of this host that the command may use.
#[derive(Debug)]
pub(super) struct Devices {
    name: String,
    /// We made it, so we remove it again.
    made: bool,
}

/// Finds an active device or makes one on the loopback interface.
///
/// # Errors
/// The reason why this host cannot serve, as a phrase.
pub(super) fn devices(topology: Topology, deadline: Instant) -> Result<Devices, String> {
    if topology == Topology::Pair {
        return Err("two linked devices are only ever made inside a virtual machine".into());
    }
    if let Some(name) = active_device() {
        return Ok(Devices { name, made: false });
    }
    let quietly = |program: &str, arguments: &[&str]| {
        bounded::output(Command::new(program).args(arguments), deadline)
    };
    quietly("modprobe", &["rdma_rxe"]).map_err(|_| "its kernel has no rdma_rxe module")?;
    quietly("rdma", &["link", "add", "rxe_lo", "type", "rxe", "netdev", "lo"])
        .map_err(|_| "rdma_rxe is there but `rdma link add` was refused: try as root")?;
    Ok(Devices { name: "rxe_lo".into(), made: true })
}

/// Runs the command with the device's name in its environment.
///
/// # Errors
/// When it cannot be started or overruns.
pub(super) fn run(
    devices: &Devices,
    command: &[String],
    deadline: Instant,
) -> Result<i32, SoftroceError> {
    eprintln!("softroce: running on this host's {}", devices.name);
    let Some((program, arguments)) = command.split_first() else {
        return Err(SoftroceError::Usage("no command".into()));
    };
    let status = bounded::run(
        Command::new(program)
            .args(arguments)
            .env("WINDLASS_VERBS_DEVICE", &devices.name)
            .env("WINDLASS_REQUIRE_VERBS", "1"),
        deadline,
        || {},
    );
    if devices.made {
        let _ =
            bounded::output(Command::new("rdma").args(["link", "delete", &devices.name]), deadline);
    }
    Ok(bounded::shell_status(status?))
}

fn active_device() -> Option<String> {
    let devices = std::fs::read_dir("/sys/class/infiniband").ok()?;
    let mut names: Vec<String> = devices
        .flatten()
        .filter(|device| {
            let ports = device.path().join("ports");
            std::fs::read_dir(ports)
                .into_iter()
                .flatten()
                .flatten()
                .any(|port| port_is_active(&port.path()))
        })
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().next()
}

fn port_is_active(port: &Path) -> bool {
    std::fs::read_to_string(port.join("state")).is_ok_and(|state| state.contains("ACTIVE"))
}
