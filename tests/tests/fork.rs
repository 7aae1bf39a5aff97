//! A client on both sides of `fork()`: the child is told, what it tries and drops does not reach the
//! connection, and every push that either acknowledged is there once. C and Python have the same test,
//! which `c_client` and `python_client` run.

#![allow(unsafe_code, clippy::unwrap_used, missing_docs, reason = "forks this process")]

use windlass_client::{
    Client, ClientOptions, Element, PendingPush, Provider, PullOptions, PushOptions, RequestError,
    Rows, Table, TableError, TableSchema,
};
use windlass_engine::{Server, ServerConfig};

const PUSHES: usize = 100;

// SAFETY: as POSIX declares them.
unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
}

#[test]
fn over_shm_a_forked_child_is_told_and_the_parent_goes_on() {
    fork_a_client(Provider::Shm {});
}

#[test]
fn over_tcp_a_forked_child_is_told_and_the_parent_goes_on() {
    fork_a_client(Provider::Tcp {});
}

fn fork_a_client(provider: Provider) {
    let config = ServerConfig { providers: vec![provider], ..ServerConfig::default() };
    let server = Server::start(config).unwrap();
    let options = ClientOptions { providers: vec![provider], ..ClientOptions::default() };
    let address = server.advertised().to_owned();
    let client = Client::connect_with(&address, options.clone()).unwrap();
    let table = client.create_table("forked", &TableSchema::dense(f64::DTYPE, 100, 1)).unwrap();
    push(&table);
    let rows = client.allocate::<f64>(1).unwrap();
    let pushed = table.push_rows(&[3], rows, &PushOptions::default()).unwrap();

    // SAFETY: the child has this thread alone; it uses memory, sockets and the allocator, all of which
    // the C library keeps usable for it, and ends by `_exit`.
    let child = unsafe { fork() };
    assert!(child >= 0);
    if child == 0 {
        // It is the parent's.
        std::mem::forget(server);
        // A panic must not unwind into the child's copy of the test harness.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            is_told(client, table, pushed);
            let own = Client::connect_with(&address, options.clone()).unwrap();
            push(&own.open_table("forked").unwrap());
        }));
        // SAFETY: ends the process at once.
        unsafe { _exit(i32::from(outcome.is_err())) }
    }

    push(&table);
    let mut status = -1;
    // SAFETY: waits for the child just made; `status` is writable.
    assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
    pushed.wait().unwrap();
    push(&table);
    let sum: Vec<f64> = table.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(sum, [(4 * PUSHES) as f64]);
}

fn push(table: &Table<f64>) {
    for _ in 0..PUSHES {
        table.push(&[0], &[1.0], &PushOptions::default()).unwrap().wait().unwrap();
    }
}

/// Uses everything that came through the fork, and drops it.
fn is_told(client: Client, table: Table<f64>, pushed: PendingPush<f64>) {
    let refused = |outcome: Result<(), RequestError>| {
        assert!(matches!(outcome, Err(RequestError::WrongProcess(_))), "{outcome:?}");
        assert!(outcome.unwrap_err().to_string().contains("connect again"));
    };
    let is_refused = |outcome: Result<(), TableError>| {
        assert!(matches!(outcome, Err(TableError::WrongProcess(_))), "{outcome:?}");
    };
    let (pushes, pulls) = (PushOptions::default(), PullOptions::default());
    refused(table.push(&[0], &[1.0], &pushes).map(drop));
    refused(table.pull(&[0], &pulls).map(drop));
    refused(table.pull_into(0..1, &mut [0.0], &pulls));
    refused(table.push_pull(&[0], &[1.0], &pushes).map(drop));
    refused(table.prepare(&[0]).map(drop));
    refused(table.wait_for_workers(1));
    refused(client.wait(pushed.timestamp()));
    refused(client.wait_all());
    refused(client.advance_clock().map(drop));
    is_refused(client.open_table::<f64>("forked").map(drop));
    is_refused(client.create_table::<f64>("more", &TableSchema::sparse(f64::DTYPE, 1)).map(drop));
    is_refused(client.drop_table("forked"));
    is_refused(client.list_tables().map(drop));
    let allocated: Result<Rows<f64>, _> = client.allocate(1);
    assert!(allocated.is_err());
    client.poll();
    let (rows, outcome) = pushed.wait_rows();
    assert!(rows.is_none());
    refused(outcome);
    drop(table);
    drop(client);
}
