//! A coordinator that stands still, and one that servers do not reach: data goes on without it, workers
//! of a table whose staleness is bounded wait for each other as before, and no server is removed.

use std::time::Duration;

use serde_json::{Value, json};

use super::{SERVERS, Stage};
use crate::{Failure, network::COORDINATOR, workers::Workers};

/// For how long the coordinator stands still.
const STOPPED_FOR: Duration = Duration::from_secs(5);

/// For how long it hears no server: longer than workers may be silent.
const DEAF_FOR: Duration = Duration::from_secs(8);

impl Stage<'_> {
    /// Both; the rounds that workers went on for meanwhile.
    pub(super) fn go_on_without_coordinator(&mut self) -> Result<Value, Failure> {
        let workers = Workers::start(&self.cluster.addresses());
        workers.wait_for_more(20);
        let lives = [0, 1, 2].map(|at| self.life(at));
        let before = workers.rounds();
        self.cluster.stop_coordinator_for_a_while();
        std::thread::sleep(STOPPED_FOR);
        let stopped = workers.rounds() - before;
        self.cluster.coordinator_goes_on();
        workers.wait_for_more(20);
        let before = workers.rounds();
        for server in SERVERS {
            self.network.lose(COORDINATOR, 100, Some(server))?;
        }
        std::thread::sleep(DEAF_FOR);
        let deaf = workers.rounds() - before;
        self.network.hear_again(COORDINATOR)?;
        workers.wait_for_more(20);
        let now = [0, 1, 2].map(|at| self.life(at));
        assert_eq!(now, lives, "a server was removed by a coordinator that did not hear it");
        assert!(stopped > 0 && deaf > 0, "workers stood still without the coordinator");
        workers.end_and_check(&self.cluster.addresses());
        eprintln!("hosts: without the coordinator workers went on for {stopped} and {deaf} rounds");
        Ok(json!({ "stopped_rounds": stopped, "deaf_rounds": deaf }))
    }
}
