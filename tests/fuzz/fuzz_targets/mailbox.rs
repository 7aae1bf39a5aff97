//! Any bytes in a mailbox: the reader refuses them or names messages inside its ring.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_transport::{
    Pages,
    mailbox::{MailboxReader, RING_LEN_MIN, mailbox_len},
    memory::{HugePages, Lock, PagesOptions},
};

fuzz_target!(|bytes: &[u8]| {
    let options = PagesOptions { huge: HugePages::Never, lock: Lock::Never, sealed_for_peers: false };
    let Ok(pages) = Pages::allocate(mailbox_len(RING_LEN_MIN), options) else { return };
    pages.write(0, &bytes[..bytes.len().min(mailbox_len(RING_LEN_MIN))]);
    let mut reader = MailboxReader::new(pages.clone(), RING_LEN_MIN);
    for _ in 0..1024 {
        match reader.take_next() {
            Ok(Some(message)) => assert!(pages.contains(message.offset, u64::from(message.len))),
            Ok(None) | Err(_) => return,
        }
    }
});
