//! What `bench`, `train` and `demo` print under `--json`. The keys are an interface: they are added
//! to, never renamed. A number that does not exist (AUC of one kind of label) is `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `windlass bench --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// `push`, `pull` or `push-pull`.
    pub op: String,
    /// `shm`, `tcp` or `verbs`.
    pub transport: String,
    /// Rows an operation touches.
    pub rows: u64,
    /// Values of a row.
    pub width: u32,
    /// Type of a value.
    pub dtype: String,
    /// Operations in flight.
    pub window: u32,
    /// Number of clients, each with `window` operations in flight. Rates are those of all clients together.
    pub clients: u32,
    /// Median time from the call to the acknowledgement, in microseconds; what reading the clock
    /// takes is taken off.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// 99.9th percentile of the same.
    pub p999_us: f64,
    /// Rows per second, sustained with `window` operations in flight.
    pub rows_per_s: f64,
    /// Bytes of values per second, likewise; keys and headers do not count.
    pub bytes_per_s: f64,
    /// What `limit` measures.
    pub limit_name: String,
    /// The limit, measured in the same run: bytes per second, or microseconds.
    pub limit: f64,
    /// This result over the limit: rate over rate, or p50 over the limit's latency.
    pub ratio: f64,
    /// The cores that client and server were pinned to, and between which the limit was measured;
    /// `null` when there is one core, or the server was not started by the bench.
    pub cores: Option<[usize; 2]>,
    /// How the log was written, for pushes of durability `sync`. Then `limit` is fio with blocks as long
    /// as the log's writes were, and `ratio` compares writes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogResult>,
}

/// The writes of a server's log beside those of fio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogResult {
    /// Bytes of a write of the log, on average.
    pub write_bytes: f64,
    /// Pushes that shared a write, on average.
    pub pushes_per_write: f64,
    /// Writes per second.
    pub writes_per_s: f64,
    /// fio's block: `write_bytes` in whole blocks.
    pub block_bytes: u64,
    /// Block of the second comparison: all pushes in flight beside each other.
    pub window_block_bytes: u64,
    /// Bytes of values per second that fio writes with such blocks.
    pub window_limit: f64,
    /// `bytes_per_s` over that rate: what group commit gains for a client that waits for all of them.
    pub window_ratio: f64,
    /// Block of the third comparison: one push.
    pub push_block_bytes: u64,
    /// Bytes of values per second that fio writes with such blocks.
    pub push_limit: f64,
    /// `bytes_per_s` over it: what group commit is worth beside a write for each push.
    pub push_ratio: f64,
    /// Files of the log that were made, and filled with zeros first, while pushes were measured.
    pub segments_made: u64,
}

/// What `windlass train --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainResult {
    /// Examples trained on, over all epochs.
    pub examples: u64,
    /// Examples per second of training, reading the data included.
    pub examples_per_s: f64,
    /// Mean loss in nats on the evaluation data (the training data if there is no other).
    pub logloss: Option<f64>,
    /// What training minimises, for each example: `logloss` and the penalties' share of an example of one pass.
    pub objective: Option<f64>,
    /// Area under the ROC curve on the same data.
    pub auc: Option<f64>,
    /// Weights that are not zero; the intercept does not count.
    pub nonzero: u64,
    /// Bytes of keys and values pushed by all workers.
    pub bytes_pushed: u64,
    /// Bytes of keys and values pulled by all workers.
    pub bytes_pulled: u64,
    /// Of these, bytes that were not sent, by the filter that made messages smaller.
    pub bytes_saved: BTreeMap<String, u64>,
    /// Malformed lines passed over in one reading of each file.
    pub skipped_lines: u64,
    /// How far workers may be apart: `sequential`, `bounded:N` or `eventual`.
    pub consistency: String,
    /// Of each worker's time, the part spent waiting for slower workers, by rank.
    pub idle: Vec<f64>,
}

/// What `windlass demo --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoResult {
    /// Area under the ROC curve of the trained model on the evaluation data.
    pub auc: Option<f64>,
    /// The same of the true model that generated the data; another model beats it only by chance.
    pub auc_best: Option<f64>,
    /// Examples per second of training.
    pub examples_per_s: f64,
    /// Pushes the servers acknowledged.
    pub acknowledged: u64,
    /// Acknowledged pushes that no server holds.
    pub lost: u64,
    /// Pushes that were applied more than once.
    pub doubled: u64,
    /// From the kill of a server until a push to every partition was acknowledged again, in
    /// milliseconds; `null` when none was killed.
    pub recovery_ms: Option<f64>,
    /// Whether all replicas of every partition were equal at the end; `null` without replicas.
    pub replicas_equal: Option<bool>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn keys(value: impl Serialize) -> Vec<String> {
        let Value::Object(object) = serde_json::to_value(value).unwrap() else { panic!() };
        object.keys().cloned().collect()
    }

    #[test]
    fn keys_are_the_documented_ones() {
        let bench: BenchResult = serde_json::from_value(json!({
            "op": "push", "transport": "shm", "rows": 1, "width": 1, "dtype": "f32", "window": 1,
            "clients": 1, "p50_us": 1.0, "p99_us": 1.0, "p999_us": 1.0, "rows_per_s": 1.0, "bytes_per_s": 1.0,
            "limit_name": "memcpy", "limit": 1.0, "ratio": 1.0, "cores": [0, 1],
        }))
        .unwrap();
        assert_eq!(keys(bench).len(), 16);
        let train: TrainResult = serde_json::from_value(json!({
            "examples": 1, "examples_per_s": 1.0, "logloss": null, "objective": null, "auc": 0.5, "nonzero": 1,
            "bytes_pushed": 1, "bytes_pulled": 1, "bytes_saved": {"snappy": 1}, "skipped_lines": 0, "consistency": "bounded:4", "idle": [0.0, 0.5],
        }))
        .unwrap();
        assert_eq!(keys(train).len(), 12);
        let demo: DemoResult = serde_json::from_value(json!({
            "auc": 0.7, "auc_best": 0.8, "examples_per_s": 1.0, "acknowledged": 1, "lost": 0,
            "doubled": 0, "recovery_ms": 40.0, "replicas_equal": true,
        }))
        .unwrap();
        assert_eq!(keys(demo).len(), 8);
    }
}
