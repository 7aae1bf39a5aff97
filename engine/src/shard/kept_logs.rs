//! Which log each shard's directory should hold, by the server's catalogue, so that a missing or empty
//! directory is not taken for a new one.

use windlass_wire::ShardId;

use super::regrouped::Regrouped;
use crate::persist::{directories::ShardDirectory, manifest::manifest_number, storage};

/// The log in the directory of one shard of one grouping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLog {
    /// Which grouping of partitions.
    pub generation: u32,
    /// The shard of that grouping.
    pub shard: ShardId,
    /// Identity of the log.
    pub log_id: u64,
}

/// What a shard would recover from, and is not where it was; a sentence each. `found` are the directories
/// it has read, with the identities of their logs.
pub(super) fn vanished(
    regrouped: &Regrouped,
    shard: ShardId,
    found: &[(ShardDirectory, u64)],
) -> Vec<String> {
    let is_own = |log: &&KeptLog| match log.generation == regrouped.generation {
        true => log.shard == shard,
        false => log.generation < regrouped.generation,
    };
    let mut sentences = Vec::new();
    for log in regrouped.logs.iter().filter(is_own) {
        let directory = ShardDirectory::of(&regrouped.data, log.generation, log.shard);
        let there = found.iter().find(|(found, _)| *found == directory).map(|(_, id)| *id);
        let what = match there {
            Some(id) if id == log.log_id => continue,
            Some(0) => "holds nothing of the log that was there".to_owned(),
            Some(id) => format!("holds another log, {id:#x} instead of {:#x}", log.log_id),
            None if is_superseded(regrouped, log.generation) => continue,
            None => "is gone".to_owned(),
        };
        sentences.push(format!(
            "{} {what}, and the catalogue has tables that are kept there: restore it from a backup, or \
             start with --accept-damage",
            directory.path.display()
        ));
    }
    sentences
}

/// Whether a grouping is needed no more: every shard of a later one has published a checkpoint.
fn is_superseded(regrouped: &Regrouped, generation: u32) -> bool {
    let has_checkpoint = |log: &KeptLog| {
        let directory = ShardDirectory::of(&regrouped.data, log.generation, log.shard);
        let listed = directory.path.exists().then(|| {
            storage::open(&directory.path, regrouped.provider).and_then(|mut opened| opened.list())
        });
        let files = listed.and_then(Result::ok).into_iter().flatten();
        { files }.any(|file| manifest_number(&file.name).is_some())
    };
    let later = regrouped.logs.iter().map(|log| log.generation).filter(|later| *later > generation);
    later.into_iter().any(|later| {
        regrouped.logs.iter().filter(|log| log.generation == later).all(has_checkpoint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::{manifest::manifest_name, storage::Provider};

    #[test]
    fn a_log_that_is_not_where_it_was_is_named_unless_it_was_superseded() {
        let data = tempfile::tempdir().unwrap();
        let log = |generation, shard, log_id| KeptLog { generation, shard: ShardId(shard), log_id };
        let logs = vec![log(0, 0, 7), log(1, 0, 8), log(1, 1, 9)];
        let regrouped = Regrouped::new(data.path(), 1, 2, Provider::Buffered, logs);
        let of = |generation, shard| ShardDirectory::of(data.path(), generation, ShardId(shard));
        for shard in 0..2 {
            std::fs::create_dir(of(1, shard).path).unwrap();
        }
        let told = |found: &[(ShardDirectory, u64)]| vanished(&regrouped, ShardId(0), found);
        assert_eq!(told(&[(of(0, 0), 7), (of(1, 0), 8)]), Vec::<String>::new());
        let empty = told(&[(of(0, 0), 7), (of(1, 0), 0)]);
        assert!(empty.len() == 1 && empty[0].contains("holds nothing"), "{empty:?}");
        assert!(empty[0].contains("shard-000001-0000") && empty[0].contains("--accept-damage"));
        assert!(told(&[(of(0, 0), 5), (of(1, 0), 8)])[0].contains("another log"));
        // The older one may go once both shards have a checkpoint, and not before.
        std::fs::write(of(1, 0).path.join(manifest_name(1)), []).unwrap();
        assert!(told(&[(of(1, 0), 8)])[0].contains("shard-0 is gone"));
        std::fs::write(of(1, 1).path.join(manifest_name(1)), []).unwrap();
        assert_eq!(told(&[(of(1, 0), 8)]), Vec::<String>::new());
        // Also to a start that groups them anew.
        let logs = regrouped.logs.clone();
        let anew = Regrouped::new(data.path(), 2, 1, Provider::Buffered, logs);
        let found = [(of(1, 0), 8), (of(1, 1), 9), (of(2, 0), 0)];
        assert_eq!(vanished(&anew, ShardId(0), &found), Vec::<String>::new());
        assert!(vanished(&anew, ShardId(0), &found[1..])[0].contains("shard-000001-0000 is gone"));
    }
}
