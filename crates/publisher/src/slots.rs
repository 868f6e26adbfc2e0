/// Numbered places for what is under way; a number is used again once its place is free.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<u16>,
}

impl<T> Slots<T> {
    pub(crate) const MAX: usize = u16::MAX as usize + 1;

    pub(crate) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// # Panics
    /// When all [`Slots::MAX`] places are taken.
    pub(crate) fn insert(&mut self, value: T) -> u16 {
        if let Some(slot) = self.free.pop() {
            self.places[usize::from(slot)] = Some(value);
            return slot;
        }
        let slot = u16::try_from(self.places.len()).expect("there are no more jobs than slots");
        self.places.push(Some(value));
        slot
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut T> {
        self.places.get_mut(usize::from(slot))?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<T> {
        let value = self.places.get_mut(usize::from(slot))?.take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        (0..=u16::MAX)
            .zip(&mut self.places)
            .filter_map(|(slot, place)| Some((slot, place.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_only_when_it_is_free() {
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
    fn there_are_as_many_places_as_promised() {
        let mut slots = Slots::new();
        for number in 0..Slots::<usize>::MAX {
            assert_eq!(usize::from(slots.insert(number)), number);
        }
        assert_eq!(slots.len(), Slots::<usize>::MAX);
    }
}
