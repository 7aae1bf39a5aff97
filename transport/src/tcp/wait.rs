//! The one point where an instance sleeps: an epoll over its sockets, its listener, an eventfd that
//! other threads write to, and a timer for what has to be watched even in silence.

use std::{
    cell::OnceCell,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};

use crate::fabric::{QueuePairId, Waker};

/// Most events taken at once.
const EVENTS_MAX: usize = 64;

const WAKER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const STRANGER: u64 = u64::MAX - 2;
const TIMER: u64 = u64::MAX - 3;

/// What may be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Waker,
    Timer,
    Listener,
    /// One of the connections that have not introduced themselves.
    Stranger,
    Connection(QueuePairId),
}

impl Source {
    fn data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Waker => WAKER,
            Self::Timer => TIMER,
            Self::Listener => LISTENER,
            Self::Stranger => STRANGER,
            Self::Connection(id) => u64::from(id.0),
        })
    }

    fn from_data(data: u64) -> Option<Self> {
        Some(match data {
            WAKER => Self::Waker,
            TIMER => Self::Timer,
            LISTENER => Self::Listener,
            STRANGER => Self::Stranger,
            id => Self::Connection(QueuePairId(u32::try_from(id).ok()?)),
        })
    }
}

/// What a source is watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) receive: bool,
    pub(super) send: bool,
}

impl Interest {
    pub(super) const RECEIVE: Self = Self { receive: true, send: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.receive);
        flags.set(epoll::EventFlags::OUT, self.send);
        flags
    }
}

/// The wait point.
#[derive(Debug)]
pub(super) struct WaitPoint {
    epoll: OwnedFd,
    eventfd: Arc<OwnedFd>,
    /// Opened when first set: an instance that nobody has connected to watches nothing in silence.
    timer: OnceCell<OwnedFd>,
}

impl WaitPoint {
    pub(super) fn new() -> Result<Self, (&'static str, Errno)> {
        let step = |name| move |error| (name, error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(step("epoll_create1"))?;
        let eventfd =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(step("eventfd"))?;
        let point = Self { epoll, eventfd: Arc::new(eventfd), timer: OnceCell::new() };
        point.add(&*point.eventfd, Source::Waker, Interest::RECEIVE).map_err(step("epoll_ctl"))?;
        Ok(point)
    }

    pub(super) fn add(
        &self,
        fd: impl AsFd,
        source: Source,
        interest: Interest,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, source.data(), interest.flags())
    }

    pub(super) fn change(
        &self,
        fd: impl AsFd,
        source: Source,
        interest: Interest,
    ) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, source.data(), interest.flags())
    }

    /// Readable when something is ready.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Makes the descriptor readable after a while.
    ///
    /// # Errors
    /// When the system has no descriptor for the timer.
    pub(super) fn set_timer(&self, after: Duration) -> Result<(), Errno> {
        let timer = match self.timer.get() {
            Some(timer) => timer,
            None => self.open_timer()?,
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(after).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let once = Itimerspec { it_interval: zero, it_value };
        rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).map(drop)
    }

    fn open_timer(&self) -> Result<&OwnedFd, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        self.add(&timer, Source::Timer, Interest::RECEIVE)?;
        Ok(self.timer.get_or_init(|| timer))
    }

    /// Hands out what is ready. Never blocks.
    pub(super) fn look(&self, mut ready: impl FnMut(Source)) {
        let mut events = [MaybeUninit::uninit(); EVENTS_MAX];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Nothing can fail with these arguments.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&zero)) else {
            return;
        };
        for event in events {
            match Source::from_data(event.data.u64()) {
                Some(Source::Waker) => drain(&self.eventfd),
                Some(Source::Timer) => {
                    if let Some(timer) = self.timer.get() {
                        drain(timer);
                    }
                }
                Some(source) => ready(source),
                None => {}
            }
        }
    }

    pub(super) fn waker(&self) -> Waker {
        let eventfd = Arc::clone(&self.eventfd);
        Waker::new(move || {
            // Fails only when the counter is full: then the sleeper is being woken anyway.
            let _ = rustix::io::write(&*eventfd, &1_u64.to_le_bytes());
        })
    }
}

/// Takes the count of an eventfd or a timer, which makes it unreadable.
fn drain(fd: impl AsFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
