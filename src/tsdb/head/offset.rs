//! Places in arenas that grow by appending: five bytes instead of eight, where a series keeps several of them.
//!
//! Knows numbers. Does not know arenas. Path: `head::symbols`, `head::series`, `head::window` -> **here**.

/// A place below 1 TiB, which no arena in memory reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset([u8; 5]);

impl Offset {
    /// No place.
    pub(crate) const NONE: Self = Self([0xff; 5]);

    /// The place `at`.
    pub(crate) fn new(at: usize) -> Self {
        let [a, b, c, d, e, rest @ ..] = (at as u64).to_le_bytes();
        assert!(rest == [0; 3], "an arena of over 1 TiB");
        Self([a, b, c, d, e])
    }

    /// The number that was given.
    pub(crate) fn get(self) -> usize {
        let [a, b, c, d, e] = self.0;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_beyond_four_gigabytes_stay_what_they_are() {
        for at in [0, 255, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 40) - 2] {
            assert_eq!(Offset::new(at).get(), at);
            assert_ne!(Offset::new(at), Offset::NONE);
        }
        assert!(std::panic::catch_unwind(|| Offset::new(1 << 40)).is_err());
    }
}
