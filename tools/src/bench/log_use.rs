//! How a server used its log while operations were measured.

use windlass_client::Client;

use crate::remote::RemoteError;

/// Counters of all shards of the first server, or what they grew by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogUse {
    pub(super) pushes: u64,
    pub(super) writes: u64,
    /// Bytes of the writes, headers and padding included.
    pub(super) bytes: u64,
    /// Files that were made for it.
    pub(super) segments: u64,
    /// Checkpoints, which give files back for new records.
    pub(super) checkpoints: u64,
    /// Whether a file is being made now.
    pub(super) is_preparing: bool,
}

impl LogUse {
    /// The counters now.
    pub(super) fn now(client: &Client) -> Result<Self, RemoteError> {
        let Some(server) = client.map().servers.first().map(|server| server.id) else {
            return Ok(Self::default());
        };
        let json = client.server_statistics(server)?;
        let counters: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        let counter = |name: &str| counters[name].as_u64().unwrap_or(0);
        Ok(Self {
            pushes: counter("pushes"),
            writes: counter("log_writes"),
            bytes: counter("log_bytes"),
            segments: counter("log_segments"),
            checkpoints: counter("checkpoints"),
            is_preparing: counter("logs_preparing") > 0,
        })
    }

    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            pushes: self.pushes.saturating_sub(before.pushes),
            writes: self.writes.saturating_sub(before.writes),
            bytes: self.bytes.saturating_sub(before.bytes),
            segments: self.segments.saturating_sub(before.segments),
            checkpoints: self.checkpoints.saturating_sub(before.checkpoints),
            is_preparing: self.is_preparing,
        }
    }

    /// Bytes of a write, on average.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a bench stay below 2^53")]
    pub(super) fn bytes_per_write(self) -> f64 {
        self.bytes as f64 / self.writes.max(1) as f64
    }

    /// Pushes that share a write, on average.
    #[expect(clippy::cast_precision_loss, reason = "pushes of a bench stay below 2^53")]
    pub(super) fn pushes_per_write(self) -> f64 {
        self.pushes as f64 / self.writes.max(1) as f64
    }
}
