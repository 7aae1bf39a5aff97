//! The catalogue: the cluster's identity, its tables, the numbers given out, the workers' ranks.

use windlass_wire::{
    Blob, DecodeError, TableEntry, Wire, codec::Reader, coordination::EmptiedTable, proof::Enrolled,
};

/// What it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::coordinator) struct Catalogue {
    /// Counts changes, from 1.
    pub(in crate::coordinator) version: u64,
    /// Names the cluster; a server of another one is refused.
    pub(in crate::coordinator) cluster: u64,
    /// The number of the next table.
    pub(in crate::coordinator) next_table: u32,
    /// The number of the next server.
    pub(in crate::coordinator) next_server: u32,
    /// The tables.
    pub(in crate::coordinator) tables: Vec<TableEntry>,
    /// The registry of workers, as it encodes itself.
    pub(in crate::coordinator) workers: Vec<u8>,
    /// Tables that lost rows with a server's restart.
    pub(in crate::coordinator) emptied: Vec<EmptiedTable>,
    /// What the servers that have numbers prove them by, in the order in which they got them.
    pub(in crate::coordinator) enrolled: Vec<Enrolled>,
}

impl Catalogue {
    /// `version, cluster, next table, next server, tables, workers, emptied, enrolled`, in the codec's
    /// terms.
    pub(in crate::coordinator) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.version.encode(&mut bytes);
        self.cluster.encode(&mut bytes);
        self.next_table.encode(&mut bytes);
        self.next_server.encode(&mut bytes);
        self.tables.encode(&mut bytes);
        Blob(self.workers.clone()).encode(&mut bytes);
        self.emptied.encode(&mut bytes);
        self.enrolled.encode(&mut bytes);
        bytes
    }

    pub(in crate::coordinator) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let catalogue = Self {
            version: u64::decode(&mut from)?,
            cluster: u64::decode(&mut from)?,
            next_table: u32::decode(&mut from)?,
            next_server: u32::decode(&mut from)?,
            tables: Vec::decode(&mut from)?,
            workers: Blob::decode(&mut from)?.0,
            emptied: Vec::decode(&mut from)?,
            enrolled: Vec::decode(&mut from)?,
        };
        from.finish()?;
        Ok(catalogue)
    }
}
