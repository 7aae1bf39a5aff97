//! Places for connections that have shown the token. Servers have places of their own: however many
//! clients there are, the cluster can talk to itself.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use windlass_transport::descriptors;
use windlass_wire::control::RefusalKind;

use crate::{
    limits::{CONTROL_CONNECTIONS_MAX, SERVER_CONNECTIONS_MAX},
    refusal::Refusal,
};

/// How many there are, and how many are taken.
#[derive(Debug)]
pub(super) struct Places {
    clients_max: usize,
    clients: AtomicUsize,
    servers: AtomicUsize,
}

/// A place that is taken; dropping it leaves it.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    is_server: bool,
}

impl Places {
    /// Places in a process that may have so many descriptors: clients leave half of them to what they
    /// connect for.
    pub(super) fn new(descriptors: usize) -> Self {
        Self {
            clients_max: CONTROL_CONNECTIONS_MAX.min(descriptors / 2),
            clients: AtomicUsize::new(0),
            servers: AtomicUsize::new(0),
        }
    }

    /// Takes a place, if one is free.
    pub(super) fn take(self: &Arc<Self>, is_server: bool) -> Result<Place, Refusal> {
        let (taken, max) = match is_server {
            true => (&self.servers, SERVER_CONNECTIONS_MAX),
            false => (&self.clients, self.clients_max),
        };
        let place = Place { places: self.clone(), is_server };
        if taken.fetch_add(1, Ordering::AcqRel) >= max {
            drop(place);
            let text = format!(
                "{max} connections are open, and no more are taken: end some, or raise `ulimit -n`"
            );
            return Err(Refusal::new(RefusalKind::Full {}, text));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = if self.is_server { &self.places.servers } else { &self.places.clients };
        taken.fetch_sub(1, Ordering::AcqRel);
        // The connection's descriptors are free again.
        descriptors::refill_reserve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_servers_their_places() {
        let places = Arc::new(Places::new(8));
        let clients: Vec<Place> = (0..4).map(|_| places.take(false).unwrap()).collect();
        let Refusal { kind, text } = places.take(false).unwrap_err();
        assert_eq!(kind, RefusalKind::Full {});
        assert!(text.starts_with("4 connections"), "{text}");
        let server = places.take(true).unwrap();
        drop(clients);
        drop(server);
        drop(places.take(false).unwrap());
        let taken = [&places.clients, &places.servers].map(|one| one.load(Ordering::Acquire));
        assert_eq!(taken, [0, 0]);
    }
}
