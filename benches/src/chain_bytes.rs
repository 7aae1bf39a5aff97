//! Bytes on the links of chains beside the bytes that workers push: what summing by rounds is for.

use std::{
    sync::Barrier,
    time::{Duration, Instant},
};

use windlass_client::{
    Aggregation, Client, ClientOptions, Consistency, Element, PullOptions, PushOptions,
    TableSchema, WorkerRank,
};
use windlass_engine::{Server, ServerConfig};
use windlass_wire::{ServerId, control::Provider};

/// Members of every chain. A push that is forwarded alone crosses one link less than that.
pub const REPLICAS: u8 = 3;

const PARTITIONS: u32 = 16;
const FIELD: &str = "\"chain_received_bytes\":";

/// Servers in this process, in chains.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
}

/// What one run sent.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// Bytes of values that workers pushed.
    pub pushed: u64,
    /// Bytes of messages with records, headers included, on all links between servers.
    pub chained: u64,
}

impl Bytes {
    /// Chain bytes by pushed bytes.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        // Far below 2^52.
        self.chained as f64 / self.pushed as f64
    }
}

impl Cluster {
    /// Starts the servers, and waits until every chain has its members.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start() -> Self {
        let config = ServerConfig {
            partitions: PARTITIONS,
            replicas: REPLICAS,
            expected_servers: u32::from(REPLICAS),
            providers: vec![Provider::Shm {}],
            ..ServerConfig::default()
        };
        let mut servers = vec![Server::start(config.clone()).expect("the first server starts")];
        let coordinators = vec![servers[0].advertised().to_owned()];
        while servers.len() < usize::from(REPLICAS) {
            let config = ServerConfig { coordinators: coordinators.clone(), ..config.clone() };
            servers.push(Server::start(config).expect("a server joins"));
        }
        let cluster = Self { servers };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let map = cluster.client(None).map();
            let is_whole = |servers: &[ServerId]| servers.len() == usize::from(REPLICAS);
            let mut chains = map.chains.iter();
            if !map.chains.is_empty()
                && chains.all(|chain| is_whole(&chain.servers) && !chain.tail_joining)
            {
                return cluster;
            }
            assert!(Instant::now() < deadline, "chains are made: {map:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has `workers` push all of a table of `rows` rows of `width` f32, in as many rounds, one push
    /// each a round.
    ///
    /// # Panics
    /// When a request fails.
    #[must_use]
    pub fn measure(
        &self,
        workers: u32,
        (rows, width): (u64, u32),
        rounds: u64,
        aggregation: Aggregation,
    ) -> Bytes {
        let consistency = Consistency::Sequential {};
        let schema =
            TableSchema { aggregation, consistency, ..TableSchema::dense(f32::DTYPE, rows, width) };
        let owner = self.client(None);
        let table = owner.create_table::<f32>("bytes", &schema).expect("the table is made");
        let len = rows * u64::from(width);
        let values = vec![1.0; usize::try_from(len).expect("it fits memory")];
        // All have joined, all have pushed, all has been counted.
        let together = Barrier::new(workers as usize + 1);
        let before = self.chained(&owner);
        let chained = std::thread::scope(|scope| {
            for rank in 0..workers {
                let (together, values) = (&together, &values);
                scope.spawn(move || {
                    let client = self.client(Some(rank));
                    let table = client.open_table::<f32>("bytes").expect("the table is there");
                    together.wait();
                    let push_all = || {
                        for _ in 0..rounds {
                            drop(table.push(0..rows, values, &PushOptions::default())?);
                            client.advance_clock()?;
                        }
                        client.wait_all()
                    };
                    let outcome = push_all();
                    together.wait();
                    together.wait();
                    outcome.expect("all is acknowledged");
                });
            }
            together.wait();
            together.wait();
            let after = self.chained(&owner);
            together.wait();
            after - before
        });
        let pulled = table.pull(0..rows, &PullOptions::default());
        let pulled: Vec<f32> = pulled.and_then(|pull| pull.wait()).expect("rows are pulled");
        let expected = rounds as f32 * workers as f32;
        assert!(pulled.iter().all(|value| *value == expected), "every push counts once");
        drop(table);
        owner.drop_table("bytes").expect("the table is dropped");
        Bytes { pushed: rounds * u64::from(workers) * len * 4, chained }
    }

    fn client(&self, rank: Option<u32>) -> Client {
        let options = ClientOptions { rank: rank.map(WorkerRank), ..ClientOptions::default() };
        Client::connect_with(self.servers[0].advertised(), options).expect("a client connects")
    }

    fn chained(&self, client: &Client) -> u64 {
        let count = |server: &Server| {
            let json = client.server_statistics(server.id()).expect("the server counts");
            let (_, number) = json.split_once(FIELD).expect("it counts bytes of chains");
            let digits: String =
                number.trim_start().chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().expect("a number")
        };
        self.servers.iter().map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round crosses each link once, however many workers have pushed it.
    #[test]
    fn rounds_divide_the_bytes_of_chains_by_the_workers() {
        let cluster = Cluster::start();
        for workers in [1, 2, 4, 8] {
            let rounds = Aggregation::Rounds { quorum: 0, fold_late: false };
            let bytes = cluster.measure(workers, (1024, 64), 4, rounds);
            let expected = f64::from(REPLICAS - 1) / f64::from(workers);
            let off = (bytes.ratio() / expected - 1.0).abs();
            assert!(off < 0.05, "{workers} workers: {bytes:?}, {off}");
        }
    }
}
