//! Reserves room in the log, and waits while the disk is behind. That slows pushes down to the disk's speed.

use windlass_wire::Status;

use super::{chain::Chain, durable, durable::Durable, port::Port, push::Refused, tables::Tables};
use crate::persist::{
    commit::Position,
    log::{Reservation, ReserveError},
    record::{Facts, Shape},
};
/// Reserves room for a record; waits for the disk if it is behind.
pub(in crate::shard) fn reserve(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
    facts: &Facts,
    shape: Shape,
) -> Result<Reservation, Refused> {
    if !shape.is_allowed() {
        return Err(Status::TooLarge.into());
    }
    loop {
        let now = durable.now();
        match durable.log_mut().reserve(facts, shape, now) {
            Ok(reservation) => return Ok(reservation),
            Err(ReserveError::Full(full)) => {
                durable::wait_for_room(port, tables, chain, durable, full, now)
            }
            Err(ReserveError::TooLong { .. }) => return Err(Status::TooLarge.into()),
            Err(ReserveError::Poisoned(_) | ReserveError::Order { .. }) => {
                return Err(Status::Poisoned.into());
            }
        }
    }
}

/// Ends a group of records. Its pushes are acknowledged when all of it is on disk.
pub(in crate::shard) fn end_group(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    durable: &mut Durable,
) -> Result<Position, Refused> {
    loop {
        let now = durable.now();
        match durable.log_mut().end_group(now) {
            Ok(end) => return Ok(end),
            Err(ReserveError::Full(full)) => {
                durable::wait_for_room(port, tables, chain, durable, full, now)
            }
            Err(_) => return Err(Status::Poisoned.into()),
        }
    }
}
