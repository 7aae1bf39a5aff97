//! A replica that shares its partition with nobody. Nobody else has to hold what it takes: its engine may
//! apply a push without a record, or keep the record in its own log alone.
//!
//! A push that is applied without a record has no position. What is remembered of it names the next one,
//! and positions before that stop being known to others: whoever was at the last one has missed the push.
//! Before anybody else may compare positions with this replica, its engine appends a record
//! ([`Replica::has_unrecorded`]).

use windlass_wire::Lsn;

use crate::chain::{Replica, Role};
use crate::session::{Admission, Covered, Push};
use crate::time::Time;

impl Replica {
    /// Whether nobody else has to hold what this replica takes, now.
    #[must_use]
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.role == Role::Single
            && self.learner.is_none()
            && self.hold_until == Time(0)
            && self.catch_up.is_whole()
    }

    /// What would become of a push beside `others` new sessions, without remembering it.
    #[must_use]
    #[inline]
    pub fn look(&self, push: &Push, others: usize) -> Admission {
        self.sessions.look(push, others)
    }

    /// Pushes of a session up to this one were applied without a record.
    ///
    /// # Panics
    ///
    /// When others have to hold them.
    #[inline]
    pub fn note_applied(&mut self, covered: Covered) {
        assert!(self.is_alone(), "others would miss a push of {}", self.partition);
        self.unrecorded += 1;
        self.sessions.apply(self.log.last().next(), &[covered], &[]);
    }

    /// Whether pushes were applied without a record since the last one.
    #[must_use]
    #[inline]
    pub fn has_unrecorded(&self) -> bool {
        self.unrecorded > 0
    }

    /// How many were: with the last record this says what state the rows are in.
    #[must_use]
    pub fn unrecorded_count(&self) -> u64 {
        self.unrecorded
    }

    /// The next record is in the engine's own log, applied, and nowhere else.
    ///
    /// # Panics
    ///
    /// When others have to hold it, or it is not the next one.
    pub fn append_alone(&mut self, lsn: Lsn, covered: &[Covered]) {
        assert!(self.is_alone(), "others would miss a record of {}", self.partition);
        self.log.push(lsn, self.chain.epoch, false);
        self.sessions.apply(lsn, covered, &[]);
        self.log.commit(self.log.ready());
        self.forget_positions();
    }

    /// Nobody goes on from a position before the last one: what came in between is not to be had.
    pub(crate) fn forget_positions(&mut self) {
        self.unrecorded = 0;
        self.log.release(self.log.last().next());
    }
}

#[cfg(test)]
mod tests {
    use windlass_wire::{Epoch, Incarnation, PartitionId, Sequence, ServerId, SessionId};

    use super::*;
    use crate::{
        ChainView, Input, Lane, Output, Position, RecordHeader, ReplicaLimits, SessionTable,
    };

    const ME: ServerId = ServerId(1);
    const OTHER: ServerId = ServerId(2);

    fn push(session: u64, sequence: u64) -> Push {
        Push {
            session: SessionId(session),
            incarnation: Incarnation(1),
            lane: Lane(0),
            sequence: Sequence(sequence),
            previous: None,
        }
    }

    fn covered(session: u64, sequence: u64) -> Covered {
        push(session, sequence).covered()
    }

    fn configure(replica: &mut Replica, epoch: u64, learner: Option<ServerId>) -> Vec<Output> {
        let chain =
            ChainView { epoch: Epoch(epoch), path: vec![ME], tail_synchronised: true, learner };
        let mut outputs = Vec::new();
        let input = Input::Configure { chain: &chain, hold_until: Time(0) };
        replica.step(Time(1), input, &mut outputs).unwrap();
        outputs
    }

    fn alone() -> Replica {
        let mut replica = Replica::new(PartitionId(3), ME, ReplicaLimits::default());
        assert!(!replica.is_alone(), "it has no part yet");
        configure(&mut replica, 1, None);
        assert!(replica.is_alone());
        replica
    }

