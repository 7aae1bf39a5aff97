//! Clusters under seeded faults: nothing lost, doubled, stale or divergent; and every deliberate fault
//! is seen.

use windlass_tests::simulation::{
    Fault, FaultKind, Mode, Mutation, Options, Schedule, run_schedule, run_seed, simulate,
};

fn clean(seeds: std::ops::Range<u64>) {
    let report = simulate(seeds, &Options::default());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.reads > 50 * report.seeds, "strong reads are answered: {}", report.reads);
}

#[test]
fn no_seed_fails() {
    clean(0..400);
}

fn of_sessions() -> Options {
    Options { mode: Mode::Sessions, ..Options::default() }
}

#[test]
fn sessions_expire_and_nothing_is_lost_or_doubled() {
    let report = simulate(0..300, &of_sessions());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.expired > 2 * report.seeds, "sessions are forgotten: {}", report.expired);
    assert!(report.given_up > report.seeds, "pushes become too old: {}", report.given_up);
}

#[test]
fn every_deliberate_fault_of_sessions_is_seen() {
    for mutation in Mutation::OF_SESSIONS {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_sessions() }), "{mutation:?}");
    }
}

fn of_rounds() -> Options {
    Options { mode: Mode::Rounds, ..Options::default() }
}

#[test]
fn every_push_counts_in_one_round_and_no_round_waits_for_the_dead() {
    let report = simulate(0..300, &of_rounds());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.rounds > 20 * report.seeds, "rounds close: {}", report.rounds);
    assert!(report.late > report.seeds, "pushes come late: {}", report.late);
    assert!(report.given_up > report.seeds, "workers are given up: {}", report.given_up);
}

/// Seeds in which workers once waited for each other for ever, each in another partition: for a late
/// push, or for one behind what another life of its worker had pushed.
#[test]
fn workers_that_waited_for_each_other_go_on() {
    for (clients_max, seeds) in [(3, &[579, 744, 4247, 4781][..]), (6, &[3338, 4247, 4781][..])] {
        for seed in seeds {
            let outcome = run_seed(*seed, &Options { clients_max, ..of_rounds() });
            assert!(outcome.is_clean(), "seed {seed}: {}", outcome.note.unwrap_or_default());
        }
    }
}

#[test]
fn more_workers_wait_for_each_other_no_longer() {
    let report = simulate(0..150, &Options { clients_max: 6, ..of_rounds() });
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.late > 10 * report.seeds, "pushes come late: {}", report.late);
}

#[test]
fn single_copies_move_while_rounds_are_open() {
    let report = simulate(0..150, &Options { one_copy: true, ..of_rounds() });
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.moved > report.seeds / 2, "partitions move: {}", report.moved);
    assert!(report.rounds > 20 * report.seeds, "rounds close: {}", report.rounds);
}

#[test]
fn every_deliberate_fault_of_rounds_is_seen() {
    for mutation in Mutation::OF_ROUNDS {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_rounds() }), "{mutation:?}");
    }
}

fn of_workers() -> Options {
    Options { mode: Mode::Workers, ..Options::default() }
}

/// The coordinator hears nobody for longer than a worker may be silent.
#[test]
fn no_worker_is_retired_that_was_connected_all_the_time() {
    let report = simulate(0..300, &of_workers());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.rounds > 20 * report.seeds, "rounds close: {}", report.rounds);
    assert!(report.given_up > report.seeds, "workers are given up: {}", report.given_up);
}

/// A server is back with what its disk holds, and then the coordinator hears nobody: those it waits for are well.
#[test]
fn a_deaf_coordinator_gives_no_chain_to_one_that_holds_less() {
    let report = simulate(27_003..27_004, &of_workers());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

/// No worker that is connected is retired or left out of a round, and none reads what is older than its bound.
#[test]
fn workers_are_waited_for_under_faults_of_every_kind() {
    for mode in [Mode::Gray, Mode::Overlap, Mode::Frozen, Mode::Store] {
        let report = simulate(0..200, &Options { mode, workers: true, ..Options::default() });
        assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
        assert!(report.rounds > 20 * report.seeds, "{mode:?}, rounds close: {}", report.rounds);
    }
}

#[test]
fn every_deliberate_fault_of_workers_is_seen() {
    for mutation in Mutation::OF_WORKERS {
        let options = Options { mutation: Some(mutation), ..of_workers() };
        let is_found = match mutation {
            // Most seeds of this one take long: nothing goes on.
            Mutation::GiveUpSilent => (900..10_000).any(|seed| run_seed(seed, &options).stale > 0),
            _ => is_seen(&options),
        };
        assert!(is_found, "{mutation:?}");
    }
}

#[test]
fn seeds_that_once_failed_stay_fixed() {
    let text = include_str!("../fixtures/seeds.txt");
    let seeds = text.lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<u64> =
        seeds.flat_map(str::split_whitespace).map(|seed| seed.parse().unwrap()).collect();
    assert!(seeds.len() > 10);
    for seed in seeds {
        let outcome = run_seed(seed, &Options::default());
        assert!(outcome.is_clean(), "seed {seed}: {}", outcome.note.unwrap_or_default());
    }
}

#[test]
fn a_seed_means_the_same_run_every_time() {
    let options = Options::default();
    for seed in 0..10 {
        assert_eq!(run_seed(seed, &options), run_seed(seed, &options));
    }
    assert_eq!(Schedule::of(3, &options).faults, Schedule::of(3, &options).faults);
}

/// Whether a deliberate fault fails one of many seeds. Some take a rare chance: one seed of hundreds.
fn is_seen(options: &Options) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..10_000).any(|seed| !run_seed(seed, options).is_clean());
    std::panic::set_hook(hook);
    found
}

