//! Who goes when servers say of each other that they come late.

use windlass_wire::{Incarnation, ServerId};

use super::{
    super::{CoordinatorInput, CoordinatorOptions, CoordinatorOutput, tests::Driver},
    Hearing,
};
use crate::{membership::PartitionEntry, time::Time};

const TICK_US: u64 = 10_000;

/// A cluster and how badly its servers hear each other, in milliseconds.
struct Scene {
    driver: Driver,
    late: Vec<(u32, u32, u64)>,
    /// What there is of lateness does not become more.
    is_over: bool,
    more_us: u64,
    /// Answers probes so many microseconds late.
    slow: Option<(u32, u64)>,
    /// Servers whose heartbeats come once in a while only.
    unsteady: Vec<u32>,
    /// Servers that are heard no more.
    dead: Vec<u32>,
    answers: Vec<(Time, ServerId, Time)>,
    /// The coordinator wanted another one to lead.
    resigned: bool,
}

impl Scene {
    fn new(servers: u32, late: &[(u32, u32, u64)]) -> Self {
        let driver = Driver::new(servers);
        Self {
            driver,
            late: late.to_vec(),
            is_over: false,
            more_us: 0,
            slow: None,
            unsteady: Vec::new(),
            dead: Vec::new(),
            answers: Vec::new(),
            resigned: false,
        }
    }

    fn pass(&mut self, micros: u64) -> &mut Self {
        for tick in 1..=micros / TICK_US {
            self.driver.now = self.driver.now.after(TICK_US);
            self.more_us += u64::from(!self.is_over);
            let (now, more_us) = (self.driver.now, self.more_us);
            for output in std::mem::take(&mut self.driver.outputs) {
                self.resigned |= output == CoordinatorOutput::Resign;
                if let CoordinatorOutput::Probe { server, sent_at } = output {
                    let slow = self.slow.filter(|(id, _)| *id == server.0).map_or(0, |slow| slow.1);
                    self.answers.push((now.after(slow), server, sent_at));
                }
            }
            let map = self.driver.coordinator.map().clone();
            for (&server, entry) in &map.servers {
                let incarnation = entry.incarnation;
                let is_unsteady = self.unsteady.contains(&server.0) && !tick.is_multiple_of(45);
                if is_unsteady || self.dead.contains(&server.0) {
                    continue;
                }
                let answer =
                    self.answers.iter().rev().find(|(at, id, _)| *at <= now && *id == server);
                let probe = answer.map_or(Time(0), |(_, _, sent_at)| *sent_at);
                let its = self
                    .late
                    .iter()
                    .filter(|(by, of, _)| *by == server.0 && map.is_in_force(ServerId(*of)));
                let late = its.map(|(_, of, ms)| (ServerId(*of), ms * 1_000 + more_us)).collect();
                self.driver.give(CoordinatorInput::Hearing { server, incarnation, probe, late });
                let map_epoch = map.epoch;
                let beat = CoordinatorInput::Heartbeat { server, incarnation, map_epoch };
                self.driver.give(beat);
            }
            self.driver.give(CoordinatorInput::Tick);
        }
        self
    }

    /// How many chains hold both.
    fn shared(&self, a: u32, b: u32) -> usize {
        let entries = &self.driver.coordinator.map().partitions;
        assert!(entries.iter().all(|entry| !entry.members.is_empty()));
        let both = |id: u32| move |entry: &&PartitionEntry| entry.involves(ServerId(id));
        entries.iter().filter(both(a)).filter(both(b)).count()
    }

    fn out(&self) -> Vec<u32> {
        let map = self.driver.coordinator.map();
        map.servers.keys().filter(|id| !map.is_in_force(**id)).map(|id| id.0).collect()
    }
}

#[test]
fn a_server_deaf_to_its_peers_goes_and_not_they() {
    let complaints = [(1, 2, 900), (1, 3, 700), (2, 1, 400), (3, 1, 400)];
    let mut scene = Scene::new(3, &complaints);
    assert_eq!(scene.pass(100_000).out(), [1]);
    assert_eq!(scene.driver.coordinator.resting().collect::<Vec<_>>(), [ServerId(1)]);
    assert_eq!(scene.pass(1_500_000).out(), [1], "and nobody after it");
    let map = scene.driver.coordinator.map();
    assert!(map.partitions.iter().all(|entry| entry.members.len() == 2), "{map:?}");
}

#[test]
fn a_server_that_many_hear_badly_goes() {
    assert_eq!(Scene::new(4, &[(2, 4, 850), (3, 4, 450)]).pass(100_000).out(), [4]);
}

/// Two died while nobody led: whom only the one that lives has heard, the new leader does not know.
#[test]
fn a_new_leader_keeps_the_only_server_that_it_hears() {
    let mut scene = Scene::new(3, &[]);
    scene.pass(100_000);
    let map = scene.driver.coordinator.map().clone();
    scene.driver.give(CoordinatorInput::Elected { map });
    for _ in 0..300 {
        scene.driver.now = scene.driver.now.after(TICK_US);
        let map = scene.driver.coordinator.map();
        let (server, map_epoch, probe) = (ServerId(1), map.epoch, Time(0));
        let incarnation = map.servers[&server].incarnation;
        let late = [2, 3].map(ServerId).into_iter().filter(|id| map.is_in_force(*id));
        let late = late.map(|id| (id, 2_000_000)).collect();
        scene.driver.give(CoordinatorInput::Hearing { server, incarnation, probe, late });
        scene.driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch });
        scene.driver.give(CoordinatorInput::Tick);
    }
    assert_eq!(scene.out(), [2, 3]);
}

