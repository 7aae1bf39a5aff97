//! The map as bytes. Equal maps have equal bytes.
//!
//! ```text
//! map:    0       8          9                13           17        21
//!         | epoch | replicas | session expiry | partitions | servers | server entries | partition entries
//! server: 0    4             12       14      15           16
//!         | id | incarnation | shards | state | address len | address
//! chain:  0       8       9         10
//!         | epoch | flags | members | member ids (4 each) | joining (4)? | leaving (4)?
//! flags:  bit 0 lost, bit 1 joining, bit 2 joining is the tail, bit 3 leaving
//! ```

use windlass_wire::{Epoch, Incarnation, ServerId};

use super::{
    ADDRESS_BYTES_MAX, Joining, JoiningPhase, MapLimits, Membership, PartitionEntry, REPLICAS_MAX,
    ServerEntry, ServerState,
};
use windlass_wire::codec::{DecodeError, Reader, Wire, encode_len};

const SERVER_BYTES: usize = 16;

const FLAG_LOST: u8 = 1;
const FLAG_JOINING: u8 = 2;
const FLAG_TAIL: u8 = 4;
const FLAG_LEAVING: u8 = 8;

impl Membership {
    /// Appends the map's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.push(self.replicas);
        out.extend_from_slice(&self.session_expiry_ms.to_le_bytes());
        encode_len(self.partitions.len(), out);
        encode_len(self.servers.len(), out);
        for (id, entry) in &self.servers {
            encode_server(out, *id, entry);
        }
        for entry in &self.partitions {
            encode_chain(out, entry);
        }
    }

    /// Reads a map from all of `bytes`.
    pub fn decode(bytes: &[u8], limits: MapLimits) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let epoch = Epoch(reader.read()?);
        let replicas = reader.read::<u8>()?;
        if !(1..=REPLICAS_MAX).contains(&usize::from(replicas)) {
            return Err(malformed("a map's replicas", u64::from(replicas)));
        }
        let session_expiry_ms = reader.read::<u32>()?;
        let partitions = reader.read::<u32>()?;
        if !partitions.is_power_of_two() || partitions as usize > limits.partitions_max {
            return Err(malformed("a map's partitions", u64::from(partitions)));
        }
        let servers = reader.count("a map's servers", limits.servers_max, SERVER_BYTES)?;
        let mut map = Self::new(partitions, replicas);
        map.epoch = epoch;
        map.session_expiry_ms = session_expiry_ms;
        for _ in 0..servers {
            let (id, entry) = decode_server(&mut reader)?;
            if map.servers.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(malformed("a server's id", u64::from(id.0)));
            }
            map.servers.insert(id, entry);
        }
        for entry in &mut map.partitions {
            *entry = decode_chain(&mut reader)?;
        }
        reader.finish()?;
        Ok(map)
    }
}

fn encode_server(out: &mut Vec<u8>, id: ServerId, entry: &ServerEntry) {
    assert!(entry.address.len() <= ADDRESS_BYTES_MAX, "addresses are bounded where they come in");
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&entry.incarnation.0.to_le_bytes());
    out.extend_from_slice(&entry.shards.to_le_bytes());
    entry.state.encode(out);
    out.push(u8::try_from(entry.address.len()).expect("at most 255"));
    out.extend_from_slice(entry.address.as_bytes());
}

fn decode_server(reader: &mut Reader<'_>) -> Result<(ServerId, ServerEntry), DecodeError> {
    let id = ServerId(reader.read()?);
    let incarnation = Incarnation(reader.read()?);
    let shards = reader.read::<u16>()?;
    let state = ServerState::decode(reader)?;
    let length = usize::from(reader.read::<u8>()?);
    let address = std::str::from_utf8(reader.take(length)?)
        .map_err(|error| malformed("a server's address", error.valid_up_to() as u64))?;
    Ok((id, ServerEntry { incarnation, address: address.to_owned(), shards, state }))
}

fn encode_chain(out: &mut Vec<u8>, entry: &PartitionEntry) {
    let tail = entry.joining.is_some_and(|joining| joining.phase == JoiningPhase::Tail);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.extend_from_slice(&entry.epoch.0.to_le_bytes());
    out.push(
        flag(entry.lost, FLAG_LOST)
            | flag(entry.joining.is_some(), FLAG_JOINING)
            | flag(tail, FLAG_TAIL)
            | flag(entry.leaving.is_some(), FLAG_LEAVING),
    );
    out.push(u8::try_from(entry.members.len()).expect("a chain is short"));
    for id in entry.involved().chain(entry.leaving) {
        out.extend_from_slice(&id.0.to_le_bytes());
    }
}

fn decode_chain(reader: &mut Reader<'_>) -> Result<PartitionEntry, DecodeError> {
    let epoch = Epoch(reader.read()?);
    let flags = reader.read::<u8>()?;
    let count = reader.read::<u8>()?;
    // One above: a replacement is a member for a moment before the leaving one goes.
    if usize::from(count) > REPLICAS_MAX + 1 {
        return Err(malformed("a chain's members", u64::from(count)));
    }
    if flags > 15 || flags & (FLAG_JOINING | FLAG_TAIL) == FLAG_TAIL {
        return Err(malformed("a chain's flags", u64::from(flags)));
    }
    let mut members = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        members.push(ServerId(reader.read()?));
    }
    let phase = if flags & FLAG_TAIL != 0 { JoiningPhase::Tail } else { JoiningPhase::Copying };
    let joining = if flags & FLAG_JOINING != 0 {
        Some(Joining { server: ServerId(reader.read()?), phase })
    } else {
        None
    };
    let leaving = if flags & FLAG_LEAVING != 0 { Some(ServerId(reader.read()?)) } else { None };
    Ok(PartitionEntry { epoch, members, joining, leaving, lost: flags & FLAG_LOST != 0 })
}

fn malformed(field: &'static str, value: u64) -> DecodeError {
    DecodeError::Malformed { field, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Membership::decode(&bytes, MapLimits::default());
            if bytes.len() > 40 {
                bytes[8] = 3;
                bytes[9..17].copy_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
                let _ = Membership::decode(&bytes, MapLimits::default());
            }
        }
    }
}
