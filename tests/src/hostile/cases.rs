//! What a hostile session writes, and what has to come of it.

use std::time::Duration;

use windlass_transport::mailbox::{RING_AT, SLEEP_EPOCH_AT};
use windlass_wire::{
    DataType, Place, RequestHeader, RequestKind, Rows, Sequence, Status, TableId, WorkerClock,
};

use super::session::{Hostile, OWN_LEN, Target};
use crate::crash::random::Random;

/// How the server took a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status.
    Answered(Status),
    /// It ended the session.
    Ended,
    /// It saw no message in the bytes.
    Ignored,
}

/// How many cases were taken how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Answered with an error.
    pub refused: u64,
    /// Answered as done, which they were.
    pub done: u64,
    /// Session ended.
    pub ended: u64,
    /// No message.
    pub ignored: u64,
    /// Sessions it took.
    pub sessions: u64,
}

/// What may come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// An error status or the session's end, nothing else.
    Refusal,
    /// Exactly this status.
    Exactly(Status),
    /// An error status, the end, or nothing, because the bytes may happen to be no message.
    NoEffect,
    /// Whatever it is, nobody else may feel it: the message may happen to be a valid one.
    Anything,
    /// As anything, and its answer may be gone before it can be seen.
    Flood,
}

/// Most patience with an answer: a busy machine, not a slow server.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long bytes that may be no message are given.
const GLANCE: Duration = Duration::from_micros(300);

/// Attacks the mailbox `count` times, in as many sessions as that takes. Panics when a case is taken
/// in a way it must not be.
pub fn attack_mailbox(target: &Target, seed: u64, count: u64) -> Tally {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let mut open = None;
    for case in 0..count {
        let mut hostile = match open.take() {
            Some(hostile) => hostile,
            None => {
                tally.sessions += 1;
                let session = random.word();
                Hostile::connect(target, session)
                    .unwrap_or_else(|error| panic!("seed {seed}, case {case}: {error}"))
            }
        };
        let kind = random.below(KINDS);
        let outcome = one_case(&mut hostile, target, kind, &mut random)
            .unwrap_or_else(|error| panic!("seed {seed}, case {case} of kind {kind}: {error}"));
        match outcome {
            Outcome::Answered(Status::Done) => tally.done += 1,
            Outcome::Answered(_) => tally.refused += 1,
            Outcome::Ended => tally.ended += 1,
            Outcome::Ignored => tally.ignored += 1,
        }
        // Only after whole messages do both sides agree on where the next one goes.
        let in_step = matches!(kind, 0..=2 | 6..=9 | 12..=13);
        let answered = matches!(outcome, Outcome::Answered(_));
        if in_step && answered && !hostile.is_over() && !random.one_in(50) {
            open = Some(hostile);
        }
    }
    tally
}

const KINDS: u64 = 16;

