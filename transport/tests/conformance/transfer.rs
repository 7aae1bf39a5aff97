//! What moves: payloads of all forms and sizes arrive whole, and nothing beside them changes.

use windlass_transport::{Access, InlineBytes, LocalSlice, Operation, ScatterList, Transport};

use super::harness::{Fixture, pair, pattern, read, write};

/// Bytes around every payload that must stay zero.
const MARGIN: u64 = 64;

/// Inline payloads of every length.
pub fn inline_payloads_of_every_length<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            for len in 0..=64_u64 {
                let bytes = pattern(len, usize::try_from(len).unwrap());
                let remote = target.at(MARGIN + len * 256 + len % 8);
                let bytes = InlineBytes::new(&bytes);
                side.carry_out(queue_pair, Operation::WriteInline { bytes, remote });
            }
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(256 * 70, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            for len in 0..=64_u64 {
                let payload = pattern(len, usize::try_from(len).unwrap());
                let begin = MARGIN + len * 256 + len % 8;
                assert_eq!(side.bytes(&target, begin, payload.len()), payload);
                assert_eq!(side.bytes(&target, begin - 64, 64), vec![0; 64]);
                assert_eq!(side.bytes(&target, begin + len, 64), vec![0; 64]);
            }
        },
    );
}

/// Writes and reads of many lengths and alignments, up to some megabytes.
pub fn payloads_of_many_lengths<F: Fixture>() {
    const LENS: [u32; 12] =
        [1, 7, 8, 9, 63, 4095, 4096, 4097, 65_537, 262_144, 1_048_577, 5_000_000];
    let lens = if F::SLOW { &LENS[..9] } else { &LENS[..] };
    pair::<F>(
        move |mut side| {
            let queue_pair = side.connect();
            let local = side.region(5_100_000, Access::LOCAL);
            let back = side.region(5_100_000, Access::LOCAL);
            let target = side.hear_region();
            for (seed, len) in lens.iter().enumerate() {
                let payload = pattern(seed as u64, *len as usize);
                let offset = seed as u64 % 9;
                local.pages.write(offset, &payload);
                let remote = target.at(MARGIN + offset * 3);
                side.carry_out(queue_pair, write(local.slice(offset, *len), remote));
                side.carry_out(queue_pair, read(back.slice(offset, *len), remote));
                assert!(side.bytes(&back, offset, payload.len()) == payload, "{len} bytes");
                side.meet();
                side.meet();
            }
        },
        move |mut side| {
            let queue_pair = side.connect();
            let target = side.region(5_100_000, Access::READ_WRITE);
            side.share(queue_pair, &target);
            for (seed, len) in lens.iter().enumerate() {
                side.meet();
                let begin = MARGIN + seed as u64 % 9 * 3;
                let payload = pattern(seed as u64, *len as usize);
                assert!(side.bytes(&target, begin, payload.len()) == payload, "{len} bytes");
                assert_eq!(side.bytes(&target, 0, 64), vec![0; 64]);
                assert_eq!(side.bytes(&target, begin + u64::from(*len), 64), vec![0; 64]);
                target.pages.zero(0, target.pages.len());
                side.meet();
            }
        },
    );
}

fn pieces(list: &[LocalSlice]) -> ScatterList {
    let mut pieces = ScatterList::EMPTY;
    for slice in list {
        pieces.push(*slice);
    }
    pieces
}

