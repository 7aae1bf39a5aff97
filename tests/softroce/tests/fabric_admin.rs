//! `windlass fabric` on a kernel that has the driver: makes, finds, checks and removes a device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use windlass_softroce::{device, report};
use windlass_transport::{
    doctor,
    fabric_admin::{self, DownError, UpError, Verdict},
    verbs::VerbsConfig,
};

#[test]
fn a_device_is_made_found_checked_and_removed() {
    if std::env::var_os("WINDLASS_SOFTROCE_GUEST").is_none() {
        return report("NOT RUN: devices are made only inside the virtual machine");
    }
    let made = Command::new("ip")
        .args(["link", "add", "wl0", "mtu", "4200", "type", "dummy"])
        .status()
        .unwrap();
    assert!(made.success());
    assert!(
        Command::new("ip")
            .args(["addr", "add", "10.98.0.1/24", "dev", "wl0"])
            .status()
            .unwrap()
            .success()
    );
    assert!(Command::new("ip").args(["link", "set", "wl0", "up"]).status().unwrap().success());

    let up = fabric_admin::up(Some("wl0"), None).unwrap();
    assert!(up.made);
    assert_eq!(up.device.name, "rxe_wl0");
    let port = &up.device.ports[0];
    assert_eq!((port.active, port.active_mtu), (true, 4096));
    assert!(port.gids.iter().any(|gid| gid.gid.to_string() == "::ffff:10.98.0.1"));
    assert!(!fabric_admin::up(Some("wl0"), None).unwrap().made, "it is taken as it is");
    assert!(fabric_admin::list().unwrap().iter().any(|device| device.name == "rxe_wl0"));

    let config = VerbsConfig { device: Some("rxe_wl0".into()), ..VerbsConfig::default() };
    let preflight = fabric_admin::check(&config);
    for finding in &preflight.findings {
        report(&format!("  {:?} {}: {}", finding.verdict, finding.subject, finding.text));
    }
    assert_eq!(preflight.verdict, Verdict::Good, "{:#?}", preflight.findings);

    fabric_admin::down("rxe_wl0").unwrap();
    assert!(!fabric_admin::list().unwrap().iter().any(|device| device.name == "rxe_wl0"));
    let again = fabric_admin::down("rxe_wl0");
    assert!(matches!(again, Err(DownError::Unknown { .. })), "{again:?}");
    assert_eq!(fabric_admin::check(&config).verdict, Verdict::Failed);

    let refused = fabric_admin::up(Some("wl0"), Some("no good"));
    assert!(matches!(refused, Err(UpError::Name { .. })), "{refused:?}");
    let _ = Command::new("ip").args(["link", "del", "wl0"]).status();
}

#[test]
fn the_doctor_finds_verbs_usable() {
    if device().is_none() {
        return;
    }
    let preflights = doctor::preflights(&VerbsConfig::from_environment());
    for preflight in &preflights {
        report(&format!("{}: {:?}", preflight.provider, preflight.verdict));
    }
    assert!(preflights.iter().all(fabric_admin::Preflight::usable), "{preflights:#?}");
}