fn one_case(
    hostile: &mut Hostile,
    target: &Target,
    kind: u64,
    random: &mut Random,
) -> Result<Outcome, String> {
    let (number, allowed) = match kind {
        0 => {
            let len = 1 + random.below(400);
            let bytes: Vec<u8> = (0..len).map(|_| random.word().to_le_bytes()[3]).collect();
            (hostile.honest_message(&bytes), Allowed::Refusal)
        }
        1 => {
            let mut bytes = sealed(&push(hostile, target, random), &body(2, target.width));
            let bit = random.below(bytes.len() as u64 * 8);
            flip(&mut bytes, bit);
            (hostile.honest_message(&bytes), Allowed::Refusal)
        }
        2 => {
            let header = push(hostile, target, random);
            let mut bytes = sealed(&header, &body(2, target.width));
            // Anything but kind 4 and 5, and a table that nobody else uses.
            let bit = random.below(header.len() as u64 * 8);
            flip(&mut bytes, bit);
            seal_again(&mut bytes);
            (hostile.honest_message(&bytes), Allowed::Anything)
        }
        3 => {
            let bytes = sealed(&push(hostile, target, random), &body(2, target.width));
            let wrong = match random.below(3) {
                0 => u32::try_from(random.below(1 << 32)).unwrap_or(0),
                1 => u32::try_from(random.below(bytes.len() as u64)).unwrap_or(0),
                _ => u32::try_from(hostile.ring_len).unwrap_or(0),
            };
            let number = hostile.number;
            hostile.message(&bytes, wrong, number);
            let right = wrong as usize == bytes.len();
            (number, if right { Allowed::Anything } else { Allowed::Refusal })
        }
        4 => {
            let bytes = sealed(&push(hostile, target, random), &body(2, target.width));
            let (number, at_start) = (hostile.number, hostile.tail == 0);
            let wrong = half(random);
            hostile.message(&bytes, u32::try_from(bytes.len()).unwrap_or(0), wrong);
            let allowed = if at_start { Allowed::NoEffect } else { Allowed::Refusal };
            (number, if wrong == number { Allowed::Anything } else { allowed })
        }
        5 => {
            let number = hostile.number;
            let word = u64::from(u32::MAX) | u64::from(number) << 32;
            hostile.write(RING_AT, &word.to_le_bytes());
            if hostile.tail > 0 {
                hostile.write(RING_AT + hostile.tail, &word.to_le_bytes());
            }
            (number, Allowed::Refusal)
        }
        6 => {
            let mut header = push(hostile, target, random);
            match random.below(3) {
                0 => header.row_count = 1 << 20,
                1 => header.width = 1 << 22,
                _ => (header.row_count, header.width) = ((1 << 21) - 1, (1 << 23) - 1),
            }
            (hostile.honest_message(&sealed(&header, &body(2, 4))), Allowed::Refusal)
        }
        7 => {
            let header = push(hostile, target, random);
            let (keys, status) = match random.below(3) {
                0 => ([7, 3], Status::UnsortedKeys),
                1 => ([7, 7], Status::DuplicateKey),
                _ => ([7, target.rows + random.below(1 << 40)], Status::OutOfRange),
            };
            let mut bytes = body(2, target.width);
            bytes[..8].copy_from_slice(&keys[0].to_le_bytes());
            bytes[8..16].copy_from_slice(&keys[1].to_le_bytes());
            (hostile.honest_message(&sealed(&header, &bytes)), Allowed::Exactly(status))
        }
        8 => {
            let mut header = push(hostile, target, random);
            let key = if random.one_in(2) { hostile.own.key.0 } else { half(random) };
            let address = match random.below(4) {
                0 => random.word(),
                1 => u64::MAX - random.below(64),
                2 => OWN_LEN as u64 - random.below(32),
                _ => random.below(1 << 20),
            };
            header.values = Some(Place { key, address });
            let ours = key == hostile.own.key.0 && address < OWN_LEN as u64 - 64;
            let allowed = if ours { Allowed::Anything } else { Allowed::Refusal };
            (hostile.honest_message(&sealed(&header, &body(2, 0))), allowed)
        }
        9 => {
            let mut header = push(hostile, target, random);
            header.kind = RequestKind::Pull;
            let key = if random.one_in(2) { hostile.own.key.0 } else { half(random) };
            header.reply = Some(Place { key, address: u64::MAX - random.below(1 << 30) });
            // The rows cannot be written, and then neither can the answer.
            (hostile.honest_message(&sealed(&header, &body(2, 0))), Allowed::Anything)
        }
        10 if random.one_in(8) => {
            let bytes = nothing(hostile, random);
            let (first, count) = (hostile.number, 1025 + random.below(1000));
            for _ in 0..count {
                hostile.honest_message(&bytes);
                if hostile.is_over() {
                    break;
                }
            }
            // A server that keeps up may answer them all.
            (first, Allowed::Flood)
        }
        11 => {
            for _ in 0..1 + random.below(64) {
                let at = random.below(hostile.ring_len / 8) * 8;
                let word = random.word().to_le_bytes();
                hostile.write(RING_AT + at, &word);
            }
            (hostile.number, Allowed::NoEffect)
        }
        12 => {
            let mut header = push(hostile, target, random);
            let status = match random.below(5) {
                0 => {
                    header.epoch.0 += 1 + random.below(9);
                    Status::StaleEpoch
                }
                1 => {
                    header.table = TableId(1000 + header.row_count);
                    Status::UnknownTable
                }
                2 => {
                    header.dtype = DataType::I32;
                    Status::WrongDtype
                }
                3 => {
                    header.width *= 2;
                    header.row_count /= 2;
                    header.rows = Rows::Range { first: 1 };
                    Status::WrongWidth
                }
                _ => {
                    header.rows = Rows::Range { first: target.rows - 1 };
                    Status::OutOfRange
                }
            };
            let body = match header.rows {
                Rows::Range { .. } => body(2, target.width)[16..].to_vec(),
                Rows::Keys | Rows::Partition { .. } => body(2, target.width),
            };
            (hostile.honest_message(&sealed(&header, &body)), Allowed::Exactly(status))
        }
        10 | 13 => {
            let epoch = random.word().to_le_bytes();
            hostile.write(SLEEP_EPOCH_AT, &epoch);
            let bytes = nothing(hostile, random);
            (hostile.honest_message(&bytes), Allowed::Anything)
        }
        14 => {
            let at = RING_AT + hostile.ring_len + random.below(1 << 20);
            hostile.write(at - random.below(8), &[0xff; 64]);
            (hostile.number, Allowed::NoEffect)
        }
        _ => {
            // Parameter memory is for reading.
            let region = hostile.locate(target.table)?;
            hostile.write_to(region, random.below(4096) * 8, &[0xff; 64]);
            if !hostile.is_over() {
                return Err("a client wrote into parameter memory".to_owned());
            }
            return Ok(Outcome::Ended);
        }
    };
    judge(hostile, number, allowed)
}

