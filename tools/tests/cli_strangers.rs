//! Strangers at a server's port, in numbers and with wrong tokens: they take neither descriptors nor
//! threads from those who are served, and the log goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs::{self, OpenOptions},
    net::TcpStream,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use support::{Server, fails, folder, json, windlass};
use windlass_client::{Client, ClientOptions, Provider, PullOptions, PushOptions, TableSchema};
use windlass_transport::{control::ControlStream, descriptors};
use windlass_wire::{
    DataType, Durability, Incarnation, SessionId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, TOKEN_LEN_MAX},
};

const TOKEN: &str = "a secret of this test";
const PAUSE_MS: u128 = descriptors::ACCEPT_PAUSE.as_millis();

fn start(at: &Path, files: u32, extra: &[&str]) -> (Server, String) {
    fs::write(at.join("token"), TOKEN).unwrap();
    let common = ["--token-file", "token", "--data-dir", "data", "--transports", "shm"];
    let server = Server::start_limited(at, files, &[&common, extra].concat());
    let address = server.address.trim_start_matches("windlass://").to_owned();
    (server, address)
}

fn client(address: &str) -> Client {
    let options = ClientOptions {
        token: Some(TOKEN.to_owned()),
        providers: vec![Provider::Shm {}],
        ..ClientOptions::default()
    };
    Client::connect_with(address, options).unwrap()
}

fn durable() -> TableSchema {
    let schema = TableSchema::dense(DataType::F32, 256 << 10, 4);
    TableSchema { durability: Durability::Sync {}, ..schema }
}

/// Connections that have shown the token and ask for nothing, until no more are taken.
fn greeted(address: &str) -> Vec<ControlStream> {
    let mut streams = Vec::new();
    let limit = Duration::from_secs(1);
    while let Ok(mut stream) = ControlStream::connect_within(address, limit) {
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: TOKEN.to_owned(),
            session: SessionId(1000 + streams.len() as u64),
            incarnation: Incarnation(1),
            rank: None,
            host: String::new(),
            peer: None,
        };
        match stream.ask(&hello) {
            Ok(ClientReply::Welcome { .. }) => streams.push(stream),
            _ => break,
        }
    }
    streams
}

fn status(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How often the server found no descriptor for a connection, by what it says of that in its log.
fn refused_accepts(log: &str) -> u128 {
    let lines = log.lines().filter(|line| line.contains("cannot take connections"));
    let counts = lines.map(|line| {
        let count = line.split("count=").nth(1).unwrap();
        count.split_whitespace().next().unwrap().parse::<u128>().unwrap()
    });
    counts.sum()
}

#[test]
fn a_thousand_strangers_stop_no_durable_push() {
    descriptors::raise_limit();
    let folder = folder();
    let (server, address) = start(folder.path(), 1024, &[]);
    let threads = status(&server, "Threads:");
    let strangers: Vec<TcpStream> =
        (0..1200).map(|_| TcpStream::connect(&address).unwrap()).collect();
    // Who knows the token comes in beside them, and the log takes new files.
    let client = client(&address);
    let table = client.create_table::<f32>("t", &durable()).unwrap();
    for _ in 0..40 {
        let ones = vec![1.0; 1 << 20];
        table.push(0..256 << 10, &ones, &PushOptions::default()).unwrap().wait().unwrap();
    }
    assert_eq!(table.pull(5..6, &PullOptions::default()).unwrap().wait().unwrap(), [40.0; 4]);
    let now = status(&server, "Threads:");
    assert!(now < threads + 32, "{threads} threads before, {now} with strangers");
    drop(strangers);
}

#[test]
fn clients_that_take_all_descriptors_do_not_stop_the_log() {
    let folder = folder();
    let began = Instant::now();
    let (server, address) = start(folder.path(), 150, &[]);
    let client = client(&address);
    let table = client.create_table::<f32>("t", &durable()).unwrap();
    let ones = vec![1.0; 1 << 20];
    let push = || table.push(0..256 << 10, &ones, &PushOptions::default()).unwrap().wait().unwrap();
    // Memory that shards read values in is handed over by descriptors.
    push();
    let greeted = greeted(&address);
    let strangers: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let open = fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap().count();
    assert!(open >= 149, "{} greeted, {open} descriptors are open", greeted.len());
    // More than is left of the segments that are there.
    (1..120).for_each(|_| push());
    let log = fs::read_to_string(folder.path().join("server.log")).unwrap();
    assert!(log.contains("raise `ulimit -n`"), "{log}");
    let (refused, most) = (refused_accepts(&log), 1 + began.elapsed().as_millis() / PAUSE_MS);
    assert!((1..=most).contains(&refused), "{refused} times in vain, and {most} at most: {log}");
    assert!(log.lines().count() < 60, "{log}");
    drop((greeted, strangers));
    // Everything is as before once they are gone.
    let deadline = Instant::now() + Duration::from_secs(10);
    let again = loop {
        let options = ClientOptions { token: Some(TOKEN.to_owned()), ..ClientOptions::default() };
        match Client::connect_with(&address, options) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let table = again.open_table::<f32>("t").unwrap();
    assert_eq!(table.pull(9..10, &PullOptions::default()).unwrap().wait().unwrap(), [120.0; 4]);
}

#[test]
fn wrong_tokens_are_logged_with_their_address_once_a_second() {
    let folder = folder();
    let at = folder.path();
    let (_server, address) = start(at, 1024, &[]);
    fs::write(at.join("wrong"), "not the secret").unwrap();
    let list = ["table", "list", "--connect", &address, "--token-file", "wrong"];
    let began = Instant::now();
    for _ in 0..5 {
        let text = fails(at, 1, &list);
        assert!(text.contains("token"), "{text}");
    }
    let log = fs::read_to_string(at.join("server.log")).unwrap();
    let told = log.lines().filter(|line| line.contains("without the right token")).count();
    assert!(log.contains("127.0.0.1:"), "{log}");
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&told), "{told} lines: {log}");
}

