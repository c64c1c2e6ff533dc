//! An example kernel that finds disks and network cards through `paravirt` and uses them.
//!
//! `paravirt::probe` detects the host; all other code uses the traits of `paravirt-device` and does not depend on the host. The
//! command line selects what the kernel does; `README.md` lists the options.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod console;
mod exit;
mod interrupts;
mod memory;
mod platform;
mod runtime;
mod smp;
mod stack;
mod work;

use arch::boot::BootInfo;
use paravirt::Firmware;
use work::devices::Devices;
use work::options::Options;

/// Runs the kernel; called by the entry code with what the boot loader reported.
fn main(info: BootInfo) -> ! {
    console::init();
    arch::early(&info);
    let ram = memory::init(&info);
    let (rsdp, machine) = arch::init(&info);
    let parsed = info.command_line().map_err(alloc::string::String::from);
    let (line, options) = match parsed.and_then(|line| Ok((line, Options::parse(line)?))) {
        Ok(parsed) => parsed,
        Err(error) => {
            println!("error=\"{error}\"");
            exit::exit(2);
        }
    };
    smp::start(options.cpus.unwrap_or(u32::MAX), &info);
    arch::cpu::enable_interrupts();

    let (entry, processors) = (info.entry(), smp::count());
    println!("kernel=paravirt entry={entry} processors={processors} {machine} ram={ram}");
    for leaves in paravirt::hypervisor::detect(&platform::Machine) {
        println!("hypervisor={} leaves={:#x}", leaves.hypervisor, leaves.base);
    }
    if paravirt::hypervisor::detect(&platform::Machine).next().is_none() {
        match paravirt::hypervisor::detect_by_port(&platform::Machine) {
            Some(hypervisor) => println!("hypervisor={hypervisor} leaves=none"),
            None => println!("hypervisor=none"),
        }
    }
    let mut firmware = Firmware::new(rsdp).with_command_line(line);
    if let Some(tree) = info.device_tree() {
        firmware = firmware.with_device_tree(tree);
    }
    let find = || Devices::find(&firmware, &options);
    let mut devices = find();
    if let Some(reporter) = devices.services.crash_reporter() {
        exit::CRASH.call_once(|| reporter);
    }
    if let Some(times) = options.reconnect {
        devices = reconnect(devices, times, find);
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
