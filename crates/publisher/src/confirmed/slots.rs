/// Values by slot number. A free slot is used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u16>,
}

impl<T> Slots<T> {
    pub(super) const MAX: usize = u16::MAX as usize + 1;

    pub(super) const fn new() -> Self {
        Self {
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    /// # Panics
    /// When all [`Slots::MAX`] slots are taken.
    pub(super) fn insert(&mut self, value: T) -> u16 {
        if let Some(slot) = self.free.pop() {
            self.values[usize::from(slot)] = Some(value);
            return slot;
        }
        let slot = u16::try_from(self.values.len()).expect("there are no more jobs than slots");
        self.values.push(Some(value));
        slot
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut T> {
        self.values.get_mut(usize::from(slot))?.as_mut()
    }

    pub(super) fn remove(&mut self, slot: u16) -> Option<T> {
        let value = self.values.get_mut(usize::from(slot))?.take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        (0..=u16::MAX)
            .zip(&mut self.values)
            .filter_map(|(slot, value)| Some((slot, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_once_it_is_free() {
        let mut slots = Slots::new();
        assert_eq!((slots.insert('a'), slots.insert('b')), (0, 1));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!(slots.remove(0), None);
        assert_eq!(slots.len(), 1);
        assert_eq!((slots.insert('c'), slots.insert('d')), (0, 2));
        let all: Vec<_> = slots
            .iter_mut()
            .map(|(slot, value)| (slot, *value))
            .collect();
        assert_eq!(all, [(0, 'c'), (1, 'b'), (2, 'd')]);
        assert_eq!(slots.get_mut(7), None);
        assert_eq!(slots.remove(7), None);
    }

    #[test]
    fn there_are_65_536_slots() {
        let mut slots = Slots::new();
        for number in 0..Slots::<usize>::MAX {
            assert_eq!(usize::from(slots.insert(number)), number);
        }
        assert_eq!(slots.len(), Slots::<usize>::MAX);
    }
}
