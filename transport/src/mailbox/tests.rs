//! A writer and a reader over one memory, with requests carried out by hand in the order posted.

use windlass_wire::Status;

use super::*;
use crate::{
    batch::Batch,
    error::PostError,
    fabric::{
        Access, InlineBytes, LocalSlice, MemoryRegion, Operation, QueuePairId, RegionId, RemoteKey,
        RemoteRegion, SendRequest,
    },
    memory::{Pages, PagesOptions},
};

const LENT: RegionId = RegionId(9);

/// Carries out requests on the peer's memory one by one, as a queue pair does.
struct Loop {
    local: Pages,
    /// A user's, registered as [`LENT`].
    lent: Pages,
    remote: Pages,
    immediates: usize,
}

impl Loop {
    fn carry_out(&mut self, request: &SendRequest) {
        let (bytes, remote) = match request.operation {
            Operation::Write { local, remote } => {
                let mut bytes = Vec::new();
                for slice in local.as_slice() {
                    let mut part = vec![0; slice.len as usize];
                    let pages = if slice.region == LENT { &self.lent } else { &self.local };
                    pages.read(slice.offset, &mut part);
                    bytes.extend(part);
                }
                (bytes, remote)
            }
            Operation::WriteInline { bytes, remote } => (bytes.as_slice().to_vec(), remote),
            Operation::WriteWithImmediate { bytes, remote, .. } => {
                self.immediates += 1;
                (bytes.as_slice().to_vec(), remote)
            }
            other => panic!("a mailbox posts no {other:?}"),
        };
        self.remote.write(remote.address, &bytes);
    }
}

fn posted(sender: &mut Sender) -> Vec<SendRequest> {
    struct Capture(Vec<SendRequest>);
    let mut capture = Capture(Vec::new());
    sender.take_for_test(|batch: &mut Batch<SendRequest>| {
        capture.0.extend_from_slice(batch.as_slice());
        batch.clear();
        Ok::<(), PostError>(())
    });
    capture.0
}

fn region(pages: &Pages) -> RemoteRegion {
    RemoteRegion { key: RemoteKey(1), address: 0, len: pages.len() as u64 }
}

fn setup(ring_len: u32, slots: u32) -> (MailboxWriter, MailboxReader, Sender, Loop) {
    let pages = |len| Pages::allocate(len, PagesOptions::default()).unwrap();
    let (mailbox, mirror) = (pages(mailbox_len(ring_len)), pages(ring_len as usize));
    let region_of = |pages: &Pages| MemoryRegion {
        id: RegionId(0),
        pages: pages.clone(),
        access: Access::LOCAL,
    };
    let writer = MailboxWriter::new(region_of(&mirror), region(&mailbox), ring_len, slots);
    let reader = MailboxReader::new(mailbox.clone(), ring_len);
    let sender = Sender::new(QueuePairId(0), 64);
    let lent = pages(64 << 10);
    (writer, reader, sender, Loop { local: mirror, lent, remote: mailbox, immediates: 0 })
}

/// Takes the oldest message of a full ring, which is as it was sent.
fn take_oldest(reader: &mut MailboxReader, writer: &mut MailboxWriter, fabric: &Loop, sent: &[u8]) {
    let message = reader.take_next().unwrap().expect("a full ring has a message");
    let mut bytes = vec![0; message.len as usize];
    fabric.remote.read(message.offset, &mut bytes);
    assert_eq!(bytes, sent);
    writer.release(message.number);
}

#[test]
fn messages_of_every_length_come_out_whole_and_in_order() {
    come_out_whole(false);
}

#[test]
fn messages_in_one_write_come_out_whole_and_in_order() {
    come_out_whole(true);
}

