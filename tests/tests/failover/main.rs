//! A cluster of real processes: a coordinator, servers with chains of three, and clients that push. A
//! head is killed with kill -9, another server is stopped for a while, new ones join: clients go on,
//! every acknowledged push is there exactly once, and the replicas end equal.
//!
//! Nothing here measures how long that takes: machines are busy. What never happens fails after a time
//! that is long for any of them.
#![allow(clippy::unwrap_used, missing_docs)]

mod bounded;
mod etcd;
mod kept;
mod lost;
#[allow(dead_code, reason = "shared with a program that needs more of it")]
mod processes;
#[path = "../kill_nine/program.rs"]
mod program;
mod pusher;
mod readers;
mod silent;
mod workers;

use serde_json::Value;

use processes::{Cluster, eventually};
use pusher::Pusher;
use workers::Workers;

const REPLICAS: usize = 3;
const PARTITIONS: &str = "16";

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

/// Whether every chain has its members that hold everything, and none is under way.
fn is_whole(map: &Value) -> bool {
    let replicas = map["replicas"].as_u64().unwrap();
    list(map, "chains").iter().all(|chain| {
        list(chain, "servers").len() as u64 == replicas
            && chain["tail_joining"] == false
            && chain["learner"].is_null()
    })
}

fn server(map: &Value, number: u64) -> Value {
    let found = list(map, "servers").iter().find(|server| server["server"] == number);
    found.unwrap_or_else(|| panic!("no server {number} in {map}")).clone()
}

/// How many chains a server is head of.
fn heads(map: &Value, number: u64) -> usize {
    list(map, "chains").iter().filter(|chain| chain["servers"][0] == number).count()
}

fn holds(map: &Value, number: u64) -> bool {
    list(map, "chains").iter().any(|chain| list(chain, "servers").iter().any(|one| *one == number))
}

#[test]
fn a_killed_head_is_replaced_while_clients_push() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(
        folder.path(),
        &["--replicas", "3", "--partitions", PARTITIONS, "--data-dir", "coordinator"],
    );
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    eventually("three servers have all copies", || {
        let map = cluster.map();
        (is_whole(&map), map)
    });
    let pusher = Pusher::start(&cluster.addresses());
    pusher.wait_for_more(20);

    let map = cluster.map();
    let head = (0..REPLICAS as u64).max_by_key(|number| heads(&map, *number)).unwrap();
    assert!(heads(&map, head) > 0, "{map}");
    cluster.kill(head);
    // Not one push is acknowledged for the partitions it headed before there is a new head.
    pusher.wait_for_more(20);
    eventually("the killed server is out of all chains", || {
        let map = cluster.map();
        (!holds(&map, head) && server(&map, head)["state"] == "down", map)
    });

    // Another one takes its place: a learner first, then the tail.
    let new = cluster.add_server();
    assert_eq!(new, REPLICAS as u64, "numbers are not used again");
    eventually("the new server has a copy of everything", || {
        let map = cluster.map();
        (is_whole(&map) && holds(&map, new), map)
    });
    pusher.wait_for_more(20);

    // A server that stands still is taken out, and what it held counts for nothing when it goes on.
    let map = cluster.map();
    let stale = (0..REPLICAS as u64).find(|number| *number != head).unwrap();
    let life = server(&map, stale)["incarnation"].as_u64().unwrap();
    cluster.stop_for_a_while(stale);
    eventually("the silent server is out of all chains", || {
        let map = cluster.map();
        (!holds(&map, stale) && server(&map, stale)["state"] == "down", map)
    });
    pusher.wait_for_more(20);
    cluster.go_on(stale);
    eventually("it is back in another life, with copies of everything", || {
        let map = cluster.map();
        let entry = server(&map, stale);
        let is_another = entry["incarnation"].as_u64().unwrap() > life;
        (is_another && entry["state"] == "up" && is_whole(&map) && holds(&map, stale), map)
    });
    pusher.wait_for_more(20);

    pusher.end_and_check();
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 3 * verified["partitions"].as_u64().unwrap(), "{verified}");
}

