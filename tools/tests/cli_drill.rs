//! `windlass drill`: a cluster of real processes, its servers killed one after another.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use support::{fails, folder, json};

#[test]
fn servers_are_killed_and_replaced_and_nothing_is_lost() {
    let folder = folder();
    for transport in ["shm", "tcp"] {
        let arguments = ["drill", "--kills", "4", "--transports", transport, "--json"];
        let result = json(folder.path(), &arguments);
        assert_eq!(result["kills"], 4, "{transport}");
        assert!(result["acknowledged"].as_u64().unwrap() > 0);
        for none in ["lost", "doubled", "divergent"] {
            assert_eq!(result[none], 0, "{transport}: {none}");
        }
        assert!(result["recovery_p50_ms"].as_f64().unwrap() > 0.0);
    }
    let text = fails(folder.path(), 2, &["drill", "--servers", "2", "--replicas", "3"]);
    assert!(text.contains("--replicas 3"), "{text}");
}