fn come_out_whole(one_write: bool) {
    let (writer, mut reader, mut sender, mut fabric) = setup(4096, 64);
    let mut writer = writer.in_one_write(one_write);
    let mut random = 1_u64;
    let mut unread = std::collections::VecDeque::new();
    let (mut sent, mut received, mut laid_count) = (0_u32, 0_u32, 0_u32);
    while received < 20_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let len_max = if sent.is_multiple_of(3) { 112 } else { writer.payload_len_max() };
        let len = 1 + (random >> 33) % len_max;
        let payload: Vec<u8> =
            (0..len).map(|at| at.to_le_bytes()[0] ^ sent.to_le_bytes()[0] | 1).collect();
        let (front, back) = payload.split_at(payload.len() / 3);
        // Short ones are laid out in place where that can be.
        let laid = writer.lay(payload.len(), |bytes| bytes.copy_from_slice(&payload));
        let written = match &laid {
            Some(laid) => {
                laid_count += 1;
                let (bytes, remote) = (InlineBytes::new(laid.as_slice()), writer.place_of(laid));
                sender.push(Operation::WriteInline { bytes, remote });
                Ok(laid.number)
            }
            None => writer.write(&[front, back], sent.is_multiple_of(7), &mut sender),
        };
        match written {
            Ok(number) => {
                assert_eq!(number, sent.wrapping_add(1));
                sent += 1;
                unread.push_back(payload);
                for request in posted(&mut sender) {
                    // Before its commit word, a message must not be seen.
                    fabric.carry_out(&request);
                }
            }
            Err(MailboxFull) => {
                take_oldest(&mut reader, &mut writer, &fabric, &unread.pop_front().unwrap());
                received += 1;
            }
        }
    }
    assert!(fabric.immediates > 1000 && laid_count > 1000);
}

#[test]
fn lent_bytes_come_out_behind_their_parts() {
    let (writer, mut reader, mut sender, mut fabric) = setup(64 << 10, 64);
    let mut writer = writer.in_one_write(true);
    let lent: Vec<u8> = (0_u32..60 << 10).map(|at| (at % 251 + 1).to_le_bytes()[0]).collect();
    fabric.lent.write(0, &lent);
    let mut unread = std::collections::VecDeque::new();
    let (mut sent, mut received) = (0_u32, 0_u32);
    while received < 2000 {
        // Lengths, places and numbers of parts of all kinds, with short messages between them.
        let len = 8192 + usize::try_from(sent * 37 % 20_000).unwrap();
        let from = usize::try_from(sent * 101 % 30_000).unwrap();
        let own = vec![sent.to_le_bytes()[0] | 1; usize::try_from(48 + sent % 3 * 8).unwrap()];
        let written = if sent.is_multiple_of(4) {
            writer.write(&[&own], false, &mut sender).map(|_| own)
        } else {
            let slice =
                LocalSlice { region: LENT, offset: from as u64, len: u32::try_from(len).unwrap() };
            let wake = sent.is_multiple_of(5);
            let written = writer.write_lent(&[&own[..48], &own[48..]], slice, wake, &mut sender);
            written.map(|_| [&own[..], &lent[from..from + len]].concat())
        };
        match written {
            Ok(payload) => {
                sent += 1;
                unread.push_back(payload);
                posted(&mut sender).iter().for_each(|request| fabric.carry_out(request));
            }
            Err(MailboxFull) => {
                take_oldest(&mut reader, &mut writer, &fabric, &unread.pop_front().unwrap());
                received += 1;
            }
        }
    }
    assert!(fabric.immediates > 100);
}

#[test]
fn a_message_is_not_seen_before_its_commit_word() {
    let (mut writer, mut reader, mut sender, mut fabric) = setup(4096, 64);
    for round in 0..1000 {
        // 24-byte payloads walk over every offset, wrap included.
        let number = writer.write(&[&[0xff; 24]], false, &mut sender).unwrap();
        for request in posted(&mut sender) {
            assert_eq!(reader.take_next(), Ok(None), "seen too early in round {round}");
            fabric.carry_out(&request);
        }
        assert_eq!(reader.take_next().unwrap().unwrap().number, number);
        writer.release(number);
    }
}

#[test]
fn a_message_in_one_write_is_seen_when_its_last_word_is_there() {
    let (writer, mut reader, mut sender, fabric) = setup(4096, 64);
    let mut writer = writer.in_one_write(true);
    let mut requests_count = 0;
    for round in 0..2000_u64 {
        let len = 8 * (1 + round % 31);
        let payload = vec![0xa5; usize::try_from(len).unwrap()];
        let number = writer.write(&[&payload], false, &mut sender).unwrap();
        for request in posted(&mut sender) {
            requests_count += 1;
            let (bytes, at) = match request.operation {
                Operation::WriteInline { bytes, remote } => (bytes.as_slice().to_vec(), remote),
                Operation::Write { local, remote } => {
                    let slice = local.as_slice()[0];
                    let mut bytes = vec![0; slice.len as usize];
                    fabric.local.read(slice.offset, &mut bytes);
                    (bytes, remote)
                }
                other => panic!("{other:?}"),
            };
            // Every byte but the last word's, which may be told from its first bytes on.
            let last = bytes.len() - 8;
            for (offset, byte) in (0_u64..).zip(&bytes[..last]) {
                fabric.remote.write(at.address + offset, &[*byte]);
                assert_eq!(reader.peek(), Ok(None), "round {round}, byte {offset}");
            }
            fabric.remote.write(at.address + last as u64, &bytes[last..]);
        }
        let message = reader.take_next().unwrap().unwrap();
        assert_eq!((message.number, u64::from(message.len)), (number, len));
        let mut bytes = vec![0; payload.len()];
        fabric.remote.read(message.offset, &mut bytes);
        assert_eq!(bytes, payload, "round {round}");
        writer.release(number);
    }
    assert!(requests_count < 2200, "{requests_count} requests for 2000 messages");
}

