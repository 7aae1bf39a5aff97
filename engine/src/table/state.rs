//! Optimiser state beside the values: planes of state values and a word for each row, never read by peers.

use windlass_transport::memory::{populate, prefer_huge_pages};
use windlass_wire::{DataType, UpdateRule};

/// State of a run of rows: as many planes as the rule has, each laid out as the values are, and a
/// word for each row if the rule has one: its step count, say. Starts as zeros.
#[derive(Debug)]
pub struct StatePlanes {
    planes: [Vec<u64>; UpdateRule::STATE_WIDTH_MAX],
    row_words: Vec<u32>,
    row_stride: usize,
}

impl StatePlanes {
    /// Zeroed state for `row_count` rows of `width` values.
    #[must_use]
    pub fn new(rule: &UpdateRule, dtype: DataType, row_count: usize, width: usize) -> Self {
        let row_stride = width * UpdateRule::state_value_size(dtype);
        let words = (row_stride * row_count).div_ceil(8);
        let plane_count = rule.state_width();
        Self {
            planes: std::array::from_fn(|plane| {
                let mut values = if plane < plane_count { vec![0; words] } else { Vec::new() };
                prefer_huge_pages(&mut values);
                values
            }),
            row_words: if rule.row_word().is_some() { vec![0; row_count] } else { Vec::new() },
            row_stride,
        }
    }

    /// Touches every page, so that no later access waits for the system to make one.
    pub fn populate(&mut self) {
        self.planes.iter_mut().for_each(|plane| populate(plane));
        populate(&mut self.row_words);
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        self.planes.iter().map(|plane| plane.len() * 8).sum::<usize>() + self.row_words.len() * 4
    }

    /// Makes all of it zero.
    pub fn clear(&mut self) {
        self.planes.iter_mut().for_each(|plane| plane.fill(0));
        self.row_words.fill(0);
    }

    /// Pointers to the planes' values of a row; dangling for planes the rule does not have.
    #[must_use]
    pub fn planes_at(&mut self, row: usize) -> [*mut u8; UpdateRule::STATE_WIDTH_MAX] {
        let offset = row * self.row_stride;
        std::array::from_fn(|plane| {
            self.planes[plane].as_mut_ptr().cast::<u8>().wrapping_add(offset)
        })
    }

    /// Pointer to a row's word; dangling if the rule has none.
    #[must_use]
    pub fn word_at(&mut self, row: usize) -> *mut u32 {
        self.row_words.as_mut_ptr().wrapping_add(row)
    }

    /// Copies the state of `count` rows into `into`: each plane's values, then the rows' words,
    /// little-endian. Appends; for checkpoints.
    pub fn save(&self, row: usize, count: usize, into: &mut Vec<u8>) {
        for plane in self.planes.iter().filter(|plane| !plane.is_empty()) {
            into.extend_from_slice(
                &as_bytes(plane)[row * self.row_stride..][..count * self.row_stride],
            );
        }
        if !self.row_words.is_empty() {
            for word in &self.row_words[row..row + count] {
                into.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Bytes that [`StatePlanes::save`] makes of `count` rows.
    #[must_use]
    pub fn saved_len(&self, count: usize) -> usize {
        let planes = self.planes.iter().filter(|plane| !plane.is_empty()).count();
        planes * count * self.row_stride + if self.row_words.is_empty() { 0 } else { count * 4 }
    }

    /// Takes back what [`StatePlanes::save`] made. Panics when the length is not right.
    pub fn restore(&mut self, row: usize, count: usize, saved: &[u8]) {
        assert_eq!(saved.len(), self.saved_len(count), "state of {count} rows");
        let mut rest = saved;
        for plane in self.planes.iter_mut().filter(|plane| !plane.is_empty()) {
            let (bytes, after) = rest.split_at(count * self.row_stride);
            as_bytes_mut(plane)[row * self.row_stride..][..bytes.len()].copy_from_slice(bytes);
            rest = after;
        }
        for (word, bytes) in self.row_words.iter_mut().skip(row).zip(rest.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

fn as_bytes(words: &[u64]) -> &[u8] {
    bytemuck::cast_slice(words)
}

fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_state_comes_back() {
        let rule: UpdateRule = "adam:lr=0.1".parse().unwrap();
        let mut state = StatePlanes::new(&rule, DataType::F32, 10, 3);
        let saved: Vec<u8> = (0..state.saved_len(2)).map(|at| at.to_le_bytes()[0]).collect();
        assert_eq!(saved.len(), 2 * 2 * 12 + 2 * 4);
        state.restore(4, 2, &saved);
        let mut again = Vec::new();
        state.save(4, 2, &mut again);
        assert_eq!(again, saved);
        again.clear();
        state.save(6, 1, &mut again);
        assert!(again.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn each_rule_keeps_its_planes_of_rows_beside_each_other_and_words_beside_them() {
        for (text, planes, counts) in
            [("add", 0, false), ("adagrad", 1, false), ("adam", 2, true), ("row-adagrad", 0, true)]
        {
            let rule: UpdateRule = text.parse().unwrap();
            assert_eq!((rule.state_width(), rule.row_word().is_some()), (planes, counts), "{text}");
            // Rows of 12 bytes: nine of them end within a word.
            let mut state = StatePlanes::new(&rule, DataType::F32, 9, 3);
            assert_eq!(state.memory_len(), planes * 112 + if counts { 36 } else { 0 }, "{text}");
            assert_eq!(state.saved_len(4), planes * 48 + if counts { 16 } else { 0 }, "{text}");
            let first = state.planes_at(0);
            let words = state.word_at(0);
            for row in 0..9 {
                for (plane, first) in state.planes_at(row).into_iter().zip(first).take(planes) {
                    assert_eq!(plane as usize - first as usize, 12 * row, "{text}, row {row}");
                }
                assert_eq!(state.word_at(row) as usize - words as usize, 4 * row);
            }
            let mut all = Vec::new();
            state.populate();
            state.save(0, 9, &mut all);
            assert_eq!(all, vec![0; state.saved_len(9)], "{text}: populated and zero");
            state.restore(0, 9, &vec![3; state.saved_len(9)]);
            state.clear();
            let mut cleared = Vec::new();
            state.save(0, 9, &mut cleared);
            assert_eq!(cleared, all, "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "state of 2 rows")]
    fn state_of_another_length_is_not_taken() {
        let rule: UpdateRule = "adam:lr=0.1".parse().unwrap();
        let mut state = StatePlanes::new(&rule, DataType::F32, 10, 3);
        let saved = vec![0; state.saved_len(2) + 1];
        state.restore(4, 2, &saved);
    }
}
