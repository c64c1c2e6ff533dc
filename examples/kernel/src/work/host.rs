//! What the host offers to the machine as a whole: `clock`, `timer`, `reset`, `crash`.

use super::devices::Devices;
use super::options::Options;
use crate::arch::{interrupts, smp, time};
use crate::{exit, platform, say};
use alloc::string::String;
use core::time::Duration;
use paravirt::AnyClock;
use paravirt_device::Clock;
use paravirt_platform::ProcessorId;

/// Reads the host's clock beside the kernel's own, over a tenth of a second.
fn clock(devices: &Devices) -> Result<(), String> {
    const SPAN: Duration = Duration::from_millis(100);
    let clock = devices.services.clock().ok_or("the host has no clock")?;
    let name = match &clock {
        AnyClock::HyperV(clock) if clock.is_from_page() => "hyper-v-page",
        AnyClock::HyperV(_) => "hyper-v-register",
        AnyClock::Kvm(_) => "kvmclock",
        _ => "other",
    };
    let (start, own) = (clock.now(), time::now());
    let (mut last, mut steps) = (start, 0u64);
    while time::now().since(own) < SPAN {
        let now = clock.now();
        if now < last {
            return Err("the host's clock went back".into());
        }
        steps += u64::from(now > last);
        last = now;
    }
    let passed = clock.now().since(start).as_micros();
    say!("clock={name} passed_us={passed} own_us={} steps={steps}", time::now().since(own).as_micros());
    if !(50_000..1_000_000).contains(&passed) {
        return Err("the host's clock does not go with the kernel's".into());
    }
    Ok(())
}

/// Sets the host's timer on the last processor a few times, and halts until it has gone off.
fn timer(devices: &Devices) -> Result<(), String> {
    const AFTER: Duration = Duration::from_millis(20);
    const TIMES: u64 = 5;
    let processor = smp::count() - 1;
    let timer = devices.services.timer(ProcessorId(processor)).ok_or("the host has no timer")?;
    timer.register(&platform::waker());
    let mut longest = Duration::ZERO;
    for time in 1..=TIMES {
        let (start, before) = (time::now(), interrupts::device_interrupts_on(processor));
        timer.set(AFTER).map_err(|error| alloc::format!("{error}"))?;
        let has_fired = || interrupts::device_interrupts_on(processor) > before;
        while !has_fired() {
            platform::sleep(start.saturating_add(AFTER * 100), has_fired);
            if !has_fired() && time::now().since(start) >= AFTER * 100 {
                return Err(alloc::format!("the host's timer did not go off the {time}. time"));
            }
        }
        let passed = time::now().since(start);
        if passed < AFTER {
            return Err("the host's timer went off ahead of its time".into());
        }
        longest = longest.max(passed);
    }
    say!("timer=host times={TIMES} processor={processor} longest_us={}", longest.as_micros());
    Ok(())
}

pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.clock {
        clock(devices)?;
    }
    if options.timer {
        timer(devices)?;
    }
    if options.crash {
        panic!("as the command line asks");
    }
    if options.reset {
        say!("reset=now");
        devices.services.leave().map_err(|fault| alloc::format!("{fault}"))?;
        devices.services.reset();
        exit::exit(3);
    }
    Ok(())
}
