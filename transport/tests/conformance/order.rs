//! Rule 1: requests of one queue pair take effect in the order they were posted.

use windlass_transport::{Access, SendRequest, Transport as _};

use super::harness::{Fixture, pair, read, signaled, unsignaled, write, write_word};

const PAYLOAD_LEN: u32 = 4096;
const COMMIT_OFFSET: u64 = 8192;

/// A checker that spins on the commit word never sees a payload older than it, where writes show in order.
/// Elsewhere it may; what holds there of immediates is another case.
pub fn commit_words_never_overtake_their_payload<F: Fixture>() {
    let rounds = F::rounds(20_000);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let source = side.region(PAYLOAD_LEN as usize, Access::LOCAL);
            let answer = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &answer);
            let target = side.hear_region();
            for round in 1..=rounds {
                source.pages.write(0, &vec![round.to_le_bytes()[0]; PAYLOAD_LEN as usize]);
                // An odd length: whatever copies in words has to end somewhere else.
                let len = PAYLOAD_LEN - u32::from(round.to_le_bytes()[0] % 64);
                side.post_all(
                    queue_pair,
                    &[
                        unsignaled(write(source.slice(0, len), target.at(0))),
                        signaled(round, write_word(round, target.at(COMMIT_OFFSET))),
                    ],
                );
                side.succeeds(round);
                side.until("the checker answers", |_| answer.pages.load_u64(0) == round);
            }
            side.meet();
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(3 * 4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            let answer = side.hear_region();
            let mut payload = vec![0; PAYLOAD_LEN as usize];
            let mut overtaken = 0;
            for round in 1..=rounds {
                side.until("the commit word comes", |_| {
                    target.pages.load_u64(COMMIT_OFFSET) == round
                });
                target.pages.read(0, &mut payload);
                let len = PAYLOAD_LEN as usize - usize::from(round.to_le_bytes()[0] % 64);
                let is_whole = payload[..len].iter().all(|byte| *byte == round.to_le_bytes()[0]);
                overtaken += u64::from(!is_whole);
                side.post_all(queue_pair, &[signaled(round, write_word(round, answer.at(0)))]);
                side.succeeds(round);
            }
            let promises = side.transport.promises(queue_pair);
            assert_eq!(
                overtaken > 0,
                !promises.writes_in_order,
                "commit words overtook {overtaken} payloads"
            );
            side.meet();
        },
    );
}

/// A fenced read sees what was written before anything that the read before it saw, however long that
/// is: the peer writes one word behind the other, and they are read in the opposite order.
pub fn fenced_reads_begin_when_those_before_have_ended<F: Fixture>() {
    let rounds = F::rounds(200);
    // More than sockets take at once.
    let len: u32 = if F::SLOW { 64 << 10 } else { 8 << 20 };
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let local = side.region(len as usize + 4096, Access::LOCAL);
            let target = side.hear_region();
            let end = u64::from(len);
            for round in 1..=rounds {
                let later = unsignaled(read(local.slice(0, len), target.at(0)));
                let earlier = signaled(round, read(local.slice(end, 8), target.at(end)));
                side.post_all(queue_pair, &[later, SendRequest { fenced: true, ..earlier }]);
                side.succeeds(round);
                let (later, earlier) = (local.pages.load_u64(end - 8), local.pages.load_u64(end));
                assert!(later <= earlier, "round {round}: {later} was seen before {earlier}");
            }
            side.carry_out(queue_pair, write_word(1, target.at(end + 8)));
            side.meet();
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(len as usize + 4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            let (end, mut written) = (u64::from(len), 0);
            side.until("the reader has seen enough", |_| {
                for _ in 0..64 {
                    written += 1;
                    target.pages.store_u64(end, written);
                    target.pages.store_u64(end - 8, written);
                }
                target.pages.load_u64(end + 8) == 1
            });
            side.meet();
        },
    );
}
