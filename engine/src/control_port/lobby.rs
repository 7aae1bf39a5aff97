//! The few unauthenticated connections that a port listens to at a time, and which one to drop when there are more.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::stranger::Stranger;
use crate::limits::STRANGERS_MAX;

/// A stranger is not sent away for others before it has had this long: honest ones that come all at once
/// have greeted by then.
const PATIENCE: Duration = Duration::from_millis(250);

/// The strangers, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    strangers: Vec<Stranger>,
}

impl Lobby {
    /// Whether there is room for one more, if need be by sending another one away.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.strangers.len() < STRANGERS_MAX || self.least_welcome(now).is_some()
    }

    /// Takes a connection in. There has to be room.
    pub(super) fn enter(&mut self, stream: TcpStream, address: SocketAddr, now: Instant) {
        if self.strangers.len() == STRANGERS_MAX {
            let least = self.least_welcome(now).expect("the caller asked for room");
            let gone = self.strangers.remove(least);
            tracing::debug!(address = %gone.address(), "a connection that says nothing was ended");
        }
        match Stranger::new(stream, address, now) {
            Ok(stranger) => self.strangers.push(stranger),
            Err(error) => tracing::debug!(%error, %address, "a control connection failed at once"),
        }
    }

    /// Sends away whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.strangers.retain(|stranger| {
            let stays = now < stranger.leaves_at();
            if !stays {
                tracing::debug!(address = %stranger.address(), "a stranger's time was over");
            }
            stays
        });
    }

    /// When [`Lobby::expire`] or [`Lobby::has_room`] will have something new to say.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let leaves = self.strangers.iter().map(Stranger::leaves_at).min()?;
        if self.strangers.len() < STRANGERS_MAX {
            return Some(leaves);
        }
        let matures = self.strangers.iter().map(|stranger| stranger.came_at() + PATIENCE);
        // Whose time has come makes no more room by itself: the next one to come is waited for.
        Some(matures.filter(|matures| *matures > now).fold(leaves, Instant::min))
    }

    pub(super) fn strangers(&self) -> &[Stranger] {
        &self.strangers
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut Stranger {
        &mut self.strangers[at]
    }

    pub(super) fn remove(&mut self, at: usize) -> Stranger {
        self.strangers.remove(at)
    }

    fn least_welcome(&self, now: Instant) -> Option<usize> {
        let hosts = self.strangers.iter().map(|stranger| (stranger.host(), stranger.came_at()));
        least_welcome(&hosts.collect::<Vec<_>>(), now)
    }
}

/// Of those who have had enough time, the oldest from the host that has sent most: a host that sends
/// strangers in numbers takes places from its own.
fn least_welcome(strangers: &[(IpAddr, Instant)], now: Instant) -> Option<usize> {
    let count = |host| strangers.iter().filter(|(other, _)| *other == host).count();
    let patient = strangers.iter().enumerate();
    let patient = patient.filter(|(_, (_, came_at))| now >= *came_at + PATIENCE);
    // The first of equals would be the newest, so the order is turned round.
    patient.rev().max_by_key(|(_, (host, _))| count(*host)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_busiest_host_goes_first() {
        let came = Instant::now();
        let host = |last| IpAddr::from([10, 0, 0, last]);
        let later = came + PATIENCE / 2;
        let strangers = [(host(1), came), (host(2), came), (host(2), came), (host(2), later)];
        assert_eq!(least_welcome(&strangers, came), None, "all have just come");
        assert_eq!(least_welcome(&strangers, came + PATIENCE), Some(1));
        assert_eq!(least_welcome(&strangers[..2], came + PATIENCE), Some(0));
        assert_eq!(least_welcome(&strangers[3..], came + PATIENCE), None);
        assert_eq!(least_welcome(&[], came), None);
    }
}
