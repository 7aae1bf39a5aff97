//! Key lists that a link's shard caches. The cache is a ring that this side fills, so the oldest lists are
//! overwritten first. Both sides see messages in the same order, so this side always knows what the shard
//! holds.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use windlass_wire::request::CodedKeys;

/// Shorter lists are sent: naming them would save little.
const COUNT_MIN: usize = 16;

/// What is kept, and what messages in flight name.
#[derive(Debug, Default)]
pub(super) struct KeyLists {
    /// Keys that the array has room for.
    count_max: usize,
    /// Index behind the newest list.
    next: usize,
    /// Oldest first.
    oldest: VecDeque<List>,
    by_checksum: HashMap<u32, List>,
    /// What the next message keeps, once it is written.
    offered: Option<List>,
    /// Lists that messages name, by number of the message: they may be overwritten before these are done.
    named: VecDeque<(u32, Arc<[u64]>)>,
}

#[derive(Clone, Debug)]
struct List {
    at: usize,
    checksum: u32,
    keys: Arc<[u64]>,
}

impl KeyLists {
    pub(super) fn new(count_max: u32) -> Self {
        Self { count_max: count_max as usize, ..Self::default() }
    }

    /// Where these keys are kept, or are to be kept; `None` when they are to be sent as ever.
    pub(super) fn place(&mut self, keys: &[u64]) -> Option<CodedKeys> {
        self.offered = None;
        if !(COUNT_MIN..=self.count_max).contains(&keys.len()) {
            return None;
        }
        let checksum = CodedKeys::checksum(keys);
        if let Some(list) = self.by_checksum.get(&checksum) {
            let is_it = *list.keys == *keys;
            return is_it.then(|| CodedKeys::Kept { at: index(list.at), checksum });
        }
        let mut at = self.next;
        if at + keys.len() > self.count_max {
            while self.oldest.front().is_some_and(|list| list.at >= at) {
                self.drop_oldest();
            }
            at = 0;
        }
        let overlaps = |list: &List| list.at < at + keys.len() && at < list.at + list.keys.len();
        while self.oldest.front().is_some_and(overlaps) {
            self.drop_oldest();
        }
        self.offered = Some(List { at, checksum, keys: keys.into() });
        Some(CodedKeys::Keep { len: 0, at: index(at) })
    }

    /// A message has been written with keys that stand there; `oldest` is the oldest in flight, itself perhaps.
    pub(super) fn note_written(&mut self, number: u32, keys: CodedKeys, oldest: u32) {
        let is_done = |of: u32| of.wrapping_sub(oldest) > u32::MAX / 2;
        while self.named.front().is_some_and(|(of, _)| is_done(*of)) {
            self.named.pop_front();
        }
        match keys {
            CodedKeys::Sent { .. } => {}
            CodedKeys::Keep { .. } => {
                let Some(list) = self.offered.take() else {
                    unreachable!("a list is kept that was not offered");
                };
                self.next = list.at + list.keys.len();
                self.by_checksum.insert(list.checksum, list.clone());
                self.oldest.push_back(list);
            }
            CodedKeys::Kept { checksum, .. } => {
                let Some(list) = self.by_checksum.get(&checksum) else {
                    unreachable!("a list is named that is not kept");
                };
                self.named.push_back((number, list.keys.clone()));
            }
        }
    }

    /// The list that a message in flight names.
    pub(super) fn named_by(&self, number: u32) -> Vec<u64> {
        let named = self.named.iter().find(|(of, _)| *of == number);
        let Some((_, keys)) = named else {
            unreachable!("lists are held as long as messages in flight name them");
        };
        keys.to_vec()
    }

    fn drop_oldest(&mut self) {
        if let Some(list) = self.oldest.pop_front() {
            self.by_checksum.remove(&list.checksum);
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or_else(|_| unreachable!("the array's length is a u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shard's side.
    struct Array(Vec<u64>);

    impl Array {
        /// Sends a list, if need be, and returns whether it was kept before.
        fn send(&mut self, lists: &mut KeyLists, number: u32, keys: &[u64]) -> bool {
            let Some(place) = lists.place(keys) else { return false };
            lists.note_written(number, place, number);
            match place {
                CodedKeys::Sent { .. } => false,
                CodedKeys::Keep { at, .. } => {
                    self.0[at as usize..][..keys.len()].copy_from_slice(keys);
                    false
                }
                CodedKeys::Kept { at, checksum } => {
                    assert_eq!(&self.0[at as usize..][..keys.len()], keys);
                    assert_eq!(checksum, CodedKeys::checksum(keys));
                    assert_eq!(lists.named_by(number), keys);
                    true
                }
            }
        }
    }

    fn list(number: u64, count: u64) -> Vec<u64> {
        (0..count).map(|at| number * 1000 + at).collect()
    }

    #[test]
    fn what_is_believed_to_be_kept_is() {
        let (mut array, mut lists) = (Array(vec![0; 1000]), KeyLists::new(1000));
        let (mut found, mut random) = (0, 1_u64);
        for number in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let which = random >> 33;
            // Few lists come often, many others seldom.
            let which = if which % 4 == 0 { which % 500 } else { which % 7 };
            let keys = list(which, 16 + which * 13 % 300);
            found += u32::from(array.send(&mut lists, number, &keys));
        }
        assert!(found > 500, "{found} of 5000 were kept");
        let kept: usize = lists.oldest.iter().map(|list| list.keys.len()).sum();
        assert!(kept <= 1000 && lists.oldest.len() == lists.by_checksum.len());
        assert!(lists.named.len() <= 1, "lists of messages that are done are let go");
    }

    #[test]
    fn a_list_that_was_not_written_is_not_kept() {
        let mut lists = KeyLists::new(100);
        let keys = list(1, 50);
        assert_eq!(lists.place(&keys), Some(CodedKeys::Keep { len: 0, at: 0 }));
        assert_eq!(lists.place(&keys), Some(CodedKeys::Keep { len: 0, at: 0 }), "again");
        assert_eq!(lists.place(&list(2, 101)), None, "too long");
        assert_eq!(lists.place(&list(2, 3)), None, "too short");
        assert_eq!(KeyLists::default().place(&keys), None, "nothing may be kept");
    }
}
