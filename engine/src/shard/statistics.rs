//! What a shard counts. Read by commands, never logged on the way.

use super::stopwatch::Took;
use crate::limits::CHECKPOINT_TURN_LONG;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStatistics {
    /// Pushes applied.
    pub pushes: u64,
    /// Pushes acknowledged again without being applied again.
    pub duplicates: u64,
    /// Pulls answered by gathering rows.
    pub pulls: u64,
    /// Rows pushed.
    pub rows_pushed: u64,
    /// Rows pulled through the server.
    pub rows_pulled: u64,
    /// Bytes of values pushed.
    pub bytes_pushed: u64,
    /// Bytes of values pulled through the server.
    pub bytes_pulled: u64,
    /// Pushes whose values were read from the client's memory.
    pub by_reference: u64,
    /// Requests refused.
    pub refused: u64,
    /// Pushes that were summed with others before they were applied.
    pub aggregated: u64,
    /// Turns that found work.
    pub busy_turns: u64,
    /// Times the shard went to sleep.
    pub sleeps: u64,
    /// Sleeps that lasted as long as they may although work was waiting: lost wake-ups.
    pub late_wakes: u64,
    /// Sessions connected now.
    pub sessions: u64,
    /// Of those, the ones that turns look at: they said something lately.
    pub sessions_watched: u64,
    /// Sessions whose last pushes are remembered, for each partition that remembers them.
    pub sessions_remembered: u64,
    /// Of those, how many were forgotten because they were idle.
    pub sessions_expired: u64,
    /// Sessions ended for breaking the protocol.
    pub sessions_failed: u64,
    /// Times a push waited for room in the log.
    pub log_waits: u64,
    /// Pulls that waited for a slower worker.
    pub pulls_parked: u64,
    /// Times a worker of a table left or was given up.
    pub workers_retired: u64,
    /// Records appended to chains by this server as head.
    pub chain_records: u64,
    /// Bytes of those records.
    pub chain_bytes: u64,
    /// Bytes of messages with records, from the servers before this one in chains.
    pub chain_received_bytes: u64,
    /// Rounds of tables in rounds that were applied, by partition.
    pub rounds_closed: u64,
    /// Pushes dropped at a partition because their round was closed.
    pub late_dropped: u64,
    /// Pushes counted in a later round of a partition than their own.
    pub late_folded: u64,
    /// Messages that wait for rounds or for replicas now.
    pub messages_waiting: u64,
    /// Times a pull waited for room because its client had not taken what it was sent.
    pub crowded: u64,
    /// Records in the log since the start.
    pub log_records: u64,
    /// Writes of the log.
    pub log_writes: u64,
    /// Bytes written to the log, padding included.
    pub log_bytes: u64,
    /// Bytes of values in the records of the log: what pushes have changed.
    pub log_value_bytes: u64,
    /// Bytes of zeros written into new files of the log.
    pub log_prepared_bytes: u64,
    /// Bytes written by checkpoints.
    pub checkpoint_bytes: u64,
    /// Bytes that wait for the disk now; pushes wait when they reach `log_waiting_bytes_max`.
    pub log_waiting_bytes: u64,
    /// Most bytes that may wait for the disk: what the log takes of memory.
    pub log_waiting_bytes_max: u64,
    /// Microseconds pushes waited for room in the log.
    pub log_wait_us: u64,
    /// Files of the log, those with records and those kept ready.
    pub log_segments: u64,
    /// Logs that are filling a new file with zeros now, which takes a share of the disk.
    pub logs_preparing: u64,
    /// Logs that a failed write has stopped: their partitions accept no pushes.
    pub logs_stopped: u64,
    /// Number of the newest checkpoint.
    pub checkpoints: u64,
    /// Turns that did a piece of a checkpoint.
    pub checkpoint_turns: u64,
    /// Microseconds they spent on it.
    pub checkpoint_us: u64,
    /// The longest of them: what a checkpoint has kept a push waiting at most.
    pub checkpoint_turn_us_max: u64,
    /// Those of more than a millisecond.
    pub checkpoint_turns_long: u64,
    /// Microseconds of the processor that they took. What the clock says more is others who had the core.
    pub checkpoint_cpu_us: u64,
    /// The most that one of them took of the processor.
    pub checkpoint_turn_cpu_us_max: u64,
    /// Those that took more than a millisecond of the processor.
    pub checkpoint_turns_cpu_long: u64,
    /// Those of more than a millisecond by the clock in which the shard slept inside the kernel. The
    /// others were long by their own work, or because another thread had the core.
    pub checkpoint_turns_blocked: u64,
    /// The longest of these.
    pub checkpoint_blocked_us_max: u64,
    /// Of records appended as head, those that not every replica has yet.
    pub chain_inflight: u64,
    /// Bytes of records that are held for others.
    pub chain_held_bytes: u64,
    /// Bytes of parameter memory.
    pub parameter_bytes: u64,
    /// Bytes that may still be allocated.
    pub memory_left: u64,
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

    /// The counters as one JSON object, with the fields' names as keys.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields = [
            ("pushes", self.pushes),
            ("duplicates", self.duplicates),
            ("pulls", self.pulls),
            ("rows_pushed", self.rows_pushed),
            ("rows_pulled", self.rows_pulled),
            ("bytes_pushed", self.bytes_pushed),
            ("bytes_pulled", self.bytes_pulled),
            ("by_reference", self.by_reference),
            ("refused", self.refused),
            ("aggregated", self.aggregated),
            ("busy_turns", self.busy_turns),
            ("sleeps", self.sleeps),
            ("late_wakes", self.late_wakes),
            ("sessions", self.sessions),
            ("sessions_watched", self.sessions_watched),
            ("sessions_remembered", self.sessions_remembered),
            ("sessions_expired", self.sessions_expired),
            ("sessions_failed", self.sessions_failed),
            ("log_waits", self.log_waits),
            ("pulls_parked", self.pulls_parked),
            ("workers_retired", self.workers_retired),
            ("chain_records", self.chain_records),
            ("chain_bytes", self.chain_bytes),
            ("chain_received_bytes", self.chain_received_bytes),
            ("rounds_closed", self.rounds_closed),
            ("late_dropped", self.late_dropped),
            ("late_folded", self.late_folded),
            ("messages_waiting", self.messages_waiting),
            ("crowded", self.crowded),
            ("log_records", self.log_records),
            ("log_writes", self.log_writes),
            ("log_bytes", self.log_bytes),
            ("log_value_bytes", self.log_value_bytes),
            ("log_prepared_bytes", self.log_prepared_bytes),
            ("checkpoint_bytes", self.checkpoint_bytes),
            ("written_percent", self.written_percent()),
            ("log_waiting_bytes", self.log_waiting_bytes),
            ("log_waiting_bytes_max", self.log_waiting_bytes_max),
            ("log_wait_us", self.log_wait_us),
            ("log_segments", self.log_segments),
            ("logs_preparing", self.logs_preparing),
            ("logs_stopped", self.logs_stopped),
            ("checkpoints", self.checkpoints),
            ("checkpoint_turns", self.checkpoint_turns),
            ("checkpoint_us", self.checkpoint_us),
            ("checkpoint_turn_us_max", self.checkpoint_turn_us_max),
            ("checkpoint_turns_long", self.checkpoint_turns_long),
            ("checkpoint_cpu_us", self.checkpoint_cpu_us),
            ("checkpoint_turn_cpu_us_max", self.checkpoint_turn_cpu_us_max),
            ("checkpoint_turns_cpu_long", self.checkpoint_turns_cpu_long),
            ("checkpoint_turns_blocked", self.checkpoint_turns_blocked),
            ("checkpoint_blocked_us_max", self.checkpoint_blocked_us_max),
            ("chain_inflight", self.chain_inflight),
            ("chain_held_bytes", self.chain_held_bytes),
            ("parameter_bytes", self.parameter_bytes),
            ("memory_left", self.memory_left),
        ];
        let members: Vec<String> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    /// Adds another shard's.
    pub fn merge(&mut self, other: &Self) {
        self.pushes += other.pushes;
        self.duplicates += other.duplicates;
        self.pulls += other.pulls;
        self.rows_pushed += other.rows_pushed;
        self.rows_pulled += other.rows_pulled;
        self.bytes_pushed += other.bytes_pushed;
        self.bytes_pulled += other.bytes_pulled;
        self.by_reference += other.by_reference;
        self.refused += other.refused;
        self.aggregated += other.aggregated;
        self.busy_turns += other.busy_turns;
        self.sleeps += other.sleeps;
        self.late_wakes += other.late_wakes;
        self.sessions += other.sessions;
        self.sessions_watched += other.sessions_watched;
        self.sessions_remembered += other.sessions_remembered;
        self.sessions_expired += other.sessions_expired;
        self.sessions_failed += other.sessions_failed;
        self.log_waits += other.log_waits;
        self.pulls_parked += other.pulls_parked;
        self.workers_retired += other.workers_retired;
        self.chain_records += other.chain_records;
        self.chain_bytes += other.chain_bytes;
        self.chain_received_bytes += other.chain_received_bytes;
        self.rounds_closed += other.rounds_closed;
        self.late_dropped += other.late_dropped;
        self.late_folded += other.late_folded;
        self.messages_waiting += other.messages_waiting;
        self.crowded += other.crowded;
        self.log_records += other.log_records;
        self.log_writes += other.log_writes;
        self.log_bytes += other.log_bytes;
        self.log_value_bytes += other.log_value_bytes;
        self.log_prepared_bytes += other.log_prepared_bytes;
        self.checkpoint_bytes += other.checkpoint_bytes;
        self.log_waiting_bytes += other.log_waiting_bytes;
        self.log_waiting_bytes_max += other.log_waiting_bytes_max;
        self.log_wait_us += other.log_wait_us;
        self.log_segments += other.log_segments;
        self.logs_preparing += other.logs_preparing;
        self.logs_stopped += other.logs_stopped;
        self.checkpoints = self.checkpoints.max(other.checkpoints);
        self.checkpoint_turns += other.checkpoint_turns;
        self.checkpoint_us += other.checkpoint_us;
        self.checkpoint_turn_us_max = self.checkpoint_turn_us_max.max(other.checkpoint_turn_us_max);
        self.checkpoint_turns_long += other.checkpoint_turns_long;
        self.checkpoint_cpu_us += other.checkpoint_cpu_us;
        self.checkpoint_turn_cpu_us_max =
            self.checkpoint_turn_cpu_us_max.max(other.checkpoint_turn_cpu_us_max);
        self.checkpoint_turns_cpu_long += other.checkpoint_turns_cpu_long;
        self.checkpoint_turns_blocked += other.checkpoint_turns_blocked;
        self.checkpoint_blocked_us_max =
            self.checkpoint_blocked_us_max.max(other.checkpoint_blocked_us_max);
        self.chain_inflight += other.chain_inflight;
        self.chain_held_bytes += other.chain_held_bytes;
        self.parameter_bytes += other.parameter_bytes;
        self.memory_left += other.memory_left;
    }
}
