//! Interleavings of a mailbox's writer and reader, of the completion ring, and of falling asleep, by
//! loom: `RUSTFLAGS="--cfg loom" cargo test -p windlass-transport --lib loom`. The sources are
//! included once more, over memory of modelled atomics.

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use windlass_wire::Status;

use super::{
    HOT_LEN, ONE_WRITE, ONE_WRITE_LEN_MAX, RING_AT, SLEEP_EPOCH_AT, WAKE_IMMEDIATE, WRAP,
    commit_word, digest_len, digest_of, footprint, lay_whole,
};
use crate::{
    error::PostError,
    fabric::{
        Access, InlineBytes, MemoryRegion, Operation, RegionId, RemoteAddress, RemoteKey,
        RemoteRegion, Transport, WorkId,
    },
    memory::PagesOptions,
    sync::modelled::{AtomicU64, Ordering, fence},
};

#[path = "completions.rs"]
#[allow(unreachable_pub, dead_code, reason = "public where it is not included once more")]
mod completions;
#[path = "reader.rs"]
#[allow(unreachable_pub, dead_code, reason = "public where it is not included once more")]
mod reader;
#[path = "writer.rs"]
#[allow(unreachable_pub, dead_code, reason = "public where it is not included once more")]
mod writer;

use completions::{CompletionReader, CompletionWriter};
use reader::MailboxReader;
use writer::MailboxWriter;

/// Room for three messages of one word each, and a word: the ring wraps soon.
const RING_LEN: u32 = 64;
const SLOTS: u32 = 2;

/// Words that two threads share as two processes share a region.
#[derive(Clone, Debug)]
pub struct Pages(Arc<Vec<AtomicU64>>);

impl Pages {
    fn new(len: u64) -> Self {
        Self(Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect()))
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "words are aligned");
        &self.0[usize::try_from(offset / 8).unwrap()]
    }

    fn contains(&self, offset: u64, len: u64) -> bool {
        offset + len <= self.0.len() as u64 * 8
    }

    fn load_u64(&self, offset: u64) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store_u64(&self, offset: u64, word: u64) {
        self.word(offset).store(word, Ordering::Release);
    }

    fn zero(&self, _offset: u64, _len: usize) {
        unreachable!("these writes show in order");
    }

    fn read(&self, _offset: u64, _into: &mut [u8]) {
        unreachable!("these writes show in order");
    }

    /// A payload, read like any other memory.
    fn payload(&self, offset: u64) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    fn region(&self) -> RemoteRegion {
        RemoteRegion { key: RemoteKey(1), address: 0, len: self.0.len() as u64 * 8 }
    }
}

/// What a sleeper sleeps on.
#[derive(Debug)]
struct Bell {
    rung: Mutex<bool>,
    wakes: Condvar,
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self { rung: Mutex::new(false), wakes: Condvar::new() })
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wakes.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.wakes.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Carries requests out at once, with the order that every provider promises and no more: eight
/// aligned bytes as one after everything before, and the bytes of other writes in any order, or
/// in ascending order where the device does that.
#[derive(Debug)]
pub struct Sender {
    peer: Pages,
    in_order: bool,
    bell: Option<Arc<Bell>>,
}

impl Sender {
    fn new(peer: &Pages) -> Self {
        Self { peer: peer.clone(), in_order: false, bell: None }
    }

    fn room(&self) -> usize {
        8
    }

    fn push(&mut self, operation: Operation) {
        let (bytes, remote, rings) = match operation {
            Operation::WriteInline { bytes, remote } => (bytes, remote, false),
            Operation::WriteWithImmediate { bytes, remote, .. } => (bytes, remote, true),
            other => panic!("short messages post no {other:?}"),
        };
        self.carry_out(bytes.as_slice(), remote);
        if let (true, Some(bell)) = (rings, &self.bell) {
            bell.ring();
        }
    }

    /// A transport may write messages at once: with the same order as others.
    fn write_message_now(
        &self,
        _: &mut dyn Transport,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let mut rest = parts.concat();
        rest.resize(rest.len().next_multiple_of(8) + 8, 0);
        self.carry_out(&rest, RemoteAddress { address: remote.address + 8, ..remote });
        self.carry_out(&word.to_le_bytes(), remote);
        Ok(true)
    }

    fn carry_out(&self, bytes: &[u8], remote: RemoteAddress) {
        let words = bytes.chunks_exact(8);
        let order =
            if words.len() == 1 || self.in_order { Ordering::Release } else { Ordering::Relaxed };
        fence(Ordering::Release);
        for (at, word) in (remote.address..).step_by(8).zip(words) {
            self.peer.word(at).store(u64::from_le_bytes(word.try_into().unwrap()), order);
        }
    }

    fn push_signaled(&mut self, _: WorkId, operation: Operation) {
        self.push(operation);
    }
}

fn writer_to(mailbox: &Pages, mirror: &crate::memory::Pages) -> MailboxWriter {
    let mirror =
        MemoryRegion { id: RegionId(1), pages: mirror.clone(), access: Access::READ_WRITE };
    MailboxWriter::new(mirror, mailbox.region(), RING_LEN, SLOTS)
}

