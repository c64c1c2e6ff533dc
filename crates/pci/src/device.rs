//! A PCI device as its driver uses it, apart from its protocol.

use crate::{Bar, BarRange, Command, Messages, PciFunction, PciSlot};
use core::fmt;
use paravirt_platform::{
    AllocError, InterruptLine, MapError, Message, MmioRegion, PageBox, Platform, Requester,
};

/// A PCI device with registers of 32 bits in memory BARs. [`open`] returns that of a function; tests use models.
///
/// All methods may be called in any context: they take no lock and do not block. Those without a word about interrupt context are for task
/// context all the same, as two callers would disturb each other.
///
/// # Safety
///
/// [`set_bus_master`](Self::set_bus_master) returns true for `false` only if the device accesses no memory any more, and it does not until
/// it is a bus master again. Drivers reclaim memory on the strength of that.
pub unsafe trait PciDevice: Send + Sync {
    /// Reads the register at byte `offset` of BAR `bar`, also in interrupt context; all ones if there is none, or the device is gone.
    fn read(&self, bar: u8, offset: usize) -> u32;

    /// Writes the register at byte `offset` of BAR `bar`, also in interrupt context; nothing if there is none, or the device is gone. What
    /// was written to memory before is visible to the device then.
    fn write(&self, bar: u8, offset: usize, value: u32);

    /// Returns whether the kernel knows that the device was removed. Cheap, also in interrupt context.
    fn is_gone(&self) -> bool;

    /// Returns whether the device answers on its bus.
    fn is_present(&self) -> bool;

    /// Lets the device access memory, or not. Returns whether it says that this is so; a device that is gone accesses none.
    fn set_bus_master(&self, is_on: bool) -> bool;

    /// Returns its identity as the sender of messages.
    fn requester(&self) -> Option<Requester>;

    /// Returns the number of messages that it can raise; 0 if it has only its line.
    fn messages(&self) -> u16;

    /// Sets message `entry`: see [`Messages::set`].
    fn set_message(&self, entry: u16, message: Message);

    /// Makes the device raise messages instead of its line. Returns whether it says that it does.
    fn enable_messages(&self) -> bool;

    /// Makes the device raise its line instead of messages.
    fn disable_messages(&self);

    /// Returns its interrupt line.
    fn line(&self) -> Option<InterruptLine>;
}

/// A PCI device in pages of its own.
pub type DeviceBox<P> = PageBox<P, dyn PciDevice>;

/// Moves `device` to pages of its own.
///
/// # Errors
///
/// [`AllocError`] if the platform has no memory.
pub fn boxed<P: Platform, D: PciDevice + 'static>(
    platform: &P,
    device: D,
) -> Result<DeviceBox<P>, AllocError> {
    // SAFETY: the function is an unsizing coercion.
    Ok(unsafe { PageBox::new(platform, device)?.unsize(|value| value as *mut dyn PciDevice) })
}

/// Why a PCI device cannot be used.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError {
    /// A BAR is missing, too short, in I/O space, or has no address.
    Bar,
    /// A range could not be mapped.
    Map,
    /// There is no memory.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar => "a register block is outside its BAR, or the BAR has no address",
            Self::Map => "its registers cannot be mapped",
            Self::Memory => "there is no memory for it",
        })
    }
}

impl core::error::Error for OpenError {}

impl From<MapError> for OpenError {
    fn from(_: MapError) -> Self {
        Self::Map
    }
}

impl From<AllocError> for OpenError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// The maximum number of BARs that a driver maps.
const MAX_BARS: usize = 2;

struct MappedDevice<P: Platform> {
    function: PciFunction<P>,
    bars: [Option<(u8, MmioRegion<P>)>; MAX_BARS],
    messages: Option<Messages<P>>,
}

