//! Creating and dropping tables: one at a time, on every server, and in the store before anybody is
//! told.
//!
//! A table's number is reserved in the store first. Then every server makes it; a server that dies
//! meanwhile is not waited for, one that joins is asked too. Then the store takes it in, and the
//! asker hears. A number whose table nobody took in is never used again, and servers drop what they
//! made for it when they next join.

use std::collections::{BTreeSet, VecDeque};

use windlass_wire::{
    Aggregation, Consistency, Durability, Expiry, ServerId, TableEntry, TableId, TableSchema,
    control::{ClientReply, RefusalKind},
    coordination::{Instruction, OrderRefusal},
    schema::validate_table_name,
};

use super::{
    desk::Answer,
    machine::{Machine, not_leading},
    members::shared,
};
use crate::{
    limits::TABLES_MAX,
    refusal::{Refusal, invalid},
    shard::chain,
};

/// Changes of the catalogue, under way and waiting.
#[derive(Debug, Default)]
pub(super) struct Tables {
    current: Option<Current>,
    queue: VecDeque<(Wanted, Answer)>,
    orders: u64,
}

#[derive(Debug)]
enum Wanted {
    Create { name: String, schema: TableSchema },
    Drop { name: String },
    Alter { name: String, change: Change },
}

/// A property of a table that can change while it is in use.
#[derive(Debug)]
pub(super) enum Change {
    Consistency(Consistency),
    /// Hyper-parameters of its rule: `key=value,...`.
    Rule(String),
    Expiry(Expiry),
}

#[derive(Debug)]
struct Current {
    entry: TableEntry,
    kind: Kind,
    phase: Phase,
    answer: Answer,
}

/// What happens to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Create,
    Drop,
    SetConsistency,
    SetRule,
    SetExpiry,
}

#[derive(Debug)]
enum Phase {
    /// Until the catalogue of this version is safe; then servers are told.
    Reserve { version: u64 },
    /// Until these connections have answered this order.
    Tell { number: u64, waiting: BTreeSet<u64> },
    /// Until the catalogue of this version is safe; then the asker is told.
    Commit { version: u64 },
}

impl Tables {
    /// This coordinator no longer leads: another one decides what became of it.
    pub(super) fn abandon(&mut self) {
        let waiting = self.queue.drain(..).map(|(_, answer)| answer);
        for answer in self.current.take().map(|current| current.answer).into_iter().chain(waiting) {
            let _ = answer.send(Err(not_leading()));
        }
    }
}

impl Machine {
    pub(super) fn create_table(&mut self, name: String, schema: TableSchema, answer: Answer) {
        self.tables.queue.push_back((Wanted::Create { name, schema }, answer));
        self.next_table_change();
    }

    pub(super) fn drop_table(&mut self, name: &str, answer: Answer) {
        self.tables.queue.push_back((Wanted::Drop { name: name.to_owned() }, answer));
        self.next_table_change();
    }

    pub(super) fn alter_table(&mut self, name: String, change: Change, answer: Answer) {
        self.tables.queue.push_back((Wanted::Alter { name, change }, answer));
        self.next_table_change();
    }

    fn next_table_change(&mut self) {
        while self.tables.current.is_none() {
            let Some((wanted, answer)) = self.tables.queue.pop_front() else { return };
            let begun = match wanted {
                Wanted::Create { name, schema } => self.begin_create(name, schema),
                Wanted::Drop { name } => self.begin_drop(&name).map(Ok),
                Wanted::Alter { name, change: Change::Consistency(consistency) } => {
                    self.begin_set_consistency(&name, consistency).map(Ok)
                }
                Wanted::Alter { name, change: Change::Rule(parameters) } => {
                    self.begin_set_rule(&name, &parameters).map(Ok)
                }
                Wanted::Alter { name, change: Change::Expiry(expiry) } => {
                    self.begin_set_expiry(&name, expiry).map(Ok)
                }
            };
            match begun {
                Ok(Ok((entry, kind, version))) => {
                    let phase = Phase::Reserve { version };
                    self.tables.current = Some(Current { entry, kind, phase, answer });
                }
                Ok(Err(table)) => {
                    let _ = answer.send(Ok(ClientReply::Table { table }));
                }
                Err(refusal) => {
                    let _ = answer.send(Err(refusal));
                }
            }
        }
    }

