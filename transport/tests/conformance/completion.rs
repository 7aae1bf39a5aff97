//! Rule 2: what a completion means, and which requests complete.

use windlass_transport::{
    Access, Batch, CompletionStatus, Opcode, Transport, WorkId, error::PostError,
};

use super::harness::{Fixture, pair, pattern, read, signaled, unsignaled, write, write_word};

/// Signaled requests complete once each, in posting order.
pub fn completions_come_in_posting_order<F: Fixture>() {
    let count = F::rounds(1000);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let mut expected = 1;
            for work_id in 1..=count {
                let request = write_word(work_id, target.at(8 * (work_id % 8)));
                side.post_all(queue_pair, &[signaled(work_id, request)]);
                while side.unread() > 0 {
                    assert_eq!(side.completion().work_id, WorkId(expected));
                    expected += 1;
                }
            }
            while expected <= count {
                side.succeeds(expected);
                expected += 1;
            }
            side.meet();
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            assert_eq!(target.pages.load_u64(8 * (count % 8)), count);
        },
    );
}

/// When a write has completed, its bytes are in the peer's memory.
pub fn completed_writes_are_in_place<F: Fixture>() {
    const LEN: u32 = 100_000;
    let rounds = F::rounds(200);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let source = side.region(LEN as usize, Access::LOCAL);
            let target = side.hear_region();
            for round in 0..rounds {
                source.pages.write(0, &pattern(round, LEN as usize));
                side.carry_out(queue_pair, write(source.slice(0, LEN), target.at(0)));
                side.meet();
                side.meet();
            }
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(LEN as usize, Access::READ_WRITE);
            side.share(queue_pair, &target);
            for round in 0..rounds {
                side.meet();
                assert!(side.bytes(&target, 0, LEN as usize) == pattern(round, LEN as usize));
                side.meet();
            }
        },
    );
}

/// When a read has completed, its bytes are in local memory, and they are not older than a write of
/// the same queue pair before it.
pub fn completed_reads_are_in_place<F: Fixture>() {
    let rounds = F::rounds(2000);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let local = side.region(4096, Access::LOCAL);
            let target = side.hear_region();
            for round in 1..=rounds {
                side.post_all(
                    queue_pair,
                    &[
                        unsignaled(write_word(round, target.at(8))),
                        signaled(round, read(local.slice(0, 24), target.at(0))),
                    ],
                );
                assert_eq!(side.succeeds(round).opcode, Opcode::Read);
                assert_eq!(local.pages.load_u64(8), round);
            }
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
        },
    );
}

/// Only signaled requests complete on success; a completion covers all requests before it.
pub fn unsignaled_requests_do_not_complete<F: Fixture>() {
    let rounds = F::rounds(1000);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            for round in 0..rounds {
                for word in 0..7 {
                    let request = write_word(round * 8 + word, target.at(8 * word));
                    side.post_all(queue_pair, &[unsignaled(request)]);
                }
                let last = write_word(round * 8 + 7, target.at(56));
                side.post_all(queue_pair, &[signaled(round, last)]);
                side.succeeds(round);
                assert_eq!(side.unread(), 0, "an unsignaled request completed");
            }
            side.meet();
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            for word in 0..8 {
                assert_eq!(target.pages.load_u64(8 * word), (rounds - 1) * 8 + word);
            }
        },
    );
}

/// Requests carried out or posted at once keep the order, and writes complete only when they fail; what
/// a provider does not do so is posted.
pub fn requests_made_at_once_are_as_those_posted<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let into = side.region(64, Access::LOCAL);
            let count = u64::from(side.transport.capabilities().outstanding_max) * 2 + 5;
            for word in 1..=count {
                let (bytes, remote) = (word.to_le_bytes(), target.at(8 * (word % 8)));
                if !side.transport.write_now(queue_pair, &bytes, remote).unwrap() {
                    side.carry_out(queue_pair, write_word(word, remote));
                }
            }
            let (local, remote) = (into.slice(0, 64), target.at(0));
            if !side.transport.read_now(queue_pair, WorkId(9), local, remote).unwrap() {
                side.post(queue_pair, 9, read(local, remote));
            }
            side.succeeds(9);
            assert_eq!(side.unread(), 0, "a write made at once completed");
            for word in count - 7..=count {
                assert_eq!(into.pages.load_u64(8 * (word % 8)), word);
            }
            let parts: [&[u8]; 3] = [&[7; 3], &[], &[7; 6]];
            if side.transport.write_message_now(queue_pair, 5, &parts, target.at(16)).unwrap() {
                side.post(queue_pair, 10, read(local, remote));
                side.succeeds(10);
                let words = [16, 24, 32, 40].map(|at| into.pages.load_u64(at));
                assert_eq!(words, [5, 0x0707_0707_0707_0707, 7, 0]);
                let outside = target.at(4096 - 24);
                let is_written = side.transport.write_message_now(queue_pair, 5, &parts, outside);
                assert!(!is_written.unwrap(), "a message that leaves its region");
            }
            let outside = target.at(1 << 20);
            match side.transport.write_now(queue_pair, &[1; 8], outside) {
                Ok(true) => assert_ne!(side.completion().status, CompletionStatus::Success),
                Ok(false) => drop(side.fails(queue_pair, write_word(1, outside))),
                Err(error) => assert!(matches!(error, PostError::Invalid { .. }), "{error}"),
            }
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
        },
    );
}

/// What a full queue does not take stays in the batch, in order, and goes later.
pub fn a_full_queue_leaves_requests_in_the_batch<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let count = u64::from(side.transport.capabilities().outstanding_max) * 2 + 1;
            let mut batch = Batch::with_capacity(usize::try_from(count).unwrap());
            for work_id in 0..count {
                batch.push(signaled(work_id, write_word(work_id, target.at(0)))).unwrap();
            }
            let refused = side.transport.post_send(queue_pair, &mut batch);
            assert_eq!(refused, Err(PostError::QueueFull));
            assert!(!batch.is_empty(), "a refused request left the batch");
            assert!((batch.len() as u64) < count, "an empty queue takes something");
            for work_id in 0..count {
                assert_eq!(side.completion().work_id, WorkId(work_id));
                match side.transport.post_send(queue_pair, &mut batch) {
                    Ok(()) => assert!(batch.is_empty()),
                    Err(error) => assert_eq!(error, PostError::QueueFull),
                }
            }
            assert!(batch.is_empty());
            side.tell(super::harness::Note::Word(count - 1));
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            let last = side.hear_word();
            assert_eq!(target.pages.load_u64(0), last);
        },
    );
}
