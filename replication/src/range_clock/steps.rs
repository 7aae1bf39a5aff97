//! One worker's clock over all rows: a step function kept as a treap of its steps, each subtree
//! knowing its least and greatest clock. Priorities are a hash of the step's first row, so equal
//! functions have equal trees. Expected cost: `raise` and `minimum_in` O(log n), amortised over the
//! steps a raise swallows.

use crate::mix::mix;

const NONE: u32 = u32::MAX;

/// A step function of rows `0..u64::MAX` to clocks; 0 where nothing was set.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    start: u64,
    clock: u64,
    least: u64,
    greatest: u64,
    count: u32,
    left: u32,
    right: u32,
}

impl Steps {
    /// `clock` on every row.
    pub(super) fn new(clock: u64) -> Self {
        let mut steps = Self { nodes: Vec::new(), free: Vec::new(), root: NONE };
        steps.root = steps.node(0, clock);
        steps
    }

    /// Steps in order of their first rows; the first begins at row 0, neighbours differ.
    pub(super) fn from_sorted(sorted: &[(u64, u64)]) -> Self {
        assert!(sorted.first().is_some_and(|first| first.0 == 0), "the first step begins at row 0");
        let mut steps =
            Self { nodes: Vec::with_capacity(sorted.len()), free: Vec::new(), root: NONE };
        steps.root = steps.build(sorted);
        steps
    }

    /// Number of steps.
    pub(super) fn count(&self) -> usize {
        self.size(self.root) as usize
    }

    /// The least clock over all rows.
    pub(super) fn minimum(&self) -> u64 {
        self.least(self.root)
    }

    /// The clock of `row`.
    pub(super) fn at(&self, row: u64) -> u64 {
        let mut at = self.root;
        let mut found = 0;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.start <= row {
                found = node.clock;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        found
    }

    /// The least clock over rows `start..end`, which must not be empty.
    pub(super) fn minimum_in(&self, start: u64, end: u64) -> u64 {
        self.at(start).min(self.least_between(self.root, start, end, 0, u64::MAX))
    }

    /// Raises rows `start..end` to at least `clock`.
    pub(super) fn raise(&mut self, start: u64, end: u64, clock: u64) {
        if start < end && self.minimum_in(start, end) < clock {
            self.replace(start, end, clock, true);
        }
    }

    /// Sets rows `start..end` to exactly `clock`.
    pub(super) fn set(&mut self, start: u64, end: u64, clock: u64) {
        if start < end {
            self.replace(start, end, clock, false);
        }
    }

    /// Calls `visit(first row, clock)` for each step in order.
    pub(super) fn each(&self, visit: &mut impl FnMut(u64, u64)) {
        self.walk(self.root, visit);
    }

    /// The steps in order.
    pub(super) fn to_sorted(&self) -> Vec<(u64, u64)> {
        let mut sorted = Vec::with_capacity(self.count());
        self.each(&mut |start, clock| sorted.push((start, clock)));
        sorted
    }

    /// Merges neighbours, each pair to the lower of its clocks, until at most `keep` steps are left:
    /// first the pairs that lose least. Never claims more than was set.
    pub(super) fn coarsen(&mut self, keep: usize) {
        let mut sorted = self.to_sorted();
        while sorted.len() > keep.max(1) {
            // The (count - keep) cheapest boundaries go at once; a chain of them may leave fewer than
            // `keep`, which is still safe, so that one pass costs O(n log n).
            let mut losses: Vec<(u64, usize)> =
                (1..sorted.len()).map(|at| (sorted[at].1.abs_diff(sorted[at - 1].1), at)).collect();
            losses.sort_unstable();
            losses.truncate(sorted.len() - keep.max(1));
            let mut gone = vec![false; sorted.len()];
            for (_, at) in losses {
                gone[at] = true;
            }
            let mut merged: Vec<(u64, u64)> = Vec::with_capacity(keep);
            for (at, step) in sorted.iter().enumerate() {
                match merged.last_mut() {
                    Some(last) if gone[at] => last.1 = last.1.min(step.1),
                    _ => merged.push(*step),
                }
            }
            merged.dedup_by(|next, last| next.1 == last.1);
            sorted = merged;
        }
        *self = Self::from_sorted(&sorted);
    }

    fn replace(&mut self, start: u64, end: u64, clock: u64, only_raise: bool) {
        let at_start = self.at(start);
        let at_end = self.at(end);
        let (left, rest) = self.split(self.root, start);
        let (middle, right) = self.split(rest, end);
        let greatest = at_start.max(self.greatest(middle));
        let (middle, last) = if !only_raise || greatest <= clock {
            self.release(middle);
            (self.node(start, clock), clock)
        } else {
            self.raised(middle, start, at_start, clock)
        };
        let mut right = right;
        if end < u64::MAX && self.first(right).is_none_or(|first| first.0 != end) {
            let edge = self.node(end, at_end);
            right = self.merge(edge, right);
        }
        if self.first(right).is_some_and(|first| first.1 == last) {
            right = self.without_first(right);
        }
        let mut middle = middle;
        let before = self.last(left);
        if before.is_some() && before == self.first(middle).map(|first| first.1) {
            middle = self.without_first(middle);
        }
        let joined = self.merge(left, middle);
        self.root = self.merge(joined, right);
    }

    /// The middle piece when some of it is already past `clock`: rebuilt step by step.
    fn raised(&mut self, middle: u32, start: u64, at_start: u64, clock: u64) -> (u32, u64) {
        let mut pieces = vec![(start, at_start.max(clock))];
        self.walk(middle, &mut |row, old| {
            let new = old.max(clock);
            match pieces.last_mut() {
                Some(last) if last.0 == row => last.1 = new,
                Some(last) if last.1 == new => {}
                _ => pieces.push((row, new)),
            }
        });
        self.release(middle);
        let last = pieces[pieces.len() - 1].1;
        (self.build(&pieces), last)
    }

    fn build(&mut self, sorted: &[(u64, u64)]) -> u32 {
        let mut root = NONE;
        for &(start, clock) in sorted {
            let node = self.node(start, clock);
            root = self.merge(root, node);
        }
        root
    }

    fn node(&mut self, start: u64, clock: u64) -> u32 {
        let node =
            Node { start, clock, least: clock, greatest: clock, count: 1, left: NONE, right: NONE };
        if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("steps are bounded far below 2^32")
    }

    fn release(&mut self, root: u32) {
        if root != NONE {
            let Node { left, right, .. } = self.nodes[root as usize];
            self.release(left);
            self.release(right);
            self.free.push(root);
        }
    }

    fn size(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.nodes[at as usize].count }
    }