    /// The table to be, or the equal one there is.
    fn begin_create(
        &mut self,
        name: String,
        schema: TableSchema,
    ) -> Result<Result<(TableEntry, Kind, u64), TableEntry>, Refusal> {
        validate_table_name(&name).map_err(|error| invalid(chain(&error)))?;
        schema.validate().map_err(|error| invalid(chain(&error)))?;
        let schema = TableSchema { first_rule: None, ..schema };
        if let Ok(found) = self.find_table(&name) {
            if is_same(&found.schema, &schema) {
                return Ok(Err(found.clone()));
            }
            let text =
                format!("table {name:?} exists with another schema: drop it first, or open it");
            return Err(Refusal::new(RefusalKind::TableExists {}, text));
        }
        check_features(&schema, self.map.replicas)?;
        if self.catalogue.tables.len() >= TABLES_MAX {
            return Err(Refusal::new(
                RefusalKind::Full {},
                format!("there are {TABLES_MAX} tables already"),
            ));
        }
        let id = TableId(self.catalogue.next_table);
        self.catalogue.next_table += 1;
        let version = self.store_catalogue();
        Ok(Ok((TableEntry { id, name, schema }, Kind::Create, version)))
    }

    fn begin_drop(&mut self, name: &str) -> Result<(TableEntry, Kind, u64), Refusal> {
        let entry = self.find_table(name)?.clone();
        self.catalogue.tables.retain(|table| table.id != entry.id);
        self.catalogue.emptied.retain(|emptied| emptied.table != entry.id);
        let version = self.store_catalogue();
        Ok((entry, Kind::Drop, version))
    }

    fn begin_set_consistency(
        &mut self,
        name: &str,
        consistency: Consistency,
    ) -> Result<(TableEntry, Kind, u64), Refusal> {
        let id = self.find_table(name)?.id;
        let eventual = Consistency::Eventual {};
        let tables = self.catalogue.tables.iter_mut();
        let entry = tables
            .filter(|table| table.id == id)
            .find(|table| table.schema.consistency != eventual);
        let Some(entry) = entry else {
            return Err(invalid(format!(
                "table {name:?}: workers keep clocks or not from its creation on; create it with \
                 sequential or bounded:N to change that later"
            )));
        };
        // Its workers go on keeping clocks, and can be held together again.
        let apart = Consistency::Bounded { tau: u64::MAX };
        let consistency = if consistency == eventual { apart } else { consistency };
        entry.schema.consistency = consistency;
        let entry = entry.clone();
        let version = self.store_catalogue();
        Ok((entry, Kind::SetConsistency, version))
    }

    fn begin_set_rule(
        &mut self,
        name: &str,
        parameters: &str,
    ) -> Result<(TableEntry, Kind, u64), Refusal> {
        let found = self.find_table(name)?;
        let changed = found.schema.rule.with(parameters);
        let (id, rule) = (found.id, changed.map_err(|error| invalid(error.to_string()))?);
        let mut tables = self.catalogue.tables.iter_mut();
        let Some(entry) = tables.find(|table| table.id == id) else {
            unreachable!("a table that was found a moment ago")
        };
        entry.schema.change_rule(rule);
        let entry = entry.clone();
        let version = self.store_catalogue();
        Ok((entry, Kind::SetRule, version))
    }