/// Opens the function in `slot` for a driver that uses the first bytes of up to two BARs: their numbers and the lengths in bytes. The device
/// decodes its memory BARs then, and is no bus master yet.
///
/// # Errors
///
/// [`OpenError`]; the function is unchanged.
///
/// # Safety
///
/// No other driver uses the function, and the bridges above forward the addresses in its BARs to it. What is written by the device that is
/// returned (registers, messages) has no effect on memory safety: the function is given addresses of memory that its driver owns until it has
/// stopped, and messages that the platform has allocated.
pub unsafe fn open<P: Platform>(
    platform: &P,
    slot: &PciSlot<P>,
    bars: [Option<(u8, u32)>; MAX_BARS],
) -> Result<DeviceBox<P>, OpenError> {
    let function = slot.function().clone();
    let map = |(bar, length): (u8, u32)| {
        let range = BarRange::new(bar, 0, length).ok_or(OpenError::Bar)?;
        // SAFETY: by the contract of this function.
        Ok::<_, OpenError>((bar, unsafe { slot.bars().map(platform, &range) }?))
    };
    let [first, second] = bars;
    let bars = [first.map(map).transpose()?, second.map(map).transpose()?];
    // SAFETY: by the contract of this function.
    let messages = unsafe { Messages::find(platform, &function, slot.bars()) };
    let device = boxed(platform, MappedDevice { function: function.clone(), bars, messages })?;
    let command = function.command().difference(Command::BUS_MASTER) | Command::MEMORY_SPACE;
    // SAFETY: by the contract of this function, no other driver uses the function, and its addresses are forwarded to it.
    unsafe { function.set_command(command) };
    Ok(device)
}

impl<P: Platform> MappedDevice<P> {
    fn region(&self, bar: u8) -> Option<&MmioRegion<P>> {
        if self.function.is_gone() {
            return None;
        }
        self.bars.iter().flatten().find(|(index, _)| *index == bar).map(|(_, region)| region)
    }
}

// SAFETY: a function that is no bus master accesses no memory. PCI 3.0 §6.2.2
unsafe impl<P: Platform> PciDevice for MappedDevice<P> {
    fn read(&self, bar: u8, offset: usize) -> u32 {
        self.region(bar).map_or(u32::MAX, |region| region.read32(offset))
    }

    fn write(&self, bar: u8, offset: usize, value: u32) {
        if let Some(region) = self.region(bar) {
            region.write32(offset, value);
        }
    }

    fn is_gone(&self) -> bool {
        self.function.is_gone()
    }

    fn is_present(&self) -> bool {
        self.function.is_present()
    }

    fn set_bus_master(&self, is_on: bool) -> bool {
        let mut command = self.function.command();
        command.set(Command::BUS_MASTER, is_on);
        // SAFETY: by the contract of `open`, no other driver uses the function; it accesses the memory that its driver gives it.
        unsafe { self.function.set_command(command) };
        if !self.function.is_present() {
            return !is_on;
        }
        self.function.command().contains(Command::BUS_MASTER) == is_on
    }

    fn requester(&self) -> Option<Requester> {
        Some(self.function.requester())
    }

    fn messages(&self) -> u16 {
        self.messages.as_ref().map_or(0, Messages::count)
    }

    fn set_message(&self, entry: u16, message: Message) {
        self.messages.iter().for_each(|messages| messages.set(entry, message));
    }

    fn enable_messages(&self) -> bool {
        self.messages.as_ref().is_some_and(Messages::enable)
    }

    fn disable_messages(&self) {
        match &self.messages {
            Some(messages) => messages.disable(),
            None => {
                let command = self.function.command().difference(Command::INTERRUPT_DISABLE);
                // SAFETY: by the contract of `open`, no other driver uses the function, which may raise its line.
                unsafe { self.function.set_command(command) };
            }
        }
    }

    fn line(&self) -> Option<InterruptLine> {
        self.function.line()
    }
}

/// The first memory BAR of `slot` with at least `length` bytes.
pub fn first_memory_bar<P: Platform>(slot: &PciSlot<P>, length: u64) -> Option<u8> {
    let is_long = |bar: &(u8, Bar)| matches!(bar.1, Bar::Memory { size, .. } if size >= length);
    slot.bars().iter().find(is_long).map(|(index, _)| index)
}
