//! Examples held as compressed sparse rows: three flat arrays and the offsets between examples.

/// Labelled sparse examples, in the order they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    labels: Vec<bool>,
    ends: Vec<usize>,
    ids: Vec<u64>,
    values: Vec<f32>,
}

/// One example of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExampleRef<'a> {
    /// Whether the label is the positive one.
    pub label: bool,
    /// Feature ids, strictly ascending.
    pub ids: &'a [u64],
    /// One value for each id.
    pub values: &'a [f32],
}

impl Batch {
    /// Number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no example.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of feature occurrences over all examples.
    #[must_use]
    pub fn feature_count(&self) -> usize {
        self.ids.len()
    }

    /// Feature ids of all examples, one example after the other.
    #[must_use]
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Labels of all examples.
    #[must_use]
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// Forgets the examples and keeps the memory.
    pub fn clear(&mut self) {
        self.labels.clear();
        self.ends.clear();
        self.ids.clear();
        self.values.clear();
    }

    /// Appends an example. `features` holds ids with their values, strictly ascending by id.
    pub fn push(&mut self, label: bool, features: &[(u64, f32)]) {
        debug_assert!(features.is_sorted_by(|left, right| left.0 < right.0));
        self.labels.push(label);
        self.ids.extend(features.iter().map(|feature| feature.0));
        self.values.extend(features.iter().map(|feature| feature.1));
        self.ends.push(self.ids.len());
    }

    /// Appends a copy of another batch's example.
    pub fn push_example(&mut self, example: ExampleRef<'_>) {
        self.labels.push(example.label);
        self.ids.extend_from_slice(example.ids);
        self.values.extend_from_slice(example.values);
        self.ends.push(self.ids.len());
    }

    /// The examples in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ExampleRef<'_>> {
        (0..self.len()).map(|index| self.example(index))
    }

    /// The example at `index`. Panics when there are not so many.
    #[must_use]
    pub fn example(&self, index: usize) -> ExampleRef<'_> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let end = self.ends[index];
        ExampleRef {
            label: self.labels[index],
            ids: &self.ids[start..end],
            values: &self.values[start..end],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_come_back_as_pushed() {
        let mut batch = Batch::default();
        batch.push(true, &[(3, 1.0), (9, -2.0)]);
        batch.push(false, &[]);
        batch.push(false, &[(1, 0.5)]);
        let examples: Vec<_> = batch.iter().collect();
        assert_eq!(examples[0], ExampleRef { label: true, ids: &[3, 9], values: &[1.0, -2.0] });
        assert_eq!(examples[1], ExampleRef { label: false, ids: &[], values: &[] });
        assert_eq!(examples[2], ExampleRef { label: false, ids: &[1], values: &[0.5] });
        assert_eq!(batch.feature_count(), 3);
        batch.clear();
        assert!(batch.is_empty());
    }
}