#[test]
fn every_deliberate_fault_is_seen() {
    for mutation in Mutation::ALL {
        match mutation {
            Mutation::SkipHold | Mutation::TrustStoppedTail => caught_by_removals(mutation),
            _ => {
                let options = Options { mutation: Some(mutation), ..Options::default() };
                assert!(is_seen(&options), "{mutation:?} went unseen");
            }
        }
    }
}

/// These two need a read of a removed tail in the few milliseconds before the news of it: servers that
/// lose the coordinator, or stand still, and nothing else, over and over.
fn caught_by_removals(mutation: Mutation) {
    let options = Options { mutation: Some(mutation), pushes: 200, ..Options::default() };
    let found = (0..2_000).any(|seed| {
        let mut schedule = Schedule::of(seed, &options);
        // A server that its peers hear is long waited for.
        let (turns, us) = if mutation == Mutation::SkipHold { (2, 200_000) } else { (3, 100_000) };
        let kind = |server| match mutation {
            Mutation::SkipHold => FaultKind::LoseControl { server, us },
            _ => FaultKind::Pause { server, us },
        };
        let faults = (0..turns).map(|turn| Fault {
            at_us: 25_000 + turn as u64 * (us + 30_000),
            kind: kind((turn + 1) % schedule.servers),
        });
        schedule.faults = faults.collect();
        schedule.clients = 3;
        run_schedule(seed, &schedule, &options).stale > 0
    });
    assert!(found, "{mutation:?} went unseen");
}

#[test]
fn a_failure_is_shrunk_to_what_it_needs() {
    let options = Options { mutation: Some(Mutation::AcknowledgeBeforeTail), ..Options::default() };
    let report = simulate(0..30, &options);
    let text = report.first_failure.expect("this fault is seen");
    assert!(text.starts_with("seed ") && text.lines().count() <= 6, "{text}");
}

fn of_gray() -> Options {
    Options { mode: Mode::Gray, ..Options::default() }
}

/// The host that hears badly may die at the end of it: every acknowledged push must be held elsewhere.
#[test]
fn networks_that_fail_by_half_lose_nothing() {
    let report = simulate(0..400, &of_gray());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

/// A bad link and then another failure; a removal that left single copies at servers that had just died or
/// that only the one removed had trouble with.
#[test]
fn one_pair_in_trouble_costs_no_copy_that_is_needed() {
    for seed in [1_167, 100_925, 103_874, 106_899, 107_408, 109_230, 114_849, 138_730, 240_170] {
        let report = simulate(seed..seed + 1, &of_gray());
        assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    }
}

/// One pair is in trouble, and the host that is ill dies right after the two were separated: the copy stays at
/// the other one, which others hear better.
#[test]
fn what_a_bad_link_leaves_as_the_only_copy_is_not_at_the_sick_host() {
    for seed in [19_428, 33_253, 39_489, 325_239, 328_016] {
        let report = simulate(seed..seed + 1, &of_gray());
        assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    }
}

/// A coordinator that hears neither of two well, one of which its peers hear, keeps that one.
#[test]
fn of_two_that_are_heard_badly_the_one_that_peers_hear_stays() {
    for seed in [242_060, 371_713] {
        let report = simulate(seed..seed + 1, &of_gray());
        assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    }
}

#[test]
fn every_deliberate_fault_of_gray_networks_is_seen() {
    for mutation in Mutation::OF_GRAY {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_gray() }), "{mutation:?}");
    }
}

fn of_overlap() -> Options {
    Options { mode: Mode::Overlap, ..Options::default() }
}

