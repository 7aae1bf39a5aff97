//! A training worker, a process of its own, is killed with kill -9: nobody waits for it, and its rank is
//! free for the one that takes its place.

use std::{
    env,
    process::{Child, Command, Stdio},
    time::Duration,
};

use windlass_client::{
    Client, ClientOptions, Consistency, Element, Provider, PullOptions, PushOptions, Table,
    TableSchema, WorkerClock, WorkerRank,
};

use crate::process::Program;

/// Where a process of this test finds its server, and by which transport, when it is to be the worker.
const ADDRESS: &str = "WINDLASS_TEST_WORKER_ADDRESS";
const TRANSPORT: &str = "WINDLASS_TEST_WORKER_TRANSPORT";

const PATIENCE: Duration = Duration::from_secs(60);

fn worker(address: &str, transport: &str, rank: u32) -> (Client, Table<f64>) {
    let provider = Provider::ALL.into_iter().find(|provider| provider.name() == transport);
    let options = ClientOptions {
        providers: vec![provider.unwrap()],
        rank: Some(WorkerRank(rank)),
        timeout: PATIENCE,
        ..ClientOptions::default()
    };
    let client = Client::connect_with(address, options).unwrap();
    let consistency = Consistency::Sequential {};
    let schema = TableSchema { consistency, ..TableSchema::dense(f64::DTYPE, 64, 1) };
    let table = client.create_table::<f64>("rounds", &schema).unwrap();
    (client, table)
}

/// Works until it is killed.
fn work(address: &str, transport: &str) -> ! {
    let (_client, table) = worker(address, transport, 1);
    loop {
        table.push(0..64, &[1.0; 64], &PushOptions::default()).unwrap().wait().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn start_worker(address: &str, transport: &str) -> Child {
    let test = ["worker::a_killed_worker_is_not_waited_for", "--exact", "--nocapture"];
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(test).env(ADDRESS, address).env(TRANSPORT, transport);
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_worker_is_not_waited_for() {
    if let (Ok(address), Ok(transport)) = (env::var(ADDRESS), env::var(TRANSPORT)) {
        work(&address, &transport);
    }
    for transport in ["shm", "tcp"] {
        let folder = tempfile::tempdir().unwrap();
        let options = ["--shards", "2", "--worker-timeout", "300"];
        let process = Program::new(folder.path(), &options).start(&[]).unwrap();
        let (client, table) = worker(&process.address, transport, 0);
        for round in 1..3 {
            let mut other = start_worker(&process.address, transport);
            table.wait_for_workers(2).unwrap();
            client.wait(client.advance_clock().unwrap()).unwrap();
            let pending = table.pull(&[3], &PullOptions::default()).unwrap();
            other.kill().unwrap();
            other.wait().unwrap();
            pending.wait().unwrap();
            assert_eq!(client.clock(), WorkerClock(round));
            // By key a pull waits at the server, by range at the client.
            table.pull(0..64, &PullOptions::default()).unwrap().wait().unwrap();
        }
        process.kill();
    }
}
