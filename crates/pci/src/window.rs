//! Allocation of addresses for BARs that firmware left unassigned.

/// A range of physical addresses that the host bridge forwards to PCI.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// The first address.
    pub start: u64,
    /// The address after the last; not below `start`.
    pub end: u64,
}

impl Window {
    fn is_high(&self) -> bool {
        self.start >= FOUR_GIB
    }

    /// Whether the windows overlap, or one begins where the other ends.
    fn touches(&self, other: &Self) -> bool {
        self.start <= other.end && self.end >= other.start
    }
}

/// The memory windows of a host bridge, and how much of each is allocated.
///
/// Addresses are allocated upwards.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    windows: [Option<Window>; 8],
    /// Whether a window did not fit: the set does not say what is outside.
    is_partial: bool,
}

/// Below this, an address fits a 32-bit BAR and a bridge's memory window.
const FOUR_GIB: u64 = 1 << 32;

impl Windows {
    /// Creates an empty set: BARs without an address stay unassigned.
    pub const fn new() -> Self {
        Self { windows: [None; 8], is_partial: false }
    }

    /// Adds a window; returns false if it is empty, or the set is full with eight windows. A window across 4 GiB is split there.
    pub fn add(&mut self, window: Window) -> bool {
        if window.start < FOUR_GIB && window.end > FOUR_GIB {
            let low = self.add(Window { end: FOUR_GIB, ..window });
            return self.add(Window { start: FOUR_GIB, ..window }) && low;
        }
        match self.windows.iter_mut().find(|w| w.is_none()) {
            _ if window.start >= window.end => false,
            Some(free) => {
                *free = Some(window);
                true
            }
            None => {
                self.is_partial = true;
                false
            }
        }
    }

    /// Returns whether `size` bytes at `address` may be in the windows, of which nothing has been allocated yet: they are in one of them,
    /// or nothing is known of the windows.
    pub fn may_contain(&self, address: u64, size: u64) -> bool {
        let is_unknown = self.is_partial || self.windows.iter().all(Option::is_none);
        is_unknown || self.contains(address, size)
    }

    /// Returns whether `size` bytes at `address` are in one of the windows, of which nothing has been allocated yet.
    pub fn contains(&self, address: u64, size: u64) -> bool {
        let end = address.checked_add(size);
        let is_in = |w: &Window| w.start <= address && end.is_some_and(|end| end <= w.end);
        self.windows.iter().flatten().any(is_in)
    }

    /// Marks `start` to `start + size` as in use: later allocations are above it, or below it if there is more room.
    pub fn reserve(&mut self, start: u64, size: u64) {
        let end = start.saturating_add(size);
        for window in self.windows.iter_mut().flatten() {
            if start < window.end && end > window.start {
                let (below, above) = (start.saturating_sub(window.start), window.end.saturating_sub(end));
                if below > above {
                    window.end = start;
                } else {
                    window.start = end.min(window.end);
                }
            }
        }
    }

    /// Takes `size` bytes at `start` out of the windows, as they are in use: of a window around them, both sides remain, or the larger one if
    /// the set is full.
    pub fn exclude(&mut self, start: u64, size: u64) {
        let end = start.saturating_add(size);
        let is_full = self.windows.iter().all(Option::is_some);
        let is_around = |window: &&mut Window| !is_full && window.start < start && end < window.end;
        if let Some(window) = self.windows.iter_mut().flatten().find(is_around) {
            let upper = Window { start: end, end: core::mem::replace(&mut window.end, start) };
            self.add(upper);
        }
        // What is in another window, or in one that could not be split.
        self.reserve(start, size);
    }

    /// Returns `size` bytes at `address`, which nothing uses any more, for later allocations. They are lost if they adjoin no window and
    /// the set is full.
    pub fn release(&mut self, address: u64, size: u64) {
        let mut whole = Window { start: address, end: address.saturating_add(size) };
        for slot in &mut self.windows {
            match *slot {
                Some(window) if window.start >= window.end => *slot = None,
                // What is below 4 GiB stays apart from what is above.
                Some(window) if window.touches(&whole) && window.is_high() == whole.is_high() => {
                    whole.start = whole.start.min(window.start);
                    whole.end = whole.end.max(window.end);
                    *slot = None;
                }
                _ => {}
            }
        }
        self.add(whole);
    }

    /// Allocates `size` bytes, a power of two, aligned to `size`. A BAR of 64 bits gets an address above 4 GiB if there is room, so that
    /// the room below is left to BARs of 32 bits. `None` if there is no room.
    pub fn take(&mut self, size: u64, width: AddressWidth) -> Option<u64> {
        let high = match width {
            AddressWidth::Bits64 => self.take_where(size, Window::is_high),
            AddressWidth::Bits32 => None,
        };
        high.or_else(|| self.take_where(size, |w| !w.is_high()))
    }

    fn take_where(&mut self, size: u64, which: impl Fn(&Window) -> bool) -> Option<u64> {
        self.windows.iter_mut().flatten().filter(|w| which(w)).find_map(|window| {
            let start = window.start.checked_next_multiple_of(size)?;
            let end = start.checked_add(size)?;
            if end > window.end {
                return None;
            }
            window.start = end;
            Some(start)
        })
    }

    /// Iterates over the rest of each window: address and length.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.windows.iter().flatten().map(|window| (window.start, window.end.saturating_sub(window.start)))
    }

    /// Advances every window to a multiple of `to`, so that later allocations share no such unit with earlier ones.
    pub fn align(&mut self, to: u64) {
        for window in self.windows.iter_mut().flatten() {
            window.start = window.start.checked_next_multiple_of(to).unwrap_or(window.end).min(window.end);
        }
    }

    /// Returns the rest of each window: its start is the end of the allocated part.
    pub(crate) fn remaining(&self) -> [Option<Window>; 8] {
        self.windows
    }
}

