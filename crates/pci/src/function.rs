//! A PCI function: its address, its identity, and its configuration space.

use crate::{ConfigAccess, Presence};
use bitflags::bitflags;
use core::fmt;
use paravirt_platform::{InterruptLine, Platform, Polarity, Requester, Trigger};

/// Registers that every function has. PCI 3.0 §6.1
pub(crate) const ID: u8 = 0x00;
pub(crate) const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
pub(crate) const HEADER_TYPE: u8 = 0x0c;
const INTERRUPT: u8 = 0x3c;
/// Bit in the word at [`HEADER_TYPE`]: a multi-function device. PCI 3.0 §6.2.1
pub(crate) const MULTI_FUNCTION: u32 = 0x80 << 16;

/// The address of a PCI function. The order is that of the numbers.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Address {
    /// The segment group.
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// The device on the bus, below 32.
    pub device: u8,
    /// The function of the device, below 8.
    pub function: u8,
}

impl Address {
    /// The requester id of the function: bus, device and function number.
    pub(crate) fn requester_id(self) -> u16 {
        u16::from(self.bus) << 8 | u16::from(self.device & 31) << 3 | u16::from(self.function & 7)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device, self.function)
    }
}

/// The layout of a function's configuration header. PCI 3.0 §6.2.1
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderType {
    /// A device, with six BARs.
    Device,
    /// A PCI-to-PCI bridge.
    Bridge,
    /// Another one, by number.
    Other(u8),
}

/// The identity of a function.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct FunctionInfo {
    /// The vendor id.
    pub vendor: u16,
    /// The device id.
    pub device: u16,
    /// Base class. PCI 3.0, appendix D
    pub class: u8,
    /// Subclass.
    pub subclass: u8,
    /// Programming interface.
    pub interface: u8,
    /// Revision.
    pub revision: u8,
    /// The layout of the header.
    pub header_type: HeaderType,
}

impl FunctionInfo {
    /// Reads the identification; `None` if there is no function.
    ///
    /// Vendor 0 is invalid: some hypervisors return 0 from the ports if there is no PCI.
    pub(crate) fn read<P: Platform>(access: &ConfigAccess<P>, at: Address) -> Option<Self> {
        let id = access.read(at, ID);
        let (vendor, device) = (id as u16, (id >> 16) as u16);
        if vendor == 0xffff || vendor == 0 {
            return None;
        }
        let [revision, interface, subclass, class] = access.read(at, CLASS).to_le_bytes();
        let header_type = match (access.read(at, HEADER_TYPE) >> 16) as u8 & 0x7f {
            0 => HeaderType::Device,
            1 => HeaderType::Bridge,
            other => HeaderType::Other(other),
        };
        Some(Self { vendor, device, class, subclass, interface, revision, header_type })
    }
}

bitflags! {
    /// The command register. PCI 3.0 §6.2.2
    #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
    pub struct Command: u16 {
        /// Decodes its I/O BARs.
        const IO_SPACE = 1 << 0;
        /// Decodes its memory BARs.
        const MEMORY_SPACE = 1 << 1;
        /// May access memory.
        const BUS_MASTER = 1 << 2;
        /// Does not raise its interrupt line.
        const INTERRUPT_DISABLE = 1 << 10;
        const _ = !0;
    }
}

/// The configuration space of one PCI function.
///
/// Reading is safe. Writing is not: it can make a function decode addresses of RAM, or access RAM.
///
/// With a [`Presence`], the function reads as all ones and is not written once it is gone, whatever is at its address then.
pub struct PciFunction<P: Platform> {
    access: ConfigAccess<P>,
    address: Address,
    presence: Option<Presence<P>>,
    line: Option<InterruptLine>,
    /// The requester id that its messages have behind a bridge to conventional PCI, if it is not its own.
    alias: Option<u16>,
}

impl<P: Platform> Clone for PciFunction<P> {
    fn clone(&self) -> Self {
        let Self { access, address, presence, line, alias } = self;
        let (access, presence) = (access.clone(), presence.clone());
        Self { access, address: *address, presence, line: *line, alias: *alias }
    }
}

