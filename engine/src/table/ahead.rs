//! Memory made before it is needed, by a thread that may wait for the system to give pages.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

/// A thread that carries out what a shard may not wait for.
pub trait Background: Debug + Send + Sync {
    /// Has it carry out `work`, after what it was given before.
    fn run(&self, work: Box<dyn FnOnce() + Send>);
}

/// One value that another thread makes.
#[derive(Debug)]
pub struct Ahead<T>(Arc<Mutex<Option<T>>>);

impl<T: Send + 'static> Ahead<T> {
    /// Has `background` make it.
    pub fn begin(background: &dyn Background, make: impl FnOnce() -> T + Send + 'static) -> Self {
        let place = Arc::new(Mutex::new(None));
        let wanted = Arc::downgrade(&place);
        background.run(Box::new(move || {
            // Nobody waits for it where the partition grew without it, or is gone.
            if wanted.strong_count() == 0 {
                return;
            }
            let made = make();
            if let Some(place) = wanted.upgrade() {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
            }
        }));
        Self(place)
    }

    /// The value, if it has been made.
    pub fn take(self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Carries out what it is given when it is told to.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<Vec<Work>>>);

#[cfg(test)]
type Work = Box<dyn FnOnce() + Send>;

#[cfg(test)]
impl Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

#[cfg(test)]
impl Background for Held {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(work);
    }
}

#[cfg(test)]
impl Held {
    /// How many pieces of work wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Carries out what waits; how many pieces that was.
    pub(super) fn carry_out(&self) -> usize {
        let work = std::mem::take(&mut *self.0.lock().unwrap());
        work.into_iter().map(|work| work()).count()
    }
}
