//! Two requests of the kernel's RDMA netlink family: make and remove a software device.
//!
//! ```text
//! 0         4      6       8         12        16
//! | length  | type | flags | sequence| port id | attributes ...       (struct nlmsghdr)
//! attribute: | length u16 | type u16 | value, padded to four bytes |
//! ```
//! All integers in host order, which is little-endian on every target of this crate.

use std::{io, time::Duration};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// `RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command)`.
const NLDEV: u16 = 5 << 10;
const COMMAND_NEW_LINK: u16 = NLDEV + 3;
const COMMAND_DELETE_LINK: u16 = NLDEV + 4;
const COMMAND_GET: u16 = NLDEV + 1;

const ATTRIBUTE_DEVICE_INDEX: u16 = 1;
const ATTRIBUTE_DEVICE_NAME: u16 = 2;
const ATTRIBUTE_INTERFACE_NAME: u16 = 51;
const ATTRIBUTE_LINK_TYPE: u16 = 65;

const FLAG_REQUEST: u16 = 1;
const FLAG_ACKNOWLEDGE: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
const FLAG_DUMP: u16 = 0x300;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
/// Loading a module may take a while, emulated.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_LEN_MAX: usize = 32 * 1024;
/// Most messages that are read for one answer.
const MESSAGES_MAX: usize = 4096;

/// Makes a software device of this type (`rxe`) on an interface. The kernel loads the module.
pub(super) fn new_link(device: &str, link_type: &str, interface: &str) -> io::Result<()> {
    let mut message = Message::new(COMMAND_NEW_LINK, FLAG_REQUEST | FLAG_ACKNOWLEDGE);
    message.text(ATTRIBUTE_DEVICE_NAME, device);
    message.text(ATTRIBUTE_LINK_TYPE, link_type);
    message.text(ATTRIBUTE_INTERFACE_NAME, interface);
    exchange(&message.finish(), |_| {})
}

/// Removes a software device.
pub(super) fn delete_link(device: &str) -> io::Result<()> {
    let index = device_index(device)?;
    let mut message = Message::new(COMMAND_DELETE_LINK, FLAG_REQUEST | FLAG_ACKNOWLEDGE);
    message.attribute(ATTRIBUTE_DEVICE_INDEX, &index.to_le_bytes());
    exchange(&message.finish(), |_| {})
}

fn device_index(device: &str) -> io::Result<u32> {
    let mut found = None;
    exchange(&Message::new(COMMAND_GET, FLAG_REQUEST | FLAG_DUMP).finish(), |attributes| {
        let name = find(attributes, ATTRIBUTE_DEVICE_NAME)
            .map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let index = find(attributes, ATTRIBUTE_DEVICE_INDEX);
        if name == Some(device.as_bytes())
            && let Some(Ok(index)) = index.map(<[u8; 4]>::try_from)
        {
            found = Some(u32::from_le_bytes(index));
        }
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(command: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&command.to_le_bytes());
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        Self { bytes }
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes
    }
}

/// Sends one request and reads its answer to the end; `each` sees the attributes of every message.
fn exchange(request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::RDMA),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut answer = vec![0; ANSWER_LEN_MAX];
    for _ in 0..MESSAGES_MAX {
        let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        if let Some(outcome) = read_answer(&answer[..len], &mut each) {
            return outcome;
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Reads the messages of one datagram; `Some` when the answer ends in it.
fn read_answer(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    while bytes.len() >= HEADER_LEN {
        let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if len < HEADER_LEN || len > bytes.len() {
            return Some(Err(io::ErrorKind::InvalidData.into()));
        }
        let body = &bytes[HEADER_LEN..len];
        match u16::from_le_bytes([bytes[4], bytes[5]]) {
            TYPE_DONE => return Some(Ok(())),
            TYPE_ERROR => {
                let code = body.get(..4).and_then(|code| code.try_into().ok());
                return Some(match i32::from_le_bytes(code.unwrap_or_default()) {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
                });
            }
            _ => each(body),
        }
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    None
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let len = usize::from(u16::from_le_bytes([attributes[0], attributes[1]]));
        // The top two bits are flags.
        let kind = u16::from_le_bytes([attributes[2], attributes[3]]) & 0x3fff;
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = &attributes[len.next_multiple_of(4).min(attributes.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut message = Message::new(COMMAND_NEW_LINK, FLAG_REQUEST);
        message.text(ATTRIBUTE_DEVICE_NAME, "rxe0");
        message.attribute(ATTRIBUTE_DEVICE_INDEX, &7_u32.to_le_bytes());
        let bytes = message.finish();
        assert_eq!(bytes.len(), HEADER_LEN + 12 + 8);
        let attributes = &bytes[HEADER_LEN..];
        assert_eq!(find(attributes, ATTRIBUTE_DEVICE_NAME), Some(&b"rxe0\0"[..]));
        assert_eq!(find(attributes, ATTRIBUTE_DEVICE_INDEX), Some(&[7, 0, 0, 0][..]));
        assert_eq!(find(attributes, 99), None);
    }

    #[test]
    fn an_answer_that_lies_about_its_length_is_refused() {
        let mut message = Message::new(TYPE_DONE, 0).finish();
        assert!(matches!(read_answer(&message, &mut |_| {}), Some(Ok(()))));
        message[0] = 200;
        assert!(matches!(read_answer(&message, &mut |_| {}), Some(Err(_))));
        message[0] = 3;
        assert!(matches!(read_answer(&message, &mut |_| {}), Some(Err(_))));
    }

    #[test]
    fn an_error_answer_carries_the_system_error() {
        let mut message = Message::new(TYPE_ERROR, 0);
        message.bytes.extend((-1_i32).to_le_bytes());
        let answer = read_answer(&message.finish(), &mut |_| {});
        assert_eq!(answer.unwrap().unwrap_err().raw_os_error(), Some(1));
    }
}