/// A head is killed during a training whose staleness is bounded, and another server takes its place:
/// no pull is staler than it may be, and nobody waits for ever.
#[test]
fn workers_stay_within_their_bound_when_a_head_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::start(folder.path(), &["--replicas", "3", "--partitions", PARTITIONS]);
    for _ in 0..REPLICAS {
        cluster.add_server();
    }
    eventually("three servers have all copies", || {
        let map = cluster.map();
        (is_whole(&map), map)
    });
    let addresses = cluster.addresses();
    let workers = Workers::start(&addresses);
    workers.wait_for_more(20);
    let map = cluster.map();
    let head = (0..REPLICAS as u64).max_by_key(|number| heads(&map, *number)).unwrap();
    cluster.kill(head);
    workers.wait_for_more(20);
    let new = cluster.add_server();
    eventually("the new server has a copy of everything", || {
        let map = cluster.map();
        (is_whole(&map) && holds(&map, new), map)
    });
    workers.wait_for_more(20);
    // One that only the old servers have heard of is waited for by whoever leads then.
    workers.be_held_back(&cluster.addresses(), || {
        let map = cluster.map();
        let head = (0..=new).filter(|one| *one != head).max_by_key(|one| heads(&map, *one));
        cluster.kill(head.unwrap());
        eventually("the killed server is out of all chains", || {
            let map = cluster.map();
            (!holds(&map, head.unwrap()), map)
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
    });
    workers.end_and_check(&cluster.addresses());
    // The program's own training goes the same way.
    let examples: Vec<String> =
        (0..2000_u32).map(|at| format!("{} {}:1 {}:1", at % 2, 1 + at % 50, 60 + at % 7)).collect();
    let data = folder.path().join("examples");
    std::fs::write(&data, examples.join("\n")).unwrap();
    let data = data.to_str().unwrap();
    let train = ["train", "sparse-lr", "--data", data, "--workers", "2", "--batch", "64"];
    let trained = cluster.run(&[&train[..], &["--consistency", "bounded:4"]].concat());
    assert_eq!(trained["examples"], 2000, "{trained}");
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 2 * verified["partitions"].as_u64().unwrap(), "{verified}");
}

#[test]
#[ignore = "needs etcd (Debian: etcd-server)"]
fn a_standby_takes_over_from_a_killed_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = etcd::Etcd::start_at(folder.path(), "127.0.0.1");
    let options = ["--replicas", "2", "--partitions", PARTITIONS, "--etcd", &etcd.address];
    let mut cluster = Cluster::start(folder.path(), &options);
    let leads = |cluster: &Cluster| {
        let status = cluster.run(&["cluster", "status"]);
        (status["leads"] == true, status)
    };
    eventually("the first coordinator leads", || leads(&cluster));
    cluster.add_coordinator(&options);
    cluster.add_server();
    cluster.add_server();
    eventually("two servers have all copies", || {
        let map = cluster.map();
        (is_whole(&map), map)
    });
    let pusher = Pusher::start(&cluster.addresses());
    pusher.wait_for_more(20);

    cluster.kill_first_coordinator();
    pusher.wait_for_more(20);
    eventually("the second coordinator leads, and both servers found it", || {
        let status = cluster.run(&["cluster", "status"]);
        let servers = list(&status, "servers");
        let is_found = servers.iter().all(|server| server["connected"] == true);
        (status["leads"] == true && servers.len() == 2 && is_found, status)
    });
    // Neither the map nor the tables are lost, and both can be changed.
    assert_eq!(cluster.run(&["table", "list"]).as_array().unwrap().len(), 2);
    cluster.run(&["table", "create", "another"]);
    cluster.kill(0);
    pusher.wait_for_more(20);
    let new = cluster.add_server();
    assert_eq!(new, 2, "numbers are not used again");
    eventually("the new server has a copy of everything", || {
        let map = cluster.map();
        (is_whole(&map) && holds(&map, new), map)
    });
    pusher.end_and_check();
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 2 * verified["partitions"].as_u64().unwrap(), "{verified}");
}
