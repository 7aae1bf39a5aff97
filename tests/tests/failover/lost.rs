//! All copies of a partition are gone with their servers: it waits, until an operator accepts that.

use serde_json::Value;

use super::processes::{Cluster, eventually};
use super::{is_whole, list};

fn rows(cluster: &Cluster) -> Value {
    cluster.run(&["pull", "clicks", "1", "2"])
}

#[test]
fn an_operator_accepts_the_loss_of_all_copies() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--replicas", "2", "--partitions", "4", "--data-dir", "coordinator"];
    let mut cluster = Cluster::start(folder.path(), &options);
    let whole = |cluster: &Cluster, servers: usize| {
        eventually("all copies are there", || {
            let map = cluster.map();
            (is_whole(&map) && list(&map, "servers").len() == servers, map)
        });
    };
    cluster.add_server();
    cluster.add_server();
    whole(&cluster, 2);
    cluster.run(&["table", "create", "clicks"]);
    let empty = rows(&cluster);
    cluster.run(&["push", "clicks", "1=1", "2=1"]);
    let before = rows(&cluster);
    assert_ne!(before, empty);

    cluster.kill_all();
    eventually("every partition waits for its last server", || {
        let status = cluster.run(&["cluster", "status"]);
        (status["down_partitions"] == 4 && status["lost_partitions"] == 0, status)
    });
    cluster.add_server();
    cluster.add_server();
    cluster.run(&["cluster", "accept-loss"]);
    whole(&cluster, 4);
    assert_eq!(rows(&cluster), empty, "what is lost is lost");
    cluster.run(&["push", "clicks", "1=1", "2=1"]);
    assert_eq!(rows(&cluster), before);
    let status = cluster.run(&["cluster", "status"]);
    assert_eq!(status["down_partitions"], 0, "{status}");
}