#[test]
fn a_server_that_was_never_heard_vouches_for_nobody() {
    let driver = Driver::new(3);
    let (mut hearing, options) = (Hearing::default(), CoordinatorOptions::default());
    hearing.note_neighbours(driver.coordinator.map());
    hearing.probe(driver.now, ServerId(1), &mut Vec::new());
    assert!(!hearing.is_vouched_for(driver.now, ServerId(2), &options));
    hearing.heard(driver.now, ServerId(1), &options);
    assert!(hearing.is_vouched_for(driver.now, ServerId(2), &options));
}

#[test]
fn a_little_lateness_removes_nobody() {
    assert_eq!(Scene::new(3, &[(1, 2, 600), (3, 1, 600)]).pass(1_000_000).out(), []);
}

/// Of two, the one whose accusation nothing supports.
#[test]
fn one_voice_does_not_remove_a_server_that_answers() {
    let mut scene = Scene::new(3, &[(1, 2, 1_500)]);
    assert_eq!(scene.pass(200_000).out(), [], "it may be either");
    assert!(scene.shared(1, 2) > 0);
    scene.late = vec![(1, 2, 1_700)];
    assert_eq!(scene.pass(200_000).out(), []);
    assert_eq!(scene.shared(1, 2), 0);
    assert_eq!(scene.driver.coordinator.map().held_by(ServerId(1)).count(), 0, "2 and 3 go on");
    assert_eq!(scene.pass(1_000_000).out(), [], "the copy that is left stays");
}

#[test]
fn what_the_coordinator_sees_decides_between_two() {
    for (sick, voice) in [(1, (1, 2, 850)), (2, (1, 2, 850)), (1, (2, 1, 850))] {
        let mut scene = Scene::new(3, &[voice]);
        scene.slow = Some((sick, 350_000));
        assert_eq!(scene.pass(1_000_000).out(), [sick], "{voice:?}");
    }
}

/// Each accuses the other, and nothing tells them apart: they share no chain until that is over.
#[test]
fn of_a_broken_pair_one_stays() {
    for servers in [3, 4] {
        let mut scene = Scene::new(servers, &[(1, 2, 2_000), (2, 1, 2_000)]);
        assert!(scene.shared(1, 2) > 0);
        for _ in 0..5 {
            assert_eq!(scene.pass(1_500_000).out(), []);
            assert_eq!(scene.shared(1, 2), 0, "as long as it lasts");
        }
        scene.late.clear();
        scene.pass(2_500_000);
        scene.driver.settle();
        assert!(scene.shared(1, 2) > 0, "it is over");
    }
}

/// One died when it was clear that another has to go, and is to be heard of only later: what both held
/// would be lost.
#[test]
fn nobody_goes_before_others_that_hold_the_same_have_answered() {
    let mut scene = Scene::new(3, &[]);
    scene.pass(100_000);
    (scene.late, scene.dead) = (vec![(1, 2, 900), (1, 3, 700)], vec![2, 3]);
    assert_eq!(scene.pass(100_000).out(), []);
    scene.dead = vec![3];
    assert_eq!(scene.pass(50_000).out(), [1]);
}

/// A link was bad and is well again. Much later its end loses something else.
#[test]
fn what_was_and_is_over_separates_nobody() {
    let mut scene = Scene::new(3, &[(1, 2, 1_500)]);
    scene.pass(500_000);
    scene.is_over = true;
    scene.pass(1_000_000);
    scene.is_over = false;
    scene.late = vec![(1, 2, 1_700)];
    assert_eq!(scene.pass(200_000).out(), []);
    assert!(scene.shared(1, 2) > 0);
    scene.late = vec![(1, 2, 3_000)];
    assert_eq!(scene.driver.coordinator.separated().count(), 0);
    assert_eq!(scene.pass(3_000_000).out(), []);
    assert_eq!(scene.shared(1, 2), 0);
    let separated: Vec<_> = scene.driver.coordinator.separated().collect();
    assert_eq!(separated, [(ServerId(1), ServerId(2))]);
}

