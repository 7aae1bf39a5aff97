//! Who is failed, and when, by what is heard of it.

use windlass_wire::{Incarnation, ServerId};

use super::super::{CoordinatorInput, CoordinatorOutput, tests::Driver};
use crate::time::Time;

#[test]
fn a_suspect_that_answers_lives_and_one_that_does_not_dies_at_once() {
    let mut driver = Driver::new(4);
    let suspect = |by| CoordinatorInput::Suspect {
        by: ServerId(by),
        incarnation: Incarnation(1),
        server: ServerId(3),
    };
    driver.give(suspect(1));
    let probe = CoordinatorOutput::Probe { server: ServerId(3), sent_at: driver.now };
    assert!(driver.outputs.contains(&probe));
    driver.pass(10_000, 0);
    driver.pass(100_000, 0);
    assert!(driver.coordinator.map().is_in_force(ServerId(3)));
    [1, 2, 4].into_iter().for_each(|by| driver.give(suspect(by)));
    driver.pass(30_000, 3);
    assert!(!driver.coordinator.map().is_in_force(ServerId(3)));
}

#[test]
fn a_suspect_is_failed_once_others_that_hold_the_same_have_answered() {
    let mut driver = Driver::new(4);
    driver.pass(50_000, 0);
    driver.outputs.clear();
    let (server, incarnation) = (ServerId(3), Incarnation(1));
    for by in [1, 2, 4].map(ServerId) {
        driver.give(CoordinatorInput::Suspect { by, incarnation, server });
    }
    for peer in [1, 2, 3] {
        let probe = CoordinatorOutput::Probe { server: ServerId(peer), sent_at: driver.now };
        assert!(driver.outputs.contains(&probe), "{peer} is asked");
    }
    let mut beats = |from: &[u32]| {
        driver.now = driver.now.after(10_000);
        let map_epoch = driver.coordinator.map().epoch;
        for &id in from {
            let server = ServerId(id);
            driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch });
        }
        driver.give(CoordinatorInput::Tick);
        driver.coordinator.map().is_in_force(server)
    };
    assert!((0..10).all(|_| beats(&[4])), "the others may have died with it");
    assert!(!beats(&[1, 2, 4]));
}

#[test]
fn a_silent_server_that_its_peers_hear_is_failed_late() {
    let mut driver = Driver::new(4);
    let is_in = |driver: &Driver| driver.coordinator.map().is_in_force(ServerId(3));
    let silent = |driver: &mut Driver, micros: u64| {
        for _ in 0..micros / 10_000 {
            driver.now = driver.now.after(10_000);
            driver.heartbeats(3);
            driver.give(CoordinatorInput::Tick);
        }
    };
    silent(&mut driver, 1_900_000);
    assert!(is_in(&driver));
    silent(&mut driver, 200_000);
    assert!(!is_in(&driver), "no map would ever reach it");
}

#[test]
fn a_silent_server_that_its_peers_hear_stays_while_others_are_in_doubt() {
    let mut driver = Driver::new(4);
    let mut silent = |tick: u64, others: &[u32]| {
        driver.now = driver.now.after(10_000);
        let map = driver.coordinator.map().clone();
        for &id in others {
            let (server, map_epoch) = (ServerId(id), map.epoch);
            let incarnation = map.servers[&server].incarnation;
            driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch });
        }
        driver.give(CoordinatorInput::Tick);
        let is_in = driver.coordinator.map().is_in_force(ServerId(3));
        assert!(is_in || tick > 210, "failed at {tick}");
        is_in
    };
    for tick in 0..185 {
        silent(tick, &[1, 2, 4]);
    }
    for tick in 185..=210 {
        silent(tick, &[4]);
    }
    assert!(!silent(211, &[1, 2, 4]), "those that stay are heard");
}

#[test]
fn servers_that_fall_silent_together_are_failed_in_one_map() {
    let mut driver = Driver::new(4);
    driver.pass(50_000, 0);
    let epoch = driver.coordinator.map().epoch;
    for tick in 1..=70 {
        driver.now = driver.now.after(10_000);
        let map = driver.coordinator.map().clone();
        for (&server, entry) in &map.servers {
            let incarnation = entry.incarnation;
            if !map.is_in_force(server) || server.0 == 1 || server.0 == 2 && tick > 20 {
                continue;
            }
            let late = vec![(ServerId(1), 200_000), (ServerId(2), 200_000)];
            let probe = Time(0);
            driver.give(CoordinatorInput::Hearing { server, incarnation, probe, late });
            let map_epoch = map.epoch;
            driver.give(CoordinatorInput::Heartbeat { server, incarnation, map_epoch });
        }
        driver.give(CoordinatorInput::Tick);
        let map = driver.coordinator.map();
        assert_eq!(map.is_in_force(ServerId(1)), map.is_in_force(ServerId(2)), "at {tick}");
    }
    let map = driver.coordinator.map();
    assert!(map.epoch > epoch && !map.is_in_force(ServerId(1)));
}

#[test]
fn a_coordinator_that_stood_still_or_is_cut_off_fails_nobody() {
    let mut driver = Driver::new(3);
    driver.pass(50_000, 0);
    driver.now = driver.now.after(10_000_000);
    driver.give(CoordinatorInput::Tick);
    for _ in 0..200 {
        driver.now = driver.now.after(10_000);
        driver.give(CoordinatorInput::Tick);
    }
    assert!((1..=3).all(|id| driver.coordinator.map().is_in_force(ServerId(id))));
}

#[test]
fn a_coordinator_that_hears_nobody_wants_to_resign_ever_more_rarely() {
    let mut driver = Driver::new(3);
    driver.pass(50_000, 0);
    let seconds = |driver: &mut Driver, micros: u64| {
        let began = driver.now;
        let mut resigned = Vec::new();
        for _ in 0..micros / 100_000 {
            driver.outputs.clear();
            driver.now = driver.now.after(100_000);
            driver.give(CoordinatorInput::Tick);
            if driver.outputs.contains(&CoordinatorOutput::Resign) {
                resigned.push(driver.now.since(began) / 1_000_000);
            }
        }
        resigned
    };
    assert_eq!(seconds(&mut driver, 150_000_000), [3, 9, 21, 45, 93, 141]);
    let map = driver.coordinator.map().clone();
    driver.give(CoordinatorInput::Deposed);
    driver.give(CoordinatorInput::Elected { map });
    assert_eq!(seconds(&mut driver, 50_000_000), [48], "it hears nobody still");
    driver.pass(1_000_000, 0);
    assert_eq!(seconds(&mut driver, 5_000_000), [3], "it has heard them");
    assert!((1..=3).all(|id| driver.coordinator.map().is_in_force(ServerId(id))));
}
