//! Requests to the coordinator: answered at once, or once the cluster is founded.

use std::time::{Duration, Instant};

use windlass_wire::{
    TableEntry,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use super::{
    desk::Answer,
    machine::{Machine, not_leading},
    tables::Change,
};
use crate::refusal::{Refusal, invalid, unknown_table};

/// Requests that wait for a leader or for servers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    requests: Vec<(Instant, ClientRequest, Answer)>,
}

/// How long a request waits for servers that have not joined yet.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn asked(&mut self, request: ClientRequest, answer: Answer) {
        // A client that is gone needs no answer.
        match request {
            ClientRequest::CoordinatorStatus {} => {
                let _ = answer.send(Ok(ClientReply::CoordinatorStatus { status: self.status() }));
            }
            _ if !self.coordinator.leads() => {
                let _ = answer.send(Err(not_leading()));
            }
            ClientRequest::Operate { operation } => self.operate(operation, answer),
            ClientRequest::OpenTable { name } => {
                let found = self.find_table(&name).cloned();
                let _ = answer.send(found.map(|table| ClientReply::Table { table }));
            }
            ClientRequest::ListTables {} => {
                let tables = self.catalogue.tables.clone();
                let _ = answer.send(Ok(ClientReply::Tables { tables }));
            }
            ClientRequest::RegisterWorker { rank, incarnation } => {
                let _ = answer.send(self.register_worker(rank, incarnation));
            }
            ClientRequest::LeaveWorker { rank, incarnation } => {
                let _ = answer.send(Ok(self.leave_worker(rank, incarnation)));
            }
            ClientRequest::Map {}
            | ClientRequest::CreateTable { .. }
            | ClientRequest::AlterTable { .. }
            | ClientRequest::SetRule { .. }
            | ClientRequest::SetExpiry { .. }
            | ClientRequest::DropTable { .. } => {
                if self.is_founded() {
                    self.serve(request, answer);
                } else {
                    let deadline = Instant::now() + JOIN_PATIENCE;
                    self.waiting.requests.push((deadline, request, answer));
                }
            }
            _ => {
                let _ = answer.send(Err(invalid("this is asked of a server, not a coordinator")));
            }
        }
    }

    fn serve(&mut self, request: ClientRequest, answer: Answer) {
        match request {
            ClientRequest::CreateTable { name, schema } => self.create_table(name, schema, answer),
            ClientRequest::DropTable { name } => self.drop_table(&name, answer),
            ClientRequest::AlterTable { name, consistency } => {
                self.alter_table(name, Change::Consistency(consistency), answer);
            }
            ClientRequest::SetRule { name, parameters } => {
                self.alter_table(name, Change::Rule(parameters), answer);
            }
            ClientRequest::SetExpiry { name, expiry } => {
                self.alter_table(name, Change::Expiry(expiry), answer);
            }
            _ => {
                let _ = answer.send(Ok(ClientReply::Map { map: self.map.as_ref().clone() }));
            }
        }
    }

    /// Serves what waited, once chains are created.
    pub(super) fn settle_waiting(&mut self) {
        if self.is_founded() {
            for (_, request, answer) in std::mem::take(&mut self.waiting.requests) {
                self.serve(request, answer);
            }
        }
    }

    /// Refuses what has waited for too long.
    pub(super) fn give_up_waiting(&mut self) {
        let now = Instant::now();
        let (here, all) = (self.map.servers.len(), self.config.expected_servers);
        self.waiting.requests.retain(|(deadline, _, answer)| {
            let is_over = *deadline <= now;
            if is_over {
                let text = format!("{here} of {all} servers have joined: start the others");
                let _ = answer.send(Err(Refusal::new(RefusalKind::NoCoordinator {}, text)));
            }
            !is_over
        });
    }

    pub(super) fn find_table(&self, name: &str) -> Result<&TableEntry, Refusal> {
        let found = self.catalogue.tables.iter().find(|table| table.name == name);
        found.ok_or_else(|| unknown_table(format!("there is no table {name:?}: create it first")))
    }
}
