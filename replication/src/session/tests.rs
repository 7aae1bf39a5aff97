use super::*;

fn push(session: u64, sequence: u64, previous: u64) -> Push {
    Push {
        session: SessionId(session),
        incarnation: Incarnation(1),
        lane: Lane(0),
        sequence: Sequence(sequence),
        previous: Some(Sequence(previous)),
    }
}

fn covered(session: u64, sequence: u64) -> Covered {
    Covered {
        session: SessionId(session),
        incarnation: Incarnation(1),
        lane: Lane(0),
        sequence: Sequence(sequence),
    }
}

#[test]
fn a_retry_is_acknowledged_but_not_applied() {
    let mut table = SessionTable::new(4);
    assert_eq!(table.admit(&push(1, 3, 0)), Admission::Apply);
    assert_eq!(table.admit(&push(1, 3, 0)), Admission::Pending);
    assert_eq!(table.admit(&push(1, 7, 3)), Admission::Apply);
    table.apply(Lsn(1), &[covered(1, 7)], &[]);
    assert_eq!(table.admit(&push(1, 3, 0)), Admission::Duplicate { lsn: Lsn(1) });
    assert_eq!(table.admit(&push(1, 7, 3)), Admission::Duplicate { lsn: Lsn(1) });
    assert_eq!(table.admit(&push(1, 9, 8)), Admission::Gap { expected: Sequence(7) });
    assert_eq!(table.admit(&push(1, 9, 7)), Admission::Apply);
    table.forget_admitted();
    assert_eq!(table.admit(&push(1, 9, 7)), Admission::Apply);
}

#[test]
fn a_new_life_starts_anew_and_refuses_the_old_one() {
    let mut table = SessionTable::new(4);
    table.apply(Lsn(1), &[covered(1, 7)], &[]);
    let again = Push { incarnation: Incarnation(2), ..push(1, 1, 0) };
    assert_eq!(table.admit(&again), Admission::Apply);
    assert_eq!(table.admit(&push(1, 8, 7)), Admission::StaleIncarnation);
}

#[test]
fn an_idle_session_makes_room_and_begins_afresh() {
    let mut table = SessionTable::new(2);
    table.apply(Lsn(1), &[covered(5, 1)], &[]);
    table.apply(Lsn(2), &[covered(6, 1)], &[]);
    assert_eq!(table.admit(&push(7, 1, 0)), Admission::Full);
    assert_eq!(table.idle(Lsn(1)).collect::<Vec<_>>(), [SessionId(5)]);
    table.apply(Lsn(3), &[], &[SessionId(5)]);
    assert_eq!(table.applied(SessionId(5), Lane(0)), None);
    let later = Push { previous: None, ..push(5, 2, 1) };
    assert_eq!(table.admit(&later), Admission::Apply);
    assert_eq!(table.admit(&later), Admission::Pending);
}

#[test]
fn what_is_pushed_again_after_expiry_stays() {
    let mut table = SessionTable::new(4);
    table.apply(Lsn(1), &[covered(5, 1)], &[]);
    table.apply(Lsn(4), &[covered(5, 2)], &[]);
    table.expire(SessionId(5), Lsn(3));
    assert_eq!(table.applied(SessionId(5), Lane(0)), Some((Incarnation(1), Sequence(2))));
    table.expire(SessionId(5), Lsn(5));
    assert_eq!(table.count(), 0);
}

#[test]
fn who_has_something_under_way_is_not_idle() {
    let mut table = SessionTable::new(4);
    table.apply(Lsn(1), &[covered(5, 1)], &[]);
    let in_round = Push { lane: Lane(3), ..push(5, 2, 0) };
    assert_eq!(table.admit(&in_round), Admission::Apply);
    assert_eq!(table.idle(Lsn(9)).count(), 0);
    table.forget_admitted();
    assert_eq!(table.idle(Lsn(9)).collect::<Vec<_>>(), [SessionId(5)]);
}

#[test]
fn lanes_are_apart() {
    let mut table = SessionTable::new(4);
    let in_round = Push { lane: Lane(3), ..push(1, 1, 0) };
    assert_eq!(table.admit(&in_round), Admission::Apply);
    assert_eq!(table.admit(&push(1, 2, 0)), Admission::Apply);
    table.apply(Lsn(1), &[covered(1, 2)], &[]);
    table.forget_admitted();
    assert_eq!(table.admit(&in_round), Admission::Apply, "the round was lost with its head");
}

#[test]
fn those_that_pushed_since_a_position_are_named_with_their_last_push() {
    let mut table = SessionTable::new(8);
    table.apply(Lsn(4), &[covered(9, 2), covered(11, 5)], &[]);
    table.apply(Lsn(5), &[covered(11, 6), Covered { lane: Lane(2), ..covered(12, 1) }], &[]);
    assert_eq!(table.since(Lsn(4), Lane(0)).collect::<Vec<_>>(), [covered(11, 6)]);
    assert_eq!(table.since(Lsn(3), Lane(0)).count(), 2);
}