impl<P: Platform> fmt::Debug for PciFunction<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PciFunction").field(&self.address).finish()
    }
}

impl<P: Platform> PciFunction<P> {
    /// Creates access to the function at `address`, which need not exist.
    pub fn new(access: &ConfigAccess<P>, address: Address) -> Self {
        Self { access: access.clone(), address, presence: None, line: None, alias: None }
    }

    /// The same function, until `presence` says that it is gone.
    #[must_use]
    pub fn with_presence(mut self, presence: Presence<P>) -> Self {
        self.presence = Some(presence);
        self
    }

    /// The same function with this interrupt line, where configuration space does not tell it.
    #[must_use]
    pub fn with_line(mut self, line: InterruptLine) -> Self {
        self.line = Some(line);
        self
    }

    /// Returns the interrupt pin that it uses, 1 to 4; `None` if it uses none.
    pub fn pin(&self) -> Option<u8> {
        let [_, pin, ..] = self.read(INTERRUPT).to_le_bytes();
        (1..=4).contains(&pin).then_some(pin)
    }

    /// Returns whether the function was removed, according to its [`Presence`].
    pub fn is_gone(&self) -> bool {
        self.presence.as_ref().is_some_and(Presence::is_gone)
    }

    pub(crate) fn access(&self) -> &ConfigAccess<P> {
        &self.access
    }

    /// Returns its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The same function, whose messages have this requester id.
    pub(crate) fn with_alias(mut self, alias: Option<u16>) -> Self {
        self.alias = alias;
        self
    }

    /// Returns its identity as the sender of messages. Behind a bridge to conventional PCI it is the bridge's, as far as the enumeration
    /// has found the function. PCI Express to PCI/PCI-X Bridge 1.0 §2.3
    pub fn requester(&self) -> Requester {
        Requester {
            segment: self.address.segment,
            id: self.alias.unwrap_or_else(|| self.address.requester_id()),
        }
    }

    /// Returns whether there is a function at this address.
    pub fn is_present(&self) -> bool {
        self.read(ID) as u16 != u16::MAX
    }

    /// Reads the aligned 32-bit word at `offset`; all ones if there is no function.
    pub fn read(&self, offset: u8) -> u32 {
        if self.is_gone() { u32::MAX } else { self.access.read(self.address, offset) }
    }

    /// Writes the aligned 32-bit word at `offset`.
    ///
    /// # Safety
    ///
    /// The effect of the write does not violate memory safety: the function decodes no addresses of RAM, and accesses only memory that
    /// its driver gave it. No other driver uses the function.
    pub unsafe fn write(&self, offset: u8, value: u32) {
        if !self.is_gone() {
            // SAFETY: the caller's guarantee applies to this function.
            unsafe { self.access.write(self.address, offset, value) }
        }
    }

    /// Writes the aligned 16-bit word at `offset`, and nothing beside it.
    ///
    /// # Safety
    ///
    /// As for [`write`](Self::write).
    pub unsafe fn write16(&self, offset: u8, value: u16) {
        if !self.is_gone() {
            // SAFETY: the caller's promise is about this function.
            unsafe { self.access.write16(self.address, offset, value) }
        }
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits_retain(self.read(COMMAND) as u16)
    }

    /// Sets the command register.
    ///
    /// # Safety
    ///
    /// As for [`write`](Self::write).
    pub unsafe fn set_command(&self, command: Command) {
        // SAFETY: by the contract of this function, which is that of the callee.
        unsafe { self.write16(COMMAND, command.bits()) }
    }

    /// Returns its interrupt line: the one that it was [given](Self::with_line), or on a PC the ISA interrupt to which firmware routed its
    /// pin; `None` if it has no pin, or nothing tells. PCI 3.0 §6.2.4
    pub fn line(&self) -> Option<InterruptLine> {
        if self.line.is_some() {
            return self.line;
        }
        let [line, pin, ..] = self.read(INTERRUPT).to_le_bytes();
        let is_routed = cfg!(target_arch = "x86_64") && pin != 0 && line != 0 && line < 0xff;
        is_routed.then_some(InterruptLine {
            number: u32::from(line),
            trigger: Trigger::Level,
            polarity: Polarity::Low,
        })
    }
}