#[test]
fn a_commit_word_placed_byte_by_byte_is_seen_when_it_is_whole() {
    for number in [1_u32, 0x80, 0x0100, 0x0102, 0x0001_0000, 0xffff_ff02] {
        let pages = Pages::allocate(mailbox_len(4096), PagesOptions::default()).unwrap();
        let mut reader = MailboxReader::new(pages.clone(), 4096);
        reader.expect_for_test(64, number);
        let word = commit_word(number, 300).to_le_bytes();
        for (at, byte) in (0_u64..).zip(word) {
            pages.write(RING_AT + 64 + at, &[byte]);
            match reader.peek().unwrap() {
                None => assert!(at < 7, "number {number} was never seen"),
                Some(message) => assert_eq!((message.number, message.len), (number, 300)),
            }
        }
    }
}

#[test]
fn released_out_of_order_frees_in_order() {
    let (mut writer, _reader, mut sender, _) = setup(4096, 4);
    let numbers: Vec<u32> =
        (0..4).map(|_| writer.write(&[&[1; 8]], false, &mut sender).unwrap()).collect();
    posted(&mut sender);
    assert_eq!(writer.write(&[&[1; 8]], false, &mut sender), Err(MailboxFull));
    writer.release(numbers[2]);
    writer.release(numbers[1]);
    assert_eq!(writer.in_flight_count(), 4);
    writer.release(numbers[0]);
    assert_eq!(writer.in_flight_count(), 1);
    writer.release(77);
    writer.release(numbers[3]);
    assert_eq!(writer.in_flight_count(), 0);
}

