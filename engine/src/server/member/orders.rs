//! Carries out the coordinator's long orders, in sequence, on threads of their own.

use crossbeam::channel::{Receiver, Sender, bounded};
use windlass_wire::coordination::{Instruction, Order, OrderRefusal, Report};

use super::Member;
use crate::refusal::Refusal;

/// What the thread that changes tables is told.
pub(super) enum TableChange {
    Order(Box<Order>),
    /// To be dropped when all before is done.
    Settled(Sender<()>),
}

impl Member {
    /// Carries out orders about tables, in order: making memory takes long.
    pub(super) fn change_tables(&self, changes: &Receiver<TableChange>) {
        while let Ok(change) = changes.recv() {
            match change {
                TableChange::Order(order) => self.carry_out(*order),
                TableChange::Settled(told) => drop(told),
            }
        }
    }

    /// Carries out orders that take long, in order; those that make and drop tables beside the others, so
    /// that no map waits for memory.
    pub(super) fn obey(&self, orders: &Receiver<Order>, tables: &Sender<TableChange>) {
        while let Ok(first) = orders.recv() {
            let mut batch = vec![first];
            batch.extend(orders.try_iter());
            let is_map =
                |order: &Order| matches!(order.instruction, Instruction::InstallMap { .. });
            let last_map = batch.iter().rposition(is_map);
            for (at, order) in batch.into_iter().enumerate() {
                // Only the newest map counts.
                if is_map(&order) && last_map.is_some_and(|last| at < last) {
                    continue;
                }
                // The other thread lives as long as this one.
                match order.instruction {
                    Instruction::CreateTable { .. }
                    | Instruction::DropTable { .. }
                    | Instruction::AlterTable { .. }
                    | Instruction::SetRule { .. }
                    | Instruction::SetExpiry { .. } => {
                        let _ = tables.send(TableChange::Order(Box::new(order)));
                    }
                    Instruction::SetTables { .. } => {
                        // What is under way may be among them.
                        let (told, settled) = bounded(0);
                        let _ = tables.send(TableChange::Settled(told));
                        let _ = settled.recv();
                        self.carry_out(order);
                    }
                    Instruction::InstallMap { .. } => {
                        self.carry_out(order);
                        self.maps.carried_out();
                    }
                    _ => self.carry_out(order),
                }
            }
        }
    }

    fn carry_out(&self, order: Order) {
        let number = order.number;
        let result = self.cluster.carry_out(order.instruction);
        if let Err(Refusal { text, .. }) = &result {
            match self.is_stopping() {
                true => tracing::debug!(text, "an order came to a server that stops"),
                false => tracing::error!(text, "an order of the coordinator was not carried out"),
            }
        }
        if number != 0 {
            let refusal =
                result.err().map(|Refusal { kind, text }| OrderRefusal { status: kind, text });
            self.send(&Report::Answer { number, refusal });
        }
    }
}
