//! An example kernel that finds disks and network cards through `paravirt` and uses them.
//!
//! `paravirt::probe` detects the host; all other code uses the traits of `paravirt-device` and does not depend on the host. The
//! command line selects what the kernel does; `README.md` lists the options.
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

/// Runs the kernel; called by the entry code with what the boot loader reported.
fn main(info: BootInfo) -> ! {
    console::init();
    // A boot loader may leave the cursor, and terminal escape sequences, in the middle of a line.
    if info.protocol == Protocol::Multiboot2 {
        exit::TRIPLE_FAULT_ON_EXIT.store(false, core::sync::atomic::Ordering::Relaxed);
        println!("");
    }
    let first = &raw mut FIRST;
    // SAFETY: only the first processor runs this, and only once.
    unsafe { (*first).install() }
    let ram = memory::init(&info);
    let rsdp = arch::acpi::init(info.rsdp);
    let (clock, hz) = arch::time::init();
    // Before the local APIC is enabled: an interrupt that is pending in the PIC would be spurious once LINT0 is masked.
    mask_pic();
    if arch::apic::init().is_err() {
        log::error!("cannot map the registers of the local APIC");
        exit::exit(1);
    }
    arch::apic::calibrate();
    let parsed = info.command_line().map_err(alloc::string::String::from);
    let (line, options) = match parsed.and_then(|line| Ok((line, Options::parse(line)?))) {
        Ok(parsed) => parsed,
        Err(error) => {
            println!("error=\"{error}\"");
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
    println!(
        "kernel=paravirt entry={entry} processors={processors} apic={apic} ram={ram} clock={clock} hz={hz}"
    );
    for leaves in paravirt::hypervisor::detect(&platform::Machine) {
        println!("hypervisor={} leaves={:#x}", leaves.hypervisor, leaves.base);
    }
    let find = || Devices::find(rsdp, line, &options);
    let mut devices = if options.stack {
        let (devices, used) = arch::stack::measure(find);
        println!("stack=probe bytes={used}");
        devices
    } else {
        find()
    };
    if let Some(reporter) = devices.services.crash_reporter() {
        exit::CRASH.call_once(|| reporter);
    }
    if let Some(times) = options.reconnect {
        devices = reconnect(devices, times, || Devices::find(rsdp, line, &options));
    }
    let code = match work::run(&mut devices, &options) {
        Ok(()) => 0,
        Err(error) => {
            println!("error=\"{error}\"");
            1
        }
    };
    if let Err(fault) = devices.services.disconnect() {
        println!("error=\"cannot disconnect from the host: {fault}\"");
    }
    drop(devices);
    exit::exit(code)
}

/// Closes all devices and buses and probes again, `times` times. Prints how many rounds found another number of devices, and how
/// many pages of memory were lost.
fn reconnect(mut devices: Devices, times: u32, find: impl Fn() -> Devices) -> Devices {
    let (expected, mut before) = (devices.count(), 0);
    let mut different = 0;
    for time in 0..times {
        // The first round's crash reporter is kept for the panic handler: memory is compared from the second round on.
        if time == 1 {
            before = memory::statistics().1;
        }
        let left = devices.services.disconnect();
        drop(devices);
        devices = find();
        different += u32::from(left.is_err() || devices.count() != expected);
    }
    let lost = before.saturating_sub(memory::statistics().1);
    println!("reconnect={times} devices={expected} different={different} lost_pages={lost}");
    devices
}

/// Masks all pins of the PICs, if there are any: interrupts are delivered through the APICs.
fn mask_pic() {
    for port in [0x21, 0xa1] {
        // SAFETY: the ports belong to the PICs or to no device.
        unsafe { x86_64::instructions::port::Port::<u8>::new(port).write(0xff) }
    }
}
