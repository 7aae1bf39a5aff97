//! A slab: items by number. A number leads straight to its item and is never used for another one.

/// Up to 65,535 things, each with a number that stays unknown after it has gone.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    count_max: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) fn new(count_max: u32) -> Self {
        assert!(count_max <= u32::from(u16::MAX), "slots are numbered by 16 bits");
        Self { slots: Vec::new(), free: Vec::new(), count_max }
    }

    /// Keeps what `make` makes of its number, or `None` when there is no room.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u16::try_from(self.slots.len()).ok()?;
                if u32::from(index) >= self.count_max {
                    return None;
                }
                // Numbers start at 1 << 16, so that zero is never one.
                self.slots.push(Slot { generation: 1, value: None });
                index
            }
        };
        let slot = &mut self.slots[usize::from(index)];
        let number = u32::from(slot.generation) << 16 | u32::from(index);
        slot.value = Some(make(number));
        Some(number)
    }

    #[inline]
    pub(crate) fn find(&self, number: u32) -> Option<&T> {
        let slot = self.slots.get(index_of(number))?;
        if u32::from(slot.generation) == number >> 16 { slot.value.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn find_mut(&mut self, number: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index_of(number))?;
        if u32::from(slot.generation) == number >> 16 { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let index = index_of(number);
        let slot = self.slots.get_mut(index)?;
        if u32::from(slot.generation) != number >> 16 {
            return None;
        }
        let value = slot.value.take()?;
        // A slot whose generations are used up is never used again.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            if let Ok(index) = u16::try_from(index) {
                self.free.push(index);
            }
        }
        Some(value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }
}

#[inline]
fn index_of(number: u32) -> usize {
    (number & 0xFFFF) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let mut slab = Slab::new(2);
        let first = slab.insert_with(|_| 'a').unwrap();
        let second = slab.insert_with(|_| 'b').unwrap();
        assert_eq!(slab.insert_with(|_| 'c'), None);
        assert_eq!(slab.remove(first), Some('a'));
        let third = slab.insert_with(|_| 'c').unwrap();
        assert_ne!(third, first);
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.find(second), Some(&'b'));
        assert_eq!(slab.find(third), Some(&'c'));
        assert_eq!(slab.find(0), None);
        assert_eq!(slab.find(u32::MAX), None);
    }

    #[test]
    fn a_worn_out_slot_is_left_alone() {
        let mut slab = Slab::new(1);
        for _ in 0..u16::MAX {
            let number = slab.insert_with(|_| ()).unwrap();
            assert_eq!(slab.remove(number), Some(()));
        }
        assert_eq!(slab.insert_with(|_| ()), None);
    }
}
