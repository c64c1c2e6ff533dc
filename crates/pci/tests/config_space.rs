//! The walk over a model of configuration space.

use paravirt_pci::{
    Address, Bar, Command, ConfigAccess, PciFunction, PciSlot, Window, Windows, buses_behind, enumerate,
};
use paravirt_testhost::PciBar::{Narrow, Wide};
use paravirt_testhost::{Guest, PciBar, PciDevice, PciHost};

fn function(bars: &[PciBar]) -> PciDevice {
    PciDevice::new((0x1af4, 0x1042), 1, bars)
}

fn machine(devices: &[(u8, PciDevice)]) -> (Guest, PciHost) {
    let guest = Guest::new();
    let bus = PciHost::new(&guest);
    devices.iter().for_each(|(number, device)| bus.add(*number, device.clone()));
    (guest, bus)
}

/// Walks with `windows`; the BARs of each function.
fn walk(guest: &Guest, mut windows: Windows) -> Vec<(Address, Vec<Bar>)> {
    // SAFETY: the ports are the model's, and nothing else uses it.
    let found = unsafe { enumerate(guest, &ConfigAccess::ports(guest), 0, &mut windows, |_| true) };
    let bars = |slot: &PciSlot<_>| slot.bars().iter().map(|(_, bar)| bar).collect();
    found.expect("memory").map(|slot| (slot.address(), bars(&slot))).collect()
}

fn windows(ranges: &[(u64, u64)]) -> Windows {
    let mut windows = Windows::new();
    ranges.iter().for_each(|(start, end)| assert!(windows.add(Window { start: *start, end: *end })));
    windows
}

/// crosvm and Alioth ignore a command register that is written together with the status register.
#[test]
fn the_command_register_is_written_in_its_own_width() {
    let (guest, _bus) = machine(&[(3, function(&[]))]);
    // SAFETY: the ports are the model's, and nothing else uses it.
    let access = unsafe { ConfigAccess::ports(&guest) };
    let function = PciFunction::new(&access, Address { device: 3, ..Address::default() });
    // SAFETY: the model accesses no memory.
    unsafe { function.set_command(Command::MEMORY_SPACE | Command::BUS_MASTER) };
    assert_eq!(function.command(), Command::MEMORY_SPACE | Command::BUS_MASTER);
}

/// Cloud Hypervisor moves a device to wherever a BAR points while it answers to its BARs.
#[test]
fn a_function_never_answers_to_an_address_that_is_not_its_own() {
    let (guest, bus) = machine(&[(1, function(&[Wide(0x4000)]).at(0xf_0000_4000))]);
    walk(&guest, Windows::new());
    let function = bus.device(1).expect("the function");
    assert_eq!((function.address(), function.command()), (0xf_0000_4000, 2));
    assert!(function.decoded().iter().all(|at| *at == 0xf_0000_4000), "{:x?}", function.decoded());
}

/// A host that moves a BAR into the kernel's RAM made the kernel overwrite itself.
#[test]
fn an_address_that_the_host_bridge_does_not_forward_is_not_a_bar() {
    let (guest, _bus) = machine(&[
        (1, function(&[Wide(0x4000)]).at(0x20_0000)),
        (2, function(&[Wide(0x4000)]).at(0xc000_4000)),
    ]);
    let found = walk(&guest, windows(&[(0xc000_0000, 0xc010_0000)]));
    let bars: Vec<usize> = found.iter().map(|(_, bars)| bars.len()).collect();
    assert_eq!(bars, [0, 1]);
    // Where firmware declares no windows, nothing can be judged.
    assert_eq!(walk(&guest, Windows::new())[0].1.len(), 1);
}

/// An interrupt translation service sees the bridge next to the root as the sender of a message.
#[test]
fn behind_a_bridge_to_conventional_pci_messages_have_the_bridge_s_id() {
    let (guest, bus) = machine(&[
        (1, PciDevice::bridge(1, 2, 0xc010_0000..0xc020_0000)),
        (2, PciDevice::bridge(3, 3, 0xc020_0000..0xc030_0000).with_slot()),
    ]);
    bus.add_at((1, 4, 0), PciDevice::bridge(2, 2, 0xc010_0000..0xc020_0000));
    for at in [(0, 3, 1), (1, 5, 0), (2, 6, 0), (3, 0, 0)] {
        bus.add_at(at, function(&[]));
    }
    bus.add_at((0, 3, 0), function(&[]).with_functions());
    // SAFETY: the ports are the model's, and nothing else uses it.
    let slots = unsafe { enumerate(&guest, &ConfigAccess::ports(&guest), 0, &mut Windows::new(), |_| true) }
        .expect("memory");
    let found: Vec<_> = slots
        .map(|slot| (slot.address().bus, slot.address().device, slot.function().requester().id))
        .collect();
    let ids = |bus| found.iter().filter(|(at, ..)| *at == bus).map(|(.., id)| *id).collect::<Vec<_>>();
    assert_eq!(ids(0), [0x8, 0x10, 0x18, 0x19]);
    assert_eq!((ids(1), ids(2), ids(3)), (vec![0x8, 0x8], vec![0x8], vec![0x300]));
}

