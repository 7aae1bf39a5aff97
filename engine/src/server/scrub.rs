//! Verifies the files beside the shards' directories: the server's identity, its table catalogue, and the store of the
//! coordinator inside it.

use std::path::Path;

use windlass_wire::Durability;

use super::{catalogue::Catalogue, identity::Identity};
use crate::{
    coordinator,
    persist::{
        directories::ShardDirectory,
        scrub::{ScrubFinding, ScrubReport},
    },
    shard::chain,
};

/// Reads all that a server's start reads besides the shards' directories, and looks whether those are
/// there that its catalogue names.
#[must_use]
pub fn scrub_server(data: &Path) -> ScrubReport {
    let mut report = ScrubReport::default();
    let mut bad = |file: &str, reason: String| {
        report.bad.push(ScrubFinding { file: file.to_owned(), offset: 0, reason });
    };
    match Catalogue::of(data) {
        Ok(Some(catalogue)) => {
            let is_kept = |durability: &Durability| *durability != Durability::Memory {};
            if catalogue.tables.iter().any(|table| is_kept(&table.schema.durability)) {
                // Those of older groupings go when nothing needs them any more.
                let current = |generation| generation == catalogue.generation;
                for log in catalogue.logs.iter().filter(|log| current(log.generation)) {
                    let directory = ShardDirectory::of(data, log.generation, log.shard);
                    if !directory.path.is_dir() {
                        let shown = directory.path.display();
                        bad(
                            "catalogue",
                            format!("it has tables that are kept in {shown}, which is gone"),
                        );
                    }
                }
            }
        }
        Ok(None) => {}
        Err(error) => bad("catalogue", chain(&error)),
    }
    if let Err(error) = Identity::load(data) {
        bad("identity", chain(&error));
    }
    for (file, reason) in coordinator::scrub_file_store(&data.join("coordinator")) {
        bad(&format!("coordinator/{file}"), reason);
    }
    report
}

#[cfg(test)]
mod tests {
    use windlass_wire::{
        DataType, Incarnation, ServerId, ShardId, TableEntry, TableId, TableSchema,
    };

    use super::*;
    use crate::shard::KeptLog;

    #[test]
    fn every_flipped_byte_beside_the_shards_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let schema = TableSchema {
            durability: Durability::Sync {},
            ..TableSchema::dense(DataType::F32, 8, 2)
        };
        let table = TableEntry { id: TableId(1), name: "t".to_owned(), schema };
        let log = KeptLog { generation: 0, shard: ShardId(0), log_id: 7 };
        let catalogue = Catalogue { tables: vec![table], logs: vec![log], ..Catalogue::default() };
        catalogue.store(data).unwrap();
        let identity = Identity {
            server: ServerId(1),
            cluster: 5,
            incarnation: Incarnation(3),
            secret: windlass_wire::ServerSecret([7; 16]),
        };
        identity.store(data).unwrap();
        coordinator::store_sample(&data.join("coordinator"));
        std::fs::create_dir(data.join("shard-0")).unwrap();
        assert_eq!(scrub_server(data).bad, []);
        for name in ["catalogue", "identity", "coordinator/map", "coordinator/catalogue"] {
            let path = data.join(name);
            let bytes = std::fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 8;
                std::fs::write(&path, damaged).unwrap();
                let found = scrub_server(data).bad;
                assert!(found.len() == 1 && found[0].file == name, "{name}+{at}: {found:?}");
            }
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::remove_dir(data.join("shard-0")).unwrap();
        let found = scrub_server(data).bad;
        assert!(found.len() == 1 && found[0].reason.contains("is gone"), "{found:?}");
        std::fs::create_dir(data.join("shard-0")).unwrap();
        std::fs::remove_file(data.join("catalogue")).unwrap();
        assert!(scrub_server(data).bad[0].reason.contains("is missing"));
    }
}
