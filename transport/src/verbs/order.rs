//! The order in which devices read and write memory.
//!
//! Cards use bus transactions that the fabric, the bus or the card may reorder. So we assume only that a transaction of
//! an aligned word is whole. `ibv_query_qp_data_in_order` describes the bytes of one request, not of several. A user who
//! knows more about the device says so in the settings.
//!
//! SoftRoCE copies by the kernel's `memcpy`. On x86 that is `rep movsb` where the processor has fast short
//! strings (FSRM; before Linux 6.4 enhanced ones, ERMS): upwards, byte by byte. Elsewhere it may go downwards,
//! by words (`arch/x86/lib/memcpy_64.S`), packet by packet, so that an update between two pieces leaves both ends
//! of a block equal around rows that are not. One task carries out the requests of a queue pair, in order, and
//! x86 shows a processor's stores in order but for those of one copy.

use crate::fabric::Promises;

/// What a device promises of what it does in this host's memory.
pub(super) fn of_device(is_software: bool) -> Promises {
    if !is_software {
        return Promises { reads_words_whole: true, ..Promises::NONE };
    }
    of_kernel(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// What SoftRoCE does on the processors that the kernel lists.
fn of_kernel(cpuinfo: &str) -> Promises {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags")).peekable();
    let is_x86 = cfg!(target_arch = "x86_64") && flags.peek().is_some();
    let copies_upwards = |line: &str| {
        ["erms", "fsrm"].iter().all(|flag| line.split_whitespace().any(|word| word == *flag))
    };
    Promises {
        reads_in_order: is_x86 && flags.all(copies_upwards),
        reads_words_whole: false,
        writes_in_order: is_x86,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn software_reads_in_order_where_the_kernel_is_known_to_copy_upwards() {
        let new = "processor\t: 0\nflags\t\t: fpu rep_good erms fsrm\nbugs\t\t: none\n";
        let old = "processor\t: 1\nflags\t\t: fpu rep_good erms\n";
        assert!(of_kernel(new).reads_in_order);
        assert!(!of_kernel(old).reads_in_order, "`memcpy_orig` from Linux 6.4 on");
        assert!(!of_kernel("flags\t\t: fpu fsrm\n").reads_in_order, "the same before");
        assert!(!of_kernel(&format!("{new}\n{old}")).reads_in_order, "a task runs anywhere");
        assert_eq!(of_kernel("Features\t: fp asimd\n"), Promises::NONE, "another architecture");
        assert_eq!(of_kernel(""), Promises::NONE);
        assert!(!of_kernel(new).reads_words_whole && of_kernel(old).writes_in_order);
    }

    #[test]
    fn cards_are_believed_little() {
        let card = of_device(false);
        assert!(!card.reads_in_order && card.reads_words_whole && !card.writes_in_order);
    }
}
