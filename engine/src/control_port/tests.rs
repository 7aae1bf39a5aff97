use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::AtomicUsize,
    time::Duration,
};

use windlass_wire::{
    Incarnation, SessionId,
    control::{ClientReply, ClientRequest, HELLO_LEN_MAX, PROTOCOL_VERSION, encode_frame},
};

use super::{stranger::GREETING_TIMEOUT, *};

const TOKEN: &str = "correct horse";

/// A port that welcomes everybody with the token, and how many threads that has taken by now.
fn port() -> (ControlPort, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = move |mut stream: ControlStream, greeting: Greeting| {
        assert_eq!(greeting.session, SessionId(7));
        count.fetch_add(1, Ordering::SeqCst);
        while stream.receive::<ClientRequest>()?.is_some() {
            stream.send(&ClientReply::Done {})?;
        }
        Ok(())
    };
    (ControlPort::open(listener, Some(TOKEN.to_owned()), serve).unwrap(), served)
}

fn hello(token: &str) -> ClientRequest {
    ClientRequest::Hello {
        version: PROTOCOL_VERSION,
        token: token.to_owned(),
        session: SessionId(7),
        incarnation: Incarnation(1),
        rank: None,
        host: String::new(),
        peer: None,
    }
}

fn connect(port: &ControlPort) -> ControlStream {
    ControlStream::connect(&port.address().to_string()).unwrap()
}

/// Greets, and asks something over the same connection.
fn is_served(port: &ControlPort) -> bool {
    let mut stream = connect(port);
    stream.send(&hello(TOKEN)).unwrap();
    matches!(stream.ask(&ClientRequest::Map {}), Ok(ClientReply::Done {}))
}

fn refusal(stream: &mut ControlStream) -> RefusalKind {
    match stream.receive::<ClientReply>().unwrap() {
        Some(ClientReply::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_shows_the_token_is_served_and_nobody_else() {
    let (port, served) = port();
    assert!(is_served(&port));
    let mut wrong = connect(&port);
    wrong.send(&hello("wrong horse")).unwrap();
    assert_eq!(refusal(&mut wrong), RefusalKind::Token {});
    assert!(wrong.receive::<ClientReply>().unwrap().is_none(), "the connection is over");
    let mut forward = connect(&port);
    forward.send(&ClientRequest::Map {}).unwrap();
    assert_eq!(refusal(&mut forward), RefusalKind::Invalid {});
    // What comes with the greeting belongs to whoever serves the connection.
    let mut eager = connect(&port);
    let both = [encode_frame(&hello(TOKEN)), encode_frame(&ClientRequest::Map {})].concat();
    eager.send_frame(&both).unwrap();
    assert_eq!(eager.receive::<ClientReply>().unwrap(), Some(ClientReply::Done {}));
    assert_eq!(served.load(Ordering::SeqCst), 2);
}

#[test]
fn a_long_greeting_is_refused_before_it_is_heard() {
    let (port, _) = port();
    let mut stream = connect(&port);
    // Announced, and sent only in part.
    let frame = encode_frame(&hello(&"x".repeat(HELLO_LEN_MAX)));
    stream.send_frame(&frame[..100]).unwrap();
    assert_eq!(refusal(&mut stream), RefusalKind::Invalid {});
    // The longest token there may be is no such greeting.
    let mut stream = connect(&port);
    stream.send(&hello(&"x".repeat(windlass_wire::control::TOKEN_LEN_MAX))).unwrap();
    assert_eq!(refusal(&mut stream), RefusalKind::Token {});
}

#[test]
fn a_greeting_byte_by_byte_has_to_be_over_in_time() {
    let (port, served) = port();
    let mut stream = TcpStream::connect(port.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    let (began, step) = (Instant::now(), Duration::from_millis(200));
    stream.set_read_timeout(Some(step)).unwrap();
    let frame = encode_frame(&hello(TOKEN));
    let all = step * u32::try_from(frame.len()).unwrap();
    assert!(all > 2 * GREETING_TIMEOUT);
    let ended = frame.iter().find_map(|byte| {
        let sent = stream.write_all(&[*byte]);
        let answer = sent.and_then(|()| stream.read(&mut [0]));
        let is_over = !matches!(&answer, Err(error) if error.kind() == ErrorKind::WouldBlock);
        is_over.then(|| began.elapsed())
    });
    let ended = ended.expect("the connection is ended before the greeting is whole");
    assert!(ended >= GREETING_TIMEOUT, "after {ended:?}");
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

#[test]
fn strangers_in_numbers_keep_nobody_out_and_cost_no_threads() {
    let (port, served) = port();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let strangers: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(port.address()).unwrap()).collect();
    let began = Instant::now();
    assert!(is_served(&port));
    assert!(began.elapsed() < GREETING_TIMEOUT, "it waited for {:?}", began.elapsed());
    assert_eq!(served.load(Ordering::SeqCst), 1);
    // Other tests of this process have threads, too, but nobody has hundreds.
    assert!(threads() < before + 50, "{before} threads, then {}", threads());
    drop(strangers);
    // Honest connections that come all at once are all served, though more than are heard at a time.
    let greeted = (0..2 * STRANGERS_MAX).map(|_| {
        let mut one = connect(&port);
        one.send(&hello(TOKEN)).unwrap();
        one
    });
    for mut one in greeted.collect::<Vec<_>>() {
        assert!(matches!(one.ask(&ClientRequest::Map {}), Ok(ClientReply::Done {})));
    }
}

/// A listener that stays readable must not keep the thread awake while nobody is taken.
#[test]
fn connections_that_wait_to_be_taken_cost_no_turns() {
    const TURNS_MAX: u32 = 100;
    // The system's queue takes them.
    const WAITING: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let mut doorkeeper = Doorkeeper {
        listener,
        token: None,
        serve: Arc::new(|_: ControlStream, _: Greeting| Ok(())),
        stopping: Arc::default(),
        wake: Arc::new(wake),
        lobby: Lobby::default(),
        places: Arc::new(Places::new(descriptors::limit())),
        accepts_again_at: None,
        wrong_tokens: Complaints::default(),
        refused_accepts: Complaints::default(),
    };
    let _strangers: Vec<TcpStream> =
        (0..STRANGERS_MAX + WAITING).map(|_| TcpStream::connect(address).unwrap()).collect();
    for has_descriptors in [true, false] {
        let until = Instant::now() + Duration::from_millis(500);
        doorkeeper.accepts_again_at = (!has_descriptors).then_some(until);
        let mut turns = 0;
        while Instant::now() < until {
            assert!(doorkeeper.turn());
            turns += 1;
        }
        assert!(turns < TURNS_MAX, "{turns} turns, has descriptors: {has_descriptors}");
    }
}

#[test]
fn a_closed_port_takes_nobody_and_goes_at_once() {
    let (mut port, _) = port();
    let _stranger = TcpStream::connect(port.address()).unwrap();
    let began = Instant::now();
    port.close();
    assert!(began.elapsed() < Duration::from_secs(2));
}
