//! Populates the pages of private memory before they are touched.
#![allow(unsafe_code)]

use std::hint::black_box;

use rustix::mm::{Advice, madvise};

use super::{HUGE_PAGE_LEN, PAGE_LEN};

/// Asks for huge pages behind `values`, as far as they lie in whole ones.
pub fn prefer_huge_pages<T>(values: &mut [T]) {
    // What the system does not have it need not give.
    let _ = advise(values, HUGE_PAGE_LEN, Advice::LinuxHugepage);
}

/// Has the system make every page of `values`, so that no later access waits for it to make one.
pub fn populate<T: Copy>(values: &mut [T]) {
    if advise(values, PAGE_LEN, Advice::LinuxPopulateWrite).is_ok() {
        return;
    }
    // Before Linux 5.14.
    let step = (PAGE_LEN / size_of::<T>()).max(1);
    for value in values.iter_mut().step_by(step) {
        *black_box(&mut *value) = *value;
    }
}

/// Gives advice about the pages of some size that lie whole within `values`.
fn advise<T>(values: &mut [T], page_len: usize, advice: Advice) -> rustix::io::Result<()> {
    if cfg!(miri) {
        return Err(rustix::io::Errno::NOSYS);
    }
    let range = values.as_mut_ptr_range();
    let (from, to) = (range.start as usize, range.end as usize);
    let (first, end) = (from.next_multiple_of(page_len), to / page_len * page_len);
    if first >= end {
        return Ok(());
    }
    let start = range.start.cast::<u8>().wrapping_add(first - from);
    // SAFETY: the pages lie within memory that is borrowed mutably here, and neither kind of advice that is
    // given changes what they hold.
    unsafe { madvise(start.cast(), end - first, advice) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populated_values_are_in_memory_and_keep_what_they_hold() {
        for len in [0, 1, 1000, 3 << 20] {
            let mut values: Vec<u64> = vec![0; len];
            values.iter_mut().step_by(10_000).for_each(|value| *value = 7);
            populate(&mut values);
            let before = faults();
            values.iter_mut().skip(1).step_by(100).for_each(|value| *black_box(value) = 1);
            let after = faults();
            // 6,144 pages where none was made before.
            assert!(after - before < 100, "{} page faults", after - before);
            let kept = values.iter().enumerate().all(|(at, value)| match (at % 10_000, at % 100) {
                (0, _) => *value == 7,
                (_, 1) => *value == 1,
                _ => *value == 0,
            });
            assert!(kept);
        }
    }

    /// Page faults of this thread that read nothing from a disk.
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(") ").unwrap();
        behind_name.split(' ').nth(7).unwrap().parse().unwrap()
    }
}
