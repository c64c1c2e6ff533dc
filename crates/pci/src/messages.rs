//! Message-signalled interrupts of a function: MSI-X, and MSI with one message. PCI 3.0 §6.8

use crate::capability::{MsiCapability, MsixCapability, capabilities};
use crate::{Bars, Command, PciFunction};
use core::fmt;
use paravirt_platform::{Message, MmioRegion, Platform};

/// In the message control of MSI-X. PCI 3.0 §6.8.2.3
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
/// In the message control of MSI: enabled, and how many messages are. PCI 3.0 §6.8.1.3
const MSI_ENABLE: u16 = 1 << 0;
const MSI_COUNT: u16 = 7 << 4;
/// Bytes of an entry of the MSI-X table.
const ENTRY_LEN: usize = 16;

enum Kind<P: Platform> {
    Msix(MsixCapability, MmioRegion<P>),
    Msi(MsiCapability),
}

/// The messages that a function can raise: with MSI-X as many as its table has entries, with MSI one.
///
/// Once the function is gone, nothing is written any more.
pub struct Messages<P: Platform> {
    kind: Kind<P>,
    function: PciFunction<P>,
}

impl<P: Platform> Messages<P> {
    /// The messages of MSI-X; `None` if the function has no such capability, or its table cannot be mapped.
    ///
    /// # Safety
    ///
    /// `bars` are those of `function`, which no other driver uses, and the bridges above forward their addresses to it. The messages that are
    /// [set](Self::set) are those that the platform has allocated for it.
    pub unsafe fn msix(platform: &P, function: &PciFunction<P>, bars: &Bars) -> Option<Self> {
        let read = |at| function.read(at);
        let capability = capabilities(read).find_map(|found| MsixCapability::parse(read, found))?;
        // SAFETY: by the contract of this function.
        let table = unsafe { bars.map(platform, &capability.table) }.ok()?;
        Some(Self { kind: Kind::Msix(capability, table), function: function.clone() })
    }

    /// The messages of MSI-X, or without them the one of MSI; `None` if the function has neither.
    ///
    /// # Safety
    ///
    /// As for [`msix`](Self::msix).
    pub unsafe fn find(platform: &P, function: &PciFunction<P>, bars: &Bars) -> Option<Self> {
        // SAFETY: by the contract of this function.
        if let Some(messages) = unsafe { Self::msix(platform, function, bars) } {
            return Some(messages);
        }
        let read = |at| function.read(at);
        let capability = capabilities(read).find_map(|found| MsiCapability::parse(read, found))?;
        Some(Self { kind: Kind::Msi(capability), function: function.clone() })
    }

    /// Returns the number of messages, 1 at least.
    pub fn count(&self) -> u16 {
        match &self.kind {
            Kind::Msix(capability, _) => capability.entries,
            Kind::Msi(_) => 1,
        }
    }

    /// Sets message `entry`, below [`count`](Self::count). The function raises it after [`enable`](Self::enable).
    pub fn set(&self, entry: u16, message: Message) {
        if self.function.is_gone() {
            return;
        }
        let (low, high) = (message.address as u32, (message.address >> 32) as u32);
        match &self.kind {
            Kind::Msix(_, table) => {
                let at = usize::from(entry).wrapping_mul(ENTRY_LEN);
                table.write32(at, low);
                table.write32(at.wrapping_add(4), high);
                table.write32(at.wrapping_add(8), message.data);
                table.write32(at.wrapping_add(12), 0);
            }
            Kind::Msi(MsiCapability { position, is_wide }) => {
                let at = |offset: u8| position.wrapping_add(offset);
                // SAFETY: by the contract of the constructor, no other driver uses the function, and the platform has allocated the message.
                unsafe {
                    self.function.write(at(4), low);
                    if *is_wide {
                        self.function.write(at(8), high);
                    }
                    self.function.write16(at(if *is_wide { 12 } else { 8 }), message.data as u16);
                }
            }
        }
    }

    /// Makes the function raise messages instead of its line. Returns whether it says that it does.
    pub fn enable(&self) -> bool {
        match &self.kind {
            Kind::Msix(capability, _) => {
                self.set_control(capability.position, MSIX_ENABLE | MSIX_MASK_ALL, MSIX_ENABLE)
            }
            Kind::Msi(capability) => {
                self.set_control(capability.position, MSI_ENABLE | MSI_COUNT, MSI_ENABLE)
            }
        }
    }

    /// Makes the function raise its line instead of messages.
    pub fn disable(&self) {
        match &self.kind {
            Kind::Msix(capability, _) => {
                self.set_control(capability.position, MSIX_ENABLE | MSIX_MASK_ALL, 0)
            }
            Kind::Msi(capability) => self.set_control(capability.position, MSI_ENABLE, 0),
        };
    }

    /// Sets `bits` of the message control at `position` to `value`, and lets the function raise its line only if they are 0. Returns
    /// whether the message control reads back as written.
    fn set_control(&self, position: u8, bits: u16, value: u16) -> bool {
        let function = &self.function;
        let control = || (function.read(position) >> 16) as u16;
        // SAFETY: by the contract of the constructor, no other driver uses the function; messages go to the addresses that the platform has
        // allocated for them.
        unsafe {
            // The message control follows the capability's identifier and next pointer.
            function.write16(position.wrapping_add(2), control() & !bits | value);
            let mut command = function.command();
            command.set(Command::INTERRUPT_DISABLE, value != 0);
            function.set_command(command);
        }
        control() & bits == value
    }
}

impl<P: Platform> fmt::Debug for Messages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Msix(..) => "MSI-X",
            Kind::Msi(_) => "MSI",
        };
        f.debug_struct("Messages").field("kind", &kind).field("count", &self.count()).finish_non_exhaustive()
    }
}
