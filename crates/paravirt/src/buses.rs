//! The PCI functions of the machine, bus by bus.

use crate::Firmware;
use crate::firmware::{self, List, Map, Root, Seen};
use crate::hot_plug::HotPlug;
use paravirt_pci::{ConfigAccess, Enumeration, FunctionInfo, PciSlot, Windows};
use paravirt_platform::{AllocError, PageBox, Platform};

/// The PCI functions on all buses that firmware describes.
///
/// It calls nothing back: what is done with a function needs none of its stack.
pub(crate) struct Buses<'a, P: Platform> {
    platform: &'a P,
    firmware: &'a Firmware<'a>,
    map: &'a Map<P>,
    is_driven: fn(&FunctionInfo) -> bool,
    accesses: List<P, ConfigAccess<P>>,
    /// The access and the host bridge that follow.
    next: (usize, usize),
    /// The host bridge whose buses are visited, and the functions that are left.
    current: Option<(Root<P>, Enumeration<P>)>,
    /// The host bridges whose buses were visited. One that does not fit has no hot plug.
    pub roots: List<P, Root<P>>,
    seen: Seen<P>,
}

impl<'a, P: Platform> Buses<'a, P> {
    /// Functions for which `is_driven` returns true are given addresses.
    ///
    /// # Safety
    ///
    /// As for [`probe`](crate::probe).
    #[inline(never)]
    pub unsafe fn new(
        platform: &'a P,
        firmware: &'a Firmware<'a>,
        map: &'a Map<P>,
        is_driven: fn(&FunctionInfo) -> bool,
    ) -> Result<PageBox<P, Self>, AllocError> {
        // SAFETY: the caller upholds the same contract.
        let accesses = unsafe { map.accesses(platform) }?;
        let (roots, seen) = (List::new(platform)?, Seen::new(platform));
        let buses =
            Self { platform, firmware, map, is_driven, accesses, next: (0, 0), current: None, roots, seen };
        PageBox::new(platform, buses)
    }

    /// Returns the next function, recorded in `hot_plug`. Each is returned once.
    #[inline(never)]
    pub fn next(&mut self, hot_plug: &mut HotPlug<P>) -> Option<PciSlot<P>> {
        loop {
            let Some((root, functions)) = &mut self.current else {
                self.enumerate_next()?;
                continue;
            };
            match functions.next() {
                Some(slot) if self.seen.is_first(&slot) => {
                    return Some(record(self.firmware, slot, &root.declared, hot_plug));
                }
                Some(_) => {}
                None => self.end_current(),
            }
        }
    }

    #[inline(never)]
    fn end_current(&mut self) {
        if let Some((root, _)) = self.current.take() {
            self.roots.push(root);
        }
    }

    /// Enumerates the buses of the next host bridge; `None` if there is none.
    #[inline(never)]
    fn enumerate_next(&mut self) -> Option<()> {
        let (at, index) = self.next;
        let access = self.accesses.iter().nth(at)?;
        let Some((first, windows)) = self.map.host_bridge(access, index) else {
            self.next = (at.saturating_add(1), 0);
            return Some(());
        };
        self.next = (at, index.saturating_add(1));
        self.seen.begin_walk();
        if self.seen.contains(access.segment(), first) {
            return Some(());
        }
        let mut root = Root::new(access, first, windows);
        // SAFETY: firmware reports that the bridge forwards the windows; the rest is the contract of `new`.
        match unsafe { root.enumerate(self.platform, self.is_driven) } {
            Ok(functions) => self.current = Some((root, functions)),
            Err(error) => log::warn!("pci: {error}: bus {first:02x} is not enumerated"),
        }
        Some(())
    }
}

/// Records a function that was found on a bus of a host bridge, which forwards the `declared` addresses.
#[inline(never)]
fn record<P: Platform>(
    firmware: &Firmware<'_>,
    slot: PciSlot<P>,
    declared: &Windows,
    hot_plug: &mut HotPlug<P>,
) -> PciSlot<P> {
    let line = firmware::line(firmware, &slot);
    hot_plug.record(if let Some(line) = line { slot.with_line(line) } else { slot }, declared)
}
