//! A leader that does not reach its store any more, though servers still reach it, or that does not hear
//! its servers any more, though it reaches its store: it stops leading, the standby takes over, fails nobody
//! that lives, and a server that dies then is replaced.

use std::time::Instant;

use serde_json::{Value, json};

use super::{PUSHES, SERVERS, start_cluster, wait_until_whole, with_store};
use crate::{
    Failure,
    etcd::Etcd,
    network::{ADDRESSES, CLIENTS, COORDINATOR, Network},
    processes::{Cluster, eventually},
    pusher::Pusher,
};

/// Milliseconds from when the leader hears these hosts no more until a server that was killed then is out
/// of all chains.
pub(super) fn cut_the_leader_off(
    network: &Network,
    from_whom: &str,
    hosts: &[usize],
) -> Result<Value, Failure> {
    let folder = tempfile::tempdir()?;
    let etcd = Etcd::start_at(folder.path(), ADDRESSES[CLIENTS]);
    let options = with_store(["--etcd", &etcd.address]);
    let mut cluster = start_cluster(network, folder.path(), &options);
    eventually("the first coordinator leads", || {
        let status = cluster.run(&["cluster", "status"]);
        (status["leads"] == true, status)
    });
    cluster.add_coordinator_on(CLIENTS, &options);
    let mut numbers = SERVERS.map(|host| cluster.add_server_on(host, &["--insecure"]));
    wait_until_whole(&cluster, &numbers);
    let lives = |cluster: &Cluster| {
        let servers = cluster.map()["servers"].as_array().unwrap().clone();
        let its = servers.into_iter().filter(|server| server["server"] != numbers[0]);
        its.map(|server| server["incarnation"].as_u64().unwrap()).collect::<Vec<u64>>()
    };
    let before = lives(&cluster);
    let pusher = Pusher::start(&cluster.addresses());
    pusher.wait_for_more(PUSHES);
    for host in hosts {
        network.lose(COORDINATOR, 100, Some(*host))?;
    }
    cluster.kill(numbers[0]);
    let from = Instant::now();
    pusher.wait_for_more(PUSHES);
    eventually("the killed server is out of all chains", || {
        let map = cluster.map();
        let is_in = |chain: &Value| {
            chain["servers"].as_array().unwrap().iter().any(|server| *server == numbers[0])
        };
        (!map["chains"].as_array().unwrap().iter().any(is_in), map)
    });
    let took = (from.elapsed().as_secs_f64() * 1e4).round() / 10.0;
    eprintln!(
        "hosts: the leader was cut off from {from_whom}: a server was failed after {took} ms"
    );
    assert_eq!(lives(&cluster), before, "the new leader failed servers that live");
    network.hear_again(COORDINATOR)?;
    numbers[0] = cluster.add_server_on(SERVERS[0], &["--insecure"]);
    wait_until_whole(&cluster, &numbers);
    let acknowledged = pusher.end_and_check();
    let verified = cluster.verify();
    assert_eq!(verified["replicas"], 3 * verified["partitions"].as_u64().unwrap(), "{verified}");
    Ok(json!({ "failed_after_ms": took, "acknowledged": acknowledged }))
}