#[test]
fn pieces_make_up_the_whole() {
    let mut table = SessionTable::new(8);
    let mut none = Vec::new();
    table.encode_piece(None, 2, &mut none);
    assert_eq!(SessionTable::decode(&none, 2), Ok(table.clone()), "an empty table is told too");
    table.apply(Lsn(4), &[covered(9, 2), covered(11, 5), covered(12, 1), covered(13, 3)], &[]);
    assert_eq!(pieces_of(&mut table, 2, |_, _| {}), (2, table.clone()));
    assert_eq!(pieces_of(&mut table, 3, |_, _| {}), (2, table.clone()));
    assert_eq!(pieces_of(&mut table, 9, |_, _| {}), (1, table.clone()));
}

/// The pieces of a table that changes between them, and what they make together.
fn pieces_of(
    table: &mut SessionTable,
    entries_max: usize,
    mut between: impl FnMut(&mut SessionTable, usize),
) -> (usize, SessionTable) {
    let (mut whole, mut count, mut after) = (SessionTable::new(8), 0, None);
    loop {
        let mut piece = Vec::new();
        table.encode_piece(after, entries_max, &mut piece);
        after = table.last_of_piece(after, entries_max);
        whole.merge(&SessionTable::decode(&piece, entries_max).unwrap());
        count += 1;
        if after.is_none() {
            return (count, whole);
        }
        between(table, count);
    }
}

#[test]
fn pieces_and_the_records_since_make_up_a_table_that_changes_between_them() {
    let mut table = SessionTable::new(8);
    table.apply(Lsn(4), &[covered(9, 2), covered(11, 5), covered(12, 1), covered(13, 3)], &[]);
    // One that is copied already goes on, one goes, one comes in front and one behind.
    let later = |table: &mut SessionTable, count: usize| {
        if count == 1 {
            table.apply(Lsn(5), &[covered(9, 3), covered(5, 1)], &[]);
            table.apply(Lsn(6), &[], &[SessionId(11)]);
        } else if count == 2 {
            table.apply(Lsn(7), &[covered(20, 1)], &[]);
        }
    };
    let (count, mut recovered) = pieces_of(&mut table, 1, later);
    assert_eq!(count, 4);
    later(&mut recovered, 1);
    later(&mut recovered, 2);
    assert_eq!(recovered, table);
}

#[test]
fn bytes_round_trip_and_foreign_ones_are_refused() {
    let mut table = SessionTable::new(8);
    table.apply(Lsn(4), &[covered(9, 2), covered(11, 5)], &[]);
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    assert_eq!(SessionTable::decode(&bytes, 8), Ok(table));
    SessionTable::decode(&bytes, 1).unwrap_err();
    for cut in 0..bytes.len() {
        SessionTable::decode(&bytes[..cut], 8).unwrap_err();
    }
}

#[test]
fn tables_are_equal_by_what_was_applied_alone() {
    let mut table = SessionTable::new(4);
    let mut other = table.clone();
    table.apply(Lsn(1), &[covered(1, 7)], &[]);
    assert_ne!(table, other, "one has applied a push that the other has not");
    other.apply(Lsn(1), &[covered(1, 6)], &[]);
    assert_ne!(table, other, "another push of the same session");
    other.apply(Lsn(2), &[covered(1, 7)], &[]);
    assert_eq!(table, other);
    assert_eq!(table.admit(&push(2, 1, 0)), Admission::Apply);
    assert_eq!(table, other, "what is only admitted does not count");
    other.apply(Lsn(3), &[covered(2, 1)], &[]);
    assert_ne!(table, other);
}

#[test]
fn a_copy_that_is_no_further_changes_nothing() {
    let mut table = SessionTable::new(4);
    table.apply(Lsn(1), &[covered(1, 7)], &[]);
    let copied = table.clone();
    assert_eq!(table.admit(&push(1, 8, 7)), Admission::Apply);
    table.merge(&copied);
    assert_eq!(table.admit(&push(1, 8, 7)), Admission::Pending, "still under way");

    let mut ahead = copied.clone();
    ahead.apply(Lsn(2), &[covered(1, 9), covered(3, 1)], &[]);
    assert_eq!(ahead.admit(&push(4, 1, 0)), Admission::Apply);
    table.merge(&ahead);
    assert_eq!(table.admit(&push(1, 9, 8)), Admission::Duplicate { lsn: Lsn(2) });
    assert_eq!(table.admit(&push(3, 1, 0)), Admission::Duplicate { lsn: Lsn(2) });
    assert_eq!(table.admit(&push(4, 1, 0)), Admission::Apply, "only admitted by the other");
}
