//! Whatever servers say of each other.

use proptest::{collection::vec, prelude::*};

use super::*;

const MAX_US: u64 = 800;

/// Servers, and by how much the first of each two hears the second late.
fn view(late: &[(u32, u32, u64)]) -> View {
    let pair = |(by, of, late_us): &(u32, u32, u64)| ((ServerId(*by), ServerId(*of)), *late_us);
    let late: BTreeMap<(ServerId, ServerId), u64> = late.iter().map(pair).collect();
    let together = late.keys().map(|(by, of)| (*by.min(of), *by.max(of))).collect();
    View { late, together, ..View::default() }
}

fn goes(late: &[(u32, u32, u64)], chains: &[&[u32]]) -> Option<u32> {
    let chain = |ids: &&[u32]| ids.iter().map(|id| ServerId(*id)).collect();
    let view = View { chains: chains.iter().map(chain).collect(), ..view(late) };
    who_goes(&view)
}

/// Who goes, out of one chain or all.
fn who_goes(view: &View) -> Option<u32> {
    view.verdict(MAX_US).map(|verdict| match verdict {
        Verdict::Fail(server) | Verdict::Separate { server, .. } => server.0,
    })
}

/// Removes servers until nobody has to go any more.
fn all_that_go(mut view: View) -> Vec<ServerId> {
    let mut gone = Vec::new();
    while let Some(verdict) = view.verdict(MAX_US) {
        let (server, from) = match verdict {
            Verdict::Fail(server) => (server, None),
            Verdict::Separate { server, from } => (server, Some(from)),
        };
        assert!(!gone.contains(&server), "{server} goes twice");
        gone.push(server);
        let is_over = |pair: &(ServerId, ServerId)| {
            touches(pair, server) && from.is_none_or(|from| touches(pair, from))
        };
        view.together.retain(|pair| !is_over(pair));
        view.late.retain(|pair, _| !is_over(pair));
        let without = |mut chain: Vec<ServerId>| {
            if from.is_none_or(|from| chain.contains(&from)) {
                chain.retain(|id| *id != server);
            }
            assert!(!chain.is_empty(), "{server} has the only copy");
            chain
        };
        view.chains = std::mem::take(&mut view.chains).into_iter().map(without).collect();
    }
    gone
}

fn any_late() -> impl Strategy<Value = Vec<(u32, u32, u64)>> {
    let one = (1_u32..8, 1_u32..8, 100_u64..3_000);
    vec(one, 0..16).prop_map(|all| all.into_iter().filter(|(a, b, _)| a != b).collect())
}

/// The fewest that leave nobody who is late for anybody, by trying all sets.
fn fewest(broken: &[(ServerId, ServerId)]) -> usize {
    let covers = |set: &u32| broken.iter().all(|(a, b)| ((set >> a.0) | (set >> b.0)) & 1 == 1);
    (0_u32..256).filter(covers).map(|set| set.count_ones() as usize).min().unwrap_or(0)
}

