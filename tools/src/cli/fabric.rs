//! `windlass fabric {list,up,down,check}`: the RDMA devices of this host.

use serde::Serialize;
use windlass_transport::fabric_admin::{self, DeviceInfo, GidKind, Link};

use super::{ExitStatus, Failure, Output, doctor::preflight_text};
use crate::{report::table, verbs_flags::VerbsFlags};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Fabric {
    /// Show devices, ports, addresses, MTU and firmware
    List,
    /// Make a SoftRoCE device on a network interface, or find the one that is there
    Up(UpArguments),
    /// Remove a SoftRoCE device
    Down {
        /// The device; `windlass fabric list` shows them
        device: String,
    },
    /// Say whether verbs can be used here, and what to do if not
    Check(CheckArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    verbs: VerbsFlags,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpArguments {
    /// The network interface [default: the first that is up, loopback last]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// What to call the device [default: rxe_ and the interface]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
}

pub(crate) fn run(command: &Fabric, output: Output) -> Result<(), Failure> {
    match command {
        Fabric::List => list(output),
        Fabric::Up(arguments) => {
            let up = fabric_admin::up(arguments.interface.as_deref(), arguments.device.as_deref())
                .map_err(Failure::failed)?;
            output.result(&up, || {
                let how = if up.made { "made" } else { "was there already" };
                format!(
                    "{} on {}: {how}\n{}",
                    up.device.name,
                    up.interface,
                    ports(std::slice::from_ref(&up.device))
                )
            })
        }
        Fabric::Down { device } => {
            fabric_admin::down(device).map_err(Failure::failed)?;
            output.result(&Removed { device }, || format!("{device}: removed"))
        }
        Fabric::Check(arguments) => {
            let verbs = arguments.verbs.config();
            let preflight = fabric_admin::check(
                &verbs.map_err(|error| Failure::new(ExitStatus::Usage, error))?,
            );
            output.result(&preflight, || preflight_text(&preflight))?;
            if preflight.usable() {
                return Ok(());
            }
            Err(Failure::failed("verbs cannot be used here: see the remedies above"))
        }
    }
}

#[derive(Serialize)]
struct Removed<'a> {
    device: &'a str,
}

fn list(output: Output) -> Result<(), Failure> {
    let devices = fabric_admin::list().map_err(Failure::failed)?;
    output.result(&devices, || {
        if devices.is_empty() {
            return "no RDMA devices; `windlass fabric up` makes a SoftRoCE device, `windlass \
                    fabric check` says what it needs"
                .to_owned();
        }
        ports(&devices)
    })
}

fn ports(devices: &[DeviceInfo]) -> String {
    let mut rows = Vec::new();
    for device in devices {
        for port in &device.ports {
            let link = match port.link {
                Link::InfiniBand => "InfiniBand",
                Link::Ethernet => "Ethernet",
                Link::Other => "other",
            };
            let mut row = vec![
                device.name.clone(),
                port.number.to_string(),
                port.state.to_owned(),
                link.to_owned(),
                port.active_mtu.to_string(),
                device.firmware.clone(),
            ];
            if port.gids.is_empty() {
                row.push("-".to_owned());
                rows.push(row);
                continue;
            }
            for gid in &port.gids {
                let kind = match gid.kind {
                    GidKind::InfiniBand => "InfiniBand",
                    GidKind::RoceV1 => "RoCE v1",
                    GidKind::RoceV2 => "RoCE v2",
                };
                let interface = gid.interface.as_deref().unwrap_or("-");
                let mut row = row.clone();
                row.push(format!("{}: {} {kind} {interface}", gid.index, gid.gid));
                rows.push(row);
            }
        }
    }
    table::table(&["device", "port", "state", "link", "MTU", "firmware", "GID"], &rows)
}
