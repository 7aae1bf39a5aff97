//! Reconfiguration of a chain as a model that Stateright searches through: every order of messages, false
//! suspicions, joins and maps within its bounds. The simulation runs the real state machines under many
//! seeds; this sees every order of a small abstraction of them, and shows that it would see what is wrong.
#![allow(clippy::unwrap_used, missing_docs)]

mod model;

use std::collections::BTreeSet;

use model::{Flaw, OUTLIVES, RETURNS, Reconfiguration};
use stateright::{Checker, HasDiscoveries, Model};

/// The properties that are found not to hold of a chain with a flaw.
fn found(flaw: Flaw) -> BTreeSet<&'static str> {
    let model = Reconfiguration { flaw: Some(flaw), pushes: 2, epochs: 4 };
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.discoveries().into_keys().filter(|name| ![OUTLIVES, RETURNS].contains(name)).collect()
}

#[test]
fn no_acknowledged_push_is_lost_or_doubled() {
    for (pushes, epochs) in [(1, 4), (2, 3)] {
        let model = Reconfiguration { flaw: None, pushes, epochs };
        let checker = model.checker().spawn_bfs().join();
        assert!(checker.unique_state_count() > 1000, "{pushes} pushes: hardly anything happens");
        let found = checker.discoveries();
        assert!(epochs < 4 || found.contains_key(OUTLIVES), "no failover takes place");
        assert!(found.contains_key(RETURNS), "no chain goes down and comes back");
        for (name, path) in found {
            assert!(
                [OUTLIVES, RETURNS].contains(&name),
                "{name}, {pushes} pushes: {:#?}",
                path.into_actions()
            );
        }
    }
}

#[test]
fn flaws_are_found() {
    for flaw in [
        Flaw::ActsBeforeFencing,
        Flaw::StoresWithoutComparing,
        Flaw::CountsBeforeCaughtUp,
        Flaw::TakesUpJoining,
        Flaw::ForgetsSessions,
    ] {
        assert!(!found(flaw).is_empty(), "{flaw:?}");
    }
}