proptest! {
    /// Each pair complains in both directions, long enough for any doubt.
    #[test]
    fn the_fewest_go_and_the_rest_hear_each_other(pairs in any_late()) {
        let both = pairs.iter().flat_map(|(a, b, _)| [(*a, *b, 2 * MAX_US), (*b, *a, 2 * MAX_US)]);
        let view = view(&both.collect::<Vec<_>>());
        let broken: Vec<_> = view.late.keys().copied().collect();
        let gone = all_that_go(view);
        prop_assert_eq!(gone.len(), fewest(&broken), "{:?} of {:?}", gone, broken);
        prop_assert!(broken.iter().all(|(a, b)| gone.contains(a) || gone.contains(b)));
    }

    #[test]
    fn nobody_goes_whom_nothing_or_one_voice_accuses(late in any_late()) {
        if let Some(server) = who_goes(&view(&late)) {
            let its = |(by, of, _): &&(u32, u32, u64)| *by == server || *of == server;
            let others: BTreeSet<u32> = late.iter().filter(its).map(|(by, _, _)| *by).collect();
            prop_assert!(others.contains(&server) || others.len() > 1, "{server}: {late:?}");
            let worst = late.iter().filter(its).map(|(_, _, late_us)| *late_us).max();
            prop_assert!(worst >= Some(MAX_US));
        }
    }

    #[test]
    fn no_only_copy_goes(late in any_late(), chains in vec(vec(1_u32..8, 1..4), 0..6)) {
        let mut view = view(&late);
        let chain = |ids: &Vec<u32>| {
            let ids: BTreeSet<ServerId> = ids.iter().map(|id| ServerId(*id)).collect();
            ids.into_iter().collect()
        };
        view.chains = chains.iter().map(chain).collect();
        view.chains.remove(&Vec::new());
        all_that_go(view);
    }

    /// Whatever a host says that hears nobody in time, and however late its peers hear it, its peers stay.
    #[test]
    fn a_sick_host_takes_nobody_with_it(
        peers in 2_u32..6,
        complaints in vec(250_u64..3_000, 8),
        of_it in vec(0_u64..3_000, 8),
        noise in vec(100_u64..200, 8),
    ) {
        let mut late = Vec::new();
        for peer in 2..2 + peers {
            late.push((1, peer, complaints[peer as usize]));
            late.push((peer, 1, of_it[peer as usize].max(250)));
        }
        // Its peers are busy, and now and then a little late for each other.
        late.extend((3..2 + peers).map(|peer| (2, peer, noise[peer as usize])));
        let gone = all_that_go(view(&late));
        let worst = late.iter().map(|(_, _, late_us)| *late_us).max().unwrap_or(0);
        prop_assert!(gone.iter().all(|server| server.0 == 1), "{gone:?}");
        prop_assert!(worst < 2 * MAX_US || gone.len() == 1, "{late:?}");
    }
}

#[test]
fn a_host_that_accuses_many_goes_and_so_does_one_that_many_accuse() {
    assert_eq!(goes(&[(1, 2, 900), (1, 3, 300)], &[&[1, 2, 3]]), Some(1));
    assert_eq!(goes(&[(2, 1, 900), (3, 1, 300)], &[&[1, 2, 3]]), Some(1));
    assert_eq!(goes(&[(1, 2, 700), (1, 3, 700)], &[&[1, 2, 3]]), None, "not late enough");
}

/// Of two, the one whose accusation nothing supports.
#[test]
fn one_voice_removes_nobody_that_answers() {
    let accuses = [(1, 2, 1_600)];
    assert_eq!(goes(&[(1, 2, 1_500)], &[&[1, 2]]), None, "it may be either");
    assert_eq!(goes(&accuses, &[&[1, 2]]), Some(1));
    assert_eq!(goes(&accuses, &[&[1, 2], &[1]]), Some(1), "out of the chain with 2 only");
    assert_eq!(goes(&accuses, &[&[1, 2], &[2]]), Some(1));
    let mut view = view(&accuses);
    view.unreached.insert(ServerId(2));
    view.late_here.insert(ServerId(2), 300);
    assert_eq!(
        view.verdict(MAX_US),
        Some(Verdict::Fail(ServerId(2))),
        "the coordinator has trouble with it too"
    );
}

/// Everybody is late for everybody: machines are busy, and without one of them they are as busy.
#[test]
fn where_all_are_late_nobody_goes_soon() {
    let all = |most| [(1, 2, most), (2, 1, 500), (2, 3, 400), (3, 1, 500)];
    assert_eq!(goes(&all(1_500), &[&[1, 2, 3]]), None);
    assert_eq!(goes(&[(1, 2, 900), (2, 3, 900), (3, 1, 900)], &[&[1, 2, 3]]), None);
    let broken = [(1, 2, 1_700), (2, 1, 1_700), (2, 3, 1_700), (3, 1, 1_700)];
    assert!(goes(&broken, &[&[1, 2, 3]]).is_some(), "hardly anything comes through");
}

#[test]
fn two_sick_hosts_go_one_after_the_other() {
    let mut late = Vec::new();
    for peer in 3..6 {
        late.extend([(1, peer, 900), (2, peer, 850)]);
    }
    assert_eq!(all_that_go(view(&late)), [ServerId(1), ServerId(2)]);
}