#[test]
fn a_token_file_that_is_too_long_is_named() {
    let folder = folder();
    let at = folder.path();
    fs::write(at.join("novel"), "x".repeat(TOKEN_LEN_MAX + 1)).unwrap();
    let text = fails(at, 2, &["serve", "--listen", "127.0.0.1:0", "--token-file", "novel"]);
    assert!(text.contains("novel") && text.contains("3073 bytes"), "{text}");
    fs::write(at.join("novel"), "x".repeat(TOKEN_LEN_MAX)).unwrap();
    let server = Server::start(at, &["--token-file", "novel"]);
    json(at, &["table", "list", "--connect", &server.address, "--token-file", "novel", "--json"]);
}

#[test]
fn a_token_file_that_never_ends_is_refused() {
    let folder = folder();
    for file in ["/dev/zero", "/dev/urandom"] {
        let list = ["table", "list", "--connect", "127.0.0.1:1", "--token-file", file];
        let text = fails(folder.path(), 2, &list);
        assert!(text.contains(file), "{text}");
    }
}

#[test]
fn a_signal_ends_a_process_that_waits_for_its_token() {
    let folder = folder();
    let at = folder.path();
    let made = Command::new("mkfifo").arg(at.join("pipe")).status().unwrap();
    assert!(made.success());
    for serve in ["serve", "coordinator"] {
        let mut child = windlass(at, &[serve, "--listen", "127.0.0.1:0", "--token-file", "pipe"])
            .spawn()
            .unwrap();
        // Opening it without waiting succeeds once somebody reads, who hears nothing from then on.
        let deadline = Instant::now() + Duration::from_secs(60);
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let _writer = loop {
            match OpenOptions::new().write(true).custom_flags(nonblocking).open(at.join("pipe")) {
                Ok(writer) => break writer,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let stopped = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(stopped.success());
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(ended) => break ended,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{serve} goes on waiting for its token");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(ended.signal(), Some(signal_hook::consts::SIGTERM), "{ended}");
    }
}

#[test]
fn data_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let at = folder.path();
    let (server, address) = start(at, 1024, &[]);
    let table = client(&address).create_table::<f32>("t", &durable()).unwrap();
    table.push(0..9, &[1.0; 36], &PushOptions::default()).unwrap().wait().unwrap();
    let token = ["--connect", &address, "--token-file", "token"];
    json(at, &[&["checkpoint", "create"], &token[..], &["--json"]].concat());
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    while !seen.iter().any(|name: &String| name.contains("manifest")) {
        assert!(Instant::now() < deadline, "no checkpoint was published: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
        seen.clear();
        let mut folders = vec![at.join("data")];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
                let Ok(metadata) = entry.metadata() else { continue };
                let mode = metadata.permissions().mode() & 0o777;
                let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode, wanted, "{:?} has mode {mode:o}", entry.path());
                folders.extend(metadata.is_dir().then(|| entry.path()));
                seen.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    drop(server);
}
