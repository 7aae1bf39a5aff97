//! What depends on which came first: the shard or the test decides that, never a race.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use windlass_engine::shard::{ChainCommand, PartitionStatus, ShardCommand, ShardHandle};
use windlass_wire::{PartitionId, ServerId, control::Provider, map::shard_of};

use super::{cluster::SHARDS, tables, world::World};

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A shard that stands between two turns until this is taken.
struct Standing(Receiver<Result<Vec<PartitionStatus>, String>>);

impl Standing {
    /// Has a shard stand: its answer to the second of two commands is not taken, and it takes no
    /// message between commands that wait together.
    fn at(handle: &ShardHandle) -> Self {
        let [first, second] = [(); 2].map(|()| {
            let (answer, answered) = bounded(0);
            handle.send(ShardCommand::Chain(ChainCommand::States { answer }));
            answered
        });
        first.recv().unwrap().unwrap();
        Self(second)
    }

    fn go_on(self) {
        self.0.recv().unwrap().unwrap();
    }
}

/// One turn takes a push and refuses the one behind it, whose table it does not know yet. What the
/// first says, that the client resumes, is not true of pushes behind the second: one taken would make
/// the refused one, sent again, a duplicate.
#[test]
fn a_push_behind_one_that_was_refused_in_its_turn_is_refused_too() {
    let all = tables();
    let mut world = World::start(Provider::Shm {}, 2, all[..1].to_vec());
    world.client.add_tables(&all[1..]);
    let (row, partition) = (7, world.client.partition_of(0, 7));
    let key = (0..).find(|key| world.client.partition_of(1, *key) == partition).unwrap();
    let shard = shard_of(PartitionId(u32::try_from(partition).unwrap()), SHARDS);
    let standing = Standing::at(&world.nodes[0].handles[usize::from(shard.0)]);
    world.client.push(0, vec![row], 1.0);
    world.client.push(1, vec![key], 1.0);
    standing.go_on();
    wait_until("the second push is refused", || {
        world.client.poll();
        world.client.is_stale
    });
    // As if the client had not looked yet.
    world.client.is_stale = false;
    world.client.push(0, vec![row], 1.0);
    world.client.settle();
    assert!(world.client.is_stale, "the third push is refused as well");
    for node in &world.nodes {
        all[1..].iter().for_each(|table| node.create(table));
    }
    world.client.settle_by(&world.map);
    let only = |servers: &[ServerId]| servers[0];
    assert_eq!(world.client.pull(0, &[row], only, false).unwrap()[0], 2.0);
    assert_eq!(world.client.pull(1, &[key], only, false).unwrap()[0], 1.0);
}