fn mirror() -> crate::memory::Pages {
    crate::memory::Pages::allocate(RING_LEN as usize, PagesOptions::default()).unwrap()
}

fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// Lays a message out and writes it, as short pushes are.
fn lay(writer: &mut MailboxWriter, value: [u8; 8], sender: &mut Sender) -> bool {
    let laid = writer.lay(8, |bytes| bytes.copy_from_slice(&value));
    laid.is_some_and(|laid| {
        let (bytes, remote) = (InlineBytes::new(laid.as_slice()), writer.place_of(&laid));
        sender.push(Operation::WriteInline { bytes, remote });
        true
    })
}

/// Messages are taken whole and in order, and no byte of one is written over before its completion
/// was seen, over the ring's end and back to its start.
fn messages_and_completions(one_write: bool) {
    let mirror = mirror();
    model(2, move || {
        let mailbox = Pages::new(RING_AT + u64::from(RING_LEN));
        let reply = Pages::new(RING_AT + u64::from(SLOTS) * 8);
        let sending = {
            let (mailbox, reply, mirror) = (mailbox.clone(), reply.clone(), mirror.clone());
            thread::spawn(move || {
                let mut sender = Sender { in_order: one_write, ..Sender::new(&mailbox) };
                let mut writer = writer_to(&mailbox, &mirror).in_one_write(one_write);
                let completions = CompletionReader::new(reply, SLOTS);
                let mut released = 0;
                for value in 1_u64..=4 {
                    let value = value.to_le_bytes();
                    while !(one_write && lay(&mut writer, value, &mut sender))
                        && writer.write(&[&value], false, &mut sender).is_err()
                    {
                        match completions.completion_of(released + 1) {
                            Some(word) => {
                                released += 1;
                                assert_eq!((word.status, word.detail), (Status::Done, released));
                                writer.release(released);
                            }
                            None => thread::yield_now(),
                        }
                    }
                }
            })
        };
        let mut reader = MailboxReader::new(mailbox.clone(), RING_LEN);
        let mut completions = CompletionWriter::new(reply.region(), SLOTS);
        let mut sender = Sender::new(&reply);
        let mut taken = 0;
        while taken < 4 {
            let looked = reader.looks_ready();
            let Some(message) = reader.take_next().unwrap() else {
                assert!(!looked || one_write, "a look is never ahead of the message");
                thread::yield_now();
                continue;
            };
            taken += 1;
            assert_eq!((message.number, message.len), (taken, 8));
            assert_eq!(mailbox.payload(message.offset), u64::from(taken));
            completions.complete(message.number, Status::Done, message.number);
            completions.post(0, &mut sender);
        }
        sending.join().unwrap();
    });
}

#[test]
fn loom_messages_are_whole_and_completions_free_their_room() {
    messages_and_completions(false);
}

#[test]
fn loom_messages_in_one_write_are_whole() {
    messages_and_completions(true);
}

/// A reader that tells its sleep, looks once more and sleeps is woken by whoever wrote meanwhile:
/// loom reports a deadlock if it is not.
#[test]
fn loom_no_message_is_slept_through() {
    let mirror = mirror();
    model(3, move || {
        let mailbox = Pages::new(RING_AT + u64::from(RING_LEN));
        let reply = Pages::new(RING_AT + u64::from(SLOTS) * 8);
        let bell = Bell::new();
        let sending = {
            let (mailbox, reply, bell) = (mailbox.clone(), reply.clone(), bell.clone());
            let mirror = mirror.clone();
            thread::spawn(move || {
                let mut sender = Sender { bell: Some(bell), ..Sender::new(&mailbox) };
                let mut writer = writer_to(&mailbox, &mirror);
                let completions = CompletionReader::new(reply, SLOTS);
                let mut woken = 0;
                for value in 1_u64..=2 {
                    let epoch = completions.sleep_epoch();
                    let wake = std::mem::replace(&mut woken, epoch) != epoch;
                    assert!(writer.write(&[&value.to_le_bytes()], wake, &mut sender).is_ok());
                    // As a client does: it writes, then looks.
                    fence(Ordering::SeqCst);
                    let epoch = completions.sleep_epoch();
                    if std::mem::replace(&mut woken, epoch) != epoch {
                        writer.write_wake(&mut sender);
                    }
                }
            })
        };
        let mut reader = MailboxReader::new(mailbox, RING_LEN);
        let mut completions = CompletionWriter::new(reply.region(), SLOTS);
        let mut sender = Sender::new(&reply);
        let (mut taken, mut sleeps) = (0, 0);
        while taken < 2 {
            if reader.take_next().unwrap().is_some() {
                taken += 1;
                continue;
            }
            // As a shard does: it tells, then looks.
            sleeps += 1;
            completions.tell_sleep(sleeps, WorkId(1), &mut sender);
            fence(Ordering::SeqCst);
            if reader.take_next().unwrap().is_some() {
                taken += 1;
                continue;
            }
            bell.sleep();
        }
        sending.join().unwrap();
    });
}
