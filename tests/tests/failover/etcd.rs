//! Two coordinators over a real etcd: the one that leads is killed, the other takes over.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

/// An etcd process; dropping it ends it.
pub(crate) struct Etcd {
    child: Child,
    pub(crate) address: String,
}

impl Etcd {
    /// Starts it at an address of this host.
    pub(crate) fn start_at(folder: &Path, host: &str) -> Self {
        let free = || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        let (clients, peers) = (free(), free());
        let (url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir", "etcd", "--logger", "zap"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts: install it (Debian: etcd-server)");
        Self { child, address: clients.to_string() }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