/// One that comes back with what its disk holds waits for those of its chains that were only cut off.
#[test]
fn members_that_are_gone_together_lose_nothing_that_one_of_them_holds() {
    let report = simulate(0..400, &of_overlap());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

/// Of two that were gone at one moment one was failed before the other was missed.
#[test]
fn nobody_is_failed_before_those_that_stay_have_answered() {
    let report = simulate(49_865..49_866, &of_overlap());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

#[test]
fn every_deliberate_fault_of_overlapping_failures_is_seen() {
    for mutation in Mutation::OF_OVERLAP {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_overlap() }), "{mutation:?}");
    }
}

fn of_mixed() -> Options {
    Options { mode: Mode::Mixed, ..Options::default() }
}

/// Rows that a member holds which never ended are lost only with its removal while another goes on, and rows of
/// synchronous tables never.
#[test]
fn tables_of_every_durability_lose_no_more_than_they_may() {
    let report = simulate(0..400, &of_mixed());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.excused > report.seeds, "rows in memory are lost: {}", report.excused);
    assert!(report.moved > report.seeds / 2, "heads are replaced: {}", report.moved);
}

/// The member that was to leave left, though another one had failed, for one that died just then.
#[test]
fn nobody_leaves_a_chain_that_lacks_members() {
    let report = simulate(23_515..23_516, &of_mixed());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

#[test]
fn every_deliberate_fault_of_mixed_durabilities_is_seen() {
    for mutation in Mutation::OF_MIXED {
        let is_found = match mutation {
            Mutation::LoseWithJoiner => caught_by_replacements(mutation),
            _ => is_seen(&Options { mutation: Some(mutation), ..of_mixed() }),
        };
        assert!(is_found, "{mutation:?}");
    }
}

/// This one needs a server that comes back with nothing and another that is failed in one map: a chain that ends
/// at one moment, and a store that is busy with another map while that is found out.
fn caught_by_replacements(mutation: Mutation) -> bool {
    let options = Options { mutation: Some(mutation), ..of_mixed() };
    (0..10_000).any(|seed| {
        let mut schedule = Schedule::of(seed, &options);
        let server = usize::try_from(seed).expect("small") % schedule.servers;
        let ends = FaultKind::Replace { server, restart_us: 45_000, others_us: 100_000 };
        let busy = FaultKind::Undrain { server: (server + 1) % schedule.servers };
        schedule.replicas = 2;
        schedule.faults = vec![
            Fault { at_us: 60_000, kind: ends },
            Fault { at_us: 103_000 + seed % 5_000, kind: busy },
        ];
        run_schedule(seed, &schedule, &options).stuck > 0
            && run_schedule(seed, &schedule, &of_mixed()).is_clean()
    })
}

fn of_settling(mode: Mode) -> Options {
    Options { mode, settles: true, ..Options::default() }
}

/// Clients as those of the library: the order of connections, and what is sent again, keep pushes apart.
#[test]
fn pushes_that_name_none_before_them_count_once() {
    for mode in [Mode::Pushes, Mode::Gray, Mode::Overlap] {
        let report = simulate(0..300, &of_settling(mode));
        assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    }
    let moves = Options { one_copy: true, ..of_settling(Mode::Pushes) };
    let report = simulate(0..300, &moves);
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

#[test]
fn every_deliberate_fault_of_settling_is_seen() {
    for mutation in Mutation::OF_SETTLING {
        let options = Options { mutation: Some(mutation), ..of_settling(Mode::Pushes) };
        assert!(is_seen(&options), "{mutation:?}");
    }
}

fn of_frozen() -> Options {
    Options { mode: Mode::Frozen, ..Options::default() }
}

/// What peers had promised a machine has run out while its clock stood still.
#[test]
fn machines_that_stand_still_with_their_clocks_answer_no_strong_pull_by_old_promises() {
    let report = simulate(0..400, &of_frozen());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
}

#[test]
fn every_deliberate_fault_of_frozen_machines_is_seen() {
    for mutation in Mutation::OF_FROZEN {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_frozen() }), "{mutation:?}");
    }
}

fn of_store() -> Options {
    Options { mode: Mode::Store, ..Options::default() }
}

#[test]
fn a_leader_that_is_cut_off_from_its_store_gives_way_and_late_writes_change_nothing() {
    let report = simulate(0..400, &of_store());
    assert!(report.failed_seeds.is_empty(), "{}", report.first_failure.unwrap_or_default());
    assert!(report.moved > report.seeds / 2, "heads are replaced: {}", report.moved);
}

#[test]
fn every_deliberate_fault_of_stores_and_memory_is_seen() {
    for mutation in Mutation::OF_STORE {
        assert!(is_seen(&Options { mutation: Some(mutation), ..of_store() }), "{mutation:?}");
    }
}
