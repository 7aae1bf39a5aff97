//! Name look-up with a deadline. The system's own look-up takes as long as the name servers make it wait.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::mpsc,
    time::Duration,
};

use crate::text::Span;

/// The addresses of `address`, `host:port`. Names are looked up on a thread of its own, which is left behind when
/// it takes longer than `limit`; the system's look-up ends by itself.
pub(crate) fn resolve(address: &str, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    match address.parse() {
        Ok(known) => Ok(vec![known]),
        Err(_) => look_up(address, limit, |name| Ok(name.to_socket_addrs()?.collect())),
    }
}

fn look_up(
    name: &str,
    limit: Duration,
    by: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    let (found, answer) = mpsc::sync_channel(1);
    let asked = name.to_owned();
    let thread = std::thread::Builder::new().name("windlass-names".to_owned());
    thread.spawn(move || {
        // Nobody may be waiting any more.
        let _ = found.send(by(&asked));
    })?;
    answer.recv_timeout(limit).unwrap_or_else(|_| {
        let text = format!("no name server answered for the name within {}", Span(limit));
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_name_server_that_does_not_answer_is_waited_for_within_the_limit() {
        let (held, never) = mpsc::channel::<()>();
        let begun = Instant::now();
        let error = look_up("ps.example:7700", Duration::from_millis(100), move |_| {
            let _ = never.recv();
            Ok(Vec::new())
        })
        .unwrap_err();
        // The name server still does not answer.
        drop(held);
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().ends_with("within 100ms"), "{error}");
    }

    #[test]
    fn names_and_numbers_have_addresses() {
        let limit = Duration::from_secs(30);
        let found = resolve("localhost:7700", limit).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7700));
        assert!(!found.is_empty());
        // Numbers need no name server, and no time.
        assert_eq!(
            resolve("127.0.0.1:1", Duration::ZERO).unwrap(),
            ["127.0.0.1:1".parse().unwrap()]
        );
        assert!(resolve("no port", limit).is_err());
    }
}
