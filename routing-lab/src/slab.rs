//! A table of things with keys that are never used twice, though its places are.

/// The key of a thing. After the thing was taken out, its key finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    life: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn add(&mut self, thing: T) -> Key {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.0 += 1;
            slot.1 = Some(thing);
            return Key { index, life: slot.0 };
        }
        let index =
            u32::try_from(self.slots.len()).expect("jobs at once are bounded by what arrives in a deadline");
        self.slots.push((0, Some(thing)));
        Key { index, life: 0 }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let (life, thing) = self.slots.get(key.index as usize)?;
        thing.as_ref().filter(|_| *life == key.life)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (life, thing) = self.slots.get_mut(key.index as usize)?;
        thing.as_mut().filter(|_| *life == key.life)
    }

    pub(super) fn take(&mut self, key: Key) -> Option<T> {
        let (life, thing) = self.slots.get_mut(key.index as usize)?;
        let thing = if *life == key.life { thing.take() } else { None };
        if thing.is_some() {
            self.free.push(key.index);
        }
        thing
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All things in it.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|(_, thing)| thing.as_ref())
    }

    /// The keys of all things in it.
    pub(super) fn keys(&self) -> Vec<Key> {
        let slots = (0u32..).zip(&self.slots);
        slots.filter(|(_, slot)| slot.1.is_some()).map(|(index, slot)| Key { index, life: slot.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_thing_that_is_gone_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.add('a');
        assert_eq!((slab.take(first), slab.take(first)), (Some('a'), None));
        let second = slab.add('b');
        assert_eq!((slab.get(first), slab.get(second), slab.len()), (None, Some(&'b'), 1));
    }
}
