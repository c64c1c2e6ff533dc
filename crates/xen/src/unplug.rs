//! Unplugging of emulated devices that are the same disks and network cards once more. Xen `docs/misc/hvm-emulated-unplug.pandoc`

use paravirt_platform::{Platform, PortIo};

/// The ports, and what they read as.
const PORT: u16 = 0x10;
const PRODUCT_PORT: u16 = 0x12;
const MAGIC: u16 = 0x49d2;
const BLACKLISTED: u16 = 0xd249;
/// Which devices.
const DISKS: u16 = 1 << 0;
const CARDS: u16 = 1 << 1;
/// The number of a product that has none of its own, and its build.
const PRODUCT: u16 = 0xffff;
const BUILD: u32 = 1;

/// Removes emulated disks, network cards, or both, for good: until the machine is reset. Before PCI is enumerated, and only for what the
/// paravirtual drivers will use instead. Returns whether the host has done it.
///
/// QEMU goes by the class of a PCI function, and so removes virtio's devices, too: where there are some, this is not to be called.
///
/// # Safety
///
/// No driver uses those devices, and the guest runs on Xen, where the ports are these.
pub unsafe fn unplug<P: Platform>(platform: &P, disks: bool, cards: bool) -> bool {
    let ports: &dyn PortIo = platform.port_io();
    // SAFETY: by the contract of this function; reads have no effect.
    let is_there = |value: u16| unsafe { ports.in16(PORT) } == value;
    if !(disks || cards) || !is_there(MAGIC) {
        return false;
    }
    // SAFETY: as above: the ports tell the host which product this is, and then what to remove.
    unsafe {
        ports.out16(PRODUCT_PORT, PRODUCT);
        ports.out32(PORT, BUILD);
        if is_there(BLACKLISTED) {
            return false;
        }
        ports.out16(PORT, if disks { DISKS } else { 0 } | if cards { CARDS } else { 0 });
    }
    true
}