    fn append(replica: &mut Replica, lsn: u64, covered: &[Covered]) {
        let epoch = replica.epoch();
        let record = RecordHeader { lsn: Lsn(lsn), epoch, sync: false, covered, expired: &[] };
        replica.step(Time(1), Input::Append(record), &mut Vec::new()).unwrap();
    }

    #[test]
    fn pushes_without_records_are_told_apart_as_those_with_records() {
        let mut replica = alone();
        assert_eq!(replica.look(&push(7, 2), 0), Admission::Apply);
        assert_eq!(replica.look(&push(7, 2), 0), Admission::Apply, "a look changes nothing");
        replica.note_applied(covered(7, 2));
        assert_eq!(replica.look(&push(7, 1), 0), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(replica.look(&push(7, 2), 0), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(replica.look(&push(8, 5), 0), Admission::Apply);
        replica.note_applied(covered(8, 5));
        assert_eq!(replica.look(&push(8, 5), 0), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(replica.look(&push(8, 6), 0), Admission::Apply);
        assert_eq!(replica.look(&push(7, 3), 0), Admission::Apply);
        replica.append_alone(Lsn(1), &[covered(7, 3)]);
        assert_eq!(replica.look(&push(7, 3), 0), Admission::Duplicate { lsn: Lsn(1) });
        assert_eq!(replica.log().committed(), Lsn(1));
        let older = Push { incarnation: Incarnation(0), ..push(7, 9) };
        assert_eq!(replica.look(&older, 0), Admission::StaleIncarnation);
    }

    #[test]
    fn a_full_table_takes_nobody_new() {
        let limits = ReplicaLimits { sessions_max: 2, ..ReplicaLimits::default() };
        let mut replica = Replica::new(PartitionId(3), ME, limits);
        configure(&mut replica, 1, None);
        assert_eq!(replica.look(&push(1, 1), 1), Admission::Apply);
        assert_eq!(replica.look(&push(1, 1), 2), Admission::Full, "beside two others");
        replica.note_applied(covered(1, 1));
        replica.note_applied(covered(2, 1));
        assert_eq!(replica.look(&push(3, 1), 0), Admission::Full);
        assert_eq!(replica.sessions().count(), 2, "a look takes nobody in");
        assert_eq!(replica.look(&push(2, 2), 0), Admission::Apply);
    }

    /// Somebody who left at a position must not go on from it: he has missed what came without a record.
    #[test]
    fn nobody_goes_on_from_a_position_before_an_unrecorded_push() {
        let is_known = |replica: &Replica, lsn| {
            replica.log().continues(Position { epoch: Epoch(1), lsn: Lsn(lsn) })
        };
        let mut replica = alone();
        append(&mut replica, 1, &[]);
        append(&mut replica, 2, &[]);
        assert!(is_known(&replica, 1) && is_known(&replica, 2));
        replica.note_applied(covered(7, 1));
        assert!(replica.has_unrecorded());
        append(&mut replica, 3, &[]);
        assert!(!replica.has_unrecorded());
        assert!(!is_known(&replica, 1) && !is_known(&replica, 2) && is_known(&replica, 3));
        append(&mut replica, 4, &[]);
        assert!(is_known(&replica, 3), "the fourth record is held");
        replica.append_alone(Lsn(5), &[]);
        assert!(!is_known(&replica, 4) && is_known(&replica, 5), "the fifth is in one log alone");
    }

    #[test]
    fn an_unrecorded_push_is_not_idle_until_a_record_comes_behind_it() {
        let mut replica = alone();
        append(&mut replica, 1, &[]);
        replica.note_applied(covered(7, 1));
        let sessions: &SessionTable = replica.sessions();
        assert_eq!(sessions.idle(Lsn(1)).count(), 0);
        append(&mut replica, 2, &[]);
        assert_eq!(replica.sessions().idle(Lsn(2)).collect::<Vec<_>>(), [SessionId(7)]);
    }

    #[test]
    #[should_panic(expected = "others would miss a push")]
    fn what_a_learner_has_to_get_takes_a_record() {
        let mut replica = alone();
        configure(&mut replica, 2, Some(OTHER));
        assert!(!replica.is_alone());
        replica.note_applied(covered(7, 1));
    }
}
