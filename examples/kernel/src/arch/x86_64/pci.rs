//! A PCI bus of the kernel's own, as kernels have one already: the devices on bus 0 are opened one by one, and nothing is assigned.

use crate::platform::Machine;
use paravirt::pci::{Address, ConfigAccess, ConfigSpace, PciSlot};
use spin::Mutex;
use x86_64::instructions::port::Port;

struct Ports;

/// One access takes two steps: address and data.
static ONE: Mutex<()> = Mutex::new(());
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Selects the word at `offset` of a function.
///
/// # Safety
///
/// The caller holds [`ONE`].
unsafe fn select(at: Address, offset: u8) {
    let within = u32::from(at.device) << 11 | u32::from(at.function) << 8 | u32::from(offset & 0xfc);
    // SAFETY: the port belongs to PCI.
    unsafe { Port::<u32>::new(ADDRESS).write(1 << 31 | u32::from(at.bus) << 16 | within) }
}

// SAFETY: the accesses have the widths of the methods; reading has no effect.
unsafe impl ConfigSpace for Ports {
    fn read(&self, at: Address, offset: u8) -> u32 {
        let _one = ONE.lock();
        // SAFETY: the ports belong to PCI.
        unsafe {
            select(at, offset);
            Port::new(DATA).read()
        }
    }
    unsafe fn write(&self, at: Address, offset: u8, value: u32) {
        let _one = ONE.lock();
        // SAFETY: the ports belong to PCI; the effect is the caller's promise.
        unsafe {
            select(at, offset);
            Port::new(DATA).write(value);
        }
    }
    unsafe fn write16(&self, at: Address, offset: u8, value: u16) {
        let _one = ONE.lock();
        // SAFETY: the ports belong to PCI; the effect is the caller's promise.
        unsafe {
            select(at, offset);
            Port::new(DATA + u16::from(offset & 2)).write(value);
        }
    }
}

/// Returns the functions of bus 0, which firmware has set up.
///
/// # Safety
///
/// No driver uses them, and this is called once for a set of drivers.
pub unsafe fn functions() -> impl Iterator<Item = PciSlot<Machine>> {
    let access = ConfigAccess::<Machine>::kernel(&Ports, 0, 0, 0);
    (0..=u8::MAX).filter_map(move |place| {
        let address = Address { segment: 0, bus: 0, device: place >> 3, function: place & 7 };
        // SAFETY: by the contract of this function.
        unsafe { PciSlot::read(&access, address) }
    })
}