#[test]
fn random_bytes_never_panic_the_reader() {
    let mut random = 7_u64;
    for _ in 0..10_000 {
        let pages = Pages::allocate(mailbox_len(4096), PagesOptions::default()).unwrap();
        let mut reader = MailboxReader::new(pages.clone(), 4096);
        for at in (0..4096).step_by(8) {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = match random >> 62 {
                0 => {
                    let [a, b, c, d, ..] = (random >> 20).to_le_bytes();
                    commit_word(1 + u32::from(a) % 4, u32::from_le_bytes([b, c, d, 0]) % 5000)
                }
                1 => commit_word(1, WRAP),
                2 => 0,
                _ => random,
            };
            pages.store_u64(RING_AT + at, word);
        }
        for _ in 0..600 {
            match reader.take_next() {
                Ok(Some(message)) => {
                    assert!(pages.contains(message.offset, u64::from(message.len)));
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
}

#[test]
fn completions_wait_for_a_send_queue_without_room_and_none_is_lost() {
    let reply = Pages::allocate(reply_len(16), PagesOptions::default()).unwrap();
    let (local, lent, remote) = (reply.clone(), reply.clone(), reply.clone());
    let mut fabric = Loop { local, lent, remote, immediates: 0 };
    let mut writer = CompletionWriter::new(region(&reply), 16);
    let reader = CompletionReader::new(reply.clone(), 16);
    let mut sender = Sender::new(QueuePairId(0), 64);
    let (mut seen, mut number) = (0, 0);
    for _ in 0..1000 {
        // As many as the credits allow, and room for one write: what wraps has to wait for the next.
        while number < seen + 16 && writer.room() > 0 {
            number += 1;
            writer.complete(number, Status::Done, 0);
        }
        while sender.room() > 2 {
            let filler = InlineBytes::word(0);
            let remote = region(&reply).at(SLEEP_EPOCH_AT);
            sender.push(Operation::WriteInline { bytes: filler, remote });
        }
        writer.post(0, &mut sender);
        for request in posted(&mut sender) {
            fabric.carry_out(&request);
        }
        while reader.completion_of(seen + 1).is_some() {
            seen += 1;
        }
    }
    assert!(seen > 1000 && seen + 16 >= number, "{seen} of {number}");
}

#[test]
fn completions_arrive_in_any_order_and_wake_a_sleeper() {
    let reply = Pages::allocate(reply_len(16), PagesOptions::default()).unwrap();
    let (local, lent, remote) = (reply.clone(), reply.clone(), reply.clone());
    let mut fabric = Loop { local, lent, remote, immediates: 0 };
    let mut writer = CompletionWriter::new(region(&reply), 16);
    let reader = CompletionReader::new(reply, 16);
    let mut sender = Sender::new(QueuePairId(0), 64);
    for number in [13, 14, 15, 16, 17, 20, 18] {
        writer.complete(number, Status::Done, number);
    }
    writer.post(0, &mut sender);
    let requests = posted(&mut sender);
    assert_eq!(requests.len(), 4, "runs 13..=15, 16..=17, 20, 18");
    for request in &requests {
        fabric.carry_out(request);
    }
    for number in 13..=20 {
        assert_eq!(reader.completion_of(number).is_some(), number != 19, "number {number}");
    }
    assert_eq!(fabric.immediates, 0);
    writer.wake_if_asleep(5, &mut sender);
    writer.wake_if_asleep(5, &mut sender);
    for request in posted(&mut sender) {
        fabric.carry_out(&request);
    }
    assert_eq!(fabric.immediates, 1, "one wake per sleep");
    writer.complete(19, Status::OutOfRange, 3);
    assert_eq!(writer.take_only(6), None, "the peer has to be woken");
    writer.post(6, &mut sender);
    for request in posted(&mut sender) {
        fabric.carry_out(&request);
    }
    assert_eq!(fabric.immediates, 2);
    assert_eq!(reader.completion_of(19).unwrap().status, Status::OutOfRange);
    writer.complete(21, Status::Done, 0);
    writer.complete(22, Status::Done, 0);
    assert_eq!(writer.take_only(6), None, "there are two");
    writer.post(6, &mut sender);
    assert!(!writer.is_pending());
    writer.complete(23, Status::Done, 0);
    let (word, place) = writer.take_only(6).unwrap();
    fabric.remote.store_u64(place.address, word);
    assert!(!writer.is_pending() && reader.is_complete(23));
}

/// What a device may do that promises no order: pieces of all that is under way, in any order.
#[test]
fn messages_that_land_in_any_order_come_out_whole() {
    let (writer, reader, mut sender, mut fabric) = setup(4096, 64);
    let (mut writer, mut reader) = (writer.in_any_order(true), reader.in_any_order(true));
    let mut random = 7_u64;
    let mut next = move || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 33
    };
    let mut unread = std::collections::VecDeque::new();
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut received, mut early) = (0, 0);
    while received < 5_000 {
        let len = 1 + next() % if next() % 3 == 0 { 40 } else { writer.payload_len_max() };
        let payload: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[0]).collect();
        let wake = next() % 5 == 0;
        if writer.write(&[&payload], wake, &mut sender).is_ok() {
            unread.push_back(payload);
        }
        for request in posted(&mut sender) {
            let before = std::mem::replace(
                &mut fabric.remote,
                Pages::allocate(mailbox_len(4096), PagesOptions::default()).unwrap(),
            );
            let scratch = fabric.remote.clone();
            fabric.carry_out(&request);
            fabric.remote = before;
            let (at, len) = match request.operation {
                Operation::Write { local, remote } => (remote.address, local.len()),
                Operation::WriteInline { bytes, remote }
                | Operation::WriteWithImmediate { bytes, remote, .. } => {
                    (remote.address, bytes.as_slice().len() as u64)
                }
                other => panic!("a mailbox posts no {other:?}"),
            };
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            scratch.read(at, &mut bytes);
            let cut = bytes.len().div_ceil(3).next_multiple_of(8).max(8);
            let starts = (0_u64..).step_by(cut);
            pieces.extend(
                bytes.chunks(cut).zip(starts).map(|(part, start)| (at + start, part.to_vec())),
            );
        }
        for _ in 0..next() % 4 {
            if !pieces.is_empty() {
                let chosen = usize::try_from(next()).unwrap() % pieces.len();
                let (at, bytes) = pieces.swap_remove(chosen);
                fabric.remote.write(at, &bytes);
            }
        }
        while let Some(message) = reader.peek().unwrap() {
            let mut bytes = vec![0; message.len as usize];
            fabric.remote.read(message.offset, &mut bytes);
            assert_eq!(Some(bytes), unread.pop_front(), "message {}", message.number);
            reader.advance(&message);
            writer.release(message.number);
            received += 1;
        }
        early += usize::from(reader.looks_ready());
    }
    assert!(early > 100, "no message was seen before all of it was there");
    assert!(fabric.immediates > 100);
}
