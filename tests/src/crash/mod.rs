//! Crash injection: the real log, checkpoints and recovery on a simulated disk that loses power at
//! every IO, checked against a serial oracle. Also whole servers on such disks: [`lives`], [`served`], [`chained`].

pub mod chained;
pub mod damage;
pub mod disk;
pub mod groups;
pub mod ledger;
pub mod lives;
pub mod random;
pub mod served;
pub mod server_disks;
pub mod simulated;
pub mod store;
pub mod workload;

use self::workload::{End, Verdict, Workload};

/// Turns of a life that is not cut short.
const TURNS: u32 = 600;

/// What a number of crashes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Crashes.
    pub points: u64,
    /// Pushes acknowledged as durable, in all.
    pub promised: u64,
    /// Checkpoints published, in all.
    pub checkpoints: u64,
    /// Durable pushes that were gone.
    pub lost: u64,
    /// Pushes applied more than once.
    pub doubled: u64,
    /// Wrong states that nothing reported.
    pub silent: u64,
    /// Partitions refused although nothing but the power had failed.
    pub refused: u64,
}

/// Cuts the power at so many IO points of a workload, each followed by recovery, further work and a
/// second cut, often in the middle of recovery.
#[must_use]
pub fn crash(points: u64, seed: u64) -> Report {
    crash_on(points, seed, disk::Faults::default())
}

/// As [`crash`], on a disk with faults: to show that they are noticed.
#[must_use]
pub fn crash_on(points: u64, seed: u64, faults: disk::Faults) -> Report {
    let mut report = Report::default();
    // How long an uncut life is, in events; seeds take turns when there are more points than that.
    let events = events_of_a_life(seed);
    for point in 0..points {
        let mut workload = Workload::new(seed.wrapping_add(point / events));
        workload.disk().borrow_mut().faults = faults;
        // Every point once, spread over the life.
        let cut = 1 + if points >= events { point % events } else { point * events / points };
        workload.disk().borrow_mut().cut_after(Some(cut));
        // Some processes die before the power does: the next life then builds on a mere cache.
        let end = if point % 3 == 0 { End::Kill } else { End::PowerCut };
        report.add(workload.live(TURNS, end));
        let second = 1 + random::Random::new(point).below(events / 2);
        workload.disk().borrow_mut().cut_after(Some(second));
        report.add(workload.live(TURNS / 2, End::PowerCut));
        report.add(workload.check_now());
        report.points += 1;
        report.promised += workload.promised;
        report.checkpoints += workload.checkpoints;
    }
    report
}

/// Events of a life without a power cut.
#[must_use]
pub fn events_of_a_life(seed: u64) -> u64 {
    let mut workload = Workload::new(seed);
    let disk = workload.disk();
    let _ = workload.live(TURNS, End::PowerCut);
    disk.borrow().events()
}

impl Report {
    fn add(&mut self, verdict: Verdict) {
        self.lost += verdict.lost;
        self.doubled += verdict.doubled;
        self.silent += verdict.silent;
        self.refused += verdict.reported;
    }
}
