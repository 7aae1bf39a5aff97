//! Rule 2: what a completion means, and which requests complete.

use windlass_transport::{Access, WorkId};

use super::harness::{Fixture, pair, signaled, write_word};

/// Signaled requests complete once each, in posting order.
pub fn completions_come_in_posting_order<F: Fixture>() {
    const COUNT: u64 = 1000;
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let mut expected = 1;
            for work_id in 1..=COUNT {
                side.post_all(
                    queue_pair,
                    &[signaled(work_id, write_word(work_id, target.at(8 * (work_id % 8))))],
                );
                while side.unread() > 0 {
                    assert_eq!(side.completion().work_id, WorkId(expected));
                    expected += 1;
                }
            }
            while expected <= COUNT {
                side.succeeds(expected);
                expected += 1;
            }
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            assert_eq!(target.pages.load_u64(0), COUNT);
        },
    );
}
