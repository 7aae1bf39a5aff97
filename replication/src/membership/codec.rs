//! The map as bytes, whole and as what changed between two epochs. Equal maps have equal bytes.
//!
//! ```text
//! map:    0       8          9                13           17        21
//!         | epoch | replicas | session expiry | partitions | servers | server entries | partition entries
//! delta:  0        8      16        20       24
//!         | from   | to   | servers | gone   | partitions (4) | entries: id (4) before each partition
//! server: 0    4             12       14      15           16
//!         | id | incarnation | shards | state | address len | address
//! chain:  0       8       9         10
//!         | epoch | flags | members | member ids (4 each) | joining (4)? | leaving (4)?
//! flags:  bit 0 lost, bit 1 joining, bit 2 joining is the tail, bit 3 leaving
//! ```

use windlass_wire::{Epoch, Incarnation, ServerId};

use super::{
    ADDRESS_BYTES_MAX, ClusterMap, Joining, JoiningPhase, MapLimits, PartitionEntry, REPLICAS_MAX,
    ServerEntry, ServerState,
};
use crate::bytes::{DecodeError, Reader, write_count};

const SERVER_BYTES: usize = 16;
const CHAIN_BYTES: usize = 10;

const FLAG_LOST: u8 = 1;
const FLAG_JOINING: u8 = 2;
const FLAG_TAIL: u8 = 4;
const FLAG_LEAVING: u8 = 8;

/// What changed from one map to the next: what a coordinator broadcasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDelta {
    /// The epoch it applies to.
    pub from: Epoch,
    /// The epoch it leads to.
    pub to: Epoch,
    servers: Vec<(ServerId, ServerEntry)>,
    gone: Vec<ServerId>,
    partitions: Vec<(u32, PartitionEntry)>,
}

impl ClusterMap {
    /// Appends the map's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.push(self.replicas);
        out.extend_from_slice(&self.session_expiry_ms.to_le_bytes());
        write_count(out, self.partitions.len());
        write_count(out, self.servers.len());
        for (id, entry) in &self.servers {
            encode_server(out, *id, entry);
        }
        for entry in &self.partitions {
            encode_chain(out, entry);
        }
    }

    /// Reads a map from all of `bytes`.
    pub fn decode(bytes: &[u8], limits: MapLimits) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "a cluster map");
        let epoch = Epoch(reader.u64()?);
        let replicas = reader.u8()?;
        if !(1..=REPLICAS_MAX).contains(&usize::from(replicas)) {
            return Err(malformed("a map's replicas", u64::from(replicas)));
        }
        let session_expiry_ms = reader.u32()?;
        let partitions = reader.u32()?;
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

    /// Applies a delta; `false`, and nothing changes, when it starts from another epoch or names a
    /// partition this cluster lacks: then the whole map is fetched.
    pub fn apply_delta(&mut self, delta: &MapDelta) -> bool {
        let fits = delta.partitions.iter().all(|(id, _)| (*id as usize) < self.partitions.len());
        if delta.from != self.epoch || !fits {
            return false;
        }
        for id in &delta.gone {
            self.servers.remove(id);
        }
        for (id, entry) in &delta.servers {
            self.servers.insert(*id, entry.clone());
        }
        for (id, entry) in &delta.partitions {
            self.partitions[*id as usize].clone_from(entry);
        }
        self.epoch = delta.to;
        true
    }
}

impl MapDelta {
    /// What leads from `old` to `new`, two maps of one cluster.
    #[must_use]
    pub fn between(old: &ClusterMap, new: &ClusterMap) -> Self {
        let servers = new.servers.iter().filter(|(id, entry)| old.servers.get(id) != Some(entry));
        let gone = old.servers.keys().filter(|id| !new.servers.contains_key(id));
        let partitions = (0_u32..).zip(new.partitions.iter().zip(&old.partitions));
        Self {
            from: old.epoch,
            to: new.epoch,
            servers: servers.map(|(&id, entry)| (id, entry.clone())).collect(),
            gone: gone.copied().collect(),
            partitions: partitions
                .filter(|(_, (new, old))| new != old)
                .map(|(id, (new, _))| (id, new.clone()))
                .collect(),
        }
    }

