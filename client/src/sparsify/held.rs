//! The rows that a sparsifier holds back.

use std::collections::HashMap;

use super::add;
use crate::element::Element;

/// Rows by key, in one buffer.
#[derive(Debug)]
pub(super) struct Held<T> {
    width: usize,
    /// Where each key's row stands, in rows.
    places: HashMap<u64, usize>,
    rows: Vec<T>,
    /// Places without a row.
    free: Vec<usize>,
}

impl<T: Element> Held<T> {
    pub(super) fn new(width: usize) -> Self {
        Self { width, places: HashMap::new(), rows: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// What is held of a key.
    pub(super) fn row(&self, key: u64) -> Option<&[T]> {
        self.places.get(&key).map(|place| &self.rows[place * self.width..][..self.width])
    }

    /// Holds a row instead of what was held of its key.
    pub(super) fn set(&mut self, key: u64, row: &[T]) {
        let place = *self.places.entry(key).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                let place = self.rows.len() / self.width;
                self.rows.resize(self.rows.len() + self.width, T::default());
                place
            })
        });
        self.rows[place * self.width..][..self.width].copy_from_slice(row);
    }

    /// Adds a row to what is held of its key.
    pub(super) fn add(&mut self, key: u64, row: &[T]) {
        match self.places.get(&key) {
            Some(place) => add(&mut self.rows[place * self.width..][..self.width], row),
            None => self.set(key, row),
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.free.extend(self.places.remove(&key));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.width);
    }

    /// Keys, ascending, and their rows.
    pub(super) fn sorted(&self) -> (Vec<u64>, Vec<T>) {
        let mut keys: Vec<u64> = self.places.keys().copied().collect();
        keys.sort_unstable();
        let rows = keys.iter().flat_map(|key| self.row(*key).into_iter().flatten().copied());
        let rows = rows.collect();
        (keys, rows)
    }
}