/// The width of the addresses of a BAR (PCI 3.0 §6.2.5.1).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum AddressWidth {
    /// Below 4 GiB.
    Bits32,
    /// Any address.
    Bits64,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn addresses_are_aligned_disjoint_and_above_four_gib_where_they_can() {
        let mut windows = Windows::new();
        assert!(windows.add(Window { start: 0xfff0_1000, end: 0x2_0000_0000 }));
        windows.reserve(0xfff0_2000, 0x1000);
        assert_eq!(windows.take(0x4000, AddressWidth::Bits32), Some(0xfff0_4000));
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0xfff0_8000));
        assert_eq!(windows.take(0x10_0000, AddressWidth::Bits32), None);
        assert_eq!(windows.take(0x10_0000, AddressWidth::Bits64), Some(0x1_0000_0000));
        windows.align(0x10_0000);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), None);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits64), Some(0x1_0010_0000));
        // Where there is no room above, the room below does.
        assert!(windows.add(Window { start: 0xc000_0000, end: 0xc000_1000 }));
        assert_eq!(windows.take(0x1000, AddressWidth::Bits64), Some(0x1_0010_1000));
        windows.reserve(0x1_0000_0000, 0x1_0000_0000);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits64), Some(0xc000_0000));
    }

    #[test]
    fn room_below_what_is_in_use_and_released_addresses_are_allocated() {
        let mut windows = Windows::new();
        assert!(windows.add(Window { start: 0xc000_0000, end: 0xfec0_0000 }));
        // Firmware assigns from the top.
        windows.reserve(0xfebf_0000, 0x1_0000);
        windows.reserve(0xfea0_0000, 0x1000);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0xc000_0000));
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0xc000_1000));
        windows.release(0xc000_1000, 0x1000);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0xc000_1000));
        windows.release(0xfd00_0000, 0x1000);
        windows.reserve(0xc000_2000, 0x3000_0000);
        assert!(windows.take(0x1000, AddressWidth::Bits32).is_some());
    }

    #[test]
    fn both_sides_of_what_is_excluded_remain() {
        let mut windows = Windows::new();
        assert!(windows.add(Window { start: 0x1_0000, end: 0x4_0000 }));
        windows.exclude(0x2_0000, 0x1_0000);
        windows.exclude(0, 0x1_1000);
        let left: std::vec::Vec<_> = windows.ranges().collect();
        assert_eq!(left, [(0x1_1000, 0xf000), (0x3_0000, 0x1_0000)]);
        // A full set keeps the larger side.
        for start in (0..16u64).map(|index| 0x10_0000 + index * 0x1_0000) {
            windows.add(Window { start, end: start + 0x1000 });
        }
        windows.exclude(0x3_2000, 0x1000);
        assert_eq!(windows.ranges().nth(1), Some((0x3_3000, 0xd000)));
    }

    #[test]
    fn released_addresses_join_their_neighbours_and_stay_on_their_side_of_4_gib() {
        let mut windows = Windows::new();
        assert!(windows.add(Window { start: 0xffff_0000, end: 0x1_0001_0000 }));
        assert_eq!(windows.take(0x1_0000, AddressWidth::Bits32), Some(0xffff_0000));
        assert_eq!(windows.take(0x1_0000, AddressWidth::Bits64), Some(0x1_0000_0000));
        for page in [0xffff_0000, 0xffff_2000, 0xffff_1000, 0x1_0000_0000, 0xffff_3000] {
            windows.release(page, 0x1000);
        }
        let left: std::vec::Vec<_> =
            windows.remaining().into_iter().flatten().map(|w| (w.start, w.end)).collect();
        assert_eq!(left, [(0xffff_0000, 0xffff_4000), (0x1_0000_0000, 0x1_0000_1000)]);
        assert_eq!(windows.take(0x4000, AddressWidth::Bits64), Some(0xffff_0000));
        // A set that is used and released for ever has room for it.
        for start in (0x10..0x40).map(|page: u64| page << 20) {
            windows.release(start, 0x1000);
            assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(start));
        }
        // Released twice, it is allocated once.
        windows.release(0x8000_0000, 0x1000);
        windows.release(0x8000_0000, 0x1000);
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), Some(0x8000_0000));
        assert_eq!(windows.take(0x1000, AddressWidth::Bits32), None);
    }

    #[test]
    fn an_address_is_in_a_window_or_nothing_is_known_of_them() {
        let mut windows = Windows::new();
        assert!(windows.may_contain(0, 1) && !windows.contains(0, 1));
        assert!(windows.add(Window { start: 0x1000, end: 0x3000 }));
        assert!(windows.may_contain(0x1000, 0x2000) && windows.may_contain(0x2fff, 1));
        assert!(!windows.may_contain(0xfff, 2) && !windows.may_contain(0x2fff, 2));
        assert!(!windows.may_contain(u64::MAX, 2));
        for _ in 1..8 {
            assert!(windows.add(Window { start: 0x5000, end: 0x6000 }));
        }
        assert!(!windows.add(Window { start: 0x8000, end: 0x9000 }));
        assert!(windows.may_contain(0x8000, 1), "the ninth window was not kept");
    }

    #[test]
    fn allocation_does_not_wrap_at_the_end_of_the_address_space() {
        let mut windows = Windows::new();
        assert!(windows.add(Window { start: u64::MAX - 0x1000, end: u64::MAX }));
        assert_eq!(windows.take(0x2000, AddressWidth::Bits64), None);
        windows.align(0x10_0000);
        assert_eq!(windows.take(1, AddressWidth::Bits64), None);
        assert!(!windows.add(Window { start: 5, end: 5 }));
    }
}
