//! A server that stands still: whoever asks it something is told in time, and gets the right answers
//! once it goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use windlass_client::{
    Client, ClientOptions, ConnectError, Element, PendingPush, PullOptions, PushOptions,
    RequestError, TableError, TableSchema, Watch,
};

use super::processes::Cluster;

const TIMEOUT: Duration = Duration::from_secs(1);

/// A busy machine may add this much.
const SLACK: Duration = Duration::from_secs(15);

#[test]
fn control_requests_to_a_stopped_server_end_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &["--partitions", "4"]);
    let number = cluster.add_server();
    let address = cluster.address(number).to_owned();
    let options = ClientOptions { timeout: TIMEOUT, ..ClientOptions::default() };
    let connect = || Client::connect_with(&address, options.clone());
    let (client, other) = (connect().unwrap(), connect().unwrap());
    let schema = TableSchema::dense(f64::DTYPE, 100, 1);
    let table = client.create_table::<f64>("kept", &schema).unwrap();
    table.push(0..1, &[5.0], &PushOptions::default()).unwrap().wait().unwrap();

    cluster.stop_for_a_while(number);
    let in_time = |what: &str, text: &str, asked: Instant| {
        assert!(asked.elapsed() < TIMEOUT + SLACK, "{what} took {:?}", asked.elapsed());
        assert!(text.contains("did not answer within"), "{what}: {text}");
    };
    let asked = Instant::now();
    match connect() {
        Err(error @ ConnectError::Timeout { .. }) => {
            in_time("connect", &error.to_string(), asked);
        }
        other => panic!("{other:?}"),
    }
    let create = || client.create_table::<f64>("new", &schema).map(drop);
    let drop_one = || other.drop_table("none");
    type Request<'a> = &'a dyn Fn() -> Result<(), TableError>;
    let requests: [(&str, Request<'_>); 2] = [("create_table", &create), ("drop_table", &drop_one)];
    for (what, request) in requests {
        let asked = Instant::now();
        match request() {
            Err(error @ TableError::Timeout { .. }) => in_time(what, &error.to_string(), asked),
            other => panic!("{what}: {other:?}"),
        }
    }

    cluster.go_on(number);
    let until = Instant::now() + Duration::from_secs(60);
    let opened = loop {
        match client.create_table::<f64>("new", &schema) {
            Ok(table) => break table,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert_eq!(opened.entry().name, "new");
    let dropped = other.drop_table("none");
    assert!(matches!(dropped, Err(TableError::Unknown { .. })), "{dropped:?}");
    // The process has kept what was in its memory, whatever the cluster thought of it meanwhile.
    let rows = table.pull(0..1, &PullOptions::default()).unwrap().wait().unwrap();
    assert_eq!(rows, [5.0]);
}

/// A client links to a shard when it first sends something to it. A signal is told once: it may not be lost there.
#[test]
fn an_interruption_while_a_link_is_made_ends_the_push() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), &["--partitions", "4"]);
    let number = cluster.add_server();
    let is_signalled = Arc::new(AtomicBool::new(false));
    let signal = Arc::clone(&is_signalled);
    let options = ClientOptions {
        timeout: Duration::from_secs(120),
        watch: Some(Watch::new(move || !signal.swap(false, Ordering::AcqRel))),
        ..ClientOptions::default()
    };
    let client = Client::connect_with(cluster.address(number), options).unwrap();
    let schema = TableSchema::dense(f64::DTYPE, 100, 1);
    let table = client.create_table::<f64>("kept", &schema).unwrap();

    cluster.stop_for_a_while(number);
    let asked = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            is_signalled.store(true, Ordering::Release);
        });
        let pushed = table.push(0..1, &[5.0], &PushOptions::default());
        let error = pushed.and_then(PendingPush::wait).unwrap_err();
        assert!(matches!(error, RequestError::Interrupted), "{error}");
    });
    assert!(asked.elapsed() < SLACK, "it took {:?}", asked.elapsed());
    cluster.go_on(number);
}
