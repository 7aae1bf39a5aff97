//! What a stranger says to a control port.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use windlass_transport::control::host_identity;
use windlass_wire::{
    Blob, DataType, Incarnation, ServerSecret, SessionId, ShardId, TableId, TableSchema,
    control::{
        ClientReply, ClientRequest, FRAME_HEADER_LEN, MESSAGE_LEN_MAX, PROTOCOL_VERSION, Provider,
        SharedRegion, decode_frame_header, decode_message, encode_frame,
    },
};

use crate::crash::random::Random;

/// How long the server may take to answer or hang up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `count` malformed or senseless frames, each over a connection of its own or behind a
/// greeting. Panics when one is answered by anything but a refusal or the connection's end. Returns
/// how many were refused in words; the others were hung up on.
pub fn attack_control_port(address: &str, seed: u64, count: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut refused = 0;
    for case in 0..count {
        let kind = random.below(8);
        match one_frame(address, kind, &mut random) {
            Ok(in_words) => refused += u64::from(in_words),
            Err(error) => panic!("seed {seed}, frame {case} of kind {kind}: {error}"),
        }
    }
    refused
}

/// Whether a malformed frame was refused in words.
fn one_frame(address: &str, kind: u64, random: &mut Random) -> Result<bool, String> {
    let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let frame = match kind {
        0 => {
            let len = random.below(300);
            (0..len).map(|_| random.word().to_le_bytes()[1]).collect()
        }
        1 => {
            // A bit flipped anywhere: magic, length, checksum or message.
            let mut frame = encode_frame(&hello(random));
            let bit = random.below(frame.len() as u64 * 8);
            frame[usize::try_from(bit / 8).unwrap_or(0)] ^= 1 << (bit % 8);
            frame
        }
        2 => {
            let mut frame = encode_frame(&hello(random));
            let len = match random.below(3) {
                0 => u32::MAX,
                1 => u32::try_from(MESSAGE_LEN_MAX).unwrap_or(0) + 1,
                _ => u32::try_from(random.below(1 << 32)).unwrap_or(0),
            };
            frame[4..8].copy_from_slice(&len.to_le_bytes());
            frame
        }
        3 => {
            let mut frame = encode_frame(&hello(random));
            frame.truncate(usize::try_from(random.below(frame.len() as u64)).unwrap_or(0));
            frame
        }
        4 => encode_frame(&ClientRequest::Map {}),
        _ => {
            greet(&mut stream, random)?;
            let request = senseless(random);
            let mut frame = encode_frame(&request);
            if random.one_in(3) {
                let at = FRAME_HEADER_LEN as u64 + random.below(frame.len() as u64 - 12);
                let at = usize::try_from(at).unwrap_or(0);
                frame[at] ^= 1 << random.below(8);
            }
            frame
        }
    };
    // The server may have hung up already, which is an answer too.
    let sent = stream.write_all(&frame);
    let ended = stream.shutdown(std::net::Shutdown::Write);
    if sent.is_err() || ended.is_err() {
        return Ok(false);
    }
    match answer(&mut stream)? {
        None => Ok(false),
        Some(ClientReply::Refused { .. }) => Ok(true),
        Some(other) => Err(format!("answered by {other:?}")),
    }
}

fn greet(stream: &mut TcpStream, random: &mut Random) -> Result<(), String> {
    stream.write_all(&encode_frame(&hello(random))).map_err(|e| e.to_string())?;
    match answer(stream)? {
        Some(ClientReply::Welcome { .. }) => Ok(()),
        other => Err(format!("greeted by {other:?}")),
    }
}

/// The next answer; `None` when the server hung up.
fn answer(stream: &mut TcpStream) -> Result<Option<ClientReply>, String> {
    let mut header = [0; FRAME_HEADER_LEN];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            return Err("neither an answer nor a hang-up".to_owned());
        }
        Err(_) => return Ok(None),
    }
    let (len, checksum) = decode_frame_header(&header).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    decode_message(&bytes, checksum).map(Some).map_err(|e| e.to_string())
}

fn hello(random: &mut Random) -> ClientRequest {
    ClientRequest::Hello {
        version: PROTOCOL_VERSION,
        token: String::new(),
        session: SessionId(random.word() | 1 << 63),
        incarnation: Incarnation(1),
        rank: None,
        host: host_identity(),
        peer: None,
    }
}

/// A well-formed request that no server can fulfil.
fn senseless(random: &mut Random) -> ClientRequest {
    let garbage = |random: &mut Random, len: u64| {
        Blob((0..random.below(len)).map(|_| random.word().to_le_bytes()[2]).collect())
    };
    match random.below(11) {
        0 => ClientRequest::OpenMailbox {
            shard: ShardId(0),
            provider: Provider::Shm {},
            endpoint: garbage(random, 600),
        },
        1 => ClientRequest::OpenMailbox {
            shard: ShardId(0),
            provider: Provider::Tcp {},
            endpoint: garbage(random, 600),
        },
        2 => ClientRequest::OpenMailbox {
            shard: ShardId(random.word().to_le_bytes()[0].into()),
            provider: Provider::Verbs {},
            endpoint: garbage(random, 10_000),
        },
        3 => ClientRequest::AttachMailbox {
            shard: ShardId(0),
            reply: SharedRegion { key: 1, address: random.word(), len: random.word() },
            completion_slots: 1024,
        },
        4 => ClientRequest::Locate { table: TableId(1), shard: ShardId(0) },
        5 => ClientRequest::Locate { table: TableId(9_999_999), shard: ShardId(77) },
        6 => ClientRequest::CreateTable {
            name: "senseless".to_owned(),
            schema: TableSchema::dense(DataType::F64, random.word() | 1 << 60, 1 << 20),
        },
        7 => ClientRequest::CreateTable {
            name: "\u{7}".to_owned(),
            schema: TableSchema::sparse(DataType::F64, 1),
        },
        8 => ClientRequest::DropTable { name: "there is none".to_owned() },
        9 => ClientRequest::OpenTable { name: "x".repeat(4000) },
        _ => ClientRequest::Join {
            server: None,
            cluster: 0,
            address: "nowhere".to_owned(),
            shard_count: u16::MAX,
            incarnation: Incarnation(random.word()),
            kept: windlass_wire::coordination::Kept::Whole {},
            secret: ServerSecret::default(),
        },
    }
}
