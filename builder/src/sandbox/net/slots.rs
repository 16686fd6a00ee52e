//! Numbered places for things that the event loop waits for, and the tokens that name them in epoll.
//!
//! Invariants:
//! - a token of something that was removed finds nothing, even when its place was given to something else:
//!   each use of a place has its own generation.

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody wants the thread to stop.
    Stop,
    /// A TCP listener; the place is its number.
    Listener,
    /// A DNS socket inside the namespace; the place is its number.
    DnsSocket,
    /// The sandbox's side of a connection.
    Client,
    /// The outer side of a connection.
    Upstream,
    /// The socket on which the answer to a DNS query is expected.
    DnsQuery,
}

/// Where something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    index: u32,
    generation: u32,
}

impl Place {
    /// The place of something that is never removed.
    pub(super) fn fixed(index: u32) -> Self {
        Self { index, generation: 0 }
    }

    pub(super) fn index(self) -> usize {
        self.index as usize
    }

    /// The number to give to epoll.
    pub(super) fn token(self, source: Source) -> u64 {
        let generation = u64::from(self.generation & 0x00ff_ffff);
        ((source as u64) << 56) | (generation << 32) | u64::from(self.index)
    }

    /// What [`Place::token`] was made from.
    pub(super) fn from_token(token: u64) -> (Source, Self) {
        let source = match token >> 56 {
            0 => Source::Stop,
            1 => Source::Listener,
            2 => Source::DnsSocket,
            3 => Source::Client,
            4 => Source::Upstream,
            _ => Source::DnsQuery,
        };
        let generation = ((token >> 32) & 0x00ff_ffff) as u32;
        (source, Self { index: (token & 0xffff_ffff) as u32, generation })
    }
}

/// A growing set of places.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Keeps `value` and says where.
    pub(super) fn insert(&mut self, value: T) -> Place {
        if let Some(index) = self.free.pop()
            && let Some((generation, entry)) = self.entries.get_mut(index as usize)
        {
            *generation = (*generation + 1) & 0x00ff_ffff;
            *entry = Some(value);
            return Place { index, generation: *generation };
        }
        self.entries.push((0, Some(value)));
        Place { index: (self.entries.len() - 1) as u32, generation: 0 }
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        let (generation, entry) = self.entries.get_mut(place.index())?;
        if *generation == place.generation { entry.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.get_mut(place)?;
        let value = self.entries.get_mut(place.index())?.1.take();
        self.free.push(place.index);
        value
    }

    /// Everything that is kept, with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, (generation, entry))| {
            let place = Place { index: index as u32, generation: *generation };
            entry.as_ref().map(|value| (place, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_places_find_nothing() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.remove(first), None);
        let second = slots.insert('b');
        assert_eq!(second.index(), first.index());
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!((slots.len(), slots.iter().count()), (1, 1));
    }

    #[test]
    fn tokens_round_trip() {
        for source in [
            Source::Stop,
            Source::Listener,
            Source::DnsSocket,
            Source::Client,
            Source::Upstream,
            Source::DnsQuery,
        ] {
            let place = Place { index: u32::MAX, generation: 0x00ff_fffe };
            assert_eq!(Place::from_token(place.token(source)), (source, place));
        }
    }
}
