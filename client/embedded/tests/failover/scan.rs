//! Scans of tables whose servers are killed: they go on with whoever has the rows next.

use std::collections::BTreeSet;

use windlass_client::{ScanColumns, ScanOptions};

use super::*;

#[test]
fn a_scan_goes_on_after_its_servers_are_killed() {
    for provider in PROVIDERS {
        for place in FROM {
            let mut cluster = Cluster::start(provider);
            let client = connect(&cluster.addresses(), None);
            let table = client.open_table::<i64>("counted").unwrap();
            let keys: BTreeSet<u64> = (0..4000).chain([u64::MAX]).collect();
            let pushed: Vec<u64> = keys.iter().copied().collect();
            table.push(&pushed, &vec![5; pushed.len()], &push()).unwrap().wait().unwrap();
            let options = ScanOptions { columns: ScanColumns::Values, rows_max: 90, from: place };
            let (mut seen, mut more) = (Vec::new(), u64::MAX - 1);
            for (at, batch) in table.scan(&options).unwrap().enumerate() {
                let batch = batch.unwrap();
                seen.extend(
                    batch.keys.iter().zip(&batch.values).map(|(key, value)| (*key, *value)),
                );
                if let 5 | 20 = at {
                    let victim = if at == 5 { 1 } else { 3 };
                    cluster.kill(victim, Duration::from_millis(50));
                }
                let fresh: Vec<u64> = (more - 49..=more).collect();
                more -= 50;
                table.push(&fresh, &[1; 50], &push()).unwrap().wait().unwrap();
            }
            let count = seen.len();
            let steady: Vec<_> = seen.iter().filter(|(key, _)| keys.contains(key)).collect();
            assert!(steady.iter().all(|(_, value)| *value == 5));
            assert_eq!(steady.len(), keys.len(), "{provider:?}, {place:?}: each exactly once");
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), count, "{provider:?}, {place:?}: none twice");
            cluster.assert_equal_replicas();
        }
    }
}
