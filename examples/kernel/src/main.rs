//! A kernel that finds its disks and network cards through paravirt, and does real work with them.
//!
//! It names no vendor: what the host is decides `paravirt::probe`, and everything else works with the traits of
//! `paravirt-device`. What it does is chosen on the command line; see the project's README.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod console;
mod exit;
mod memory;
mod platform;
mod runtime;
mod work;

use arch::interrupts::PerProcessor;
use boot::{BootInfo, Protocol};
use work::devices::Devices;
use work::options::Options;

static mut FIRST: PerProcessor = PerProcessor::new();

/// From the entry code to the end.
fn main(info: BootInfo) -> ! {
    console::init();
    // A boot loader leaves the cursor, and perhaps words for a terminal, anywhere in a line.
    if info.protocol == Protocol::Multiboot2 {
        exit::RESET_ENDS.store(false, core::sync::atomic::Ordering::Relaxed);
        say!("");
    }
    let first = &raw mut FIRST;
    // SAFETY: the first processor comes here once.
    unsafe { (*first).install() }
    let ram = memory::init(&info);
    let rsdp = arch::acpi::init(info.rsdp);
    let (clock, hz) = arch::time::init();
    // Ahead of the local APIC: what the PIC has pending would come from nowhere once its pin is masked.
    mask_pic();
    if arch::apic::init().is_err() {
        log::error!("the local APIC cannot be reached");
        exit::exit(1);
    }
    arch::apic::calibrate();
    let options = match Options::parse(info.command_line()) {
        Ok(options) => options,
        Err(error) => {
            say!("error=\"{error}\"");
            exit::exit(2);
        }
    };
    arch::smp::start(options.cpus.unwrap_or(u32::MAX), info.ram());
    x86_64::instructions::interrupts::enable();

    let entry = match info.protocol {
        Protocol::Pvh => "pvh",
        Protocol::Linux => "linux",
        Protocol::Multiboot2 => "multiboot2",
    };
    let apic = if arch::apic::is_x2apic() { "x2apic" } else { "xapic" };
    let processors = arch::smp::count();
    say!("kernel=paravirt entry={entry} processors={processors} apic={apic} ram={ram} clock={clock} hz={hz}");
    for leaves in paravirt::hypervisor::detect(&platform::Machine) {
        say!("hypervisor={} leaves={:#x}", leaves.hypervisor, leaves.base);
    }
    let mut devices = Devices::find(rsdp, info.command_line(), &options);
    if let Some(reporter) = devices.services.crash_reporter() {
        exit::CRASH.call_once(|| reporter);
    }
    if let Some(times) = options.reconnect {
        devices = reconnect(devices, times, || Devices::find(rsdp, info.command_line(), &options));
    }
    let code = match work::run(&mut devices, &options) {
        Ok(()) => 0,
        Err(error) => {
            say!("error=\"{error}\"");
            1
        }
    };
    if let Err(fault) = devices.services.leave() {
        say!("error=\"the host does not let go: {fault}\"");
    }
    drop(devices);
    exit::exit(code)
}

/// Lets the devices go and finds them again, so many times; says whether what is found and what memory is left stay the same.
fn reconnect(mut devices: Devices, times: u32, find: impl Fn() -> Devices) -> Devices {
    let (expected, mut before) = (devices.count(), 0);
    let mut different = 0;
    for time in 0..times {
        // What the first one leaves for the panic handler stays.
        if time == 1 {
            before = memory::statistics().1;
        }
        let left = devices.services.leave();
        drop(devices);
        devices = find();
        different += u32::from(left.is_err() || devices.count() != expected);
    }
    let lost = before.saturating_sub(memory::statistics().1);
    say!("reconnect={times} devices={expected} different={different} lost_pages={lost}");
    devices
}

/// Masks the PICs, where there are any: interrupts come through the APICs.
fn mask_pic() {
    for port in [0x21, 0xa1] {
        // SAFETY: the ports are the PICs' or nobody's.
        unsafe { x86_64::instructions::port::Port::<u8>::new(port).write(0xff) }
    }
}