/// Waits for what comes of a message, and checks it.
fn judge(hostile: &mut Hostile, number: u32, allowed: Allowed) -> Result<Outcome, String> {
    let patience = match allowed {
        Allowed::NoEffect | Allowed::Flood => GLANCE,
        Allowed::Refusal | Allowed::Exactly(_) | Allowed::Anything => PATIENCE,
    };
    let outcome = match hostile.outcome(number, patience) {
        Some(word) => Outcome::Answered(word.status),
        None if hostile.is_over() => Outcome::Ended,
        None => Outcome::Ignored,
    };
    let fits = match allowed {
        Allowed::Refusal => !matches!(outcome, Outcome::Answered(Status::Done) | Outcome::Ignored),
        Allowed::Exactly(status) => outcome == Outcome::Answered(status),
        Allowed::NoEffect => outcome != Outcome::Answered(Status::Done),
        Allowed::Anything => outcome != Outcome::Ignored,
        Allowed::Flood => true,
    };
    if fits { Ok(outcome) } else { Err(format!("{outcome:?}, where {allowed:?} is due")) }
}

/// A push of two rows by key that would be right.
fn push(hostile: &Hostile, target: &Target, random: &mut Random) -> RequestHeader {
    RequestHeader {
        kind: RequestKind::Push,
        sync: false,
        // Whatever was refused before it.
        resumes: true,
        strong: false,
        dtype: DataType::F32,
        table: target.table,
        sequence: Sequence(u64::from(hostile.number) + random.below(3)),
        epoch: hostile.epoch,
        clock: WorkerClock(0),
        rows: Rows::Keys,
        row_count: 2,
        width: target.width,
        coding: None,
        values: None,
        reply: None,
    }
}

fn nothing(hostile: &Hostile, random: &mut Random) -> Vec<u8> {
    let header = RequestHeader {
        kind: RequestKind::Nothing,
        sync: false,
        resumes: false,
        strong: false,
        dtype: DataType::F32,
        table: TableId(0),
        sequence: Sequence(random.word()),
        epoch: hostile.epoch,
        clock: WorkerClock(0),
        rows: Rows::Range { first: 0 },
        row_count: 0,
        width: 0,
        coding: None,
        values: None,
        reply: None,
    };
    sealed(&header, &[])
}

/// Keys 3, 4, ... and ones for values.
fn body(rows: u64, width: u32) -> Vec<u8> {
    let keys = (3..3 + rows).flat_map(u64::to_le_bytes);
    let values = (0..rows * u64::from(width)).flat_map(|_| 1_f32.to_le_bytes());
    keys.chain(values).collect()
}

fn sealed(header: &RequestHeader, body: &[u8]) -> Vec<u8> {
    let mut bytes = header.encode();
    let keys_len = usize::try_from(header.sent_keys_len()).unwrap_or(body.len());
    let (keys, values) = body.split_at(keys_len.min(body.len()));
    RequestHeader::seal(&mut bytes, keys, values);
    [&bytes, body].concat()
}

/// Seals what can be taken for a message.
fn seal_again(message: &mut [u8]) {
    let Ok(header) = RequestHeader::decode(message, message.len() as u64) else { return };
    let (encoded, body) = message.split_at_mut(header.len());
    let keys_len = usize::try_from(header.sent_keys_len()).unwrap_or(body.len());
    let (keys, values) = body.split_at(keys_len);
    RequestHeader::seal(encoded, keys, values);
}

fn flip(bytes: &mut [u8], bit: u64) {
    let at = usize::try_from(bit / 8).unwrap_or(0);
    bytes[at] ^= 1 << (bit % 8);
}

fn half(random: &mut Random) -> u32 {
    let word = random.word().to_le_bytes();
    u32::from_le_bytes([word[0], word[1], word[2], word[3]])
}
