use windlass_wire::{DataType, Incarnation, ServerSecret, TableSchema};

use super::*;

const ANY: &str = "shard-0";

fn table(id: u32, name: &str) -> TableEntry {
    let schema = TableSchema::sparse(DataType::F32, 4);
    TableEntry { id: TableId(id), name: name.to_owned(), schema }
}

/// A stopped server's directory without rows, of a cluster of servers 0 and 1.
fn server(root: &std::path::Path, number: u32, cluster: u64, tables: &[TableEntry]) -> PathBuf {
    let path = root.join(format!("{cluster}-{number}"));
    std::fs::create_dir_all(path.join(ANY)).unwrap();
    let catalogue = Catalogue {
        next_table: 9,
        shard_count: 1,
        generation: 0,
        partitions: 16,
        copies: 1,
        servers: vec![ServerId(0), ServerId(1)],
        tables: tables.to_vec(),
        logs: Vec::new(),
    };
    catalogue.store(&path).unwrap();
    let server = ServerId(number);
    let (incarnation, secret) = (Incarnation(3), ServerSecret::default());
    Identity { server, cluster, incarnation, secret }.store(&path).unwrap();
    path
}

fn run(
    from: &[&PathBuf],
    into: PathBuf,
    change: impl Fn(&mut RestoreOptions),
) -> Result<Restored, String> {
    let from = from.iter().map(|path| (*path).clone()).collect();
    let mut options = RestoreOptions { from, into: vec![into], ..RestoreOptions::default() };
    change(&mut options);
    restore(&options, &mut |_, _| {}).map_err(|error| error.to_string())
}

#[test]
fn only_one_whole_stopped_cluster_is_restored_and_only_into_new_directories() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (zero, one) = (server(at, 0, 7, &[table(1, "a")]), server(at, 1, 7, &[table(1, "a")]));
    let other = server(at, 1, 8, &[]);
    let new = at.join("new");
    let said = |result: Result<Restored, String>| result.unwrap_err();
    let none = |_: &mut RestoreOptions| {};

    assert!(said(run(&[&zero], new.clone(), none)).contains("servers 1 of the cluster"));
    assert!(said(run(&[&zero, &zero], new.clone(), none)).contains("another process")); // locked
    assert!(said(run(&[&zero, &other], new.clone(), none)).contains("another cluster"));
    assert!(said(run(&[&at.join("none")], new.clone(), none)).contains("no server's"));
    assert!(!at.join("none").exists());
    assert!(said(run(&[&zero, &one], zero.clone(), none)).contains("exists"));
    let wanted = |options: &mut RestoreOptions| options.partitions = Some(32);
    assert!(said(run(&[&zero, &one], new.clone(), wanted)).contains("16 partitions"));
    let running = DataLock::take(&one).unwrap();
    assert!(said(run(&[&zero, &one], new.clone(), none)).contains("stop it"));
    drop(running);
    std::fs::write(one.join(ANY).join("manifest-0000000001.wman"), [7; 100]).unwrap();
    assert!(said(run(&[&zero, &one], new.clone(), none)).contains("--accept-damage"));
    assert!(!new.exists());
    std::fs::remove_file(one.join(ANY).join("manifest-0000000001.wman")).unwrap();

    let restored = run(&[&zero, &one], new.clone(), none).unwrap();
    assert_eq!((restored.partitions, restored.shards), (16, 2));
    let catalogue = Catalogue::read(&new).unwrap().unwrap();
    assert_eq!((catalogue.partitions, catalogue.next_table), (16, 9));
    assert_eq!(catalogue.tables, [table(1, "a")]);
    assert_eq!(catalogue.generation_for(&new, 1).unwrap(), 1);
    let alone = |options: &mut RestoreOptions| options.accept_missing = true;
    run(&[&zero], at.join("newer"), alone).unwrap();
}
