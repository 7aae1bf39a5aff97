use std::os::fd::AsFd;

use super::*;

#[test]
fn allocated_pages_are_zeroed_and_shared_with_a_second_mapping() {
    let pages = Pages::allocate(10_000, PagesOptions::default()).unwrap();
    assert_eq!(pages.len(), 12_288);
    pages.write(100, b"windlass");
    let peer = Pages::map_peer(pages.fd().unwrap().as_fd(), pages.len(), true).unwrap();
    let mut bytes = [0_u8; 9];
    peer.read(100, &mut bytes);
    assert_eq!(&bytes, b"windlass\0");
    peer.store_u64(8, 7);
    assert_eq!(pages.fetch_add_u64(8, 3), 7);
    assert_eq!(pages.compare_swap_u64(8, 10, 1), 10);
    assert_eq!(peer.load_u64(8), 1);
}

#[test]
fn populated_pages_are_there_zeroed_and_their_own() {
    let options = PagesOptions { lock: Lock::Never, ..PagesOptions::default() };
    let mut pages = Pages::allocate(3 * PIECE_LEN - PAGE_LEN, options).unwrap();
    pages.populate().unwrap();
    let limit = lock_limit_bytes();
    assert!(pages.report().locked || limit < pages.len() as u64, "root and high limits lock");
    let mut bytes = [1_u8; 16];
    pages.read(2 * PIECE_LEN as u64 - 8, &mut bytes);
    assert_eq!(bytes, [0; 16]);
    pages.write(2 * PIECE_LEN as u64 - 8, &[7; 16]);
    let (address, len) = (pages.as_ptr() as usize, pages.len());
    drop(pages);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_mapped = maps.lines().any(|line| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let word = |text| usize::from_str_radix(text, 16).unwrap();
        word(from) < address + len && word(to) > address && line.contains("windlass")
    });
    assert!(!is_mapped, "every piece is unmapped");
}

#[test]
fn sealed_pages_cannot_be_mapped_writable_by_a_peer() {
    let options = PagesOptions { sealed_for_peers: true, ..PagesOptions::default() };
    let pages = Pages::allocate(4096, options).unwrap();
    pages.write(0, b"mine");
    assert!(Pages::map_peer(pages.fd().unwrap().as_fd(), 4096, true).is_err());
    let peer = Pages::map_peer(pages.fd().unwrap().as_fd(), 4096, false).unwrap();
    let mut bytes = [0_u8; 4];
    peer.read(0, &mut bytes);
    assert_eq!(&bytes, b"mine");
}

#[test]
#[should_panic(expected = "leaves a mapping")]
fn access_past_the_end_panics() {
    let pages = Pages::allocate(4096, PagesOptions::default()).unwrap();
    pages.write(4090, b"seven b");
}

#[test]
fn a_peer_file_that_may_shrink_or_is_shorter_is_refused() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("test", flags).unwrap();
    rustix::fs::ftruncate(&fd, 4096).unwrap();
    assert!(Pages::map_peer(fd.as_fd(), 4096, true).is_err());
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    assert!(Pages::map_peer(fd.as_fd(), 8192, true).is_err());
    assert!(Pages::map_peer(fd.as_fd(), 4096, true).is_ok());
}

#[test]
fn impossible_lengths_are_refused() {
    assert!(Pages::allocate(0, PagesOptions::default()).is_err());
    assert!(Pages::allocate(usize::MAX, PagesOptions::default()).is_err());
}