    /// Partitions whose entry changed.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.partitions.iter().map(|(id, _)| *id)
    }

    /// Appends the delta's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
        write_count(out, self.servers.len());
        write_count(out, self.gone.len());
        write_count(out, self.partitions.len());
        for (id, entry) in &self.servers {
            encode_server(out, *id, entry);
        }
        for id in &self.gone {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        for (id, entry) in &self.partitions {
            out.extend_from_slice(&id.to_le_bytes());
            encode_chain(out, entry);
        }
    }

    /// Reads a delta from all of `bytes`.
    pub fn decode(bytes: &[u8], limits: MapLimits) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, "a map delta");
        let (from, to) = (Epoch(reader.u64()?), Epoch(reader.u64()?));
        let servers = reader.count("a delta's servers", limits.servers_max, 0)?;
        let gone = reader.count("a delta's gone servers", limits.servers_max, 0)?;
        let partitions = reader.count("a delta's partitions", limits.partitions_max, 0)?;
        let least = servers * SERVER_BYTES + gone * 4 + partitions * (4 + CHAIN_BYTES);
        if least > reader.left() {
            return Err(DecodeError::Truncated {
                what: "a map delta",
                needed: least,
                left: reader.left(),
            });
        }
        let mut delta = Self {
            from,
            to,
            servers: Vec::with_capacity(servers),
            gone: Vec::with_capacity(gone),
            partitions: Vec::with_capacity(partitions),
        };
        for _ in 0..servers {
            delta.servers.push(decode_server(&mut reader)?);
        }
        for _ in 0..gone {
            delta.gone.push(ServerId(reader.u32()?));
        }
        for _ in 0..partitions {
            delta.partitions.push((reader.u32()?, decode_chain(&mut reader)?));
        }
        reader.finish()?;
        Ok(delta)
    }
}

fn encode_server(out: &mut Vec<u8>, id: ServerId, entry: &ServerEntry) {
    assert!(entry.address.len() <= ADDRESS_BYTES_MAX, "addresses are bounded where they come in");
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&entry.incarnation.0.to_le_bytes());
    out.extend_from_slice(&entry.shards.to_le_bytes());
    out.push(match entry.state {
        ServerState::Up => 0,
        ServerState::Draining => 1,
        ServerState::Down => 2,
    });
    out.push(u8::try_from(entry.address.len()).expect("at most 255"));
    out.extend_from_slice(entry.address.as_bytes());
}

fn decode_server(reader: &mut Reader<'_>) -> Result<(ServerId, ServerEntry), DecodeError> {
    let id = ServerId(reader.u32()?);
    let incarnation = Incarnation(reader.u64()?);
    let shards = reader.u16()?;
    let state = match reader.u8()? {
        0 => ServerState::Up,
        1 => ServerState::Draining,
        2 => ServerState::Down,
        value => return Err(malformed("a server's state", u64::from(value))),
    };
    let length = usize::from(reader.u8()?);
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
    let epoch = Epoch(reader.u64()?);
    let flags = reader.u8()?;
    let count = reader.u8()?;
    // One above: a replacement is a member for a moment before the leaving one goes.
    if usize::from(count) > REPLICAS_MAX + 1 {
        return Err(malformed("a chain's members", u64::from(count)));
    }
    if flags > 15 || flags & (FLAG_JOINING | FLAG_TAIL) == FLAG_TAIL {
        return Err(malformed("a chain's flags", u64::from(flags)));
    }
    let mut members = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        members.push(ServerId(reader.u32()?));
    }
    let phase = if flags & FLAG_TAIL != 0 { JoiningPhase::Tail } else { JoiningPhase::Copying };
    let joining = if flags & FLAG_JOINING != 0 {
        Some(Joining { server: ServerId(reader.u32()?), phase })
    } else {
        None
    };
    let leaving = if flags & FLAG_LEAVING != 0 { Some(ServerId(reader.u32()?)) } else { None };
    Ok(PartitionEntry { epoch, members, joining, leaving, lost: flags & FLAG_LOST != 0 })
}

fn malformed(what: &'static str, value: u64) -> DecodeError {
    DecodeError::Malformed { what, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ClusterMap::decode(&bytes, MapLimits::default());
            let _ = MapDelta::decode(&bytes, MapLimits::default());
            if bytes.len() > 40 {
                bytes[8] = 3;
                bytes[9..17].copy_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
                let _ = ClusterMap::decode(&bytes, MapLimits::default());
            }
        }
    }
}
