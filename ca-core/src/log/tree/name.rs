//! What the files of a tiled log are called (C2SP tlog-tiles, "Merkle Tree" and "Log entries").

use std::fmt;

/// How many hashes a full tile has, and entries a full bundle (C2SP tlog-tiles, "Merkle Tree").
pub const WIDTH: u64 = 1 << HEIGHT;

/// How many levels of the tree a tile stands for.
pub(super) const HEIGHT: u32 = 8;

/// How many levels of tiles a tree of less than 2^64 leaves has.
pub(super) const LEVELS: u32 = u64::BITS / HEIGHT;

/// The name of a tile of hashes. Shows as its path below the log's directory: `tile/<L>/<N>[.p/<W>]`
/// (C2SP tlog-tiles, "Merkle Tree").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileName {
    level: u32,
    place: Place,
}

impl TileName {
    /// The tile `index` of that level, as a tree of `size` leaves has it; `None` if it has no such tile.
    #[must_use]
    pub fn of(level: u32, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(level.checked_mul(HEIGHT)?)?;
        Some(Self { level, place: Place::of(index, hashes)? })
    }

    /// The level of the tile: each of its hashes stands for 256^`level` leaves.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Which tile of its level it is.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.place.index
    }

    /// How many hashes it has: 256 unless it is partial.
    #[must_use]
    pub fn width(&self) -> usize {
        usize::from(self.place.width)
    }

    /// The full tile at the same place.
    #[must_use]
    pub(super) fn filled(mut self) -> Self {
        self.place.width = WIDTH as u16;
        self
    }

    /// Whether a tree of `size` leaves has a part of this tile only.
    pub(super) fn is_partial_in(&self, size: u64) -> bool {
        let there = Self::of(self.level, self.place.index, size);
        there.is_some_and(|tile| tile.place.width < WIDTH as u16)
    }

    /// The path of the folder of all partial tiles of this place.
    pub(super) fn partials(&self) -> String {
        format!("{}.p", self.filled())
    }
}

impl fmt::Display for TileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/{}", self.level, self.place)
    }
}

/// The name of a bundle of entries. Shows as its path below the log's directory:
/// `tile/entries/<N>[.p/<W>]` (C2SP tlog-tiles, "Log entries").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleName(Place);

impl BundleName {
    /// The bundle `index`, as a log of `size` entries has it; `None` if it has no such bundle.
    #[must_use]
    pub fn of(index: u64, size: u64) -> Option<Self> {
        Place::of(index, size).map(Self)
    }

    /// How many entries it has: 256 unless it is partial.
    #[must_use]
    pub fn width(&self) -> usize {
        usize::from(self.0.width)
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/entries/{}", self.0)
    }
}

/// `<N>[.p/<W>]`: which tile of its level, and how wide, from 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    index: u64,
    width: u16,
}

impl Place {
    /// The place `index` where so many hashes are spread over tiles.
    fn of(index: u64, hashes: u64) -> Option<Self> {
        let before = index.checked_mul(WIDTH)?;
        let width = hashes.checked_sub(before)?.min(WIDTH) as u16;
        (width > 0).then_some(Self { index, width })
    }
}

/// Three digits for each folder, and an `x` before all but the last.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = std::iter::successors(Some(self.index), |index| Some(index / 1000));
        let groups: Vec<u64> = groups.take_while(|&left| left > 0).collect();
        for left in groups.iter().skip(1).rev() {
            write!(f, "x{:03}/", left % 1000)?;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if u64::from(self.width) < WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_of(size: u64) -> Vec<String> {
        let names = (0..LEVELS)
            .flat_map(|level| (0..).map_while(move |index| TileName::of(level, index, size)));
        names.map(|name| name.to_string()).collect()
    }

    #[test]
    fn the_examples_of_tlog_tiles_are_named_as_it_says() {
        let name = TileName::of(0, 1_234_067, 1_234_067 * 256 + 8).unwrap();
        assert_eq!(name.to_string(), "tile/0/x001/x234/067.p/8");
        assert_eq!(name.filled().to_string(), "tile/0/x001/x234/067");
        assert_eq!(name.partials(), "tile/0/x001/x234/067.p");
        let bundle = BundleName::of(1000, 1000 * 256 + 256).unwrap();
        assert_eq!(bundle.to_string(), "tile/entries/x001/000");
        assert_eq!(all_of(256), ["tile/0/000", "tile/1/000.p/1"]);
        let many = all_of(70_000);
        assert_eq!(many.len(), 273 + 1 + 1 + 1 + 1);
        assert_eq!(many[272], "tile/0/272");
        assert_eq!(
            many[273..],
            ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
        );
    }

    #[test]
    fn a_tree_has_no_empty_tiles() {
        assert!(all_of(0).is_empty());
        assert_eq!(TileName::of(0, 1, 256), None);
        assert_eq!(TileName::of(1, 0, 255), None);
        assert_eq!(BundleName::of(0, 0), None);
    }

    proptest! {
        #[test]
        fn no_numbers_make_a_name_panic(level in any::<u32>(), low in 0..70_u32, index in any::<u64>(), size in any::<u64>()) {
            for level in [level, low] {
                let name = TileName::of(level, index, size).or(TileName::of(level, 0, size));
                if let Some(name) = name {
                    prop_assert!((1..=256).contains(&name.width()));
                    let _ = (name.to_string(), name.partials());
                }
            }
        }
    }
}
