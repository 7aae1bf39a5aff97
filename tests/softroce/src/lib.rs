//! What the SoftRoCE tests share: devices as `cargo xtask softroce` names them, and peers in
//! processes of their own, which can be stopped and killed.
#![forbid(unsafe_code)]

pub mod peer;
pub mod side;

use std::time::Duration;

use windlass_transport::{
    error::OpenError,
    verbs::{VerbsConfig, VerbsTransport},
};

/// The first device, or `None` (with a line saying so) where there is none and none is required.
#[must_use]
pub fn device() -> Option<String> {
    named("WINDLASS_VERBS_DEVICE", "WINDLASS_REQUIRE_VERBS")
}

/// The device at the other end of the link, with the link's interface on this side.
#[must_use]
pub fn linked_devices() -> Option<LinkedDevices> {
    Some(LinkedDevices {
        here: named("WINDLASS_VERBS_DEVICE", "WINDLASS_REQUIRE_LINK")?,
        there: named("WINDLASS_VERBS_PEER_DEVICE", "WINDLASS_REQUIRE_LINK")?,
        interface: named("WINDLASS_VERBS_LINK", "WINDLASS_REQUIRE_LINK")?,
    })
}

/// Two devices with a link between them.
#[derive(Clone, Debug)]
pub struct LinkedDevices {
    /// The device of the test.
    pub here: String,
    /// The device of its peers.
    pub there: String,
    /// The interface of the test's device.
    pub interface: String,
}

fn named(variable: &str, required_by: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(
            std::env::var_os(required_by).is_none(),
            "this run requires {variable}: use `cargo xtask softroce`"
        );
        report(&format!("NOT RUN: {variable} is not set; use `cargo xtask softroce`"));
    }
    value
}

/// Settings with which a dead peer is noticed in 50 ms.
#[must_use]
pub fn config(device: &str) -> VerbsConfig {
    VerbsConfig {
        device: Some(device.to_owned()),
        timeout: 8,
        // An emulated machine on a busy host stands still for longer than the default.
        farewell_timeout: Duration::from_secs(5),
        ..VerbsConfig::default()
    }
}

/// Opens a device for a test.
///
/// # Errors
/// Those of [`VerbsTransport::open`].
pub fn open(device: &str) -> Result<VerbsTransport, OpenError> {
    VerbsTransport::open(config(device))
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// When there is no such processor.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(())
}

/// A line of the report that the run shows.
pub fn report(line: &str) {
    #[allow(clippy::print_stdout, reason = "the report of a test run")]
    {
        println!("{line}");
    }
}