/// Everybody is late for the coordinator, and nobody for anybody else.
#[test]
fn a_coordinator_that_hears_badly_fails_nobody() {
    let mut scene = Scene::new(3, &[]);
    scene.unsteady = vec![1, 2, 3];
    assert_eq!(scene.pass(1_500_000).out(), []);
    // Two are silent now, and heard by the third.
    scene.unsteady = vec![1, 2];
    let late = |scene: &mut Scene| {
        for _ in 0..80 {
            scene.driver.now = scene.driver.now.after(TICK_US);
            let entry = scene.driver.coordinator.map().servers[&ServerId(3)].clone();
            let map_epoch = scene.driver.coordinator.map().epoch;
            let (server, incarnation) = (ServerId(3), entry.incarnation);
            let beat = CoordinatorInput::Heartbeat { server, incarnation, map_epoch };
            scene.driver.give(beat);
            scene.driver.give(CoordinatorInput::Tick);
        }
    };
    late(&mut scene);
    assert_eq!(scene.out(), []);
    let (server, incarnation) = (ServerId(3), Incarnation(1));
    let late_peers = vec![(ServerId(1), 600_000), (ServerId(2), 600_000)];
    let report =
        CoordinatorInput::Hearing { server, incarnation, probe: Time(0), late: late_peers };
    scene.driver.give(report);
    late(&mut scene);
    assert_eq!(scene.out(), [1, 2], "the third does not hear them either");
}

/// It hears most servers badly that hear each other well, or that another one would hear no better.
#[test]
fn a_coordinator_that_hears_most_badly_wants_another_one_to_lead() {
    for (unsteady, late, resigns) in [
        (vec![1, 2, 3], vec![], true),
        (vec![1, 2], vec![], true),
        (vec![1], vec![], false),
        (vec![1, 2], vec![(3, 1, 300), (3, 2, 300), (1, 2, 300), (2, 1, 300)], false),
    ] {
        let mut scene = Scene::new(3, &late);
        scene.is_over = true;
        scene.unsteady = unsteady.clone();
        scene.pass(6_000_000);
        assert_eq!(scene.resigned, resigns, "{unsteady:?} {late:?}");
    }
}

/// The coordinator in the process of the only server it hears is cut off, not all the others.
#[test]
fn a_coordinator_that_hears_its_own_server_only_fails_nobody() {
    let mut scene = Scene::new(3, &[(1, 2, 900), (1, 3, 900)]);
    scene.driver.coordinator.lives_with(ServerId(1));
    for _ in 0..200 {
        scene.driver.now = scene.driver.now.after(TICK_US);
        let map = scene.driver.coordinator.map();
        let (server, map_epoch) = (ServerId(1), map.epoch);
        let incarnation = map.servers[&server].incarnation;
        scene.driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch });
        scene.driver.give(CoordinatorInput::Tick);
    }
    assert_eq!(scene.out(), []);
}

#[test]
fn a_server_that_flaps_gets_copies_later_each_time() {
    let mut scene = Scene::new(3, &[]);
    let mut out_ms = Vec::new();
    for life in 2..5 {
        scene.late = vec![(1, 2, 900), (1, 3, 700)];
        assert_eq!(scene.pass(60_000).out(), [1]);
        scene.late.clear();
        scene.driver.join(1, life);
        assert_eq!(scene.out(), [], "it is answered at once");
        let mut ticks = 0;
        while scene.driver.coordinator.map().held_by(ServerId(1)).count() == 0 {
            scene.pass(TICK_US);
            scene.driver.settle();
            ticks += 1;
        }
        out_ms.push(ticks * TICK_US / 1_000);
    }
    let close = |ms: u64, expected: u64| ms.abs_diff(expected) <= 50;
    assert!(out_ms.iter().zip([2_000, 4_000, 8_000]).all(|(ms, to)| close(*ms, to)), "{out_ms:?}");
}

/// It is in another life at once, and as ill as before.
#[test]
fn a_server_that_is_still_ill_gets_no_copies_until_it_is_heard_well_again() {
    let mut scene = Scene::new(4, &[]);
    scene.late = vec![(1, 2, 900), (1, 3, 700)];
    assert_eq!(scene.pass(60_000).out(), [1]);
    // Others have less trouble, and with it only.
    scene.late = vec![(1, 2, 300), (3, 1, 300)];
    scene.pass(1_000_000);
    scene.driver.join(1, 2);
    for _ in 0..10 {
        scene.pass(1_000_000);
        scene.driver.settle();
        assert_eq!(scene.driver.coordinator.map().held_by(ServerId(1)).count(), 0);
    }
    scene.is_over = true;
    scene.late.clear();
    let mut ticks = 0;
    while scene.driver.coordinator.map().held_by(ServerId(1)).count() == 0 {
        scene.pass(TICK_US);
        scene.driver.settle();
        ticks += 1;
    }
    let out_ms = ticks * TICK_US / 1_000;
    assert!((1_950..3_000).contains(&out_ms), "{out_ms} ms after it is over");
}

/// However ill it seems, it is tried again: perhaps whoever says so is busy.
#[test]
fn no_absence_lasts_for_ever() {
    let mut scene = Scene::new(4, &[]);
    scene.late = vec![(1, 2, 900), (1, 3, 700)];
    assert_eq!(scene.pass(60_000).out(), [1]);
    scene.late = vec![(1, 2, 300)];
    scene.driver.join(1, 2);
    scene.pass(59_000_000);
    assert_eq!(scene.driver.coordinator.map().held_by(ServerId(1)).count(), 0);
    scene.pass(1_100_000);
    scene.driver.settle();
    assert!(scene.driver.coordinator.map().held_by(ServerId(1)).count() > 0);
}
