//! Rows that a server writes over a queue pair whose writes show late, in pieces and in any order.

use windlass_transport::tcp::{Tcp, TcpOptions};
use windlass_wire::{ServerId, control::Provider};

use super::{client::Client, tables, world::World};

const SERVER: ServerId = ServerId(1);

/// Where rows go whose pulls only show that all earlier writes have come.
const ELSEWHERE: u64 = 1 << 16;

fn pull_elsewhere(client: &mut Client, key: u64) {
    // Each is three writes, and fewer than nine are under way at once.
    for _ in 0..4 {
        client.pull_into(0, &[key], SERVER, false, ELSEWHERE).unwrap();
    }
}

/// Rows of the same bytes are pulled to the same place twice: the digest of the second pull fits before any of
/// its rows have come. The client may use the place for something else as soon as the pull is complete.
#[test]
fn nothing_of_a_pull_lands_after_its_completion() {
    let provider = Provider::Tcp {};
    let mut world = World::start(provider, 1, tables());
    world.push(30);
    world.client.settle();
    let late = TcpOptions { writes_in_order: false, ..TcpOptions::LOOPBACK };
    let mut client = Client::new(78, &world.map, &world.tables);
    client.connect_over(&world.nodes[0], provider, || Box::new(Tcp::open(late).unwrap()));
    let keys: Vec<u64> = (0..super::ROWS).filter(|key| client.partition_of(0, *key) == 0).collect();
    // Few enough to go inline where writes show in order, and more.
    for count in [4, 40] {
        let rows_len = count * 4 * size_of::<f32>();
        for round in 0..250 {
            client.pull_into(0, &keys[..count], SERVER, false, 0).unwrap();
            let own = client.pull_into(0, &keys[..count], SERVER, false, 0).unwrap();
            let scribble = vec![0xa5_u8; rows_len];
            own.write(0, &scribble);
            pull_elsewhere(&mut client, keys[0]);
            let mut found = vec![0_u8; rows_len];
            own.read(0, &mut found);
            assert_eq!(found, scribble, "{count} rows in round {round}");
        }
    }
}
