//! Making and removing a SoftRoCE device on a network interface.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    host::{ModuleState, interfaces, kernel_release, module_state},
    netlink,
};
use crate::{
    error::OpenError,
    verbs::device::{DeviceInfo, choose_gid, devices},
};

const MODULE: &str = "rdma_rxe";
/// How long a new device may take to become active and get an address.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A SoftRoCE device that was made, or was there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkUp {
    /// The interface it is on.
    pub interface: String,
    /// Whether it was made now.
    pub made: bool,
    /// The device.
    pub device: DeviceInfo,
}

/// Why no SoftRoCE device could be made.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// There is no interface to put it on.
    #[error("there is no network interface that is up: name one with --interface")]
    NoInterface,
    /// The interface named does not exist.
    #[error("there is no network interface {interface}: `ip link` lists them")]
    UnknownInterface {
        /// The name.
        interface: String,
    },
    /// The name is not usable.
    #[error("{device} cannot name a device: use 1 to 60 letters, digits, - and _")]
    Name {
        /// The name.
        device: String,
    },
    /// The kernel has no driver.
    #[error(
        "kernel {release} has no rdma_rxe module: install linux-modules-extra-{release} (Ubuntu), \
         kernel-modules-extra (Fedora) or a full instead of a cloud kernel (Debian), or use the \
         tcp transport"
    )]
    Module {
        /// The running kernel.
        release: String,
    },
    /// This process may not.
    #[error("making an RDMA device needs CAP_NET_ADMIN: run as root, or `sudo windlass fabric up`")]
    Permission {
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("the kernel refused to make {device} on {interface}")]
    Kernel {
        /// The device.
        device: String,
        /// The interface.
        interface: String,
        /// Its reason.
        source: io::Error,
    },
    /// It was made, but programs cannot use it.
    #[error(
        "{device} was made but does not become usable: check that its interface is up and has an \
         address, and that `modprobe ib_uverbs` succeeds"
    )]
    NotReady {
        /// The device.
        device: String,
    },
    /// It was made, but libibverbs cannot be asked about it.
    #[error("{device} was made but cannot be used")]
    Verbs {
        /// The device.
        device: String,
        /// Why.
        source: OpenError,
    },
}

/// Why a device could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// There is none of that name.
    #[error("there is no RDMA device {device}: `windlass fabric list` shows them")]
    Unknown {
        /// The name.
        device: String,
    },
    /// This process may not.
    #[error("removing an RDMA device needs CAP_NET_ADMIN: run as root")]
    Permission {
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel refused: hardware cannot be removed.
    #[error("the kernel refused to remove {device}: only software devices can be removed")]
    Kernel {
        /// The device.
        device: String,
        /// Its reason.
        source: io::Error,
    },
}

/// The interface a device goes on if none is named: the first that is up and not loopback, else
/// loopback.
#[must_use]
pub fn default_interface() -> Option<String> {
    interfaces()
        .into_iter()
        .filter(|interface| interface.up)
        .min_by_key(|interface| interface.loopback)
        .map(|interface| interface.name)
}

/// Makes a SoftRoCE device on `interface` (default: [`default_interface`]) called `device`
/// (default: `rxe_` and the interface), and waits until programs can use it. One that is there
/// already is taken as it is.
///
/// # Errors
/// What is missing and how to get it.
pub fn up(interface: Option<&str>, device: Option<&str>) -> Result<LinkUp, UpError> {
    let interface = match interface {
        Some(name) => name.to_owned(),
        None => default_interface().ok_or(UpError::NoInterface)?,
    };
    if !interfaces().iter().any(|known| known.name == interface) {
        return Err(UpError::UnknownInterface { interface });
    }
    let device = device.map_or_else(|| format!("rxe_{interface}"), str::to_owned);
    if !is_device_name(&device) {
        return Err(UpError::Name { device });
    }
    let made = match netlink::new_link(&device, "rxe", &interface) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(refused(error, device, interface)),
    };
    load_user_access();
    let info = wait_until_ready(&device)?;
    Ok(LinkUp { interface, made, device: info })
}

/// Removes a software device.
///
/// # Errors
/// When there is none of that name, or this process may not.
pub fn down(device: &str) -> Result<(), DownError> {
    netlink::delete_link(device).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => DownError::Permission { source },
        Some(libc::EPROTONOSUPPORT | libc::ENODEV) => {
            DownError::Unknown { device: device.to_owned() }
        }
        _ if source.kind() == io::ErrorKind::NotFound => {
            DownError::Unknown { device: device.to_owned() }
        }
        _ => DownError::Kernel { device: device.to_owned(), source },
    })
}

fn refused(source: io::Error, device: String, interface: String) -> UpError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => UpError::Permission { source },
        // No RDMA in the kernel at all, or no driver of this type.
        Some(libc::EPROTONOSUPPORT | libc::EINVAL)
            if module_state(MODULE) != ModuleState::Loaded =>
        {
            UpError::Module { release: kernel_release() }
        }
        _ => UpError::Kernel { device, interface, source },
    }
}

/// The kernel loads the driver by itself, but the module that lets programs use a device is left
/// to udev, which containers and small systems do not have.
fn load_user_access() {
    if !Path::new("/sys/module/ib_uverbs").exists() {
        // Refusal shows in the wait that follows, with its remedy.
        let _ = Command::new("modprobe")
            .arg("ib_uverbs")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn wait_until_ready(device: &str) -> Result<DeviceInfo, UpError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let listed = devices();
        if let Ok(listed) = &listed {
            let ready = listed.iter().find(|info| {
                info.name == device
                    && info.ports.iter().any(|port| port.active && choose_gid(port).is_some())
            });
            if let Some(info) = ready {
                return Ok(info.clone());
            }
        }
        if Instant::now() >= deadline {
            let device = device.to_owned();
            return Err(match listed {
                Ok(_) => UpError::NotReady { device },
                Err(source) => UpError::Verbs { device, source },
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_device_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_is_named() {
        let error = up(Some("nosuch0"), None).unwrap_err();
        assert!(matches!(error, UpError::UnknownInterface { .. }), "{error}");
    }

    #[test]
    fn device_names_are_checked_before_the_kernel_sees_them() {
        assert!(is_device_name("rxe_eth0"));
        assert!(!is_device_name(""));
        assert!(!is_device_name("a b"));
        assert!(!is_device_name(&"x".repeat(61)));
    }

    #[test]
    fn there_is_always_an_interface_to_offer() {
        // Network namespaces without any interface up do exist; then there is none to offer.
        let any_up = interfaces().iter().any(|interface| interface.up);
        assert_eq!(default_interface().is_some(), any_up);
    }
}
