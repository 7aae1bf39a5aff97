//! Recovers a data directory: first all shards recover, then they open their logs.

use std::sync::Arc;

use crossbeam::channel::Sender;

use super::cluster::{Cluster, DataDirectory, State};
use crate::{
    persist::directories::ShardDirectory,
    refusal::{Refusal, internal},
    shard::{KeptLog, RecoverySummary, Regrouped, ShardCommand},
};

impl Cluster {
    /// Takes the rows of the data directory back.
    pub(super) fn recover(&self, state: &mut State, data: &DataDirectory) -> Result<(), Refusal> {
        let shards = self.shards().len();
        // Before there are directories of shards that it does not know.
        self.store_catalogue(state)?;
        let logs = state.logs.clone();
        let regrouped = Regrouped::new(&data.path, data.generation, shards, data.storage, logs);
        let regrouped = Arc::new(regrouped);
        let accept_damage = data.accept_damage;
        let summaries: Vec<RecoverySummary> = self.ask_all(|answer| ShardCommand::Recover {
            regrouped: regrouped.clone(),
            accept_damage,
            answer,
        })?;
        let mut resumed = 0;
        for (shard, summary) in self.shards().iter().zip(summaries) {
            tracing::info!(
                shard = shard.id().0,
                records = summary.records,
                checkpoint_bytes = summary.checkpoint_bytes,
                log_bytes = summary.log_bytes,
                milliseconds = summary.milliseconds,
                storage = summary.storage,
                "recovered"
            );
            for damage in summary.damage {
                tracing::error!(shard = shard.id().0, damage, "served without what was lost");
            }
            resumed += summary.resumed;
        }
        let opened = self.ask_all(|answer| ShardCommand::OpenLog { answer })?;
        state.logs.retain(|log| {
            let directory = ShardDirectory::of(&data.path, log.generation, log.shard);
            log.generation < data.generation && directory.path.is_dir()
        });
        state.logs.extend(self.shards().iter().zip(opened).map(|(shard, log_id)| KeptLog {
            generation: data.generation,
            shard: shard.id(),
            log_id,
        }));
        if resumed > 0 {
            self.note_emptied(state);
        }
        self.store_catalogue(state)
    }

    /// Asks all shards at once, and waits for all of them.
    fn ask_all<T: Send>(
        &self,
        command: impl Fn(Sender<Result<T, String>>) -> ShardCommand + Sync,
    ) -> Result<Vec<T>, Refusal> {
        let command = &command;
        let answers: Vec<Result<T, String>> = std::thread::scope(|scope| {
            let asked: Vec<_> =
                self.shards().iter().map(|shard| scope.spawn(move || shard.ask(command))).collect();
            let died = || Err("a shard was not heard to its end".to_owned());
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(|_| died())).collect()
        });
        answers.into_iter().collect::<Result<_, _>>().map_err(internal)
    }
}
