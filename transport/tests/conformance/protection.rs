//! Rule 4: what was not granted is refused, changes nothing, and ends that queue pair only.

use windlass_transport::{
    Access, Batch, CompletionStatus, Operation, Pages, RemoteKey, RemoteRegion, Transport,
    error::PostError, memory::PagesOptions,
};

use super::harness::{Fixture, Note, pair, pattern, read, signaled, write, write_word};

/// Makes one request on a region with some access; it has to be refused, the memory to stay as it
/// was, and a second queue pair of the same instances to work as before.
fn is_refused<F: Fixture>(
    access: Access,
    attempt: impl Fn(&RemoteRegion, windlass_transport::LocalSlice) -> Operation + Send + 'static,
) {
    pair::<F>(
        move |mut side| {
            let victim = side.connect();
            let bystander = side.connect();
            let local = side.region(4096, Access::LOCAL);
            local.pages.write(0, &[0xaa; 64]);
            let target = side.hear_region();
            let other = side.hear_region();
            let status = side.fails(victim, attempt(&target, local.slice(0, 8)));
            assert!(
                matches!(status, None | Some(CompletionStatus::RemoteAccess)),
                "refused as {status:?}"
            );
            assert_eq!(side.bytes(&local, 0, 8), [0xaa; 8], "a refused request returned bytes");
            side.carry_out(bystander, write_word(5, other.at(0)));
            side.meet();
        },
        move |mut side| {
            let victim = side.connect();
            let bystander = side.connect();
            let target = side.region(4096, access);
            target.pages.write(0, &pattern(4, 4096));
            let other = side.region(4096, Access::READ_WRITE);
            side.share(victim, &target);
            side.share(bystander, &other);
            side.meet();
            assert!(side.bytes(&target, 0, 4096) == pattern(4, 4096), "memory was changed");
            assert_eq!(other.pages.load_u64(0), 5);
        },
    );
}

pub fn writes_to_readable_memory_are_refused<F: Fixture>() {
    is_refused::<F>(Access::READ, |target, local| write(local, target.at(0)));
    is_refused::<F>(Access::READ, |target, _| write_word(1, target.at(8)));
}

pub fn reads_of_writable_memory_are_refused<F: Fixture>() {
    let write_only = Access { remote_write: true, ..Access::LOCAL };
    is_refused::<F>(write_only, |target, local| read(local, target.at(0)));
}

pub fn atomics_on_other_memory_are_refused<F: Fixture>() {
    is_refused::<F>(Access::READ_WRITE, |target, local| Operation::FetchAdd {
        local,
        remote: target.at(0),
        add: 1,
    });
    is_refused::<F>(Access::READ, |target, local| Operation::CompareSwap {
        local,
        remote: target.at(0),
        expected: 0,
        desired: 1,
    });
}

pub fn requests_past_the_end_are_refused<F: Fixture>() {
    is_refused::<F>(Access::ALL, |target, local| write(local, target.at(target.len - 4)));
    is_refused::<F>(Access::ALL, |target, local| read(local, target.at(target.len)));
    is_refused::<F>(Access::ALL, |target, local| write(local, target.at(u64::MAX - 3)));
    is_refused::<F>(Access::ALL, |target, local| read(local, target.at(0_u64.wrapping_sub(8))));
}

pub fn unknown_keys_are_refused<F: Fixture>() {
    is_refused::<F>(Access::ALL, |target, local| {
        let mut remote = target.at(0);
        remote.key = RemoteKey(remote.key.0 ^ 0x5a5a_5a5a);
        write(local, remote)
    });
    is_refused::<F>(Access::ALL, |target, local| {
        let mut remote = target.at(0);
        remote.key = RemoteKey(0);
        read(local, remote)
    });
}

/// A key ends with its registration; the same memory registered again has another.
pub fn deregistered_keys_are_refused<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let first = side.connect();
            let second = side.connect();
            let target = side.hear_region();
            side.carry_out(first, write_word(1, target.at(0)));
            side.meet();
            let again = side.hear_region();
            assert_ne!(again.key, target.key);
            let status = side.fails(first, write_word(2, target.at(0)));
            assert!(matches!(status, None | Some(CompletionStatus::RemoteAccess)));
            side.carry_out(second, write_word(3, again.at(8)));
            side.meet();
        },
        |mut side| {
            let first = side.connect();
            let second = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(first, &target);
            side.meet();
            side.transport.deregister(&target);
            let again = side.transport.register(&target.pages, Access::READ_WRITE).unwrap();
            side.share(second, &again);
            side.meet();
            assert_eq!(target.pages.load_u64(0), 1, "a key outlived its registration");
            assert_eq!(target.pages.load_u64(8), 3);
        },
    );
}

