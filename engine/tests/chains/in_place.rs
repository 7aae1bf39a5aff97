//! A shard whose server keeps leases with others tells its storage never to wait for the disk within a call,
//! from the map on by which it has peers.

use std::{
    collections::BTreeMap,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use windlass_engine::persist::storage::{
    self, Completion, Listed, Maker, Operation, RegionId, Storage, StorageError, StorageReport,
    Token,
};
use windlass_transport::memory::Pages;
use windlass_wire::{
    ClusterMap, Durability, Incarnation, ServerId, TableEntry,
    control::{Peer, Provider},
};

use super::{
    cluster::{Node, map},
    tables,
};

/// What storages were told, by directory.
static TOLD: Mutex<BTreeMap<PathBuf, bool>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Told {
    inner: Box<dyn Storage>,
    directory: PathBuf,
}

fn open(directory: &Path) -> Result<Box<dyn Storage>, StorageError> {
    let inner = storage::open(directory, storage::Provider::Buffered)?;
    Ok(Box::new(Told { inner, directory: directory.to_owned() }))
}

impl Storage for Told {
    fn report(&self) -> &StorageReport {
        self.inner.report()
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        self.inner.register(pages)
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        self.inner.list()
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.inner.submit(token, operation)
    }

    fn set_in_place(&mut self, may: bool) {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(self.directory.clone(), may);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.inner.poll(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        self.inner.wait(timeout);
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_descriptor()
    }
}

/// What the storages below a directory were told last, one for each shard.
fn told(root: &Path) -> Vec<bool> {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.iter().filter(|(path, _)| path.starts_with(root)).map(|(_, may)| *may).collect()
}

fn kept() -> Vec<TableEntry> {
    let mut tables = tables();
    tables.iter_mut().for_each(|table| table.schema.durability = Durability::Sync {});
    tables
}

#[test]
fn a_shard_with_peers_never_waits_for_its_disk_within_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let peers = [1, 2].map(|id| Peer { server: ServerId(id), incarnation: Incarnation(10) });
    let of = |epoch, members: &[u32]| -> ClusterMap {
        let members: Vec<ServerId> = members.iter().copied().map(ServerId).collect();
        // A server of a larger cluster is heard by its neighbours, whatever chains it is in.
        map(epoch, &peers[..members.len()], &members)
    };
    let provider = storage::Provider::Made(Maker(open));
    let start = |name: &str, first: &ClusterMap| {
        let root = folder.path().join(name);
        let node = Node::start_on(1, 10, Provider::Shm {}, &root, provider, &kept(), first);
        (node, root)
    };
    // Peers there were before the log was opened.
    let (node, root) = start("with", &of(1, &[1, 2]));
    assert_eq!(told(&root), [false, false]);
    drop(node);
    // Peers that come, and go.
    let (node, root) = start("without", &of(1, &[1]));
    assert_eq!(told(&root), [true, true]);
    node.install(&of(2, &[1, 2]));
    assert_eq!(told(&root), [false, false]);
    node.install(&of(3, &[1]));
    assert_eq!(told(&root), [true, true]);
}
