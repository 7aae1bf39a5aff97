//! A shard's counters. Commands read them; nothing on the hot path logs.

use serde::Serialize;

use super::{stopwatch::Took, tables::TableUsage};
use crate::limits::CHECKPOINT_TURN_LONG;

/// Declares the counters once: the struct, what its JSON has, and how shards' are put together, by their sum
/// or by the greatest.
macro_rules! counters {
    (
        $(#[$struct_doc:meta])*
        pub struct $type:ident {
            $( $(#[$doc:meta])* $how:ident $name:ident, )*
        }
    ) => {
        $(#[$struct_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct $type {
            $( $(#[$doc])* pub $name: u64, )*
        }

        impl $type {
            /// Adds another shard's.
            pub fn merge(&mut self, other: &Self) {
                $( counters!($how self.$name, other.$name); )*
            }
        }
    };
    (sum $a:expr, $b:expr) => { $a += $b };
    (max $a:expr, $b:expr) => { $a = $a.max($b) };
}

counters! {
    /// Counters since the start.
    pub struct ShardStatistics {
        /// Pushes applied.
        sum pushes,
        /// Pushes acknowledged again without being applied again.
        sum duplicates,
        /// Pulls answered by gathering rows.
        sum pulls,
        /// Rows pushed.
        sum rows_pushed,
        /// Rows pulled through the server.
        sum rows_pulled,
        /// Bytes of values pushed.
        sum bytes_pushed,
        /// Bytes of values pulled through the server.
        sum bytes_pulled,
        /// Pushes whose values were read from the client's memory.
        sum by_reference,
        /// Requests refused.
        sum refused,
        /// Pushes that were summed with others before they were applied.
        sum aggregated,
        /// Turns that found work.
        sum busy_turns,
        /// Times the shard went to sleep.
        sum sleeps,
        /// Sleeps that lasted as long as they may although work was waiting: lost wake-ups.
        sum late_wakes,
        /// Sessions connected now.
        sum sessions,
        /// Sessions that turns poll because they were heard lately.
        sum sessions_watched,
        /// Sessions whose last pushes are remembered, for each partition that remembers them.
        sum sessions_remembered,
        /// Remembered sessions that were forgotten because they were idle.
        sum sessions_expired,
        /// Rows that were removed because they were too old, or too many.
        sum rows_expired,
        /// Sessions ended for breaking the protocol.
        sum sessions_failed,
        /// Times a push waited for room in the log.
        sum log_waits,
        /// Pulls that waited for a slower worker.
        sum pulls_parked,
        /// Times a worker of a table left or was given up.
        sum workers_retired,
        /// Records appended to chains by this server as head.
        sum chain_records,
        /// Bytes of those records.
        sum chain_bytes,
        /// Bytes of messages with records, from the servers before this one in chains.
        sum chain_received_bytes,
        /// Rounds of tables in rounds that were applied, by partition.
        sum rounds_closed,
        /// Pushes dropped at a partition because their round was closed.
        sum late_dropped,
        /// Pushes counted in a later round of a partition than their own.
        sum late_folded,
        /// Messages that wait for rounds or for replicas now.
        sum messages_waiting,
        /// Times a pull waited for room because its client had not taken what it was sent.
        sum crowded,
        /// Records in the log since the start.
        sum log_records,
        /// Writes of the log.
        sum log_writes,
        /// Bytes written to the log, padding included.
        sum log_bytes,
        /// Bytes of values in the records of the log: what pushes have changed.
        sum log_value_bytes,
        /// Bytes of zeros written into new files of the log.
        sum log_prepared_bytes,
        /// Bytes written by checkpoints.
        sum checkpoint_bytes,
        /// Bytes that wait for the disk now; pushes wait when they reach `log_waiting_bytes_max`.
        sum log_waiting_bytes,
        /// Most bytes that may wait for the disk: what the log takes of memory.
        sum log_waiting_bytes_max,
        /// Microseconds pushes waited for room in the log.
        sum log_wait_us,
        /// Files of the log, those with records and those kept ready.
        sum log_segments,
        /// Logs that are filling a new file with zeros now, which takes a share of the disk.
        sum logs_preparing,
        /// Logs that a failed write has stopped: their partitions accept no pushes.
        sum logs_stopped,
        /// Number of the newest checkpoint.
        max checkpoints,
        /// Turns that did a piece of a checkpoint.
        sum checkpoint_turns,
        /// Microseconds they spent on it.
        sum checkpoint_us,
        /// The longest of them: what a checkpoint has kept a push waiting at most.
        max checkpoint_turn_us_max,
        /// Checkpoint turns of more than a millisecond of wall time.
        sum checkpoint_turns_long,
        /// CPU time of checkpoint turns, in microseconds. Wall time beyond this went to other threads or to
        /// sleeping in a system call.
        sum checkpoint_cpu_us,
        /// The most that one of them took of the processor.
        max checkpoint_turn_cpu_us_max,
        /// Checkpoint turns that took more than a millisecond of CPU time.
        sum checkpoint_turns_cpu_long,
        /// Checkpoint turns of more than a millisecond of wall time in which the shard slept inside the
        /// kernel. The others were long by their own work, or because another thread had the core.
        sum checkpoint_turns_blocked,
        /// The longest of these.
        max checkpoint_blocked_us_max,
        /// Records appended as head that not every replica has yet.
        sum chain_inflight,
        /// Bytes of records kept for other servers.
        sum chain_held_bytes,
        /// Bytes of parameter memory.
        sum parameter_bytes,
        /// Bytes that may still be allocated.
        sum memory_left,
    }
}

impl ShardStatistics {
    /// A turn did so much of a checkpoint.
    pub(super) fn note_checkpoint_turn(&mut self, took: Took) {
        let us = u64::try_from(took.wall.as_micros()).unwrap_or(u64::MAX);
        let cpu_us = u64::try_from(took.cpu.as_micros()).unwrap_or(u64::MAX);
        self.checkpoint_turns += 1;
        self.checkpoint_us += us;
        self.checkpoint_turn_us_max = self.checkpoint_turn_us_max.max(us);
        self.checkpoint_turns_long += u64::from(took.wall > CHECKPOINT_TURN_LONG);
        self.checkpoint_cpu_us += cpu_us;
        self.checkpoint_turn_cpu_us_max = self.checkpoint_turn_cpu_us_max.max(cpu_us);
        self.checkpoint_turns_cpu_long += u64::from(took.cpu > CHECKPOINT_TURN_LONG);
        if took.blocked {
            self.checkpoint_turns_blocked += 1;
            self.checkpoint_blocked_us_max = self.checkpoint_blocked_us_max.max(us);
        }
    }

    /// Hundredths of a byte written to the disk for each byte of values that pushes have changed.
    #[must_use]
    pub fn written_percent(&self) -> u64 {
        let written = self.log_bytes + self.log_prepared_bytes + self.checkpoint_bytes;
        let percent = u128::from(written) * 100 / u128::from(self.log_value_bytes.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

/// What a shard counts and what its tables take; of several shards, once they were merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatistics {
    /// The counters.
    pub counted: ShardStatistics,
    /// The tables, by their numbers.
    pub tables: Vec<TableUsage>,
}

impl ServerStatistics {
    /// Adds another shard's.
    pub fn merge(&mut self, other: &Self) {
        self.counted.merge(&other.counted);
        for usage in &other.tables {
            match self.tables.binary_search_by_key(&usage.table, |mine| mine.table) {
                Ok(at) => self.tables[at].merge(usage),
                Err(at) => self.tables.insert(at, *usage),
            }
        }
    }

    /// As one JSON object: the counters with their names as keys, and `tables`.
    ///
    /// # Panics
    /// Never: numbers are JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Told<'a> {
            #[serde(flatten)]
            counted: ShardStatistics,
            written_percent: u64,
            tables: &'a [TableUsage],
        }
        let written_percent = self.counted.written_percent();
        let told = Told { counted: self.counted, written_percent, tables: &self.tables };
        serde_json::to_string(&told).expect("numbers are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_put_together_by_sums_and_greatest() {
        let shard =
            |pushes, checkpoints| ShardStatistics { pushes, checkpoints, ..Default::default() };
        let mut total = shard(3, 7);
        total.merge(&shard(4, 5));
        assert_eq!(total, shard(7, 7));
    }

    #[test]
    fn json_has_the_counters_and_what_they_come_to() {
        let counted =
            ShardStatistics { log_bytes: 30, log_value_bytes: 20, pushes: 3, ..Default::default() };
        let usage =
            |table, rows| TableUsage { table, rows, bytes: 8, index_keys: 1, index_slots: 2 };
        let mut server = ServerStatistics { counted, tables: vec![usage(3, 5)] };
        let tables = vec![usage(1, 7), usage(3, 11)];
        server.merge(&ServerStatistics { counted: ShardStatistics::default(), tables });
        let json: serde_json::Value = serde_json::from_str(&server.to_json()).unwrap();
        assert_eq!((&json["pushes"], &json["written_percent"]), (&3.into(), &150.into()));
        assert_eq!(json["memory_left"], 0);
        let rows = |at: usize| json["tables"][at]["rows"].as_u64();
        assert_eq!((rows(0), rows(1), rows(2)), (Some(7), Some(16), None));
        let both = &json["tables"][1];
        assert_eq!(
            (&both["bytes"], &both["index_keys"], &both["index_slots"]),
            (&16.into(), &2.into(), &4.into())
        );
    }
}
