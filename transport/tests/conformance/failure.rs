//! Rule 3: failures end one queue pair, and everything posted on it completes.

use windlass_transport::{
    Access, Batch, CompletionStatus, QueuePairState, RemoteKey, Transport, WorkId, error::PostError,
};

use super::harness::{Fixture, Note, pair, signaled, unsignaled, write_word};

/// Of a batch with a bad request, those before it succeed, it fails, those after it are flushed.
pub fn requests_behind_a_failure_are_flushed<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let mut bad = target.at(0);
            bad.key = RemoteKey(bad.key.0 ^ 0x0f0f_0f0f);
            let mut batch = Batch::with_capacity(8);
            for (work_id, remote) in [
                (1, target.at(0)),
                (2, target.at(8)),
                (3, bad),
                (4, target.at(16)),
                (5, target.at(24)),
            ] {
                let request = write_word(work_id, remote);
                let request =
                    if work_id == 4 { unsignaled(request) } else { signaled(work_id, request) };
                batch.push(request).unwrap();
            }
            // A provider that carries requests out at once may already refuse those behind.
            let posted = side.transport.post_send(queue_pair, &mut batch);
            assert!(matches!(posted, Ok(()) | Err(PostError::QueuePairError)), "{posted:?}");
            side.succeeds(1);
            side.succeeds(2);
            let failed = side.completion();
            assert_eq!(
                (failed.work_id, failed.status),
                (WorkId(3), CompletionStatus::RemoteAccess)
            );
            for work_id in [0, 5].iter().take(2 - batch.len()) {
                let flushed = side.completion();
                assert_eq!(flushed.work_id, WorkId(*work_id), "even the unsignaled one completes");
                assert_eq!(flushed.status, CompletionStatus::Flushed);
            }
            assert_eq!(side.transport.state(queue_pair), QueuePairState::Error);
            side.tell(Note::Word(1));
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.hear_word();
            let words: Vec<_> = (0..4).map(|word| target.pages.load_u64(8 * word)).collect();
            assert_eq!(words, [1, 2, 0, 0], "a flushed request took effect");
        },
    );
}

/// A request posted after a failure is refused or flushed, never carried out.
pub fn a_failed_queue_pair_carries_nothing_out<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let mut bad = target.at(0);
            bad.key = RemoteKey(bad.key.0 ^ 0x0f0f_0f0f);
            side.fails(queue_pair, write_word(1, bad));
            let status = side.fails(queue_pair, write_word(1, target.at(0)));
            assert!(matches!(status, None | Some(CompletionStatus::Flushed)));
            side.transport.disconnect(queue_pair);
            assert_eq!(side.transport.state(queue_pair), QueuePairState::Error);
            side.tell(Note::Word(1));
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.hear_word();
            assert_eq!(target.pages.load_u64(0), 0);
        },
    );
}

/// A disconnected queue pair is gone here, ends there, and a new one works between the same two.
pub fn disconnecting_ends_both_sides<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            side.carry_out(queue_pair, write_word(1, target.at(0)));
            side.meet();
            side.until_dead(queue_pair, target.at(8));
            side.transport.disconnect(queue_pair);
            let again = side.connect();
            assert_ne!(again, queue_pair, "queue pair numbers are not used again");
            let target = side.hear_region();
            side.carry_out(again, write_word(2, target.at(0)));
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            side.transport.disconnect(queue_pair);
            assert_eq!(side.transport.state(queue_pair), QueuePairState::Error);
            let mut batch = Batch::with_capacity(1);
            batch.push(signaled(1, write_word(1, Default::default()))).unwrap();
            let refused = side.transport.post_send(queue_pair, &mut batch);
            assert_eq!(refused, Err(PostError::QueuePairError));
            assert_eq!(batch.len(), 1);
            assert_eq!(side.transport.post_receive(queue_pair, 1), Err(PostError::QueuePairError));
            assert!(side.transport.share(queue_pair, &target).is_err());
            side.transport.disconnect(queue_pair);
            let again = side.connect();
            side.share(again, &target);
            side.meet();
            assert_eq!(target.pages.load_u64(0), 2);
        },
    );
}

/// An instance that is dropped ends its queue pairs at all peers.
pub fn a_dropped_instance_ends_its_queue_pairs<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            side.carry_out(queue_pair, write_word(1, target.at(0)));
            side.meet();
            side.until_dead(queue_pair, target.at(0));
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
        },
    );
}