    fn begin_set_expiry(
        &mut self,
        name: &str,
        expiry: Expiry,
    ) -> Result<(TableEntry, Kind, u64), Refusal> {
        let id = self.find_table(name)?.id;
        let mut tables = self.catalogue.tables.iter_mut();
        let entry = tables.find(|table| table.id == id && !table.schema.expiry.is_never());
        let Some(entry) = entry.filter(|_| !expiry.is_never()) else {
            return Err(invalid(format!(
                "table {name:?}: rows have an age or not from its creation on; create it with an expiry, such as \
                 age:49710d, to change that later, and set that for rows to stay"
            )));
        };
        entry.schema.expiry = expiry;
        let entry = entry.clone();
        let version = self.store_catalogue();
        Ok((entry, Kind::SetExpiry, version))
    }

    /// A version of the catalogue is safe.
    pub(super) fn tables_stored(&mut self) {
        let stored = self.catalogue_stored;
        match &self.tables.current {
            Some(Current { phase: Phase::Reserve { version }, .. }) if stored >= *version => {
                self.tell_servers();
            }
            Some(Current { phase: Phase::Commit { version }, .. }) if stored >= *version => {
                self.end_table_change(None);
            }
            _ => {}
        }
    }

    fn tell_servers(&mut self) {
        let Some(current) = &self.tables.current else { return };
        self.tables.orders += 1;
        let number = self.tables.orders;
        let order = shared(number, current.instruction());
        let waiting: BTreeSet<u64> = self.members.joined().into_iter().collect();
        for &connection in &waiting {
            self.members.order(connection, &order);
        }
        if let Some(current) = &mut self.tables.current {
            current.phase = Phase::Tell { number, waiting };
        }
        self.servers_told();
    }

    /// A server has joined while others are being told.
    pub(super) fn tables_joined(&mut self, connection: u64) {
        let Some(current) = &mut self.tables.current else { return };
        let instruction = current.instruction();
        if let Phase::Tell { number, waiting } = &mut current.phase {
            waiting.insert(connection);
            let order = shared(*number, instruction);
            self.members.order(connection, &order);
        }
    }

    /// A server is gone: it is not waited for.
    pub(super) fn tables_closed(&mut self, connection: u64) {
        if let Some(Current { phase: Phase::Tell { waiting, .. }, .. }) = &mut self.tables.current {
            waiting.remove(&connection);
            self.servers_told();
        }
    }

    pub(super) fn table_answered(
        &mut self,
        connection: u64,
        number: u64,
        refusal: Option<OrderRefusal>,
    ) {
        let Some(current) = &mut self.tables.current else { return };
        let Phase::Tell { number: asked, waiting } = &mut current.phase else { return };
        if *asked != number || !waiting.remove(&connection) {
            return;
        }
        if let Some(OrderRefusal { status, text }) = refusal {
            let server = self.members.get(connection).map_or(0, |member| member.server.0);
            if current.kind == Kind::Create {
                // The others may have it or not; dropping what is not there does nothing.
                let table = current.entry.id;
                self.members.tell_all(Instruction::DropTable { table });
            }
            self.end_table_change(Some(Refusal::new(status, format!("server {server}: {text}"))));
        } else {
            self.servers_told();
        }
    }

    /// Goes on once no server is waited for.
    fn servers_told(&mut self) {
        let Some(Current { entry, kind, phase: Phase::Tell { waiting, .. }, .. }) =
            &self.tables.current
        else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        if *kind != Kind::Create {
            let late = if *kind == Kind::SetRule { self.out_of_reach() } else { None };
            self.end_table_change(late);
            return;
        }
        self.catalogue.tables.push(entry.clone());
        let version = self.store_catalogue();
        if let Some(current) = &mut self.tables.current {
            current.phase = Phase::Commit { version };
        }
    }

    /// Servers that may still be applying pushes and were not told. They are told when they join again, and
    /// what they lead goes to others when they are failed.
    fn out_of_reach(&self) -> Option<Refusal> {
        let chains = self.map.chains.iter().flat_map(|chain| &chain.servers);
        let mut late: Vec<u32> = chains.map(|server| server.0).collect();
        late.sort_unstable();
        late.dedup();
        late.retain(|server| !self.members.is_joined(ServerId(*server)));
        let names: Vec<String> = late.iter().map(u32::to_string).collect();
        (!late.is_empty()).then(|| {
            let text = format!(
                "the change is stored, and others go by it, but server {} is out of the coordinator's reach and may \
                 apply pushes by the old values until it is back or given up: ask again then",
                names.join(", ")
            );
            Refusal::new(RefusalKind::NoCoordinator {}, text)
        })
    }