/// Writes gather from several regions and reads scatter to them, empty pieces included.
pub fn scattered_pieces_are_gathered_in_order<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let first = side.region(8192, Access::LOCAL);
            let second = side.region(8192, Access::LOCAL);
            let payload = pattern(1, 5000);
            first.pages.write(100, &payload[..1000]);
            second.pages.write(7, &payload[1000..]);
            let target = side.hear_region();
            let gathered = pieces(&[first.slice(100, 1000), second.slice(7, 4000)]);
            side.carry_out(
                queue_pair,
                Operation::Write { local: gathered, remote: target.at(MARGIN) },
            );
            // Eight bytes in two pieces, and more pieces where there may be more.
            let halves = pieces(&[first.slice(100, 3), first.slice(103, 5)]);
            side.carry_out(queue_pair, Operation::Write { local: halves, remote: target.at(6000) });
            let scattered = pieces(&[second.slice(0, 4321), first.slice(1, 679)]);
            side.carry_out(
                queue_pair,
                Operation::Read { local: scattered, remote: target.at(MARGIN) },
            );
            let mut back = side.bytes(&second, 0, 4321);
            back.extend(side.bytes(&first, 1, 679));
            assert!(back == payload);
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(8192, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            let payload = pattern(1, 5000);
            assert!(side.bytes(&target, MARGIN, 5000) == payload);
            assert_eq!(side.bytes(&target, 6000, 8), &payload[..8]);
        },
    );
}

/// As many pieces as the provider says.
pub fn the_most_pieces_go_through<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let count = side.transport.capabilities().scatter_max as u64;
            assert!((2..=8).contains(&count));
            let local = side.region(4096, Access::LOCAL);
            local.pages.write(0, &pattern(2, 4096));
            // From the back to the front.
            let list: Vec<_> = (0..count).rev().map(|piece| local.slice(piece * 100, 50)).collect();
            let remote = target.at(0);
            side.carry_out(queue_pair, Operation::Write { local: pieces(&list), remote });
            side.tell(super::harness::Note::Word(count));
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            let count = usize::try_from(side.hear_word()).unwrap();
            let source = pattern(2, 4096);
            for piece in 0..count {
                let begin = (count - 1 - piece) * 100;
                let arrived = side.bytes(&target, piece as u64 * 50, 50);
                assert_eq!(arrived, &source[begin..begin + 50]);
            }
            side.meet();
        },
    );
}

/// Requests of no bytes succeed and change nothing.
pub fn zero_length_requests_succeed<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let target = side.hear_region();
            let remote = target.at(8);
            let local = ScatterList::EMPTY;
            let bytes = InlineBytes::new(&[]);
            side.carry_out(queue_pair, Operation::Write { local, remote });
            side.carry_out(queue_pair, Operation::WriteInline { bytes, remote });
            side.carry_out(queue_pair, Operation::Read { local, remote });
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let target = side.region(4096, Access::READ_WRITE);
            side.share(queue_pair, &target);
            side.meet();
            assert_eq!(side.bytes(&target, 0, 4096), vec![0; 4096]);
        },
    );
}

/// Where the provider shows the peer's memory in place, it shows the right bytes and no others.
pub fn views_show_the_peers_bytes<F: Fixture>() {
    pair::<F>(
        |mut side| {
            let queue_pair = side.connect();
            let readable = side.hear_region();
            let writable_only = side.hear_region();
            if let Some(view) = side.transport.view(queue_pair, readable.at(10), 100) {
                assert_eq!(view.len, 100);
                let bytes: Vec<u8> = (0..view.len)
                    // SAFETY: inside the view, whose queue pair is connected.
                    .map(|position| unsafe { view.pointer.add(position).read_volatile() })
                    .collect();
                assert_eq!(bytes, pattern(3, 110)[10..]);
            }
            let len = readable.len;
            assert!(side.transport.view(queue_pair, readable.at(len - 8), 9).is_none());
            assert!(side.transport.view(queue_pair, readable.at(u64::MAX - 3), 8).is_none());
            assert!(side.transport.view(queue_pair, writable_only.at(0), 8).is_none());
            side.meet();
        },
        |mut side| {
            let queue_pair = side.connect();
            let readable = side.region(4096, Access::READ);
            readable.pages.write(0, &pattern(3, 4096));
            side.share(queue_pair, &readable);
            let write_only = Access { remote_write: true, ..Access::LOCAL };
            let writable_only = side.region(4096, write_only);
            side.share(queue_pair, &writable_only);
            side.meet();
        },
    );
}
