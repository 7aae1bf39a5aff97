//! Power cuts under whole servers: whatever the grouping of their partitions, what was acknowledged comes
//! back, once, and every push as a whole.
#![allow(clippy::unwrap_used, missing_docs)]

use windlass_tests::crash::{random::Random, served::Served, workload::End};

const LIVES: u64 = 24;

#[test]
fn servers_that_group_their_partitions_anew_lose_and_double_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut served = Served::new(data.path(), 1);
    let mut random = Random::new(0xFACE);
    for life in 0..LIVES {
        let end = if random.one_in(3) { End::Kill } else { End::PowerCut };
        // Some go off in the middle of recovery, some of a checkpoint, some when all is done.
        let most = if random.one_in(3) { 60 } else { 2000 };
        let events = (life % 5 > 0).then(|| 1 + random.below(most));
        served.live(end, events);
    }
    // At last nothing goes off before all of it was compared.
    served.live(End::PowerCut, None);
    assert!(served.promised > 5 * LIVES, "too little is acknowledged: {served:?}");
    assert!(served.checkpoints > LIVES / 4, "too few checkpoints: {served:?}");
}
