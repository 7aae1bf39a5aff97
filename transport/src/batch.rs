//! A bounded queue of requests that a provider takes from the front and a caller fills at the back.

/// Requests waiting to be posted, in order. Its capacity is fixed, so it never allocates after
/// its creation.
#[derive(Debug)]
pub struct Batch<T> {
    requests: Vec<T>,
    taken_count: usize,
}

impl<T> Batch<T> {
    /// An empty batch of at most `capacity` requests.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a batch holds at least one request");
        Self { requests: Vec::with_capacity(capacity), taken_count: 0 }
    }

    /// Adds a request at the back, or gives it back when the batch is full.
    ///
    /// # Errors
    /// The request itself.
    #[inline]
    pub fn push(&mut self, request: T) -> Result<(), T> {
        if self.requests.len() == self.requests.capacity() {
            self.compact();
        }
        if self.requests.len() == self.requests.capacity() {
            return Err(request);
        }
        self.requests.push(request);
        Ok(())
    }

    /// Requests not taken yet.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        &self.requests[self.taken_count..]
    }

    /// Number of requests not taken yet.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.requests.len() - self.taken_count
    }

    /// Whether all were taken.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more can be pushed.
    #[must_use]
    #[inline]
    pub fn room(&self) -> usize {
        self.requests.capacity() - self.len()
    }

    /// Drops every request.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.taken_count = 0;
    }

    /// For providers: takes the first `count` away. Panics when there are fewer.
    #[inline]
    pub fn take_front(&mut self, count: usize) {
        assert!(count <= self.len(), "only {} requests are left", self.len());
        self.taken_count += count;
        if self.taken_count == self.requests.len() {
            self.clear();
        }
    }

    fn compact(&mut self) {
        self.requests.drain(..self.taken_count);
        self.taken_count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_requests_stay_in_order() {
        let mut batch = Batch::with_capacity(3);
        for request in 0..3 {
            batch.push(request).unwrap();
        }
        assert_eq!(batch.push(9), Err(9));
        batch.take_front(2);
        assert_eq!(batch.as_slice(), &[2]);
        batch.push(3).unwrap();
        batch.push(4).unwrap();
        assert_eq!(batch.push(5), Err(5));
        assert_eq!(batch.as_slice(), &[2, 3, 4]);
        batch.take_front(3);
        assert!(batch.is_empty());
        assert_eq!(batch.room(), 3);
    }
}