/// What another thread prepared is a region like others, and ends for peers once its rest is dropped.
pub fn memory_registered_by_another_thread_is_like_any_other<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let local = side.region(4096, Access::LOCAL);
            side.carry_out(queue_pair, read(local.slice(0, 64), target.at(64)));
            assert_eq!(side.bytes(&local, 0, 64), pattern(6, 4096)[64..128]);
            side.meet();
            side.meet();
            let status = side.fails(queue_pair, read(local.slice(0, 8), target.at(0)));
            assert!(matches!(status, None | Some(CompletionStatus::RemoteAccess)));
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
            let registrar = side.transport.registrar();
            let prepare = || registrar.map(|one| one.prepare(&pages, Access::READ).unwrap());
            let prepared = std::thread::scope(|scope| scope.spawn(prepare).join()).unwrap();
            let target = side.transport.adopt(&pages, Access::READ, prepared).unwrap();
            target.pages.write(0, &pattern(6, 4096));
            side.share(queue_pair, &target);
            side.meet();
            let rest = side.transport.release(&target);
            std::thread::spawn(move || drop(rest)).join().unwrap();
            side.meet();
            side.meet();
        },
    );
}

/// What a peer may write is reached by its own queue pair alone, whatever others know of it.
pub fn keys_are_good_on_one_queue_pair<F: Fixture>() {
    for access in [Access::READ_WRITE, Access::ALL] {
        pair::<F>(
            |mut side| {
                let owner = side.connect();
                let stranger = side.connect();
                let target = side.hear_region();
                side.carry_out(owner, write_word(1, target.at(0)));
                let status = side.fails(stranger, write_word(2, target.at(0)));
                assert!(matches!(status, None | Some(CompletionStatus::RemoteAccess)));
                side.carry_out(owner, write_word(3, target.at(8)));
                side.meet();
            },
            move |mut side| {
                let owner = side.connect();
                side.connect();
                let target = side.region(4096, access);
                side.share(owner, &target);
                side.meet();
                assert_eq!(target.pages.load_u64(0), 1, "a stranger has written");
                assert_eq!(target.pages.load_u64(8), 3);
            },
        );
    }
}

/// Slices that leave their region, or name none, fail at the side that posts them.
pub fn local_slices_are_checked<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let target = {
                let queue_pair = side.connect();
                let target = side.hear_region();
                let mut slice = side.region(4096, Access::LOCAL).slice(0, 8);
                slice.offset = 4092;
                let status = side.fails(queue_pair, write(slice, target.at(0)));
                assert!(matches!(status, None | Some(CompletionStatus::LocalProtection)));
                target
            };
            let queue_pair = side.connect();
            let gone = side.region(4096, Access::LOCAL);
            side.transport.deregister(&gone);
            let status = side.fails(queue_pair, read(gone.slice(0, 8), target.at(0)));
            assert!(matches!(status, None | Some(CompletionStatus::LocalProtection)));
            side.tell(Note::Word(0));
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.connect();
            side.hear_word();
            assert_eq!(target.pages.load_u64(0), 0);
        },
    );
}

/// Once memory was taken back by `deregister` or `disconnect` and peers are quiet, no write of a peer
/// lands any more, not even the rest of one that had begun: the owner may use it for something else.
pub fn nothing_lands_after_memory_was_taken_back<F: Fixture>() {
    const LEN: u32 = 1 << 20;
    const LAST: u64 = LEN as u64 - 8;
    let rounds = F::rounds(100).min(if F::SLOW { 2 } else { 100 });
    pair::<F>(
        move |mut side| {
            // Filled beforehand, so that the peer spends its time within writes.
            let sources = [1_u8, 2].map(|fill| {
                let local = side.region(LEN as usize, Access::LOCAL);
                local.pages.write(0, &vec![fill; LEN as usize]);
                local
            });
            for _ in 0..rounds {
                let queue_pair = side.connect();
                let target = side.hear_region();
                let mut turn = 0_usize;
                side.until("the memory is taken back", |side| {
                    turn += 1;
                    let local = &sources[turn % 2];
                    let mut batch = Batch::with_capacity(1);
                    let request = signaled(1, write(local.slice(0, LEN), target.at(0)));
                    batch.push(request).unwrap();
                    match side.transport.post_send(queue_pair, &mut batch) {
                        Ok(()) => side.completion().status != CompletionStatus::Success,
                        Err(error) => error == PostError::QueuePairError,
                    }
                });
                side.meet();
                side.transport.disconnect(queue_pair);
            }
        },
        move |mut side| {
            for round in 0..rounds {
                let queue_pair = side.connect();
                let target = side.region(LEN as usize, Access::READ_WRITE);
                side.share(queue_pair, &target);
                side.until("writes land", |_| target.pages.load_u64(0) != 0);
                // At some other point of a write each time.
                for _ in 0..round * 37 {
                    std::hint::spin_loop();
                }
                if round % 2 == 0 {
                    side.transport.deregister(&target);
                } else {
                    side.transport.disconnect(queue_pair);
                }
                side.until("peers are quiet", |side| side.transport.is_quiet());
                // The rest of a write would change its last word, which comes last.
                let before = target.pages.load_u64(LAST);
                side.meet();
                assert_eq!(before, target.pages.load_u64(LAST), "round {round}");
                side.transport.disconnect(queue_pair);
                side.transport.deregister(&target);
            }
        },
    );
}
