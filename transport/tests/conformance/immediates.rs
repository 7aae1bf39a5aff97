//! Rule 6: writes with immediate.

use std::time::{Duration, Instant};

use windlass_transport::{
    Access, InlineBytes, Opcode, Operation, RemoteAddress, Transport, error::PostError,
};

use super::harness::{Fixture, PATIENCE, Side, pair, signaled, unsignaled, write, write_word};

fn announce(word: u64, remote: RemoteAddress, immediate: u32) -> Operation {
    Operation::WriteWithImmediate { bytes: InlineBytes::word(word), remote, immediate }
}

/// Immediates arrive in order, each after its own bytes and after the write before it; receives are
/// posted again as they are used, and credits keep the sender within them.
pub fn immediates_come_in_order_after_their_bytes<F: Fixture>() {
    const CREDITS: u64 = 16;
    const LEN: u32 = 3000;
    let rounds = F::rounds(4000);
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let source = side.region(LEN as usize * 32, Access::LOCAL);
            let credit = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &credit);
            let target = side.hear_region();
            side.meet();
            for round in 0..rounds {
                side.until("a credit comes", |_| credit.pages.load_u64(0) + CREDITS > round);
                let slot = round % 32;
                let begin = slot * u64::from(LEN);
                source.pages.write(begin, &[round.to_le_bytes()[0]; LEN as usize]);
                let payload = write(source.slice(begin, LEN), target.at(4096 + begin));
                let immediate = u32::try_from(round).unwrap();
                side.post_all(
                    queue_pair,
                    &[
                        unsignaled(payload),
                        signaled(round, announce(round, target.at(8 * slot), immediate)),
                    ],
                );
                assert_eq!(side.succeeds(round).opcode, Opcode::Write);
            }
            side.meet();
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096 + LEN as usize * 32, Access::READ_WRITE);
            side.transport.post_receive(queue_pair, u32::try_from(CREDITS).unwrap()).unwrap();
            side.share(queue_pair, &target);
            let credit = side.hear_region();
            side.meet();
            for round in 0..rounds {
                assert_eq!(u64::from(side.immediate()), round);
                let slot = round % 32;
                assert_eq!(target.pages.load_u64(8 * slot), round);
                let payload = side.bytes(&target, 4096 + slot * u64::from(LEN), LEN as usize);
                assert!(payload.iter().all(|byte| *byte == round.to_le_bytes()[0]));
                side.transport.post_receive(queue_pair, 1).unwrap();
                side.post_all(queue_pair, &[signaled(round, write_word(round + 1, credit.at(0)))]);
                // The credit's own completion may come between two immediates.
                side.until_own(round);
            }
            side.meet();
        },
    );
}

/// An immediate without bytes names no memory.
pub fn immediates_may_come_without_bytes<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            side.meet();
            let operation = Operation::WriteWithImmediate {
                bytes: InlineBytes::new(&[]),
                remote: RemoteAddress::default(),
                immediate: 0xffff_fffe,
            };
            side.carry_out(queue_pair, operation);
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            side.transport.post_receive(queue_pair, 1).unwrap();
            side.meet();
            assert_eq!(side.immediate(), 0xffff_fffe);
            side.meet();
        },
    );
}

/// No more receives than the provider says.
pub fn receives_are_bounded<F: Fixture>() {
    pair::<F>(
        |mut side| {
            side.connect();
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let count_max = side.transport.capabilities().receives_max;
            side.transport.post_receive(queue_pair, count_max).unwrap();
            let refused = side.transport.post_receive(queue_pair, 1);
            assert_eq!(refused, Err(PostError::QueueFull));
            side.meet();
        },
    );
}

/// Two sides that sleep between their turns wake each other every time. A lost wake-up would be a
/// sleep of twice the test's patience.
pub fn immediates_wake_a_sleeper<F: Fixture>() {
    fn turns<T: Transport>(side: &mut Side<T>, rounds: u64, begins: bool) {
        let queue_pair = side.connect();
        side.transport.post_receive(queue_pair, 8).unwrap();
        let own = side.region(4096, Access::READ_WRITE);
        side.share(queue_pair, &own);
        let peer = side.hear_region();
        side.meet();
        let deadline = Instant::now() + PATIENCE;
        for round in 0..rounds {
            let immediate = u32::try_from(round).unwrap();
            if begins {
                side.post_all(queue_pair, &[unsignaled(announce(round, peer.at(0), immediate))]);
            }
            while side.unread() == 0 {
                side.transport.wait(PATIENCE * 2);
                side.progress();
                assert!(Instant::now() < deadline, "a wake-up was lost");
            }
            assert_eq!(side.immediate(), immediate);
            side.transport.post_receive(queue_pair, 1).unwrap();
            if !begins {
                side.post_all(queue_pair, &[unsignaled(announce(round, peer.at(0), immediate))]);
            }
            if round % 16 == 15 {
                side.post_all(queue_pair, &[signaled(round, write_word(0, peer.at(8)))]);
                side.until_own(round);
            }
        }
        side.meet();
    }
    let rounds = F::rounds(2000);
    pair::<F>(
        move |mut side| turns(&mut side, rounds, true),
        move |mut side| turns(&mut side, rounds, false),
    );
}

/// A sleeper is also woken by another thread's waker, before or during its sleep.
pub fn wakers_end_a_wait<F: Fixture>() {
    let mut side = F::open().unwrap();
    let waker = side.waker();
    let deadline = Instant::now() + PATIENCE;
    waker.wake();
    side.wait(PATIENCE * 2);
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake();
        waker
    });
    side.wait(PATIENCE * 2);
    let waker = late.join().unwrap();
    assert!(Instant::now() < deadline, "a waker did not wake");
    drop(side);
    waker.wake();
}

/// A wait ends by itself.
pub fn waits_end_in_time<F: Fixture>() {
    let mut side = F::open().unwrap();
    for _ in 0..20 {
        side.wait(Duration::from_millis(1));
    }
    side.wait(Duration::ZERO);
}

/// Two instances of one provider sleep together in one thread.
pub fn transports_wait_together<F: Fixture>() {
    let (first, second) = (F::open().unwrap(), F::open().unwrap());
    let waker = second.waker();
    let mut both: [Box<dyn Transport>; 2] = [Box::new(first), Box::new(second)];
    let deadline = Instant::now() + PATIENCE;
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    windlass_transport::wait::wait_any(&mut both, PATIENCE * 2);
    late.join().unwrap();
    assert!(Instant::now() < deadline, "a waker did not wake");
    windlass_transport::wait::wait_any(&mut both, Duration::from_millis(1));
}
