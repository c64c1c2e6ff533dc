//! PCI: walks a bus through the configuration ports, and gives addresses to the BARs of the functions that a driver wants.
//!
//! Runs in process, against a model of the bus: `cargo run -p paravirt-pci --example pci-functions`

use paravirt_pci::{Address, ConfigAccess, Window, Windows, enumerate};
use paravirt_testhost::{Guest, PciBar, PciDevice, PciHost};

const VIRTIO: u16 = 0x1af4;

fn main() {
    // The host: a host bridge of Intel's and two virtio devices. Firmware has assigned no addresses.
    let guest = Guest::new();
    let bus = PciHost::new(&guest);
    bus.add(0, PciDevice::new((0x8086, 0x29c0), 0x06, &[PciBar::Narrow(0x1000)]));
    bus.add(3, PciDevice::new((VIRTIO, 0x1041), 0x02, &[PciBar::Narrow(0x4000)]));
    bus.add(5, PciDevice::new((VIRTIO, 0x1042), 0x01, &[PciBar::Narrow(0x4000)]));

    // The window of addresses that the host bridge forwards: a kernel knows it from ACPI or from the machine's manual.
    let mut windows = Windows::new();
    assert!(windows.add(Window { start: 0xc000_0000, end: 0xc100_0000 }));

    // SAFETY: the machine has no ECAM, and its ports 0xCF8 and 0xCFC are those of the model.
    let access = unsafe { ConfigAccess::ports(&guest) };
    // SAFETY: the window is forwarded to this bus and holds nothing else; no other driver uses its functions.
    let found = unsafe { enumerate(&guest, &access, 0, &mut windows, |info| info.vendor == VIRTIO) };
    let slots: Vec<_> = found.expect("the guest has memory").collect();

    for slot in &slots {
        let info = slot.info();
        println!("{} {:04x}:{:04x} class {:02x}", slot.address(), info.vendor, info.device, info.class);
        for (index, bar) in slot.bars().iter() {
            println!("  BAR {index}: {bar:x?}");
        }
    }
    let found: Vec<_> = slots.iter().map(|slot| (slot.address().device, slot.bars().memory(0))).collect();
    let expected = [(0, None), (3, Some((0xc000_0000, 0x4000))), (5, Some((0xc000_4000, 0x4000)))];
    assert_eq!(found, expected, "both virtio devices have an address, and the bridge was left alone");
    assert_eq!(slots[1].address(), Address { segment: 0, bus: 0, device: 3, function: 0 });
}
