//! Hyper-parameters change while members die, join and come back: each push counts by the values that held where it was
//! recorded, on every replica.

use windlass_wire::{
    DataType, Durability, ServerId, TableEntry, TableId, TableSchema, control::Provider,
};

use super::{
    ROWS,
    cluster::{Node, assert_equal_replicas},
    pull_in_time, tables,
    world::World,
};

/// The table whose values are known: whole multiples of the rates of its pushes.
const KNOWN: usize = 3;
const ADAM: usize = 2;

fn with_known(durability: Durability) -> Vec<TableEntry> {
    let schema = TableSchema {
        rule: "sgd:lr=1".parse().unwrap(),
        ..TableSchema::dense(DataType::F32, ROWS, 2)
    };
    let mut tables = tables();
    tables.push(TableEntry { id: TableId(4), name: "known".to_owned(), schema });
    tables.iter_mut().for_each(|table| table.schema.durability = durability);
    tables
}

struct Changing {
    world: World,
    /// What every value of the known table is.
    value: f32,
    rate: f32,
    changes: u32,
}

impl Changing {
    fn new(world: World) -> Self {
        Self { world, value: 0.0, rate: 1.0, changes: 0 }
    }

    fn change(&mut self, table: usize, parameters: &str) {
        let entry = &mut self.world.tables[table];
        let rule = entry.schema.rule.with(parameters).unwrap();
        entry.schema.change_rule(rule);
    }

    /// Every server is told, one after the other, while pushes are under way; then the known table is pushed to, by
    /// turns with another rate.
    fn go_on(&mut self) {
        self.changes += 1;
        self.change(ADAM, &format!("lr=0.{},beta1=0.{}", self.changes, self.changes));
        for at in 0..self.world.nodes.len() {
            self.world.push(5);
            let at = (at + self.changes as usize) % self.world.nodes.len();
            self.world.nodes[at].alter(&self.world.tables[ADAM]);
        }
        for rate in [0.5, 0.25] {
            self.push_known();
            self.world.client.settle_by(&self.world.map);
            self.rate = if self.changes.is_multiple_of(2) { rate } else { 2.0 * rate };
            self.change(KNOWN, &format!("learning_rate={}", self.rate));
            self.world.nodes.iter().for_each(|node| node.alter(&self.world.tables[KNOWN]));
            self.push_known();
        }
    }

    /// As ranges and as keys, several pushes to a row in one turn.
    fn push_known(&mut self) {
        for step in [1, 2] {
            for first in 0..step {
                let keys = (first..ROWS).step_by(usize::try_from(step).unwrap()).collect();
                self.world.client.push(KNOWN, keys, 1.0);
            }
            self.value -= self.rate;
        }
    }

    fn check(&mut self) {
        self.world.check();
        let rows: Vec<u64> = (0..ROWS).collect();
        for at in 0..self.world.nodes.len() {
            let pulled = pull_in_time(&mut self.world.client, KNOWN, &rows, |all| all[at]);
            assert!(pulled.iter().all(|value| *value == self.value), "{pulled:?} {}", self.value);
        }
    }
}

fn members_come_and_go(provider: Provider) {
    let world = World::start(provider, 3, with_known(Durability::Memory {}));
    let mut changing = Changing::new(world);
    for (victim, newcomer) in [1, 2, 3].into_iter().zip(4..) {
        changing.go_on();
        changing.world.kill(ServerId(victim));
        changing.go_on();
        changing.check();
        changing.world.join(newcomer, u64::from(newcomer) * 10);
        changing.go_on();
        changing.check();
    }
}

#[test]
fn replicas_stay_equal_while_hyper_parameters_change_on_shm() {
    members_come_and_go(Provider::Shm {});
}

#[test]
fn replicas_stay_equal_while_hyper_parameters_change_on_tcp() {
    members_come_and_go(Provider::Tcp {});
}

#[test]
fn the_log_replays_each_push_by_the_rule_it_was_recorded_with() {
    let folder = tempfile::tempdir().unwrap();
    let sync = with_known(Durability::Sync {});
    let world = World::start_kept(Provider::Shm {}, 3, sync, folder.path());
    let mut changing = Changing::new(world);
    for (last, life) in [(3, 100), (1, 200)] {
        changing.go_on();
        changing.go_on();
        changing.world.client.settle_by(&changing.world.map);
        assert_equal_replicas(
            &changing.world.map,
            &changing.world.nodes.iter().collect::<Vec<_>>(),
        );
        let before = changing.world.node(ServerId(last)).checksums();
        changing.world.restart_all(last, life, Node::kill);
        assert_eq!(changing.world.nodes[0].checksums(), before);
        changing.check();
        for (server, after) in [1, 2, 3].into_iter().filter(|server| *server != last).zip(1..) {
            changing.go_on();
            changing.world.rejoin(server, life + after);
        }
        changing.check();
    }
}