    fn end_table_change(&mut self, refusal: Option<Refusal>) {
        if let Some(Current { entry, kind, answer, .. }) = self.tables.current.take() {
            let _ = answer.send(match refusal {
                Some(refusal) => Err(refusal),
                None if kind == Kind::Drop => Ok(ClientReply::Done {}),
                None => Ok(ClientReply::Table { table: entry }),
            });
        }
        self.next_table_change();
    }
}

impl Current {
    fn instruction(&self) -> Instruction {
        let TableEntry { id: table, schema, .. } = &self.entry;
        match self.kind {
            Kind::Create => Instruction::CreateTable { table: self.entry.clone() },
            Kind::Drop => Instruction::DropTable { table: *table },
            Kind::SetConsistency => {
                Instruction::AlterTable { table: *table, consistency: schema.consistency }
            }
            Kind::SetRule => Instruction::SetRule { table: *table, rule: schema.rule },
            Kind::SetExpiry => Instruction::SetExpiry { table: *table, expiry: schema.expiry },
        }
    }
}

/// Refuses what a schema can say and the cluster does not do: keeping quiet would be lying.
fn check_features(schema: &TableSchema, replicas: u8) -> Result<(), Refusal> {
    if schema.replicas > replicas {
        return Err(invalid(format!(
            "the table wants {} replicas and the cluster keeps {replicas}: use replicas {replicas} \
             or fewer, or a cluster started with --replicas {}",
            schema.replicas, schema.replicas
        )));
    }
    let in_rounds = schema.aggregation != (Aggregation::Immediate {});
    if in_rounds && schema.durability != (Durability::Memory {}) {
        return Err(invalid(
            "tables in rounds are kept in memory, on every replica: use durability memory, or \
             aggregation immediate",
        ));
    }
    Ok(())
}

/// Whether a table is the one asked for. How far its workers may be apart, and hyper-parameters of its rule, may
/// have been changed since it was made; whether its workers keep clocks never is.
fn is_same(found: &TableSchema, asked: &TableSchema) -> bool {
    let eventual = Consistency::Eventual {};
    let both = [found.consistency, asked.consistency];
    let consistency = if both.contains(&eventual) { asked.consistency } else { found.consistency };
    let rules = [found.rule_at_creation(), found.rule];
    let (rule, first_rule) = (found.rule, found.first_rule.clone());
    rules.contains(&asked.rule)
        && *found == TableSchema { consistency, rule, first_rule, ..asked.clone() }
}

#[cfg(test)]
mod tests {
    use windlass_wire::DataType;

    use super::*;

    #[test]
    fn a_cluster_with_replicas_refuses_what_its_chains_do_not_carry() {
        let eventual = TableSchema::sparse(DataType::F32, 4);
        let with = |consistency| TableSchema { consistency, ..eventual.clone() };
        for clocked in [Consistency::Sequential {}, Consistency::Bounded { tau: 2 }] {
            assert_eq!(check_features(&with(clocked), 2), Ok(()));
        }
        assert_eq!(check_features(&eventual, 3), Ok(()));
        let on_disk = TableSchema { durability: Durability::Sync {}, ..eventual.clone() };
        assert_eq!(check_features(&on_disk, 3), Ok(()));
        let aggregation = Aggregation::Rounds { quorum: 0, fold_late: false };
        assert_eq!(check_features(&TableSchema { aggregation, ..eventual }, 3), Ok(()));
        let refused = check_features(&TableSchema { aggregation, ..on_disk }, 3);
        assert!(refused.unwrap_err().text.contains("durability memory"));
    }
}
