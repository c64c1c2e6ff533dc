//! Services of the hypervisor: `clock`, `timer`, `reset`, `crash`.

use super::devices::Devices;
use super::options::Options;
use crate::arch::time;
use crate::{exit, platform, println};
use crate::{interrupts, smp};
use alloc::string::String;
use core::time::Duration;
use paravirt::AnyClock;
use paravirt_device::{Arm, Clock};
use paravirt_platform::ProcessorId;

/// Compares the hypervisor's clock with the kernel's for a tenth of a second.
fn clock(devices: &Devices) -> Result<(), String> {
    const SPAN: Duration = Duration::from_millis(100);
    let clock = devices.services.clock().ok_or("clock: the hypervisor has no clock")?;
    let name = match &clock {
        AnyClock::HyperV(clock) if clock.is_from_page() => "hyper-v-page",
        AnyClock::HyperV(_) => "hyper-v-register",
        AnyClock::Kvm(_) => "kvmclock",
        AnyClock::VMware(_) => "vmware",
        AnyClock::Xen(_) => "xen",
        _ => "other",
    };
    let (start, own) = (clock.now(), time::now());
    let (mut last, mut steps) = (start, 0u64);
    while time::now().since(own) < SPAN {
        let now = clock.now();
        if now < last {
            return Err("clock: the hypervisor's clock went backwards".into());
        }
        steps += u64::from(now > last);
        last = now;
    }
    let passed = clock.now().since(start).as_micros();
    println!("clock={name} passed_us={passed} own_us={} steps={steps}", time::now().since(own).as_micros());
    if !(50_000..1_000_000).contains(&passed) {
        return Err("clock: the hypervisor's clock and the kernel's have different rates".into());
    }
    Ok(())
}

/// Sets the hypervisor's timer on the last processor a few times, and halts until it fires.
fn timer(devices: &Devices) -> Result<(), String> {
    const AFTER: Duration = Duration::from_millis(20);
    const TIMES: u64 = 5;
    let processor = smp::count() - 1;
    let timer = devices.services.timer(ProcessorId(processor)).ok_or("timer: the hypervisor has no timer")?;
    timer.register(&platform::waker());
    let mut longest = Duration::ZERO;
    for time in 1..=TIMES {
        let (start, before) = (time::now(), interrupts::device_interrupts_on(processor));
        timer.set(AFTER).map_err(|error| alloc::format!("{error}"))?;
        let has_fired = || interrupts::device_interrupts_on(processor) > before;
        let arm = || if has_fired() { Arm::Pending } else { Arm::Armed };
        while !has_fired() {
            platform::sleep(start.saturating_add(AFTER * 100), arm);
            if !has_fired() && time::now().since(start) >= AFTER * 100 {
                return Err(alloc::format!("timer: the hypervisor's timer did not fire, attempt {time}"));
            }
        }
        let passed = time::now().since(start);
        if passed < AFTER {
            return Err("timer: the hypervisor's timer fired too early".into());
        }
        longest = longest.max(passed);
    }
    println!("timer=host times={TIMES} processor={processor} longest_us={}", longest.as_micros());
    Ok(())
}

/// Runs what `options` select. Does not return for `crash` and `reset`.
pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.clock {
        clock(devices)?;
    }
    if options.timer {
        timer(devices)?;
    }
    if options.crash {
        panic!("crash requested on the command line");
    }
    if options.reset {
        println!("reset=now");
        devices.services.disconnect().map_err(|fault| alloc::format!("{fault}"))?;
        devices.services.reset();
        exit::exit(3);
    }
    Ok(())
}
