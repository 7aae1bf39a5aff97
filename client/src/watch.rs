//! Lets the caller interrupt a wait.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::error::RequestError;

/// How long a call may wait without asking the caller's watch.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Is asked about 20 times a second, while a call waits, whether to go on. When it says no, the call fails
/// as interrupted; requests that were sent go on. It must not use the client.
#[derive(Clone)]
pub struct Watch(Arc<dyn Fn() -> bool + Send + Sync>);

impl Watch {
    /// `goes_on` says whether to go on.
    pub fn new(goes_on: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(goes_on))
    }

    pub(crate) fn goes_on(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// A client's watch, and when it was asked last.
#[derive(Debug)]
pub(crate) struct Watching {
    watch: Option<Watch>,
    asked_at: Instant,
    /// It said no to something that nobody waited for.
    has_ended_another: bool,
}

impl Watching {
    pub(crate) fn new(watch: Option<Watch>) -> Self {
        Self { watch, asked_at: Instant::now(), has_ended_another: false }
    }

    /// The watch said no while the client helped itself, as when it looks for a server: the wait that this
    /// was for has to end. A watch that stands for a signal says so once.
    pub(crate) fn ended_another(&mut self) {
        self.has_ended_another = true;
    }

    /// Asks the watch, if it is time to.
    pub(crate) fn ask(&mut self) -> Result<(), RequestError> {
        if self.watch.is_some() { self.ask_at(Instant::now()) } else { Ok(()) }
    }

    fn ask_at(&mut self, now: Instant) -> Result<(), RequestError> {
        let Some(watch) = &self.watch else { return Ok(()) };
        if std::mem::take(&mut self.has_ended_another) {
            return Err(RequestError::Interrupted);
        }
        if now.duration_since(self.asked_at) < WATCH_EVERY {
            return Ok(());
        }
        self.asked_at = now;
        if watch.goes_on() { Ok(()) } else { Err(RequestError::Interrupted) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_watch_is_asked_now_and_then_and_ends_the_wait() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let watch = Watch::new(|| ASKED.fetch_add(1, Ordering::Relaxed) < 2);
        let mut watching = Watching::new(Some(watch));
        let began = watching.asked_at;
        let ends = (0..1000).map(Duration::from_millis).find(|waited| {
            let asked = watching.ask_at(began + *waited);
            assert!(matches!(asked, Ok(()) | Err(RequestError::Interrupted)));
            asked.is_err()
        });
        assert_eq!(ends, Some(3 * WATCH_EVERY));
        watching.ended_another();
        assert!(matches!(watching.ask_at(watching.asked_at), Err(RequestError::Interrupted)));
        assert!(watching.ask_at(watching.asked_at).is_ok(), "it is told once");
        assert!(Watching::new(None).ask_at(began + Duration::from_secs(1)).is_ok());
    }
}
