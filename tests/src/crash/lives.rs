//! One server's many lives: power cuts, kills, other numbers of shards, failing disks, damaged copies and
//! restores, in turn.

use std::path::Path;

use super::{
    damage::{Damage, Part},
    random::Random,
    served::{IsRefused, Served, Trouble},
    workload::End,
};

/// What a server's lives came to. A row that is not what it must be is a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// Starts that were followed by a power cut or a kill.
    pub lives: u64,
    /// How many of them the power ended at a chosen event.
    pub cuts: u64,
    /// Pushes acknowledged as durable.
    pub promised: u64,
    /// Checkpoints asked for.
    pub checkpoints: u64,
    /// Starts from a copy in which a file is damaged.
    pub damaged: u64,
    /// Those of them that were refused, by the name of the file.
    pub refused: u64,
    /// Directories of older groupings that a power cut inside their removal brought back.
    pub put_back: u64,
}

/// Lives of one server, the last of which nothing cuts short before all was compared.
///
/// # Panics
/// When a row is not what it must be, a sound server does not start, or a refusal names no reason.
#[must_use]
pub fn lives(data: &Path, lives: u64, seed: u64) -> Lives {
    let mut served = Served::new(data, seed);
    let mut random = Random::new(!seed);
    let mut report = Lives::default();
    for life in 0..lives {
        let end = if random.one_in(3) { End::Kill } else { End::PowerCut };
        // Some go off in the middle of recovery, some of a checkpoint, some when all is done.
        let most = if random.one_in(3) { 60 } else { 2000 };
        let events = (life % 5 > 0).then(|| 1 + random.below(most));
        let fail_sync = random.one_in(6).then(|| random.below(60));
        report.cuts += u64::from(events.is_some());
        served.live(end, Trouble { events, fail_sync });
        match life % 8 {
            7 => served.restore(),
            3 => served.start_unreadable(),
            1 | 5 => {
                let at = usize::try_from(life / 4).expect("few");
                let started =
                    served.start_damaged(Damage::ALL[at % Damage::ALL.len()], Part::Beginning);
                report.damaged += u64::from(started.is_some());
                report.refused += u64::from(started == Some(IsRefused(true)));
            }
            _ => {}
        }
    }
    served.live(End::PowerCut, Trouble::default());
    report.lives = lives + 1;
    report.promised = served.ledger.promised;
    report.checkpoints = served.checkpoints;
    report.put_back = served.put_back;
    report
}