    fn least(&self, at: u32) -> u64 {
        if at == NONE { u64::MAX } else { self.nodes[at as usize].least }
    }

    fn greatest(&self, at: u32) -> u64 {
        if at == NONE { 0 } else { self.nodes[at as usize].greatest }
    }

    fn refresh(&mut self, at: u32) {
        let Node { clock, left, right, .. } = self.nodes[at as usize];
        let least = clock.min(self.least(left)).min(self.least(right));
        let greatest = clock.max(self.greatest(left)).max(self.greatest(right));
        let count = 1 + self.size(left) + self.size(right);
        let node = &mut self.nodes[at as usize];
        node.least = least;
        node.greatest = greatest;
        node.count = count;
    }

    /// Steps before `start`, and the others.
    fn split(&mut self, at: u32, start: u64) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if self.nodes[at as usize].start < start {
            let (left, right) = self.split(self.nodes[at as usize].right, start);
            self.nodes[at as usize].right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.nodes[at as usize].left, start);
            self.nodes[at as usize].left = right;
            self.refresh(at);
            (left, at)
        }
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE {
            return right;
        }
        if right == NONE {
            return left;
        }
        let over = mix(self.nodes[left as usize].start) > mix(self.nodes[right as usize].start);
        if over {
            let below = self.merge(self.nodes[left as usize].right, right);
            self.nodes[left as usize].right = below;
            self.refresh(left);
            left
        } else {
            let below = self.merge(left, self.nodes[right as usize].left);
            self.nodes[right as usize].left = below;
            self.refresh(right);
            right
        }
    }

    fn first(&self, mut at: u32) -> Option<(u64, u64)> {
        let mut found = None;
        while at != NONE {
            let node = &self.nodes[at as usize];
            found = Some((node.start, node.clock));
            at = node.left;
        }
        found
    }

    fn last(&self, mut at: u32) -> Option<u64> {
        let mut found = None;
        while at != NONE {
            let node = &self.nodes[at as usize];
            found = Some(node.clock);
            at = node.right;
        }
        found
    }

    fn without_first(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = self.nodes[at as usize];
        if left == NONE {
            self.free.push(at);
            return right;
        }
        let below = self.without_first(left);
        self.nodes[at as usize].left = below;
        self.refresh(at);
        at
    }

    fn walk(&self, at: u32, visit: &mut impl FnMut(u64, u64)) {
        if at != NONE {
            let Node { start, clock, left, right, .. } = self.nodes[at as usize];
            self.walk(left, visit);
            visit(start, clock);
            self.walk(right, visit);
        }
    }

    /// The least clock of steps that begin in `start..end`, in the subtree whose steps begin in
    /// `low..=high`.
    fn least_between(&self, at: u32, start: u64, end: u64, low: u64, high: u64) -> u64 {
        if at == NONE || high < start || low >= end {
            return u64::MAX;
        }
        if start <= low && high < end {
            return self.least(at);
        }
        let Node { start: row, clock, left, right, .. } = self.nodes[at as usize];
        let own = if start <= row && row < end { clock } else { u64::MAX };
        own.min(self.least_between(left, start, end, low, row.saturating_sub(1)))
            .min(self.least_between(right, start, end, row.saturating_add(1), high))
    }
}
