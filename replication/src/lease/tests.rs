//! Promises and silence, a few moments each.

use super::*;

const A: ServerId = ServerId(1);
const B: ServerId = ServerId(2);
const FIRST: Incarnation = Incarnation(1);

fn pair() -> (Leases, Leases) {
    let timings = LeaseTimings {
        lease_us: 100,
        ping_us: 20,
        suspect_us: 200,
        lateness_us: 3_200,
        link_us: 1_000,
        drift_ppm: 10_000,
    };
    let (mut a, mut b) = (Leases::new(Time(0), timings), Leases::new(Time(0), timings));
    a.adopt(Time(0), Epoch(1), FIRST, [(B, FIRST)]);
    b.adopt(Time(0), Epoch(1), FIRST, [(A, FIRST)]);
    (a, b)
}

#[test]
fn the_holder_stops_before_the_grantor_goes_on() {
    let (mut a, mut b) = pair();
    let mut outputs = Vec::new();
    (1..50).for_each(|tick| b.tick(Time(20 * tick), &mut outputs));
    outputs.clear();
    b.tick(Time(1000), &mut outputs);
    assert_eq!(
        outputs,
        [LeaseOutput::Ping { to: A, asked_at: Time(1000) }, LeaseOutput::Suspect { peer: A }]
    );
    outputs.clear();
    a.ping(Time(7), B, Time(1000), &mut outputs);
    assert_eq!(outputs, [LeaseOutput::Grant { to: B, asked_at: Time(1000), map_epoch: Epoch(1) }]);
    b.grant(Time(1040), A, Time(1000), Epoch(1));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(1099), "from when it asked, less drift");
    a.adopt(Time(10), Epoch(2), FIRST, []);
    assert_eq!(a.hold_until([B]), Time(108), "from when it answered, plus drift");
    assert_eq!(b.valid_until(Epoch(1), []), Time::NEVER);
}

#[test]
fn promises_from_before_a_clock_stood_still_do_not_count() {
    let (_, mut b) = pair();
    b.grant(Time(50), A, Time(40), Epoch(1));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(139));
    // Asked before, answered after.
    b.forget_held(Time(60));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(0));
    b.grant(Time(61), A, Time(55), Epoch(1));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(0));
    let mut outputs = Vec::new();
    b.tick(Time(62), &mut outputs);
    assert_eq!(outputs, [LeaseOutput::Ping { to: A, asked_at: Time(62) }]);
    b.grant(Time(63), A, Time(62), Epoch(1));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(161));
}

#[test]
fn a_peer_is_late_and_a_server_that_stands_still_accuses_nobody() {
    let (_, mut b) = pair();
    let mut outputs = Vec::new();
    let late = |b: &Leases, at| b.late_peers(Time(at)).collect::<Vec<_>>();
    b.ping(Time(0), A, Time(0), &mut outputs);
    (0..=20).for_each(|tick| b.tick(Time(20 * tick), &mut outputs));
    assert_eq!(late(&b, 400), [(A, 200)], "silent for 400, of which 200 are in time");
    b.ping(Time(420), A, Time(0), &mut outputs);
    b.ping(Time(440), A, Time(0), &mut outputs);
    assert_eq!(late(&b, 440), [(A, 220)]);
    assert_eq!(late(&b, 2_000), [(A, 220)], "what this server slept through is not late");
    outputs.clear();
    b.tick(Time(2_000), &mut outputs);
    assert!(!outputs.contains(&LeaseOutput::Suspect { peer: A }));
    assert_eq!(late(&b, 2_000), [(A, 220)]);
    (1..200).for_each(|tick| b.ping(Time(2_000 + 20 * tick), A, Time(0), &mut outputs));
    assert_eq!(late(&b, 5_980), [], "it is forgotten");
}

#[test]
fn the_time_that_links_take_is_not_late_and_no_life_answers_for_another() {
    let (_, mut b) = pair();
    let mut outputs = Vec::new();
    let late = |b: &Leases, at| b.late_peers(Time(at)).collect::<Vec<_>>();
    let mut wait = |b: &mut Leases, from: u64, to: u64| {
        (from / 20..=to / 20).for_each(|tick| b.tick(Time(20 * tick), &mut outputs));
    };
    wait(&mut b, 0, 1_200);
    assert_eq!(late(&b, 1_200), [], "there may be no link yet");
    wait(&mut b, 1_200, 1_400);
    assert_eq!(late(&b, 1_400), [(A, 200)], "there should be by now");
    // The peer is there in another life, then this server is.
    b.adopt(Time(1_400), Epoch(2), FIRST, [(A, Incarnation(2))]);
    wait(&mut b, 1_400, 2_600);
    assert_eq!(late(&b, 2_600), []);
    wait(&mut b, 2_600, 2_800);
    assert_eq!(late(&b, 2_800), [(A, 200)]);
    b.adopt(Time(2_800), Epoch(3), Incarnation(2), [(A, Incarnation(2))]);
    wait(&mut b, 2_800, 4_000);
    assert_eq!(late(&b, 4_000), []);
    b.adopt(Time(4_000), Epoch(4), Incarnation(2), [(A, Incarnation(2))]);
    wait(&mut b, 4_000, 4_200);
    assert_eq!(late(&b, 4_200), [(A, 200)], "another map changes nothing");
}

#[test]
fn a_promise_of_a_newer_map_does_not_count() {
    let (_, mut b) = pair();
    b.grant(Time(50), A, Time(40), Epoch(2));
    assert_eq!(b.valid_until(Epoch(1), [A]), Time(0));
    b.adopt(Time(60), Epoch(2), FIRST, [(A, FIRST)]);
    b.grant(Time(61), A, Time(60), Epoch(2));
    assert_eq!(b.valid_until(Epoch(2), [A]), Time(159));
    assert_eq!(b.valid_until(Epoch(3), [A]), Time(0), "the peer has not seen that chain");
}
