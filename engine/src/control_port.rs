//! A control port: takes connections, each on a thread of its own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use windlass_transport::control::{ControlError, ControlStream};

use crate::{limits::CONTROL_CONNECTIONS_MAX, shard::chain};

/// A port that is listened on. Dropping it stops that; connections go on.
#[derive(Debug)]
pub(crate) struct ControlPort {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Stack of a control thread, in bytes.
const CONTROL_STACK_LEN: usize = 256 << 10;

impl ControlPort {
    /// Serves every connection to `listener` by `serve`.
    pub(crate) fn open(
        listener: TcpListener,
        serve: impl Fn(ControlStream) -> Result<(), ControlError> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let is_stopping = stopping.clone();
        let serve = Arc::new(serve);
        let thread = std::thread::Builder::new()
            .name("windlass-control".to_owned())
            .spawn(move || accept(&listener, &is_stopping, &serve))?;
        Ok(Self { address, stopping, thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections.
    pub(crate) fn close(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // The listener waits in accept: a connection ends that.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
        if thread.join().is_err() {
            tracing::error!("the control port's thread panicked");
        }
    }
}

impl Drop for ControlPort {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept<S>(listener: &TcpListener, stopping: &AtomicBool, serve: &Arc<S>)
where
    S: Fn(ControlStream) -> Result<(), ControlError> + Send + Sync + 'static,
{
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let stream = match stream.and_then(ControlStream::new) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a control connection failed at once");
                continue;
            }
        };
        let count = connections.fetch_add(1, Ordering::AcqRel);
        let is_spawned = count < CONTROL_CONNECTIONS_MAX && {
            let (serve, connections) = (serve.clone(), connections.clone());
            std::thread::Builder::new()
                .name("windlass-client".to_owned())
                .stack_size(CONTROL_STACK_LEN)
                .spawn(move || {
                    let peer = stream.peer().to_owned();
                    if let Err(error) = serve(stream) {
                        tracing::debug!(peer, error = chain(&error), "control connection ended");
                    }
                    connections.fetch_sub(1, Ordering::AcqRel);
                })
                .is_ok()
        };
        if !is_spawned {
            connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(count, "a control connection was refused: too many");
        }
    }
}
