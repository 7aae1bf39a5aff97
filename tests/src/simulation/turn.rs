//! A server's turn: admit pushes, sum them into one record, acknowledge what is committed.

use std::rc::Rc;

use windlass_replication::{Admission, Covered, Input, Push};
use windlass_wire::{Epoch, Lsn};

use super::memory::Waiting;
use super::message::{Message, Record};
use super::options::Mutation;
use super::server::{TURN_US, header};
use super::world::{Event, Node, World};

/// How soon a turn that found no room for its records is tried again.
const ROOM_US: u64 = 500;

impl World {
    pub(super) fn pushed(
        &mut self,
        s: usize,
        p: usize,
        from: Node,
        epoch: Epoch,
        push: &Push,
        index: u32,
    ) {
        let mutation = self.options.mutation;
        let client = from - self.client_base();
        let part = &mut self.servers[s].parts[p];
        if !part.replica.is_head() || part.replica.epoch() != epoch {
            self.send(s, from, Message::Refused);
            return;
        }
        if self.is_in_rounds() {
            self.pushed_into_round(s, p, from, push, index);
            return;
        }
        let part = &mut self.servers[s].parts[p];
        let sequence = push.sequence;
        match part.replica.admit(push) {
            Err(_) | Ok(Admission::Gap { .. } | Admission::Full) => {
                self.send(s, from, Message::Refused);
            }
            Ok(Admission::StaleIncarnation) => unreachable!("clients have one life"),
            Ok(Admission::Duplicate { .. }) if mutation == Some(Mutation::SkipDuplicates) => {
                part.turn.push((index, *push));
                self.end_turn_soon(s, p);
            }
            Ok(Admission::Duplicate { lsn }) => {
                if lsn <= part.replica.log().committed() {
                    self.send(s, from, Message::Acknowledged { partition: p, sequence });
                } else {
                    part.waiting.push(Waiting { lsn, client, sequence });
                }
            }
            Ok(Admission::Pending) => {}
            Ok(Admission::Apply) => {
                part.turn.push((index, *push));
                self.end_turn_soon(s, p);
            }
        }
    }

    pub(super) fn end_turn_soon(&mut self, s: usize, p: usize) {
        self.end_turn_after(s, p, TURN_US);
    }

    fn end_turn_after(&mut self, s: usize, p: usize, us: u64) {
        let life = self.servers[s].life;
        if !std::mem::replace(&mut self.servers[s].parts[p].turn_due, true) {
            self.schedule(us, Event::Turn { server: s, life, partition: p });
        }
    }

    /// Sums what the turn's pushes bring into one record.
    pub(super) fn turn(&mut self, s: usize, p: usize) {
        let part = &mut self.servers[s].parts[p];
        part.turn_due = false;
        let turn = std::mem::take(&mut part.turn);
        if turn.is_empty() || !part.replica.is_head() {
            return;
        }
        let records = self.records_of(&turn).map(|(sync, run)| (sync, run.to_vec()));
        for (sync, run) in records.collect::<Vec<_>>() {
            let part = &mut self.servers[s].parts[p];
            if part.replica.has_room() {
                self.append(s, p, sync, &run);
            } else {
                part.turn.extend(run);
                self.end_turn_after(s, p, ROOM_US);
            }
        }
    }

    fn append(&mut self, s: usize, p: usize, sync: bool, turn: &[(u32, Push)]) {
        let mut covered: Vec<Covered> = Vec::new();
        for (_, push) in turn {
            let one = Covered {
                session: push.session,
                incarnation: push.incarnation,
                lane: push.lane,
                sequence: push.sequence,
            };
            match covered.iter_mut().find(|known| known.session == one.session) {
                Some(known) => known.sequence = known.sequence.max(one.sequence),
                None => covered.push(one),
            }
        }
        let part = &mut self.servers[s].parts[p];
        let lsn = part.replica.log().last().next();
        let record = Rc::new(Record {
            lsn,
            epoch: part.replica.epoch(),
            sync,
            covered,
            pushes: turn.iter().map(|(index, _)| *index).collect(),
            expired: Vec::new(),
            turned: super::rounds::Turned::default(),
        });
        part.store(Rc::clone(&record));
        let waits = turn.iter().map(|(index, push)| Waiting {
            lsn,
            client: self.pushes[*index as usize].client,
            sequence: push.sequence,
        });
        part.waiting.extend(waits);
        self.step(s, p, Input::Append(header(&record))).expect("the head admitted these pushes");
        if self.options.mutation == Some(Mutation::AcknowledgeBeforeTail) {
            self.acknowledge(s, p, lsn);
        }
    }

    pub(super) fn acknowledge(&mut self, s: usize, p: usize, up_to: Lsn) {
        let base = self.client_base();
        let waiting = std::mem::take(&mut self.servers[s].parts[p].waiting);
        let (due, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|wait| wait.lsn <= up_to);
        self.servers[s].parts[p].waiting = rest;
        for wait in due {
            let sequence = wait.sequence;
            self.send(s, base + wait.client, Message::Acknowledged { partition: p, sequence });
        }
    }
}
