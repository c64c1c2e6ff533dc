//! What the host offers to the machine as a whole: `clock`, `reset`, `crash`.

use super::devices::Devices;
use super::options::Options;
use crate::arch::time;
use crate::{exit, say};
use alloc::string::String;
use core::time::Duration;
use paravirt::AnyClock;
use paravirt_device::Clock;

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

pub fn run(devices: &mut Devices, options: &Options) -> Result<(), String> {
    if options.clock {
        clock(devices)?;
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