#[test]
fn of_two_the_one_that_holds_nothing_goes() {
    let each_other = [(1, 2, 2 * MAX_US), (2, 1, 2 * MAX_US)];
    assert_eq!(goes(&each_other, &[&[1, 3]]), Some(2));
    assert_eq!(goes(&each_other, &[&[2, 3]]), Some(1));
}

/// Nothing that counts says which end of a link is ill. The one that stays may hold the only copy.
#[test]
fn of_a_bad_link_the_end_stays_that_others_hear_better() {
    let chains: &[&[u32]] = &[&[1, 2], &[3, 2]];
    let mut view = view(&[(2, 3, 2 * MAX_US)]);
    view.chains = chains.iter().map(|ids| ids.iter().map(|id| ServerId(*id)).collect()).collect();
    assert_eq!(who_goes(&view), Some(2), "it complains");
    view.together.insert((ServerId(1), ServerId(2)));
    let link = Verdict::Separate { server: ServerId(3), from: ServerId(2) };
    assert_eq!(view.verdict(MAX_US), Some(link), "1 hears 2 well, and nobody hears 3");
    view.slight.extend([(ServerId(1), 90), (ServerId(2), 90)]);
    assert_eq!(who_goes(&view), Some(2), "1 hears 2 almost well");
}

/// What others hear says which of two is ill, if one is: others that share no chain with them, too.
#[test]
fn a_third_voice_tells_a_bad_host_from_a_bad_link() {
    let accuses = [(1, 2, 2 * MAX_US)];
    let link = Verdict::Separate { server: ServerId(1), from: ServerId(2) };
    assert_eq!(view(&accuses).verdict(MAX_US), Some(link), "others hear both well");
    for witness in [(3, 2, 150), (2, 3, 150)] {
        let mut view = view(&[accuses[0], witness]);
        view.together.remove(&(ServerId(2), ServerId(3)));
        assert_eq!(view.verdict(MAX_US), Some(Verdict::Fail(ServerId(2))), "{witness:?}");
    }
}

#[test]
fn two_that_share_no_chain_take_nobody_out() {
    let mut both = view(&[(1, 2, 2 * MAX_US), (2, 1, 2 * MAX_US)]);
    both.together.clear();
    let link = Verdict::Separate { server: ServerId(1), from: ServerId(2) };
    assert_eq!(both.verdict(MAX_US), Some(link), "nor will they share one");
    let mut more = view(&[(1, 2, 2 * MAX_US), (2, 3, 300)]);
    more.together.clear();
    assert_eq!(more.verdict(MAX_US), None);
}

/// Two were separated. What a third has trouble with says who is ill now.
#[test]
fn a_known_link_says_little_of_the_next_trouble() {
    let mut view = view(&[(1, 2, 900)]);
    view.apart.insert((ServerId(2), ServerId(3)));
    let second = Verdict::Separate { server: ServerId(2), from: ServerId(1) };
    assert_eq!(view.verdict(MAX_US), Some(second), "it has trouble with two");
    view.late.insert((ServerId(1), ServerId(3)), 300);
    assert_eq!(view.verdict(MAX_US), Some(Verdict::Fail(ServerId(1))));
}

/// Of three, each has trouble with both others. What began long before a chain broke did not break it.
#[test]
fn what_began_before_says_little_of_who_broke_a_chain() {
    let mut view = view(&[(1, 2, 2 * MAX_US), (1, 3, 2 * MAX_US), (2, 3, 2 * MAX_US - 100)]);
    view.together = [(ServerId(1), ServerId(3))].into();
    assert_eq!(who_goes(&view), Some(1), "it is the latest");
    for (pair, began_at) in [((1, 2), 1_000), ((1, 3), 8_000), ((2, 3), 7_950)] {
        view.began_at.insert((ServerId(pair.0), ServerId(pair.1)), Time(began_at));
    }
    assert_eq!(who_goes(&view), Some(3));
}
