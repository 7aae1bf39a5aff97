//! Stopping a process that serves: by signals, or by what else asks for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::Failure;

/// How often a process looks whether it was asked to stop.
pub(super) const STOP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    is_requested: Arc<AtomicBool>,
}

impl Stop {
    pub(super) fn request(&self) {
        self.is_requested.store(true, Ordering::Relaxed);
    }

    /// Set once it is requested.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.is_requested.clone()
    }

    pub(super) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Relaxed)
    }
}

/// Takes SIGTERM and SIGINT as wishes to stop; asked a second time, the process stops at once.
pub(super) fn on_signals() -> Result<Stop, Failure> {
    let stop = Stop::default();
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, signalled.clone())
            .and_then(|_| signal_hook::flag::register(signal, signalled.clone()))
            .and_then(|_| signal_hook::flag::register(signal, stop.is_requested.clone()))
            .map_err(Failure::failed)?;
    }
    Ok(stop)
}