/// The host decides how deep bridges are nested; a kernel's stack is small.
#[test]
fn bridges_behind_bridges_get_numbers_and_windows_down_to_a_depth() {
    let (guest, bus) = machine(&[]);
    let bridge = || PciDevice::bridge(0, 0, 0..0);
    for number in 0..20 {
        bus.add_at((number, 1, 0), bridge());
        bus.add_at((number, 2, 0), function(&[Narrow(0x1000)]));
    }
    let found = walk(&guest, windows(&[(0xe000_0000, 0xe800_0000)]));
    let deepest = found.iter().map(|(at, _)| at.bus).max();
    assert_eq!(deepest, Some(16), "{found:x?}");
    // SAFETY: the ports are the model's, and nothing else uses it.
    let access = unsafe { ConfigAccess::ports(&guest) };
    for (at, bars) in found.iter().filter(|(at, _)| at.device == 2) {
        let [Bar::Memory { address, .. }] = bars[..] else { panic!("{at}: {bars:x?}") };
        // Each bridge above forwards it.
        for above in 0..at.bus {
            let above = PciFunction::new(&access, Address { bus: above, device: 1, ..Address::default() });
            let window = above.read(0x20);
            let (base, limit) = ((window & 0xfff0) << 16, window | 0xf_ffff);
            assert!(
                (u64::from(base)..=u64::from(limit)).contains(&address),
                "{at}: {address:#x}, {window:#x}"
            );
            assert_eq!(buses_behind(&above), Some((above.address().bus + 1, 16)));
        }
    }
}

#[test]
fn an_empty_bus_is_read_once_a_device() {
    let (guest, bus) = machine(&[]);
    assert!(walk(&guest, Windows::new()).is_empty());
    assert_eq!(bus.reads(), 32);
}

/// A device with one function answers for all eight on some machines.
#[test]
fn only_a_device_with_several_functions_is_asked_for_them() {
    let (guest, bus) = machine(&[(1, function(&[])), (2, function(&[]).with_functions())]);
    bus.add_at((0, 1, 3), function(&[]));
    bus.add_at((0, 2, 3), function(&[]));
    let found: Vec<_> = walk(&guest, Windows::new()).iter().map(|(at, _)| (at.device, at.function)).collect();
    assert_eq!(found, [(1, 0), (2, 0), (2, 3)]);
}

/// A large 64-bit BAR ahead of the others does not use up the only addresses that the 32-bit ones can have.
#[test]
fn large_wide_bars_go_above_4_gib_and_every_bar_gets_an_address() {
    let (guest, _bus) = machine(&[
        (1, function(&[Wide(256 << 20)])),
        (2, function(&[Narrow(0x1000), Wide(0x4000)])),
        (3, function(&[Narrow(0x1000), Narrow(1 << 20)])),
    ]);
    let found = walk(&guest, windows(&[(0xe000_0000, 0xf000_0000), (0x80_0000_0000, 0x81_0000_0000)]));
    let memory: Vec<(u64, u64)> = found
        .iter()
        .flat_map(|(_, bars)| bars)
        .map(|bar| match bar {
            Bar::Memory { address, size, .. } => (*address, *size),
            Bar::Io { .. } => panic!("no I/O BAR was made"),
        })
        .collect();
    assert_eq!(memory.len(), 5);
    assert!(memory.iter().all(|(address, size)| *address != 0 && address % size == 0), "{memory:x?}");
    assert!(memory[0].0 >= 0x80_0000_0000, "{memory:x?}");
    let mut sorted = memory.clone();
    sorted.sort_unstable();
    assert!(sorted.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{memory:x?}");
}

/// Without addresses above 4 GiB the largest is placed first, so that none of the window is lost to alignment.
#[test]
fn bars_are_placed_by_size_so_that_they_fit() {
    let (guest, _bus) = machine(&[
        (1, function(&[Narrow(0x1000)])),
        (2, function(&[Narrow(8 << 20)])),
        (3, function(&[Narrow(4 << 20)])),
    ]);
    let found = walk(&guest, windows(&[(0xe000_0000, 0xe000_0000 + (12 << 20) + 0x1000)]));
    for (address, bars) in found {
        assert!(matches!(bars[..], [Bar::Memory { address, .. }] if address != 0), "{address}: {bars:x?}");
    }
}
