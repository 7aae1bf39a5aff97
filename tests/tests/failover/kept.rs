//! Tables of durability `sync`: all servers are killed at once, and come back with what they kept.

use std::path::Path;

use windlass_wire::Durability;

use super::bounded::Bounded;
use super::processes::{Cluster, eventually};
use super::pusher::Pusher;
use super::{PARTITIONS, REPLICAS, holds, is_whole, list};

const OPTIONS: [&str; 6] =
    ["--replicas", "3", "--partitions", PARTITIONS, "--data-dir", "coordinator"];

/// Three servers that keep all copies, also on disk.
fn whole_cluster(folder: &Path) -> Cluster {
    let mut cluster = Cluster::start(folder, &OPTIONS);
    cluster.keep_data();
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    await_whole(&cluster, "three servers have all copies");
    cluster
}

fn await_whole(cluster: &Cluster, what: &str) {
    eventually(what, || {
        let map = cluster.map();
        let all = (0..REPLICAS as u64).all(|number| holds(&map, number));
        (is_whole(&map) && all && list(&map, "servers").len() == REPLICAS, map)
    });
}

#[test]
fn what_was_acknowledged_outlives_kill_nine_of_all_servers() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = whole_cluster(folder.path());
    let pusher = Pusher::start_with("", &cluster.addresses(), Durability::Sync {});
    pusher.wait_for_more(50);

    for with_coordinator in [false, true] {
        cluster.kill_all();
        if with_coordinator {
            cluster.restart_coordinator(&OPTIONS);
        }
        for number in 0..REPLICAS as u64 {
            cluster.start_again(number);
        }
        pusher.wait_for_more(50);
        await_whole(&cluster, "all servers have all copies again");
        pusher.wait_for_more(20);
    }

    // One alone is given what it missed.
    cluster.kill(1);
    pusher.wait_for_more(20);
    cluster.start_again(1);
    await_whole(&cluster, "the one that was away has copies again");
    pusher.wait_for_more(20);

    pusher.end_and_check();
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 3 * verified["partitions"].as_u64().unwrap(), "{verified}");
}

/// A power cut ends coordinator and servers at one moment, and one of them never comes back: any of the
/// others holds all that was acknowledged. Whoever looks sees who is waited for, and what is gone.
#[test]
fn any_server_of_a_chain_brings_its_rows_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = whole_cluster(folder.path());
    cluster.run(&["table", "create", "fleeting", "--rows", "10"]);
    let pusher = Pusher::start_with("", &cluster.addresses(), Durability::Sync {});
    pusher.wait_for_more(20);
    cluster.kill_first_coordinator_and_all();
    cluster.start_coordinator_again(&OPTIONS);
    // Nobody has come back yet.
    cluster.start_again(0);
    cluster.start_again(2);
    pusher.wait_for_more(20);
    eventually("two servers have all copies", || {
        let map = cluster.map();
        let chains = list(&map, "chains").iter();
        (chains.clone().all(|chain| list(chain, "servers").len() == 2), map)
    });
    eventually("the table in memory is known to be empty", || {
        let status = cluster.run(&["cluster", "status"]);
        (list(&status, "emptied").len() == 1 && list(&status, "waiting").is_empty(), status)
    });
    let tables = cluster.run(&["table", "list"]);
    for table in tables.as_array().unwrap() {
        assert_eq!(table["emptied"].is_null(), table["durability"] != "memory", "{tables}");
    }

    // Of those two, one went on alone for a while: it alone is waited for.
    cluster.kill(0);
    pusher.wait_for_more(20);
    cluster.kill(2);
    cluster.start_again(0);
    eventually("the last one is waited for", || {
        let status = cluster.run(&["cluster", "status"]);
        let waiting = list(&status, "waiting");
        let is_so = waiting.len() == 1 && waiting[0]["servers"] == serde_json::json!([2]);
        (is_so && waiting[0]["partitions"] == 16, status)
    });
    cluster.start_again(2);
    pusher.wait_for_more(20);
    pusher.end_and_check();
}

/// Whoever was ahead of a slower worker before all servers were killed is held back by it afterwards,
/// and nobody waits for a clock that was finished before.
#[test]
fn clocks_outlive_kill_nine_of_all_servers() {
    let folder = tempfile::tempdir().unwrap();
    // Busy machines are slow, and workers that are late are not gone.
    let options = [&OPTIONS[..], &["--worker-timeout", "120000"]].concat();
    let mut cluster = Cluster::start(folder.path(), &options);
    cluster.keep_data();
    cluster.start_servers_with(&["--worker-timeout", "120000"]);
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    await_whole(&cluster, "three servers have all copies");
    let mut workers = Bounded::start(&cluster.addresses());
    for with_coordinator in [false, true] {
        workers.await_held_back();
        cluster.kill_all();
        if with_coordinator {
            cluster.restart_coordinator(&options);
        }
        for number in 0..REPLICAS as u64 {
            cluster.start_again(number);
        }
        workers.come_back_and_be_waited_for();
        workers.finish_a_round();
    }
    await_whole(&cluster, "all servers have all copies again");
    workers.end_and_check();
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 3 * verified["partitions"].as_u64().unwrap(), "{verified}");
}
