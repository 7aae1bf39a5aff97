//! What a reader may rely on is what the peer's side promises; its own settings only narrow it.

use super::{
    super::{Tcp, TcpOptions},
    connect,
};
use crate::fabric::{Promises, QueuePairId, Transport};

const BOTH: [bool; 2] = [false, true];

/// Two connected instances; the second one's endpoint says that its device promises `theirs`.
fn meet(own: TcpOptions, theirs: Promises) -> Promises {
    let mut sides = [Tcp::open(own).unwrap(), Tcp::open(TcpOptions::LOOPBACK).unwrap()];
    let [id, _] = connect(&mut sides);
    let connection = sides[0].connections.find_mut(id.0).unwrap();
    assert_eq!(connection.peer_promises, Promises::ALL, "what the peer's endpoint said");
    connection.peer_promises = theirs;
    sides[0].promises(id)
}

#[test]
fn a_reader_relies_on_what_the_responder_promises_and_its_own_settings_only_narrow_it() {
    for (theirs, own) in BOTH.into_iter().flat_map(|theirs| BOTH.map(|own| (theirs, own))) {
        let options = TcpOptions { reads_in_order: own, ..TcpOptions::LOOPBACK };
        let found = meet(options, Promises { reads_in_order: theirs, ..Promises::ALL });
        assert_eq!(found, Promises { reads_in_order: theirs && own, ..Promises::ALL });

        let options = TcpOptions { writes_in_order: own, ..TcpOptions::LOOPBACK };
        let found = meet(options, Promises { writes_in_order: theirs, ..Promises::ALL });
        assert_eq!(found, Promises { writes_in_order: theirs && own, ..Promises::ALL });
    }
    assert_eq!(meet(TcpOptions::LOOPBACK, Promises::NONE), Promises::NONE);
    let nobody = Tcp::open(TcpOptions::LOOPBACK).unwrap();
    assert_eq!(nobody.promises(QueuePairId(0)), Promises::NONE, "nobody has promised anything");
}

/// The flag travels in the endpoint of the side that it is true of.
#[test]
fn each_side_tells_its_own_promises() {
    let late = TcpOptions { writes_in_order: false, ..TcpOptions::LOOPBACK };
    // How this side reads is its own affair, whatever others read here.
    let backwards = TcpOptions { reads_in_order: false, ..TcpOptions::LOOPBACK };
    let mut sides = [Tcp::open(late).unwrap(), Tcp::open(backwards).unwrap()];
    let [one, two] = connect(&mut sides);
    let told = |side: usize, id: QueuePairId| {
        sides[side].connections.find(id.0).map(|connection| connection.peer_promises)
    };
    assert_eq!(told(0, one), Some(Promises::ALL));
    assert_eq!(told(1, two), Some(Promises { writes_in_order: false, ..Promises::ALL }));
}
