//! Whatever servers say of each other.

use proptest::{collection::vec, prelude::*};

use super::*;

const MAX_US: u64 = 800;

/// Servers, and by how much the first of each two hears the second late.
fn view(late: &[(u32, u32, u64)]) -> View {
    let late = late.iter().map(|(by, of, late_us)| ((ServerId(*by), ServerId(*of)), *late_us));
    View { late: late.collect(), ..View::default() }
}

fn goes(late: &[(u32, u32, u64)], chains: &[&[u32]]) -> Option<u32> {
    let chain = |ids: &&[u32]| ids.iter().map(|id| ServerId(*id)).collect();
    let view = View { chains: chains.iter().map(chain).collect(), ..view(late) };
    view.who_goes(MAX_US).map(|server| server.0)
}

/// Removes servers until nobody has to go any more.
fn all_that_go(mut view: View) -> Vec<ServerId> {
    let mut gone = Vec::new();
    while let Some(server) = view.who_goes(MAX_US) {
        assert!(!gone.contains(&server), "{server} goes twice");
        gone.push(server);
        view.late.retain(|(by, of), _| *by != server && *of != server);
        let without = |chain: Vec<ServerId>| chain.into_iter().filter(|id| *id != server).collect();
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
        if let Some(server) = view(&late).who_goes(MAX_US) {
            let its = |(by, of, _): &&(u32, u32, u64)| *by == server.0 || *of == server.0;
            let others: BTreeSet<u32> = late.iter().filter(its).map(|(by, _, _)| *by).collect();
            prop_assert!(others.contains(&server.0) || others.len() > 1, "{server}: {late:?}");
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
        let before = view.chains.clone();
        let gone = all_that_go(view);
        prop_assert!(before.iter().all(|chain| chain.iter().any(|id| !gone.contains(id))));
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

/// Of two, the one whose accusation nothing supports; but not if it alone has a copy.
#[test]
fn one_voice_removes_nobody_that_answers() {
    let accuses = [(1, 2, 1_600)];
    assert_eq!(goes(&[(1, 2, 1_500)], &[&[1, 2]]), None, "it may be either");
    assert_eq!(goes(&accuses, &[&[1, 2]]), Some(1));
    assert_eq!(goes(&accuses, &[&[1, 2], &[1]]), None);
    assert_eq!(goes(&accuses, &[&[1, 2], &[2]]), Some(1));
    let mut view = view(&accuses);
    view.unreached.insert(ServerId(2));
    view.late_here.insert(ServerId(2), 300);
    assert_eq!(view.who_goes(MAX_US), Some(ServerId(2)), "the coordinator has trouble with it too");
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
